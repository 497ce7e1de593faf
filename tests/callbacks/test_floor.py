"""`FloorCallback` in transformers' `Trainer`, and through the hooks that Lightning calls."""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    Trainer,
    TrainingArguments,
)

from kullback.callbacks import FloorCallback
from kullback.callbacks.fixed_rows import LOGITS_BYTES, Logits, logits_of, open_rows
from kullback.callbacks.pace import LEAST, MOST, WARM_UP, Pace
from kullback.errors import InvalidValueError
from kullback.evaluation.on_source import evaluate_on_source
from kullback.evaluation.source_corpora import Corpus
from kullback.predictions.base import DensePredictions
from kullback.runtime.progress import Note
from kullback.sources.catalogue import open_any_source
from kullback.sources.export import export_source
from kullback.sources.known_processes import known_process
from kullback.sources.process import Process
from kullback.sources.validation_rows import sampled_rows, validation_rows
from tiny_runs import weather

NAMES = {"cross_entropy", "floor", "kl", "kl_standard_error", "bits_per_byte"}


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with an export of the weather."""
    folder = tmp_path_factory.mktemp("callback")
    export_source(weather(folder).source, 600, folder / "data", 3, 200, ("text", "npy"))
    return folder / "data"


def tiny(vocabulary: int) -> LlamaForCausalLM:
    """Return a Llama with dropout, so that a wrong mode is seen."""
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocabulary, hidden_size=16, intermediate_size=16, num_hidden_layers=1,
            num_attention_heads=2, max_position_embeddings=32, attention_dropout=0.5,
            bos_token_id=0, eos_token_id=1,
        )
    )  # fmt: skip


class Wrapped:
    """A model of transformers as kullback's own evaluation reads one."""

    name = "wrapped"

    def __init__(self, model: LlamaForCausalLM) -> None:
        self.model = model.eval()
        self.vocabulary_size = model.config.vocab_size

    def predict(self, inputs_NT: torch.Tensor) -> DensePredictions:
        """Its logits."""
        return DensePredictions(self.model(input_ids=inputs_NT).logits.flatten(0, 1))


def test_a_trainer_logs_what_kullback_measures(exported: Path, tmp_path: Path):
    """The last numbers in the log history are those of kullback's evaluation of the same rows, and
    the model goes on in the mode that it was in.
    """
    callback = FloorCallback(exported, every=2, rows=20)
    source = weather(tmp_path).source
    model = tiny(len(source.training.vocabulary))
    ids = torch.tensor([[0, 2, 3, 4]] * 8)
    rows = [{"input_ids": row, "labels": row} for row in ids]
    arguments = TrainingArguments(
        str(tmp_path), max_steps=5, per_device_train_batch_size=2, logging_steps=3,
        report_to=[], disable_tqdm=True, use_cpu=True, save_strategy="no",
    )  # fmt: skip
    trainer = Trainer(model, arguments, train_dataset=rows, callbacks=[callback])
    trainer.train()
    records = [row for row in trainer.state.log_history if "kullback/kl" in row]
    assert [row["step"] for row in records] == [2, 4, 5]
    assert all("loss" in row for row in records)
    assert [row["step"] for row in callback.history] == [2, 4, 5]
    assert set(callback.history[0]) == NAMES | {"step"}

    kept = validation_rows(exported, source, 20)
    corpus = Corpus(kept, kept.mask.astype(np.float64), exact=False)
    assert model.training
    part = evaluate_on_source(Wrapped(model), corpus)
    last = callback.history[-1]
    assert last["kl"] == pytest.approx(part.kl.value, abs=1e-6)
    assert last["kl_standard_error"] == pytest.approx(part.kl.standard_error, abs=1e-6)
    assert last["cross_entropy"] == pytest.approx(part.cross_entropy.value, abs=1e-6)
    assert last["floor"] == source.training.entropy_per_token
    text = (exported / "validation.txt").read_text(encoding="utf-8").splitlines(keepends=True)[:20]
    bits = part.cross_entropy.value * int(kept.mask.sum()) / math.log(2)
    assert last["bits_per_byte"] == pytest.approx(bits / len("".join(text).encode()), abs=1e-6)
    model.train()


