"""Evaluation of a model on a stationary process, and of a folder on the export it is from."""

from __future__ import annotations

import itertools
import json
import math
import shutil
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from kullback.cli import main
from kullback.errors import InvalidValueError
from kullback.evaluation.evaluate_source import evaluate_source
from kullback.evaluation.on_source import evaluate_on_process, evaluate_on_source
from kullback.evaluation.source_corpora import WindowCorpus
from kullback.models.mini_gpt import GPTModel
from kullback.predictions.base import DensePredictions
from kullback.results.source import SourceEvaluation
from kullback.runtime.progress import Progress
from kullback.sources.export import export_source
from kullback.sources.known_processes import known_process
from kullback.sources.process import FIRST_SYMBOL, Process
from kullback.training.gpt import GPT
from kullback.training.gpt_config import GPTConfig
from tiny_runs import weather

WINDOW = 5


@dataclass
class Oracle:
    """A model that says what the process says."""

    process: Process
    name: str = "the process itself"

    @property
    def vocabulary_size(self) -> int:
        """V."""
        return len(self.process.vocabulary)

    def predict(self, inputs_NT: torch.Tensor) -> DensePredictions:
        """The true distributions."""
        p = self.process.predictor.distributions(inputs_NT.numpy() - FIRST_SYMBOL)
        logits = np.full((*p.shape[:2], self.vocabulary_size), -np.inf)
        with np.errstate(divide="ignore"):
            logits[:, :, FIRST_SYMBOL:] = np.log(p)
        return DensePredictions(torch.from_numpy(logits.reshape(-1, self.vocabulary_size)))


def random_model(process: Process) -> GPTModel:
    """An untrained mini-GPT in float64, away from uniform."""
    gpt = GPT(GPTConfig(len(process.vocabulary), 16, 16, 1, 2, 16), seed=1).double()
    for weight in gpt.parameters():
        weight.data.mul_(4.0)
    return GPTModel(gpt)


def brute_kl(process: Process, model: GPTModel, window: int) -> tuple[float, list[float]]:
    """KL per token over all words of each length, and at each position."""
    by_position = []
    for length in range(1, window):
        total = 0.0
        for word in itertools.product(range(len(process.symbols)), repeat=length):
            symbols = np.array([word])
            weight = float(process.probabilities(symbols)[0, -1])
            if weight == 0:
                continue
            p = process.predictor.distributions(symbols)[0, -1]
            with torch.inference_mode():
                predictions = model.predict(torch.from_numpy(symbols + FIRST_SYMBOL))
                log_q = torch.log_softmax(predictions.logits(slice(0, length))[-1].double(), 0)
            q = log_q.numpy()[FIRST_SYMBOL:]
            total += weight * sum(a * (math.log(a) - b) for a, b in zip(p, q, strict=True) if a > 0)
        by_position.append(total)
    return float(np.mean(by_position)), by_position


@pytest.mark.parametrize("name", ["golden-mean", "rrxor", "mess3"])
def test_all_windows_give_the_exact_distance(name: str):
    """CE = H + KL with H the floor of the windows and KL that of a loop over all words."""
    process = known_process(name)
    model = random_model(process)
    (part,) = evaluate_on_process(model, process, WINDOW, None, 0, Progress()).parts
    kl, by_position = brute_kl(process, model, WINDOW)
    floor = process.window_entropy(WINDOW)
    assert part.exact
    assert part.window == WINDOW
    assert part.floor == floor.value
    assert part.entropy.value == pytest.approx(floor.value, abs=1e-12)
    assert part.kl.value == pytest.approx(kl, rel=1e-10)
    assert [row.kl for row in part.by_position] == pytest.approx(by_position, rel=1e-9)
    entropies = process.conditional_entropies(WINDOW)[1:]
    assert [row.entropy for row in part.by_position] == pytest.approx(
        [h.value for h in entropies], abs=1e-12
    )
    assert [row.tokens_before for row in part.by_position] == list(range(1, WINDOW))
    assert sum(row.share for row in part.by_position) == pytest.approx(1)
    by_symbol = process.window_entropy_by_symbol(WINDOW)
    for slot in part.by_slot:
        assert slot.entropy == pytest.approx(by_symbol[slot.slot][1].value, abs=1e-12)


def test_a_sample_of_windows_has_an_interval_around_the_exact_distance():
    """Sampled windows estimate the KL of all windows."""
    process = known_process("mess3")
    model = random_model(process)
    (exact,) = evaluate_on_process(model, process, WINDOW, None, 0, Progress()).parts
    (sampled,) = evaluate_on_process(model, process, WINDOW, 3000, 1, Progress()).parts
    assert not sampled.exact
    assert sampled.kl.has_interval
    assert sampled.kl.standard_error is not None
    assert abs(sampled.kl.value - exact.kl.value) < 5 * sampled.kl.standard_error
    assert sampled.floor == exact.floor


