"""`kullback doctor`: bugs from probes, the command, its errors, and a whole diagnosis."""

from __future__ import annotations

import json
import shutil
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from msgspec.structs import replace
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from ended_processes import assert_ends
from kullback.cli import main
from kullback.doctor.command import model_folder, run_command
from kullback.doctor.diagnosis import findings_of, reweighting
from kullback.doctor.doctor import _passes, diagnose, load_model
from kullback.doctor.folder import kept_folder
from kullback.doctor.probes import averaging_curve, probe
from kullback.doctor.source import KINDS, LONGEST, doctor_source
from kullback.errors import InvalidValueError, RunError
from kullback.results.doctor import Diagnosis, Probes

EXAMPLE = Path(__file__).parents[2] / "examples" / "trainer_with_bugs.py"
# Of a correct trainer, 250 steps of 32 documents.
CORRECT = Probes(
    nll_by_shift=(7.88, 1.008, 7.36), future_change=0.0, surprisal=1.074, open_nll=1.76,
    entropy_ratio=1.04, mode_ratio=0.998, padding_nll=0.53,
    kinds=(-0.023, 0.022, 0.052, -0.097), end_ratio=1.09,
)  # fmt: skip


@pytest.fixture(scope="module")
def curve():
    """Return the pattern of means over micro-batches."""
    return averaging_curve(doctor_source().training)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of an untrained model with the vocabulary of the source."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("saved")
    llama(len(doctor_source().training.vocabulary)).save_pretrained(folder)
    return folder


def llama(vocabulary: int) -> LlamaForCausalLM:
    """Return a tiny model."""
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocabulary, hidden_size=8, intermediate_size=8, num_hidden_layers=1,
            num_attention_heads=2, max_position_embeddings=128, bos_token_id=0, eos_token_id=1,
        )
    )  # fmt: skip


def test_a_correct_trainer_has_no_finding(curve):
    """Nor has one whose batches of 32 documents are averaged over their tokens."""
    assert findings_of(CORRECT, curve) == ()
    assert findings_of(replace(CORRECT, kinds=tuple(curve[32].tolist())), curve) == ()


@pytest.mark.parametrize(
    ("changed", "bug"),
    [
        ({"open_nll": 0.01}, "leak"),
        ({"future_change": 0.2}, "leak"),
        ({"nll_by_shift": (1.8, 7.6, 1.08)}, "shifted"),
        ({"nll_by_shift": (0.002, 9.2, 6.0)}, "shifted"),
        ({"entropy_ratio": 0.005, "mode_ratio": 1.8}, "softmax"),
        ({"padding_nll": 4e-4}, "padding"),
        ({"end_ratio": 0.01}, "end token"),
    ],
)
def test_each_bug_is_named_by_its_optimum(curve, changed, bug):
    """One probe at the optimum of a bug gives that bug and no other."""
    (finding,) = findings_of(replace(CORRECT, **changed), curve)
    assert bug in finding.bug


@pytest.mark.parametrize(
    "changed",
    [
        {  # a learning rate of a hundredth
            "nll_by_shift": (3.15, 2.82, 3.13), "entropy_ratio": 3.17, "mode_ratio": 0.13,
            "kinds": (-1.60, -1.64, -1.27, -1.12), "end_ratio": 0.37,
        },
        {  # the tokens of each document shuffled
            "nll_by_shift": (2.13, 1.71, 1.93), "entropy_ratio": 1.63, "mode_ratio": 0.54,
            "kinds": (-0.85, -1.53, -1.64, -2.57), "end_ratio": 1.64,
        },
        {  # each document reversed
            "nll_by_shift": (7.2, 1.90, 6.9), "kinds": (-5.24, -4.99, -4.12, -4.98),
            "end_ratio": 0.002,
        },
        {"kinds": (-9.56, -9.21, -8.89, -8.67)},  # documents without <s>
        {  # half of what the parts of a GPT-2 give, dropped out
            "nll_by_shift": (7.16, 0.988, 6.77), "entropy_ratio": 0.90, "mode_ratio": 1.13,
            "kinds": (0.240, -0.064, -0.140, -0.447), "end_ratio": 0.68,
        },
        {  # logits divided by 4 before the loss
            "nll_by_shift": (9.0, 1.81, 8.0), "entropy_ratio": 0.234, "mode_ratio": 1.68,
            "kinds": (0.62, -0.08, -1.19, -2.62), "end_ratio": 0.78,
        },
    ],
)  # fmt: skip
def test_an_unknown_bug_gets_no_name_of_another(curve, changed):
    """What such trainers gave, each measured once, is past a threshold and no known optimum."""
    assert findings_of(replace(CORRECT, **changed), curve) == ()


@pytest.mark.parametrize("documents", [1, 2, 4, 8])
def test_the_size_of_a_micro_batch_is_recovered(curve, documents):
    """The reweighting of means over micro-batches has their number of documents."""
    probes = replace(CORRECT, kinds=tuple(curve[documents].tolist()))
    assert reweighting(probes, curve)[1] == pytest.approx(documents)
    (finding,) = findings_of(probes, curve)
    assert "micro-batch" in finding.bug


