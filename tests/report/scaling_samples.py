"""Results of ladders that the tests of their reports show."""

from __future__ import annotations

from kullback.results.scaling import Scaling, ScalingLaw, ScalingRung

EXACT = 0.6941


def scaling_results(identified: bool = True, on_text: bool = False) -> Scaling:
    """Return a ladder of data whose E is 0.69, with a name that is markup."""
    law = ScalingLaw(
        floor=0.69,
        floor_interval=(0.68, 0.70) if identified else (0.0, 3.5),
        scale=40.0,
        exponent=0.4,
        exponent_interval=(0.38, 0.42),
        noise=0.02,
        identified=identified,
        transient=False,
    )
    rungs = []
    for i in range(5):
        tokens = 10_000 * 2**i
        loss = law.floor + law.scale * tokens**-law.exponent
        rungs.append(
            ScalingRung(
                folder=f"out/rung-{i + 1}",
                width=64,
                parameters=133_184,
                steps=10 * 2**i,
                batch=64,
                tokens=tokens,
                loss=loss + 0.001,
                loss_interval=(loss - 0.004, loss + 0.006),
                fitted_loss=loss,
            )
        )
    return Scaling(
        folder="out",
        data="<b>book\x1b.txt" if on_text else "conjugation",
        vary="data",
        rungs=tuple(rungs),
        law=law,
        exact_entropy=None if on_text else EXACT,
        validation_tokens=111_128,
        validation_pieces=8192,
        piece="block" if on_text else "sentence",
        seconds=12.0,
        notes=() if identified else ("E is not identified: train longer",),
    )
