"""Every architecture that is read layer by layer, against the whole model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from kullback.errors import InvalidValueError
from kullback.models.load import load_text_model
from kullback.models.load_streamed import load_streamed
from kullback.runtime.progress import Progress
from swept_architectures import FAST, SLOW, tiny
from tiny_models import tiny_llama

pytestmark = pytest.mark.slow

REFUSED = {
    "gemma3n_text": "layer 1 reads",
    "gemma4_text": "layer 1 reads",
    "jetmoe": "cannot be followed",
    "llama4_text": "not known",
    "rwkv": "changes its weights",
    "zamba2": "layer 1 reads",
    "zaya": "layer 1 reads",
}
# Their residuals are float32 in a model of 16 bits.
REFUSED_IN_16_BITS = ("mamba", "falcon_mamba", "mamba2")
# The two may choose another attention kernel there: whole, by the logits, in parts by a layer.
BOUNDS = {torch.float32: 1e-6, torch.bfloat16: 3e-2}


class Silent(Progress):
    """Shows nothing."""

    def note(self, text: str) -> None:
        """Nothing."""


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("architecture", [*FAST, *SLOW])
def test_the_numbers_are_those_of_the_whole_model(
    architecture: str, dtype: torch.dtype, tmp_path: Path
) -> None:
    """Within the rounding of one operation, nearly always to the last bit; or it is refused."""
    tiny_llama(tmp_path)
    for name in ("model.safetensors", "config.json", "generation_config.json"):
        (tmp_path / name).unlink()
    tiny(architecture).save_pretrained(tmp_path)
    if architecture in REFUSED:
        with pytest.raises(InvalidValueError, match=REFUSED[architecture]):
            load_streamed(str(tmp_path), dtype, "cpu")
        return
    whole = load_text_model(str(tmp_path), dtype)
    if dtype == torch.bfloat16 and architecture in REFUSED_IN_16_BITS:
        with pytest.raises(InvalidValueError, match="another type"):
            load_streamed(str(tmp_path), dtype, "cpu")
        return
    parts = load_streamed(str(tmp_path), dtype, "cpu")
    parts.progress = Silent()
    ids_NT = np.random.default_rng(2).integers(0, 256, (1, 20))
    parts.prepare([ids_NT], 2)
    expected, actual = (
        model.predict(torch.from_numpy(ids_NT)).logits(slice(None)) for model in (whole, parts)
    )
    assert float((expected - actual).abs().max()) <= BOUNDS[dtype] * float(expected.abs().max())
    assert parts.notes == whole.notes