def test_the_curve_is_that_of_the_weighted_optimum(curve):
    """For batches of one document the kinds have the weights E[1 / tokens], normalised."""
    sample = doctor_source().training.sample(50_000, np.random.default_rng(1))
    weight = 1 / sample.lengths
    ids = [doctor_source().training.token_ids[kind.name] for kind in KINDS]
    expected = [np.log(weight[sample.tokens[:, 0] == i].mean() / weight.mean()) for i in ids]
    assert curve[1] == pytest.approx(expected, abs=0.03)
    assert sample.lengths.max() <= LONGEST + 2


def test_probes_of_a_model_that_sees_the_future(saved: Path):
    """A causal model does not change with later tokens; one with full attention does."""
    language = doctor_source().training
    model = LlamaForCausalLM.from_pretrained(saved).eval()
    assert probe(model, language).future_change < 1e-6

    class Open(torch.nn.Module):
        """The same weights, with a mask that hides nothing."""

        def forward(self, input_ids, attention_mask=None, use_cache=False):
            """Attend everywhere."""
            mask = torch.zeros(len(input_ids), 1, input_ids.shape[1], input_ids.shape[1])
            return model(input_ids=input_ids, attention_mask=mask, use_cache=False)

    for weight in model.parameters():
        weight.data.mul_(8.0)
    assert probe(Open(), language).future_change > 1e-3


def test_places_are_given_in_arguments_and_environment(tmp_path: Path):
    """The command gets both folders in both ways."""
    script = "import os, sys; print(sys.argv[1:], os.environ['KULLBACK_OUT'])"
    output = tmp_path / "output.txt"
    arguments = [sys.executable, "-c", script, "{data}", "--to={out}"]
    run_command(arguments, tmp_path / "{out}", tmp_path / "o", 1.0, output)
    data, out = tmp_path / "{out}", tmp_path / "o"
    assert output.read_text() == f"['{data}', '--to={out}'] {out}\n"


@pytest.mark.parametrize(
    ("script", "minutes", "words"),
    [
        ("import sys; print('no data'); sys.exit(3)", 1.0, "exit code 3.*no data"),
        ("import time; print('slow', flush=True); time.sleep(60)", 0.005, "--minutes.*slow"),
    ],
)
def test_a_command_that_fails(tmp_path: Path, script, minutes, words):
    """The sentence has the reason and the last lines."""
    with pytest.raises(RunError, match=words):
        run_command([sys.executable, "-c", script], tmp_path, tmp_path, minutes, tmp_path / "o")


def test_an_interruption_ends_the_command(tmp_path: Path):
    """On Ctrl-C neither the command nor what it started is left."""
    script = "(trap '' TERM; exec sleep 30) & echo $! > child; wait"
    previous = signal.signal(signal.SIGALRM, signal.default_int_handler)
    signal.setitimer(signal.ITIMER_REAL, 0.5)
    try:
        with pytest.raises(KeyboardInterrupt):
            run_command(
                ["sh", "-c", f"cd {tmp_path}; {script}"], tmp_path, tmp_path, 1.0, tmp_path / "o"
            )
    finally:
        signal.signal(signal.SIGALRM, previous)
    child = int((tmp_path / "child").read_text())
    assert_ends(child)


def test_commands_that_cannot_be_run(tmp_path: Path):
    """An empty command, a program that is missing, and one that saves nothing are refused."""
    with pytest.raises(InvalidValueError, match="COMMAND is empty"):
        run_command([], tmp_path, tmp_path, 1.0, tmp_path / "o")
    with pytest.raises(InvalidValueError, match="no-such-program"):
        run_command(["no-such-program"], tmp_path, tmp_path, 1.0, tmp_path / "o")
    with pytest.raises(RunError, match=r"no Hugging Face folder.*save_pretrained"):
        model_folder(tmp_path / "missing")


def test_a_failed_diagnosis_is_replaced(tmp_path: Path, capsys):
    """The same command runs again in the folder of ``-o``, which keeps what failed until then."""
    out = tmp_path / "checked"
    command = ["doctor", "--tokens", "200", "-o", str(out), "--", "sh", "-c"]
    for number in (1, 2):
        assert main([*command, f"echo try {number}; mkdir $KULLBACK_OUT; exit 3"]) == 2
        assert f"exit code 3; its last lines: try {number}" in capsys.readouterr().err
        assert (out / "output.txt").read_text() == f"try {number}\n"
        assert "has not ended" in (out / "unfinished.txt").read_text()
    (out / "mine.txt").write_text("mine")
    assert main([*command, "exit 3"]) == 2
    assert "mine.txt is not of it" in capsys.readouterr().err
    (out / "mine.txt").unlink()
    (out / "unfinished.txt").write_text("something of the user")
    assert main([*command, "exit 3"]) == 2
    assert "nothing in it is overwritten" in capsys.readouterr().err
    assert (out / "output.txt").exists()