@pytest.mark.parametrize("name", ["even", "mess3"])
def test_the_process_itself_has_no_distance(name: str):
    """A perfect model has a KL of 0, and its cross-entropy is the floor."""
    process = known_process(name)
    corpus = WindowCorpus.everything(process, WINDOW)
    assert corpus is not None
    part = evaluate_on_source(Oracle(process), corpus)
    assert part.kl.value == pytest.approx(0, abs=1e-12)
    assert part.cross_entropy.value == pytest.approx(process.window_entropy(WINDOW).value)


def test_too_many_windows_are_sampled():
    """Windows of 64 symbols are not enumerated."""
    assert WindowCorpus.everything(known_process("golden-mean"), 64) is None


def test_positions_of_sentences_are_those_of_the_language(tmp_path: Path):
    """Sentences have the exact entropy at each position, too, and the shares add up to 1."""
    source = weather(tmp_path).source
    gpt = GPT(GPTConfig(len(source.training.vocabulary), 16, 16, 1, 2, 16), seed=1)
    (part,) = evaluate_source_of(GPTModel(gpt), source).parts
    expected = source.training.entropy_by_position()
    assert [row.entropy for row in part.by_position] == pytest.approx(expected.tolist(), abs=1e-12)
    assert sum(row.share * row.kl for row in part.by_position) == pytest.approx(part.kl.value)
    assert part.floor == source.training.entropy_per_token


def evaluate_source_of(model: GPTModel, source) -> SourceEvaluation:
    """All prefixes of a source."""
    from kullback.evaluation.on_source import evaluate_parts

    return evaluate_parts(model, source, None, 0, Progress())


@pytest.fixture(scope="module")
def trained_elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a Hugging Face folder saved by transformers with the tokenizer of an export.

    The export of the golden mean process is beside it, and one of the even process, which has the
    same vocabulary.
    """
    transformers = pytest.importorskip("transformers")
    place = tmp_path_factory.mktemp("elsewhere")
    for name in ("golden-mean", "even"):
        export_source(known_process(name), 500, place / name, 0, window=WINDOW)
    config = transformers.LlamaConfig(
        vocab_size=4,
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=16,
    )
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(config)
    model.save_pretrained(place / "model")
    tokenizer = transformers.AutoTokenizer.from_pretrained(str(place / "golden-mean"))
    tokenizer.save_pretrained(place / "model")
    return place / "model"


def test_a_folder_finds_its_export(trained_elsewhere: Path):
    """The tokenizer that transformers saved leads to the golden mean, and not to the even one."""
    result = evaluate_source(str(trained_elsewhere))
    assert result.source == "golden-mean"
    (part,) = result.parts
    assert part.window == WINDOW
    assert part.exact
    named = evaluate_source(str(trained_elsewhere), trained_elsewhere.parent / "golden-mean")
    assert named.parts == result.parts
    other = evaluate_source(str(trained_elsewhere), "even", window=4)
    assert (other.source, other.parts[0].window) == ("even", 4)


def test_the_command_shows_the_floor_and_the_positions(trained_elsewhere: Path, capsys):
    """`kullback evaluate FOLDER` prints the exact floor and a table of positions."""
    assert main(["evaluate", str(trained_elsewhere)]) == 0
    text = capsys.readouterr().out
    assert "golden-mean" in text
    assert "0.462098120 nats/token (windows of 5 symbols)" in text
    assert "By position" in text
    floor = str(trained_elsewhere.parent / "golden-mean" / "floor.json")
    assert main(["evaluate", str(trained_elsewhere), "--source", floor, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["parts"][0]["floor"] == pytest.approx(2 / 3 * math.log(2))
    assert SourceEvaluation.from_json(json.dumps(document)).to_dict() == document


def test_rounded_products_are_refused(trained_elsewhere: Path):
    """A process that multiplies float32 numbers as bfloat16 would measure other losses."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        with pytest.raises(InvalidValueError, match="as bfloat16"):
            evaluate_source(str(trained_elsewhere))
    finally:
        torch.set_float32_matmul_precision(before)