def trainer_with(callbacks: list[FloorCallback], tmp_path: Path) -> Trainer:
    """A trainer of four steps with these callbacks."""
    vocabulary = len(weather(tmp_path).source.training.vocabulary)
    rows = [{"input_ids": row, "labels": row} for row in torch.tensor([[0, 2, 3, 4]] * 8)]
    arguments = TrainingArguments(
        str(tmp_path), max_steps=4, per_device_train_batch_size=2, logging_steps=4,
        report_to=[], disable_tqdm=True, use_cpu=True, save_strategy="no",
    )  # fmt: skip
    return Trainer(tiny(vocabulary), arguments, train_dataset=rows, callbacks=callbacks)


def test_rounded_products_are_noted_once(exported: Path, tmp_path: Path) -> None:
    """Where a trainer lets float32 products be rounded; elsewhere nothing is noted."""
    callback = FloorCallback(exported, every=2, rows=4)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", Note)
        trainer_with([FloorCallback(exported, every=2, rows=4)], tmp_path).train()
        assert not [w for w in caught if w.category is Note]
        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("medium")
        try:
            trainer_with([callback], tmp_path).train()
        finally:
            torch.set_float32_matmul_precision(before)
    (note,) = [str(w.message) for w in caught if w.category is Note]
    assert "kullback/kl" in note
    assert "cpu rounds to bfloat16" in note
    assert len(callback.history) == 2


def test_a_large_vocabulary_is_read_in_parts(exported: Path) -> None:
    """Logits beside those of a training take a bounded memory; the numbers are the same."""
    columns, sizes = 100_000, []

    def logits(_: object, ids_NT: torch.Tensor) -> torch.Tensor:
        sizes.append(ids_NT.numel())
        return torch.zeros(1).expand(*ids_NT.shape, columns)

    rows = open_rows(exported, 200, None, 0)
    for _ in range(2):
        part = rows.evaluation(torch.nn.Linear(1, 1), logits)
        assert part.cross_entropy.value == pytest.approx(math.log(columns))
        assert part.prefixes == rows.tokens
    assert 1 < max(sizes) <= LOGITS_BYTES // (4 * columns)


def test_another_model_is_measured_as_its_own_size_asks(exported: Path) -> None:
    """After a small model, a larger vocabulary is still read in parts; a shorter context cuts."""
    sizes: list[int] = []

    def logits_of_width(columns: int) -> Logits:
        def logits(_: object, ids_NT: torch.Tensor) -> torch.Tensor:
            sizes.append(ids_NT.numel())
            return torch.zeros(1).expand(*ids_NT.shape, columns)

        return logits

    rows = open_rows(exported, 200, None, 0)
    small, large = torch.nn.Linear(1, 1), torch.nn.Linear(1, 1)
    rows.evaluation(small, logits_of_width(100))
    tokens, _ = rows.tokens, sizes.clear()
    rows.evaluation(large, logits_of_width(100_000))
    assert max(sizes) <= LOGITS_BYTES // (4 * 100_000)
    short = SimpleNamespace(max_position_embeddings=2)
    large.config = SimpleNamespace(get_text_config=lambda decoder: short)
    rows.evaluation(small, logits_of_width(100))
    rows.evaluation(large, logits_of_width(100))
    assert rows.tokens < tokens
    rows.evaluation(small, logits_of_width(100))
    assert rows.tokens == tokens


@pytest.mark.parametrize(("every", "steps"), [(1, [1, 2, 3, 4, 5]), (2, [2, 4, 5])])
def test_an_interval_without_rows_holds_from_the_first_steps(
    every: int, steps: list[int], exported: Path, tmp_path: Path
) -> None:
    """A run that is shorter than what is otherwise timed is measured at each of its intervals."""
    vocabulary = len(weather(tmp_path).source.training.vocabulary)
    callback = FloorCallback(
        exported, every=every, logits=lambda m, ids: torch.zeros(*ids.shape, vocabulary)
    )
    trainer, module, logger = lightning(step=0)
    for step in range(1, 6):
        trainer.global_step = step
        callback.on_train_batch_end(trainer, module, None, None, 0)
    callback.on_fit_end(trainer, module)
    assert [step for step, _ in logger.rows] == steps
    assert callback.rows is not None
    assert callback.rows >= LEAST