def test_a_diagnosis_that_does_not_begin_leaves_no_folder(tmp_path: Path, capsys):
    """Without a program there is neither data nor a folder; on a signal it is said what stays."""
    assert main(["doctor", "-o", str(tmp_path / "checked"), "--"]) == 2
    assert "COMMAND is empty" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
    held = kept_folder(tmp_path / "checked")
    (held.__enter__() / "data").mkdir()
    stop = KeyboardInterrupt()
    held.__exit__(type(stop), stop, None)
    assert "checked has what the command wrote" in stop.__notes__[0]


def test_torchrun_belongs_into_the_command(monkeypatch, capsys):
    """Several processes would diagnose, each by itself."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(["doctor", "--", "true"]) == 2
    assert "torchrun" in capsys.readouterr().err


def test_a_temporary_folder_is_kept_where_an_error_speaks_of_it(
    tmp_path: Path, capsys, monkeypatch
):
    """The sentence says where it is; there is none where the command wrote nothing."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    assert main(["doctor", "--tokens", "200", "--", "no-such-program"]) == 2
    assert "no-such-program" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
    assert main(["doctor", "--tokens", "200", "--", "sh", "-c", "echo bad; exit 1"]) == 2
    (kept,) = tmp_path.iterdir()
    assert f"are kept in {kept}" in capsys.readouterr().err
    assert (kept / "output.txt").read_text() == "bad\n"
    shutil.rmtree(kept)
    assert main(["doctor", "--tokens", "200", "--", "true"]) == 2
    (kept,) = tmp_path.iterdir()
    said = capsys.readouterr().err
    assert f"{kept}/out" in said
    assert f"are kept in {kept}" in said


def test_a_whole_diagnosis(saved: Path, tmp_path: Path, capsys, monkeypatch):
    """The command's model is measured, compared and shown; JSON is read back; the reference is
    kept for the next time.
    """
    monkeypatch.setattr("kullback.doctor.doctor.EVALUATED", 200)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    command = ["doctor", "--tokens", "600", "--json", "--", "cp", "-r", str(saved), "{out}"]
    assert main(command) == 0
    result = Diagnosis.from_json(capsys.readouterr().out)
    kl, reference = result.evaluation.kl.value, result.reference_kl
    assert kl > 1.0
    assert result.reaches_floor == (kl <= max(2 * reference, reference + 0.02))
    assert result.passes_from.startswith("assumed")
    assert result.folder is None  # it was temporary
    (kept,) = (tmp_path / "cache" / "kullback").glob("doctor-*.json")
    assert json.loads(kept.read_text())["kl"] == result.reference_kl
    text = str(result)
    assert "KL of the reference run" in text
    assert "By slot" in text


@pytest.mark.parametrize(
    ("written", "passes"), [("2.5", 2.5), ("1e9", 1.0), ("-1", 1.0), ("null", 1.0)]
)
def test_passes_of_the_trainers_state(tmp_path: Path, written, passes):
    """What the trainer says is used where it can be repeated in the reference run."""
    (tmp_path / "trainer_state.json").write_text(f'{{"epoch": {written}}}')
    assert _passes(tmp_path)[0] == passes


def test_another_vocabulary_is_refused(tmp_path: Path):
    """A model with fewer ids is refused by name."""
    llama(7).save_pretrained(tmp_path / "small")
    with pytest.raises(InvalidValueError, match=r"has 7 ids.*30.*tokenizer"):
        diagnose(["cp", "-r", str(tmp_path / "small"), "{out}"], tmp_path / "work", tokens=500)


def test_models_that_cannot_be_used(saved: Path, tmp_path: Path):
    """Damaged weights, and a context below the longest document, are refused in a sentence."""
    damaged = tmp_path / "damaged"
    shutil.copytree(saved, damaged)
    (damaged / "model.safetensors").write_bytes(b"no weights at all")
    with pytest.raises(RunError, match=r"cannot load.*damaged"):
        load_model(damaged, doctor_source())
    short = GPT2Config(vocab_size=30, n_positions=64, n_embd=8, n_layer=1, n_head=1)
    GPT2LMHeadModel(short).save_pretrained(tmp_path / "short")
    with pytest.raises(InvalidValueError, match="128 tokens"):
        load_model(tmp_path / "short", doctor_source())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("bug", "words"),
    [("none", ""), ("shift", "shifted"), ("padding", "padding"), ("averaging", "micro-batch"),
     ("leak", "leak"), ("softmax", "softmax")],
)  # fmt: skip
def test_planted_bugs_are_named(tmp_path: Path, bug, words):
    """Each bug of the example is named, and none in the correct one, which reaches the floor."""
    command = [sys.executable, str(EXAMPLE), "{data}", "{out}", "--bug", bug]
    result = diagnose(command, tmp_path / "work")
    assert [words in finding.bug for finding in result.findings] == ([True] if words else [])
    if bug == "none":
        assert result.reaches_floor