def test_an_ambiguous_or_foreign_tokenizer_is_refused(trained_elsewhere: Path, tmp_path: Path):
    """A binary tokenizer that names no source belongs to several, an unknown one to none."""
    folder = tmp_path / "binary" / "model"
    shutil.copytree(trained_elsewhere, folder)
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text("utf-8"))
    config.pop("kullback_source")
    path.write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(InvalidValueError, match="golden-mean, even, rrxor"):
        evaluate_source(str(folder))
    for name in ("a", "b"):
        shutil.copytree(
            trained_elsewhere.parent / ("golden-mean" if name == "a" else "even"),
            folder.parent / name,
        )
    with pytest.raises(InvalidValueError, match=r"several exports.*floor\.json"):
        evaluate_source(str(folder))
    words = (folder / "tokenizer.json").read_text("utf-8").replace('"1"', '"2"')
    (folder / "tokenizer.json").write_text(words, encoding="utf-8")
    with pytest.raises(InvalidValueError, match="no export near it"):
        evaluate_source(str(folder))


def test_exports_with_other_windows_are_told_apart(trained_elsewhere: Path, tmp_path: Path):
    """The floor depends on the window, so one of two exports is not taken without a word."""
    folder = tmp_path / "model"
    shutil.copytree(trained_elsewhere, folder)
    process = known_process("golden-mean")
    export_source(process, 400, tmp_path / "a", 0, 0, ("npy",), WINDOW)
    shutil.copytree(tmp_path / "a", tmp_path / "copy")
    assert evaluate_source(str(folder)).parts[0].window == WINDOW
    export_source(process, 400, tmp_path / "b", 0, 0, ("npy",), WINDOW + 1)
    with pytest.raises(InvalidValueError, match=r"windows of 5 symbols.*windows of 6 symbols"):
        evaluate_source(str(folder))
    assert evaluate_source(str(folder), window=4).parts[0].window == 4


def test_padded_embeddings_are_read_with_the_tokenizer_of_the_source(
    trained_elsewhere: Path, tmp_path: Path
):
    """Each id once more halves all probabilities: the KL is log 2 larger, and a note says why."""
    transformers = pytest.importorskip("transformers")
    data = trained_elsewhere.parent / "golden-mean"
    model = transformers.AutoModelForCausalLM.from_pretrained(str(trained_elsewhere))
    rows = model.lm_head.weight.data.clone()
    model.resize_token_embeddings(8, mean_resizing=False)
    model.lm_head.weight.data = torch.cat([rows, rows])
    model.save_pretrained(tmp_path / "padded")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(trained_elsewhere / name, tmp_path / "padded")
    with pytest.warns(match="4 ids without a token"):
        (padded,) = evaluate_source(str(tmp_path / "padded"), data).parts
    (own,) = evaluate_source(str(trained_elsewhere), data).parts
    assert padded.kl.value == pytest.approx(own.kl.value + math.log(2), abs=1e-6)
    assert padded.cross_entropy.value == pytest.approx(
        own.cross_entropy.value + math.log(2), abs=1e-6
    )


def test_other_words_of_the_same_ids_are_noted(trained_elsewhere: Path, tmp_path: Path):
    """A source that is named by hand may have as many words as the tokenizer, and other ones."""
    folder = tmp_path / "renamed"
    shutil.copytree(trained_elsewhere, folder)
    words = (folder / "tokenizer.json").read_text("utf-8")
    (folder / "tokenizer.json").write_text(words.replace('"1"', '"two"'), encoding="utf-8")
    data = trained_elsewhere.parent / "golden-mean"
    with pytest.warns(match="'two' in the tokenizer of .*renamed and '1' in golden-mean"):
        evaluate_source(str(folder), data)
    with warnings.catch_warnings(action="error"):
        evaluate_source(str(trained_elsewhere), data)


def test_sentences_are_cut_at_the_context(tmp_path: Path):
    """As in training: the prefixes within it are measured, and a note has the share of the rest."""
    source = weather(tmp_path).source
    whole, short = (
        GPT(GPTConfig(len(source.training.vocabulary), context, 8, 1, 2, 16)) for context in (16, 3)
    )
    short.load_state_dict(whole.state_dict())
    (expected,) = evaluate_source_of(GPTModel(whole), source).parts
    with pytest.warns(match=r"reads 3 tokens.*% of the tokens are not measured"):
        (part,) = evaluate_source_of(GPTModel(short), source).parts
    assert [row.kl for row in part.by_position] == pytest.approx(
        [row.kl for row in expected.by_position[:3]]
    )
    # The floor is of what is measured, all prefixes of it, and so are the tokens by slot.
    assert part.exact
    assert part.floor == pytest.approx(part.entropy.value, rel=1e-12)
    assert part.floor != pytest.approx(expected.floor, rel=1e-3)
    assert sum(slot.tokens_per_sentence for slot in part.by_slot) == pytest.approx(
        source.training.entropy_of_first(3)[1]
    )