def test_a_second_training_is_measured(exported: Path, tmp_path: Path) -> None:
    """Its steps count from the first one again; a training that goes on repeats none."""
    callback = FloorCallback(exported, every=2, rows=4)
    trainer = trainer_with([callback], tmp_path)
    trainer.train()
    trainer.train()
    assert [row["step"] for row in callback.history] == [2, 4, 2, 4]
    source = weather(tmp_path).source.training
    lightly, module, logger = lightning(step=4)
    callback = FloorCallback(
        exported, 2, 4, logits=lambda m, ids: torch.zeros(*ids.shape, len(source.vocabulary))
    )
    for step in (4, 4):
        callback.on_fit_start(lightly, module)
        lightly.global_step = step
        callback.on_train_batch_end(lightly, module, None, None, 0)
    assert [step for step, _ in logger.rows] == [4]


def test_two_callbacks_have_names_of_their_own(exported: Path, tmp_path: Path) -> None:
    """Each logs under its own; of one name they are refused before the first step."""
    callbacks = [FloorCallback(exported, every=4, rows=20, name=name) for name in ("a", None)]
    trainer = trainer_with(callbacks, tmp_path)
    trainer.train()
    (record,) = [row for row in trainer.state.log_history if "kullback/kl" in row]
    assert record["kullback/a/kl"] == callbacks[0].history[-1]["kl"]
    trainer.train()  # the same callbacks again
    same = [FloorCallback(exported, every=4, rows=20) for _ in range(2)]
    with pytest.raises(InvalidValueError, match=r"two FloorCallbacks.*kullback/kl.*name="):
        trainer_with(same, tmp_path).train()
    assert not any(callback.history for callback in same)
    with pytest.raises(InvalidValueError, match="two FloorCallbacks"):
        same[0].on_fit_start(SimpleNamespace(callbacks=same), None)  # as Lightning calls it
    with pytest.raises(InvalidValueError, match="name is empty"):
        FloorCallback(exported, name="")


def test_a_callback_takes_the_place_of_another(exported: Path, tmp_path: Path) -> None:
    """Of the same name, in a trainer that trains again."""
    trainer = trainer_with([first := FloorCallback(exported, every=4, rows=20)], tmp_path)
    trainer.train()
    trainer.remove_callback(first)
    trainer.add_callback(second := FloorCallback(exported, every=4, rows=20))
    trainer.train()
    assert second.history


def test_attached_it_is_called_before_the_reporters(exported: Path, tmp_path: Path):
    """A reporter that the trainer was made with gets the numbers of an attached callback."""
    from transformers import TrainerCallback

    seen: list[dict[str, float]] = []

    class Reporter(TrainerCallback):
        """Keeps what is logged."""

        def on_log(self, args, state, control, logs=None, **kwargs):
            """Keep it."""
            seen.append(dict(logs))

    rows = [{"input_ids": torch.tensor([0, 2, 3]), "labels": torch.tensor([0, 2, 3])}]
    arguments = TrainingArguments(
        str(tmp_path), max_steps=1, report_to=[], disable_tqdm=True, use_cpu=True,
        save_strategy="no",
    )  # fmt: skip
    model = tiny(len(weather(tmp_path).source.training.vocabulary))
    trainer = Trainer(model, arguments, train_dataset=rows, callbacks=[Reporter()])
    FloorCallback(exported, every=1, rows=2).attach(trainer).train()
    assert "kullback/floor" in seen[0]


