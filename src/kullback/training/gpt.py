"""The mini-GPT: a decoder-only transformer, weight for weight a Llama.

The embedding of a token passes `layers` blocks and a last normalisation; the logits are its dot
products with all embeddings, or with a matrix of its own where the head is not tied.  Each block
adds the output of attention over earlier positions, then that of the MLP::

    x = x + attention(rms_norm(x))      causal, rotary positions (Su et al. 2021, eq. 34)
    x = x + mlp(rms_norm(x))            down(silu(gate(x)) * up(x))  (Shazeer 2020, SwiGLU)

There are no biases; dropout is in :mod:`kullback.training.dropout`.  Parameters have the names of
`LlamaForCausalLM` in `transformers`, which loads a saved model without conversion.

Axes: N sequences, T positions, M tokens of all sequences, D width, H heads, K = D / H head width,
P = K / 2 rotated pairs, V vocabulary.
"""

from __future__ import annotations

import torch
from jaxtyping import Complex, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the name that everyone uses
from torch.utils.checkpoint import checkpoint

from kullback.errors import InvalidValueError
from kullback.runtime.weights import allocate_on_cpu
from kullback.training.arithmetic import Arithmetic
from kullback.training.block_functions import add_linear, normalised_linear, swiglu
from kullback.training.block_library import Positions
from kullback.training.dropout import Dropout
from kullback.training.gpt_config import GPTConfig
from kullback.training.native_block import native_block, positions_of, product_in_c
from kullback.training.packed_attention import PackedLayout, packed_attention
from kullback.training.torch_block import BlockWeights, Rows, compiled_block, torch_block

__all__ = ["GPT"]

# The longest rows, in tokens, of our own attention, which keeps its weights: memory proportional to
# T².  Longer rows get torch's fused kernel.
LONGEST_ROW = 256
# Rows are padded to a multiple of this, so that few kernels are compiled.
GROUP = 128


class RMSNorm(nn.Module):
    """x / rms(x) × weight (Zhang & Sennrich 2019, eq. 4)."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x_MD: Float[Tensor, "M D"]) -> Float[Tensor, "M D"]:
        """The same shape, each vector of root mean square `weight`."""
        return F.rms_norm(x_MD, self.weight.shape, self.weight, self.eps)


class Attention(nn.Module):
    """Causal self-attention with rotary positions."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.q_proj, self.k_proj, self.v_proj, self.o_proj = (
            nn.Linear(config.width, config.width, bias=False) for _ in range(4)
        )

    def forward(
        self,
        x_MD: Float[Tensor, "M D"],
        norm: RMSNorm,
        rotation_TP: Complex[Tensor, "T P"],
        layout: PackedLayout | tuple[int, int],
        bfloat16: bool = False,
    ) -> Float[Tensor, "M D"]:
        """`x_MD` plus attention of each normalised token over itself and those before it."""
        # One matmul for q, k and v: the number of calls limits a small model.
        qkv_MC = normalised_linear(
            x_MD, norm.weight, norm.eps, self.q_proj.weight, self.k_proj.weight,
            self.v_proj.weight, rotated_heads=self.heads, bfloat16=bfloat16,
        )  # fmt: skip
        if isinstance(layout, tuple):
            mixed_MD = self._long_rows(qkv_MC, rotation_TP, layout)
        elif layout.longest <= LONGEST_ROW:
            mixed_MD = packed_attention(qkv_MC, rotation_TP, self.heads, layout)
        else:
            shape = layout.sequences, layout.longest
            rows = self._long_rows(layout.rows(qkv_MC), rotation_TP, shape)
            mixed_MD = layout.tokens(rows)
        return add_linear(x_MD, mixed_MD, self.o_proj.weight, bfloat16)

    def _long_rows(
        self,
        rows: Float[Tensor, "N*T 3*D"],
        rotation_TP: Complex[Tensor, "T P"],
        shape: tuple[int, int],
    ) -> Float[Tensor, "N*T D"]:
        """Attention with torch's fused kernel, whose memory is proportional to T."""
        qkv = rows.view(*shape, 3, self.heads, -1)
        pairs = torch.view_as_complex(qkv[:, :, :2].view(*shape, 2, self.heads, -1, 2))
        rotated = torch.view_as_real(pairs * rotation_TP[:, None, None]).flatten(-2)
        q, k = rotated[:, :, 0].transpose(1, 2), rotated[:, :, 1].transpose(1, 2)
        v = qkv[:, :, 2].transpose(1, 2)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return mixed.transpose(1, 2).reshape(len(rows), -1)


