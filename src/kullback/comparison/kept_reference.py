"""The reference of a comparison, read once and kept for every pass that needs it."""

from __future__ import annotations

from kullback.comparison.kept_predictions import (
    KeptPredictions,
    is_wide,
    logits_fit,
    rows_of_share,
)
from kullback.comparison.operands import Operand
from kullback.evaluation.passes import is_exclusive
from kullback.evaluation.text_ahead import TextAhead
from kullback.runtime.byte_sizes import shown_bytes
from kullback.runtime.progress import Progress
from kullback.runtime.temporary import temporary_folder
from kullback.runtime.workers import ProcessGroup

__all__ = ["kept_reference"]


def kept_reference(
    reference: Operand, text: TextAhead, processes: ProcessGroup, progress: Progress
) -> KeptPredictions:
    """The reference, read once; what its logits take on disk is announced.

    Whether there is space for these depends on all rows of the text, which is waited for, unless
    those of its beginning are too many already.
    """
    is_slow = is_exclusive(reference) and not getattr(reference.model, "factored", False)
    reads_logits = is_slow or is_wide(getattr(reference.model, "head", None))
    V, count = reference.vocabulary_size, processes.world_size
    fits = reads_logits and (count > 1 or logits_fit(text.at_least, V))
    if fits:
        rows = rows_of_share(reference, text.whole, count)
        fits = logits_fit(rows, V, processes.local_world_size)
    # All processes keep the same, or they would round differently.
    fit = all(processes.gather(fits))
    kept = KeptPredictions(reference, text, on_disk=V if fit else None, processes=count)
    if fit and not all(processes.gather(kept.disk_bytes > 0)):
        kept = KeptPredictions(reference, text, processes=count)
    if kept.disk_bytes:
        own = " in each process" if count > 1 else ""
        progress.note(
            f"the logits of {reference.name} are kept in {temporary_folder()} until the end, "
            f"{shown_bytes(kept.disk_bytes)}{own}: they are computed once"
        )
    return kept
