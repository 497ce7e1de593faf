"""Whether `torch.compile` works for a model here, and what is done where it does not."""

from __future__ import annotations

from dataclasses import replace

from kullback.runtime.memory import is_out_of_memory
from kullback.runtime.progress import Progress
from kullback.training.batches import Batches, Shard
from kullback.training.loss import gradients
from kullback.training.replicas import Replicas
from kullback.training.state import TrainingState
from kullback.training.torch_block import forget_compiled_blocks

__all__ = ["check_compilation", "without_compilation_where_it_fails"]


def without_compilation_where_it_fails(
    state: TrainingState, shard: Shard, replicas: Replicas
) -> str | None:
    """Compile what the gradient of a shard needs; where a process cannot, none compiles.

    Returns why it failed, in a clause, or None.  The state is not changed otherwise.
    """
    reason = None
    try:
        gradients(state, shard, len(shard.targets_M))[1]()
    # The compilers of torch, Triton and C raise errors of many classes.
    except Exception as error:
        if is_out_of_memory(error):
            raise
        reason = str(error).strip().partition("\n")[0][:200] or type(error).__name__
    if not replicas.agree(reason is not None):
        return None
    state.model.compute_with(replace(state.model.arithmetic, compiled=False))
    return reason or "in another process"


def check_compilation(
    state: TrainingState, batches: Batches, replicas: Replicas, progress: Progress
) -> None:
    """Where a resumed run was compiled and cannot be here, do without, with a note."""
    arithmetic = state.model.arithmetic
    if not (arithmetic.compiled and arithmetic.accelerated):
        return
    forget_compiled_blocks()
    count = state.config.pieces(batches.sequences)
    shard, *_ = batches.shards(state.step, count, replicas.own(count))
    reason = without_compilation_where_it_fails(state, shard, replicas)
    if reason is not None:
        progress.note(
            f"the run began with torch.compile, which fails here ({reason}): operations run one "
            "by one, slower, and the last bits of the weights may differ"
        )