def test_the_rows_are_those_of_the_validation_split(exported: Path):
    """From ids and from text the same sentences are read, and a folder without both is sampled."""
    both = open_rows(exported, 12, None, 0)
    (exported / "validation.tokens.npy").rename(exported / "away.npy")
    try:
        from_text = open_rows(exported, 12, None, 0)
    finally:
        (exported / "away.npy").rename(exported / "validation.tokens.npy")
    one, other = both._corpus.sentences, from_text._corpus.sentences
    assert np.array_equal(one.arcs, other.arcs)
    text = (exported / "validation.txt").read_text(encoding="utf-8").splitlines()
    assert list(one.texts()) == text[:12]
    assert open_rows("golden-mean", 5, 9, 0).tokens == 5 * 8


def test_windows_of_a_process(tmp_path: Path):
    """The true distributions of a process, as logits, have no KL and the entropy as CE."""
    process = known_process("golden-mean")
    export_source(process, 400, tmp_path / "data", 0, 200, ("npy",), 8)
    callback = FloorCallback(tmp_path / "data", every=1, rows=10, logits=lambda m, ids: truth(ids))

    def truth(ids: torch.Tensor) -> torch.Tensor:
        p = process.predictor.distributions(ids.numpy() - 2)
        logits = np.full((*p.shape[:2], 4), -np.inf)
        with np.errstate(divide="ignore"):
            logits[:, :, 2:] = np.log(p)
        return torch.from_numpy(logits)

    trainer, module, logger = lightning(step=1)
    callback.on_train_batch_end(trainer, module, None, None, 0)
    assert logger.rows[0][0] == 1
    assert logger.rows[0][1]["kullback/kl"] == pytest.approx(0.0, abs=1e-12)
    assert callback.history[0]["floor"] == process.window_entropy(8).value


ENDLESS = """
[rules]
tail = [{ p = 0.98, then = "a <tail>" }, { p = 0.02, then = "b" }]
"""


@pytest.mark.parametrize("source", ["endless", "golden-mean"])
def test_rows_are_cut_at_the_context_of_the_model(source: str, tmp_path: Path):
    """A longer row does not end the training of a model with learned positions; the floor is that
    of the tokens before the cut.
    """
    if source == "endless":
        source = str(tmp_path / "endless.toml")
        Path(source).write_text(ENDLESS, encoding="utf-8")
    opened = open_any_source(source)
    is_process = isinstance(opened, Process)
    vocabulary = opened.vocabulary if is_process else opened.training.vocabulary
    torch.manual_seed(0)
    model = GPT2LMHeadModel(
        GPT2Config(vocab_size=len(vocabulary), n_positions=16, n_embd=8, n_layer=1, n_head=1)
    )
    rows = open_rows(source, 40, 64 if is_process else None, 0)
    part = rows.evaluation(model, logits_of)
    if is_process:
        floor, tokens = opened.window_entropy(17).value, 40 * 16
    else:
        (floor, _), language = opened.training.entropy_of_first(16), opened.training
        tokens = int(np.minimum(sampled_rows(opened, 40, 0, 0).lengths, 16).sum())
        assert floor != pytest.approx(language.entropy_per_token, rel=1e-3)
    assert part.floor == floor
    assert part.prefixes == rows.tokens == tokens
    assert rows.first(3).evaluation(model, logits_of).floor == floor


SLOW = """
[states]
A = [{ p = 0.9, write = "a", then = "A" }, { p = 0.0998, write = "b", then = "A" },
     { p = 0.0002, write = "a", then = "B" }]
B = [{ p = 0.0998, write = "a", then = "B" }, { p = 0.9, write = "b", then = "B" },
     { p = 0.0002, write = "b", then = "A" }]
"""


