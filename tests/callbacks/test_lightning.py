"""`FloorCallback` in Lightning's own `Trainer`, where that is installed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn.functional import cross_entropy

from kullback.callbacks import FloorCallback
from kullback.sources.export import export_source
from tiny_runs import weather

pytestmark = pytest.mark.slow


def test_a_training_is_logged_and_resumed(tmp_path: Path) -> None:
    """Accumulated batches are one step, loggers and metrics get the numbers, the mode is restored,
    and a checkpoint with the callback in it is resumed from.
    """
    lightning = pytest.importorskip(
        "lightning", reason="Lightning is no dependency: pip install lightning"
    )
    from lightning.pytorch.loggers import CSVLogger

    source = weather(tmp_path).source
    export_source(source, 600, tmp_path / "data", 3, 200, ("npy",))
    size = len(source.training.vocabulary)

    class Module(lightning.LightningModule):  # type: ignore[misc,name-defined]  # no types here
        """A bigram model with dropout."""

        def __init__(self) -> None:
            super().__init__()
            self.body = torch.nn.Sequential(
                torch.nn.Embedding(size, 8), torch.nn.Dropout(0.5), torch.nn.Linear(8, size)
            )

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            """Logits."""
            return self.body(ids)

        def training_step(self, batch: list[torch.Tensor], number: int) -> torch.Tensor:
            """The cross-entropy of the next token."""
            (ids,) = batch
            return cross_entropy(self(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten())

        def configure_optimizers(self) -> torch.optim.Optimizer:
            """Adam."""
            return torch.optim.Adam(self.parameters(), 1e-2)

    def fitted(steps: int, callback: FloorCallback, checkpoint: str | None = None) -> object:
        rows = torch.randint(2, size, (64, 9), generator=torch.Generator().manual_seed(0))
        loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(rows), batch_size=4)
        trainer = lightning.Trainer(
            max_steps=steps, accelerator="cpu", callbacks=[callback], accumulate_grad_batches=2,
            logger=CSVLogger(tmp_path / str(steps)), enable_progress_bar=False,
            enable_model_summary=False, default_root_dir=tmp_path, log_every_n_steps=5,
        )  # fmt: skip
        module = Module()
        trainer.fit(module, loader, ckpt_path=checkpoint)
        assert module.body.training
        return trainer

    callback = FloorCallback(tmp_path / "data", every=3, rows=20)
    trainer = fitted(10, callback)
    assert [row["step"] for row in callback.history] == [3, 6, 9, 10]
    assert float(trainer.callback_metrics["kullback/kl"]) == pytest.approx(  # type: ignore[attr-defined]
        callback.history[2]["kl"], rel=1e-6
    )
    metrics = next(tmp_path.rglob("metrics.csv")).read_text()
    assert str(callback.history[-1]["kl"]) in metrics
    (checkpoint,) = tmp_path.rglob("*.ckpt")
    again = FloorCallback(tmp_path / "data", every=3, rows=20)
    fitted(13, again, str(checkpoint))
    assert [row["step"] for row in again.history] == [12, 13]