class MLP(nn.Module):
    """SwiGLU."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.width, config.mlp_width, bias=False)
        self.up_proj = nn.Linear(config.width, config.mlp_width, bias=False)
        self.down_proj = nn.Linear(config.mlp_width, config.width, bias=False)

    def forward(
        self, x_MD: Float[Tensor, "M D"], norm: RMSNorm, bfloat16: bool = False
    ) -> Float[Tensor, "M D"]:
        """`x_MD` plus down(silu(gate(y)) × up(y)), where y is `x_MD` normalised."""
        gate_up = normalised_linear(
            x_MD, norm.weight, norm.eps, self.gate_proj.weight, self.up_proj.weight,
            bfloat16=bfloat16,
        )  # fmt: skip
        return add_linear(x_MD, swiglu(gate_up), self.down_proj.weight, bfloat16)


class Block(nn.Module):
    """Attention and MLP, both applied to a normalised copy and added."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(config.width, config.norm_eps)
        self.self_attn = Attention(config)
        self.post_attention_layernorm = RMSNorm(config.width, config.norm_eps)
        self.mlp = MLP(config)
        self.arithmetic = Arithmetic()

    def forward(
        self,
        x_MD: Float[Tensor, "M D"],
        rotation_TP: Complex[Tensor, "T P"],
        layout: PackedLayout | tuple[int, int] | Positions,
    ) -> Float[Tensor, "M D"]:
        """The residual stream after this block; in C where the layout is `Positions`."""
        arithmetic = self.arithmetic
        if isinstance(layout, Positions):
            assert arithmetic.functions is not None
            return native_block(
                x_MD, arithmetic.functions, layout, self._weights, self.self_attn.heads,
                self.input_layernorm.eps, arithmetic.bfloat16,
            )  # fmt: skip
        if arithmetic.accelerated:
            return self._accelerated(x_MD, rotation_TP, layout)
        x_MD = self.self_attn(x_MD, self.input_layernorm, rotation_TP, layout, arithmetic.bfloat16)
        out: Tensor = self.mlp(x_MD, self.post_attention_layernorm, arithmetic.bfloat16)
        return out

    def _accelerated(
        self,
        x_MD: Float[Tensor, "M D"],
        rotation_TP: Complex[Tensor, "T P"],
        layout: PackedLayout | tuple[int, int],
    ) -> Float[Tensor, "M D"]:
        """The same in torch's operations."""
        # Validation, without gradients, would have to be compiled for itself.
        compiled = self.arithmetic.compiled and torch.is_grad_enabled()
        function = compiled_block() if compiled else torch_block
        return function(
            x_MD, torch.view_as_real(rotation_TP), self._weights, Rows.of(layout),
            self.self_attn.heads, self.input_layernorm.eps, self.arithmetic.bfloat16,
        )  # fmt: skip

    @property
    def _weights(self) -> BlockWeights:
        attention, mlp = self.self_attn, self.mlp
        return BlockWeights(
            self.input_layernorm.weight, attention.q_proj.weight, attention.k_proj.weight,
            attention.v_proj.weight, attention.o_proj.weight, self.post_attention_layernorm.weight,
            mlp.gate_proj.weight, mlp.up_proj.weight, mlp.down_proj.weight,
        )  # fmt: skip