def test_the_error_of_a_slow_process_is_not_that_of_neighbours(tmp_path: Path):
    """Neighbouring windows of an export have one state, and so hardly any spread; the rows are
    independent ones, whose standard error is the spread of KL over seeds.
    """
    path = tmp_path / "slow.toml"
    path.write_text(SLOW, encoding="utf-8")
    export_source(open_any_source(str(path)), 100, tmp_path / "data", 0, 1024, ("npy",), 16)
    logits = torch.log(torch.tensor([1e-9, 1e-9, 0.7, 0.3]))
    measured = [
        open_rows(tmp_path / "data", 64, None, seed).metrics(
            torch.nn.Linear(1, 1), lambda model, ids: logits.expand(*ids.shape, 4)
        )
        for seed in range(30)
    ]
    spread = np.std([one["kl"] for one in measured], ddof=1)
    stated = np.mean([one["kl_standard_error"] for one in measured])
    assert 0.6 < spread / stated < 1.6


def lightning(step: int):
    """Return stand-ins for Lightning's trainer, module and logger."""
    logger = SimpleNamespace(rows=[])
    logger.log_metrics = lambda values, step: logger.rows.append((step, values))
    module = torch.nn.Linear(1, 1)
    module.logged = []
    module.log_dict = lambda values, **settings: module.logged.append(values)
    trainer = SimpleNamespace(global_step=step, loggers=[logger], log_every_n_steps=5)
    return trainer, module, logger


def test_the_hooks_of_lightning(exported: Path, tmp_path: Path):
    """A step is measured once although it has several batches, the model at the end once more, and
    hooks without work exist.
    """
    vocabulary = len(weather(tmp_path).source.training.vocabulary)
    callback = FloorCallback(
        exported, every=2, rows=4, logits=lambda m, ids: torch.zeros(*ids.shape, vocabulary)
    )
    trainer, module, logger = lightning(step=0)
    for step in (0, 1, 2, 2, 3):
        trainer.global_step = step
        callback.on_train_batch_end(trainer, module, None, None, 0)
    callback.on_fit_end(trainer, module)
    assert [step for step, _ in logger.rows] == [2, 3]
    assert module.logged[0]["kullback/cross_entropy"] == pytest.approx(math.log(vocabulary))
    callback.setup(trainer, module, stage="fit")
    callback.on_train_end(trainer, module)  # a hook of both trainers
    callback.on_exception(trainer, module, None)
    assert callback.state_dict() == {}
    assert callback._legacy_state_key is FloorCallback  # asked for where a training is resumed
    assert (
        callback.state_key != FloorCallback(exported).state_key
    )  # Lightning refuses two equal ones
    with pytest.raises(AttributeError, match="no_hook"):
        _ = callback.no_hook


def test_a_model_with_fewer_ids_is_refused(exported: Path):
    """The message has both numbers and the remedy; an unknown source and a bad number, too."""
    callback = FloorCallback(
        exported, every=1, rows=2, logits=lambda model, ids: torch.zeros(*ids.shape, 3)
    )
    trainer, module, _ = lightning(step=1)
    with pytest.raises(InvalidValueError, match=r"3\).*ids.*tokenizer of the export"):
        callback.on_train_batch_end(trainer, module, None, None, 0)
    with pytest.raises(InvalidValueError, match="budget"):
        FloorCallback(exported, budget=0.0)
    with pytest.raises(InvalidValueError, match="rows is 1"):
        FloorCallback(exported, rows=1)
    with pytest.raises(InvalidValueError, match="unknown"):
        FloorCallback("golden-meen")


@pytest.mark.parametrize(("step_seconds", "least_seconds"), [(1.0, 0.01), (0.01, 0.02), (5, 1e-6)])
def test_the_pace_keeps_the_budget(step_seconds: float, least_seconds: float):
    """Whatever a step and a row cost, the planned share is at most the budget."""
    pace = Pace(None, None, 0.02)
    for step in range(WARM_UP):
        assert not pace.step(step * step_seconds, step + 1)
    assert pace.step(WARM_UP * step_seconds, WARM_UP + 1)
    pace.plan(least_seconds, 50)
    assert LEAST <= pace.rows <= MOST
    cost = least_seconds * pace.rows / LEAST
    assert cost / (pace.every * step_seconds) <= 0.02
    pace.took(3 * cost)
    assert 3 * cost / (pace.every * step_seconds) <= 0.02