class Decoder(nn.Module):
    """The embedding, the blocks and the last normalisation."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        # torch would draw its values, and where they are on "meta" import torch._dynamo for it.
        empty_VD = torch.empty(config.vocabulary_size, config.width)
        self.embed_tokens = nn.Embedding.from_pretrained(empty_VD, freeze=False)  # type: ignore[no-untyped-call] # theirs
        self.layers = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = RMSNorm(config.width, config.norm_eps)


class GPT(nn.Module):
    """The complete model; an untrained one predicts almost uniformly.

    Weights are drawn from N(0, 0.02²) for the embedding, so that the first logits are small, and
    from N(0, 1/fan_in) elsewhere, the matrices that write into the residual stream further divided
    by sqrt(2 × layers) (Radford et al. 2019, section 2.3).  Not tied, the embedding is N(0, 0.5²),
    these matrices and the head are 0.  `on_meta` gives them no memory.
    """

    def __init__(
        self, config: GPTConfig, seed: int | None = None, *, on_meta: bool = False
    ) -> None:
        super().__init__()
        self.config = config
        self.checkpoint_activations = False
        self.arithmetic = Arithmetic()
        if not on_meta:
            config.check_memory()  # first: the sizes may be those of a damaged file
        with torch.device("meta"):
            self.model = Decoder(config)
            if not config.tied:
                self.lm_head = nn.Linear(config.width, config.vocabulary_size, bias=False)
        if not on_meta:
            allocate_on_cpu(self)
            generator = torch.Generator().manual_seed(0 if seed is None else seed)
            for name, weight in self.named_parameters():
                self.draw(name, weight, generator)

    def draw(self, name: str, weight: Tensor, generator: torch.Generator) -> None:
        """Fill `weight` with the initial values of the parameter `name`.

        All parameters are drawn from one generator, in the order of `named_parameters`.
        """
        residual = name.endswith(("o_proj.weight", "down_proj.weight"))
        if name.endswith("norm.weight"):
            nn.init.ones_(weight)
        elif name.endswith("embed_tokens.weight"):
            nn.init.normal_(weight, std=0.02 if self.config.tied else 0.5, generator=generator)
        elif name == "lm_head.weight" or (residual and not self.config.tied):
            nn.init.zeros_(weight)
        else:
            std = weight.shape[1] ** -0.5
            if residual:
                std *= (2 * self.config.layers) ** -0.5
            nn.init.normal_(weight, std=std, generator=generator)

    def compute_with(self, arithmetic: Arithmetic) -> GPT:
        """Move the model to the device of the arithmetic, and compute with it from now on."""
        self.use(arithmetic)
        return self.to(arithmetic.device)

    def use(self, arithmetic: Arithmetic) -> None:
        """Compute with the arithmetic from now on, on its device."""
        self.arithmetic = arithmetic
        for block in self.model.layers:
            assert isinstance(block, Block)
            block.arithmetic = arithmetic

    @property
    def head_weight(self) -> Float[Tensor, "V D"]:
        """The matrix of the head, which is the embedding where they are tied."""
        return self.model.embed_tokens.weight if self.config.tied else self.lm_head.weight

    def hidden(self, tokens_NT: Int[Tensor, "N T"]) -> Float[Tensor, "N T D"]:
        """The normalised hidden states; ``hidden @ head_weight.T`` are the logits."""
        N, T = tokens_NT.shape
        return self._hidden(tokens_NT.flatten(), (N, T)).view(N, T, -1)

    def hidden_packed(
        self, tokens_M: Int[Tensor, "M"], layout: PackedLayout, dropout: Dropout | None = None
    ) -> Float[Tensor, "M D"]:
        """The same for concatenated sequences, without padding; in training with dropout."""
        return self._hidden(tokens_M, layout, dropout)

    def forward(self, tokens_NT: Int[Tensor, "N T"]) -> Float[Tensor, "N T V"]:
        """The logits of the next token at every position."""
        return self.hidden(tokens_NT) @ self.head_weight.T

    def _hidden(
        self,
        tokens_M: Int[Tensor, "M"],
        layout: PackedLayout | tuple[int, int],
        dropout: Dropout | None = None,
    ) -> Float[Tensor, "M D"]:
        longest = layout.tokens_of_longest if isinstance(layout, PackedLayout) else layout[1]
        if longest > self.config.context:
            raise InvalidValueError(
                f"a sequence has {longest} tokens: it must have at most the model's context, "
                f"{self.config.context}; shorten it, or train a model with a longer context"
            )
        x_MD = self.model.embed_tokens(tokens_M)
        M = len(x_MD)
        x_MD = self._in_whole_groups(x_MD)
        columns = layout.longest if isinstance(layout, PackedLayout) else longest
        rotation_TP = self._rotation(columns, x_MD)
        place: PackedLayout | tuple[int, int] | Positions = layout
        if self.arithmetic.functions is not None and x_MD.dtype == torch.float32:
            place = positions_of(layout, rotation_TP)
        again = self.checkpoint_activations and torch.is_grad_enabled()
        for i, block in enumerate(self.model.layers):
            before_MD = x_MD
            if again:  # no generator's state is to be restored: dropout has none
                x_MD = checkpoint(
                    block, x_MD, rotation_TP, place,
                    use_reentrant=False, preserve_rng_state=False,
                )  # fmt: skip
            else:
                x_MD = block(x_MD, rotation_TP, place)
            if dropout is not None:
                x_MD = dropout.applied(i, before_MD, x_MD)
        out: Tensor = self.model.norm(x_MD[:M])
        return out

    def _in_whole_groups(self, x_MD: Float[Tensor, "M D"]) -> Float[Tensor, "rows D"]:
        """With rows of zeros up to a multiple of `GROUP` where that saves time.

        oneDNN compiles a product of bfloat16 for each number of rows, which takes longer than the
        product; the tokens of a batch of sentences are of another number at each step.
        """
        arithmetic = self.arithmetic
        width = self.config.width
        by_torch = arithmetic.bfloat16 and product_in_c(torch.bfloat16, width) is None
        if arithmetic.functions is None or not by_torch:
            return x_MD
        return F.pad(x_MD, (0, 0, 0, -len(x_MD) % GROUP))

    def _rotation(self, T: int, like: Tensor) -> Complex[Tensor, "T P"]:
        """exp(i × position × frequency); angles in float32 as in every Llama, then cast."""
        K = self.config.width // self.config.heads
        pairs = torch.arange(0, K, 2, device=like.device, dtype=torch.float32)
        frequencies = 1.0 / self.config.rope_theta ** (pairs / K)
        angles = torch.arange(T, device=like.device, dtype=torch.float32)[:, None] * frequencies
        return torch.complex(angles.cos().to(like.dtype), angles.sin().to(like.dtype))
