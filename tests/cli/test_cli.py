"""The command line: what goes where, and what is said of bad input."""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cli_errors import the_error
from kullback.cli import main, make_parser
from tiny_runs import WEATHER, contents


def grammar(folder: Path, text: str) -> str:
    """Write a grammar file."""
    path = folder / "some.toml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def commands_of(parser: argparse.ArgumentParser) -> Iterator[str]:
    """The names of all commands below the parser, as ``source list``, without aliases."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield command.prog.removeprefix("kullback ")
                yield from commands_of(command)


@pytest.mark.parametrize("command", sorted(set(commands_of(make_parser()))))
def test_help_has_examples(command, capsys):
    """Every command's help ends with examples that begin with its name."""
    with pytest.raises(SystemExit) as stop:
        main([*command.split(), "--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert "examples:" in text
    assert f"kullback {command}" in text.split("examples:")[1]


def arguments_of(parser: argparse.ArgumentParser) -> Iterator[tuple[str, argparse.Action]]:
    """The command and each of its arguments, in all commands below the parser."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield from arguments_of(command)
        else:
            yield parser.prog, action


def test_every_argument_is_described():
    """More than by its default: the help says what it is."""
    described = {
        (prog, action.dest): (action.help or "").partition("(default")[0].strip()
        for prog, action in arguments_of(make_parser())
    }
    assert len(described) > 60
    assert [name for name, text in described.items() if not text] == []


def test_the_command_that_completes_makes_its_folder_first(capsys):
    """Where nothing was ever completed, the folder does not exist."""
    assert main([]) == 0
    text = capsys.readouterr().out
    assert text.index("mkdir -p") < text.index("--print-completion bash >")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("source describe conjugatoin", ["conjugatoin", "conjugation", ".toml"]),
        ("source describe conjugation --holdout 100000", ["100000"]),
        ("source describe missing.toml", ["missing.toml"]),
        ("sample {tmp}/none", ["none", "not a run folder"]),
        ("evaluate {tmp}/none", ["none", "not a run folder"]),
        ("evaluate {tmp}/none --text {tmp}/x.txt", ["x.txt"]),
        ("evaluate {tmp} --report {tmp}/r.html", ["--text"]),
        ("evaluate {tmp} --text {tmp}/t.txt --report {tmp}", ["--report is", "a folder"]),
        ("evaluate {tmp}/m --text {tmp} --report {tmp}/t.txt", ["--report is", "inside", "read"]),
        (
            "evaluate {tmp}/m --text t --records {tmp}/a.parquet --report {tmp}/a.parquet",
            ["--report and --records are both"],
        ),
        ("compare {tmp} {tmp}", ["--text"]),
        ("evaluate {tmp} --stride 5", ["--stride", "--text"]),
        ("evaluate {tmp} --text {tmp}/t --sentences 5", ["--sentences", "--text"]),
        ("compare a --schemes int9 --text {tmp}/x", ["int9", "int4-g32"]),
        ("quantise {tmp}/none --scheme int4-g -o {tmp}/e", ["int4-g", "int8"]),
        ("quantise {tmp}/none --scheme int8 -o {tmp}/e", ["none"]),
        ("derive --p 0.5,0.6", ["1.1"]),
    ],
)
def test_bad_input_is_one_sentence(arguments, words, tmp_path, capsys):
    """Bad input exits with 2 and one line with the value and the remedy; nothing is written."""
    code = main(arguments.format(tmp=tmp_path).split())
    streams = capsys.readouterr()
    assert code == 2
    assert streams.out == ""
    sentence = the_error(streams.err)
    assert all(word in sentence for word in words), streams.err
    assert not any((tmp_path / name / "model.safetensors").exists() for name in "abcd")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("name = [", ["some.toml"]),
        (WEATHER.replace("p = 0.6", "p = 0.7"), ["sentence", "1.1"]),
        (WEATHER.replace("<sky>", "<skies>"), ["skies"]),
        (WEATHER.replace("p = 0.6", "p = -0.6"), ["-0.6"]),
    ],
)
def test_bad_grammars_are_one_sentence(text, words, tmp_path, capsys):
    """A malformed grammar, or probabilities that do not sum to one, are named with their place."""
    assert main(["source", "describe", grammar(tmp_path, text)]) == 2
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1
    assert all(word in error for word in words), error


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("lab --stepz 3", ["--stepz", "did you mean --steps"]),
        ("lba", ["lba", "did you mean lab"]),
        ("lab --bos auto", ["unrecognised argument '--bos' (see"]),
        ("evaluate RUN --tolerance 1", ["unrecognised argument '--tolerance' (see"]),
        ("evaluate RUN --text t --protocol slidng", ["slidng", "did you mean sliding"]),
        ("source", ["ACTION"]),
        ("train -o somewhere", ["--source", "--text", "--resume"]),
        ("sample RUN --temperature warm", ["--temperature", "warm"]),
        ("source sample conjugation -n -1", ["-n", "-1", "at least 1"]),
        ("lab --steps 0", ["--steps", "0", "at least 1"]),
        ("lab --seed -1", ["--seed", "-1", "at least 0"]),
        ("sample RUN --seed -1", ["--seed", "-1", "at least 0"]),
        ("source sample conjugation --seed -1", ["--seed", "-1", "at least 0"]),
        ("evaluate RUN --sentences 5 --seed x", ["--seed", "'x'", "at least 0"]),
    ],
)
def test_a_wrong_command_line_points_to_the_help(arguments, words, capsys):
    """What the parser refuses is one line that names it and the help, and exits with 2."""
    with pytest.raises(SystemExit) as stop:
        main(arguments.split())
    streams = capsys.readouterr()
    assert (stop.value.code, streams.out) == (2, "")
    assert len(streams.err.splitlines()) == 1
    assert all(word in streams.err for word in (*words, "--help")), streams.err


def other_sizes(run: Path) -> None:
    """Claim a width that the weights have not."""
    config = json.loads((run / "config.json").read_text())
    config.update(hidden_size=32, head_dim=16)
    (run / "config.json").write_text(json.dumps(config))


def half(name: str) -> Callable[[Path], None]:
    """Keep the first half of a file."""

    def cut(run: Path) -> None:
        content = (run / name).read_bytes()
        (run / name).write_bytes(content[: len(content) // 2])

    return cut


@pytest.mark.parametrize("command", ["sample {run}", "evaluate {run}"])
@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (half("model.safetensors"), ["model.safetensors", "damaged or truncated", "restore it"]),
        (half("config.json"), ["config.json", "damaged or truncated", "restore it"]),
        (other_sizes, ["belongs to another model", "(14, 16)", "(14, 32)", "restore the file"]),
        (lambda run: (run / "config.json").unlink(), ["not a run folder", "config.json"]),
    ],
    ids=["truncated weights", "truncated configuration", "another model", "no configuration"],
)
def test_damaged_runs_are_one_sentence(command, damage, words, weather_run, tmp_path, capsys):
    """A truncated or foreign run is named with the remedy, and its files stay as they are."""
    copy = Path(shutil.copytree(weather_run, tmp_path / "copy"))
    damage(copy)
    before = contents(copy)
    assert main(command.format(run=copy).split()) == 2
    streams = capsys.readouterr()
    assert streams.out == ""
    sentence = the_error(streams.err)
    assert all(word in sentence for word in words), streams.err
    assert contents(copy) == before


def test_a_run_of_another_language_is_refused(weather_run, capsys):
    """A model measured on a source that it does not know is told both sizes."""
    assert main(["evaluate", str(weather_run), "--source", "conjugation"]) == 2
    error = capsys.readouterr().err
    assert "do not belong together" in error
    assert "604" in error


def test_the_program_itself_exits_with_2_and_one_line(tmp_path):
    """As a process, too, bad input is one line on standard error without a traceback."""
    missing = str(tmp_path / "none.toml")
    command = [sys.executable, "-m", "kullback", "source", "describe", missing]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 1
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        "source list --json",
        "source describe {grammar} --json",
        "source sample {grammar} -n 3 --json",
        "source export {grammar} --tokens 50 -o {tmp}/export --json",
        "derive --json",
        "sample {run} -n 2 --json",
        "evaluate {run} --json",
        "evaluate {llama} --text {text} --window 32 --json",
        "compare {llama} {llama}@int8 --text {text} --window 32 --json",
        "quantise {llama} --scheme bf16 -o {tmp}/q --json",
    ],
)
def test_json_is_one_document(
    arguments, weather_run, tiny_llama_folder, text_file, tmp_path, capsys
):
    """With --json standard output is one JSON document and nothing else."""
    places = {
        "grammar": grammar(tmp_path, WEATHER),
        "tmp": tmp_path,
        "run": weather_run,
        "llama": tiny_llama_folder,
        "text": text_file,
    }
    assert main(arguments.format(**places).split()) == 0
    assert json.loads(capsys.readouterr().out)


def test_what_follows_the_reading_is_said(tiny_llama_folder, text_file, capsys):
    """Work after the last token does not look like a standstill."""
    arguments = ["evaluate", str(tiny_llama_folder), "--text", str(text_file), "--window", "32"]
    assert main([*arguments, "--temperature"]) == 0
    assert "searching the best temperature" in capsys.readouterr().err


def test_a_bare_command_prints_its_help(capsys):
    """`kullback` alone lists the commands, and exits with 0."""
    assert main([]) == 0
    assert "evaluate" in capsys.readouterr().out


@pytest.mark.parametrize("shell", ["bash", "zsh", "tcsh"])
def test_completion_knows_commands_and_options(shell, capsys):
    """The script of each shell holds every command and its options."""
    with pytest.raises(SystemExit) as stop:
        main(["--print-completion", shell])
    script = capsys.readouterr().out
    assert stop.value.code == 0
    assert all(word in script for word in ("compare", "noise-floor", "evaluate", "protocol"))


def test_text_may_be_given_twice(tiny_llama_folder, text_file, tmp_path, capsys):
    """Each --text adds documents; none replaces those before."""
    (tmp_path / "more.txt").write_text("And some more of it.\n")
    twice = ["--text", str(text_file), "--text", str(tmp_path / "more.txt")]
    assert main(["evaluate", str(tiny_llama_folder), *twice, "--window", "32", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["documents"] == 2


def test_a_model_of_transformers_needs_a_text(tiny_llama_folder, capsys):
    """A model that was not trained on a source is sent to --text."""
    assert main(["evaluate", str(tiny_llama_folder)]) == 2
    assert "--text FILE" in capsys.readouterr().err


def test_json_of_a_sample_of_a_source_has_its_intervals(weather_run, capsys):
    """What a sample of sentences says of the language is given with its interval."""
    assert main(["evaluate", str(weather_run), "--sentences", "50", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["schema"] == "kullback.source_evaluation/1"
    for part in document["parts"]:
        for name in ("cross_entropy", "entropy", "kl"):
            low, high = part[name]["interval"]
            assert low <= part[name]["value"] <= high


def test_evaluation_on_text_writes_tables_records_and_a_page(
    tiny_llama_folder, text_file, tmp_path, capsys
):
    """``evaluate --text`` prints the measures with intervals and writes what it was asked for."""
    records, report = tmp_path / "tokens.parquet", tmp_path / "page.html"
    arguments = ["evaluate", str(tiny_llama_folder), "--text", str(text_file), "--window", "32"]
    assert main([*arguments, "--records", str(records), "--report", str(report)]) == 0
    table = capsys.readouterr().out
    assert "±" in table
    assert "bits/byte" in table
    assert records.stat().st_size > 0
    assert "<svg" in report.read_text(encoding="utf-8")


def test_comparison_prints_the_ranking_and_writes_a_page(
    tiny_llama_folder, text_file, tmp_path, capsys
):
    """``compare --schemes`` ranks the schemes, and the page says what KL does not say."""
    report = tmp_path / "page.html"
    arguments = ["compare", str(tiny_llama_folder), "--text", str(text_file), "--window", "32"]
    options = ["--noise-floor", "--sensitivity", "--report", str(report)]
    assert main([*arguments, "--schemes", "int8,int2-g32", *options]) == 0
    table = capsys.readouterr().out
    assert "int8" in table
    assert "int2-g32" in table
    page = report.read_text(encoding="utf-8")
    assert "not that it is worse" in page


@pytest.mark.parametrize(
    "arguments",
    [
        "source describe {bad}", "source describe {bad}.toml", "evaluate {bad} --text {bad}",
        "compare {bad} {bad} --text {bad}", "{bad}", "lab --steps {bad}", "lab --{bad}",
        "record {bad} --text {bad} -o {bad}", "quantise {bad} --scheme {bad} -o {bad}",
        "train --text {bad} -o {bad}", "sample {bad}", "derive --p {bad}",
    ],
)  # fmt: skip
def test_no_argument_acts_on_the_terminal(arguments, capsys):
    """Escapes, marks of direction and line ends in an argument are shown in the one sentence."""
    bad = "no\x1b]0;x\x07\u202e\x9b2J\n\udcff"
    words = [word.replace("{bad}", bad) for word in arguments.split()]
    try:
        code = main(words)
    except SystemExit as stop:
        code = stop.code
    assert code == 2
    output = "".join(capsys.readouterr())
    assert output.count("\n") == len(output.splitlines())
    assert not set(output) & set("\x1b\x07\u202e\x9b\udcff")
    assert "]0;x" in the_error(output)


def test_a_long_error_ends_with_its_remedy(capsys):
    """A name of a hundred thousand characters loses its middle."""
    assert main(["source", "describe", "x" * 100_000]) == 2
    error = capsys.readouterr().err
    assert len(error) < 7000
    assert the_error(error).endswith("n-gram model is the source")


def test_arguments_that_are_not_utf8_are_one_sentence(capsys):
    """No file could hold such a name."""
    with pytest.raises(SystemExit) as end:
        main(["evaluate", "m", "--text", "\udcff.txt"])
    assert end.value.code == 2
    assert "is not UTF-8: rename the file" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("kind", "said", "remedy"),
    [
        ("AcceleratorError", "CUDA error: unspecified launch failure\nCompile with", "nvidia-smi"),
        ("OutOfMemoryError", "the memory is too small", "--window"),
        ("RuntimeError", "CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling", "nvidia-smi"),
    ],
)
def test_a_device_that_fails_is_one_sentence(
    kind: str,
    said: str,
    remedy: str,
    tiny_llama_folder: Path,
    text_file: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What torch raises of a GPU that is lost or full ends with its first line, and a remedy."""
    import torch

    from kullback.models.huggingface import HuggingFaceModel

    def fail(self: HuggingFaceModel, inputs_NT: torch.Tensor) -> None:
        raise {"RuntimeError": RuntimeError}.get(kind, getattr(torch, kind, None))(said)

    monkeypatch.setattr(HuggingFaceModel, "predict", fail)
    assert main(["evaluate", str(tiny_llama_folder), "--text", str(text_file)]) == 2
    error = the_error(capsys.readouterr().err)
    assert said.partition("\n")[0].partition(".")[0] in error
    assert remedy in error
    assert "Compile with" not in error


@pytest.mark.parametrize("command", ["evaluate", "compare", "record"])
def test_a_device_that_fails_later_leaves_what_is_done(
    command: str,
    tiny_llama_folder: Path,
    text_file: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The rows of the windows before are kept, with or without records, and are not read again."""
    import torch

    from kullback.evaluation import predictors
    from kullback.models.huggingface import HuggingFaceModel

    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setattr(predictors, "CPU_TOKENS", 32)
    monkeypatch.setattr("kullback.runtime.workers.WINDOWS_A_THREAD", 1)
    own, reads = HuggingFaceModel.predict, [0]

    def fail(self: HuggingFaceModel, inputs_NT: torch.Tensor) -> object:
        reads[0] += 1
        if reads[0] == 15:
            raise RuntimeError("CUDA error: device not ready")
        return own(self, inputs_NT)

    folder = str(tiny_llama_folder)
    more = {"compare": [folder], "record": ["--distributions", "exact", "-o", "out.rec"]}
    arguments = [
        command,
        folder,
        *more.get(command, []),
        "--text",
        str(text_file),
        "--window",
        "16",
    ]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(HuggingFaceModel, "predict", fail)
    assert main([*arguments, "--json"]) == 2
    error = the_error(capsys.readouterr().err)
    assert "again, which resumes, or" in error
    assert " kept" in error.partition("; ")[2]
    reads[0] = 100
    assert main([*arguments, "--json"]) == 0
    resumed, second = json.loads(capsys.readouterr().out), reads[0] - 100
    (tmp_path / "out.rec").unlink(missing_ok=True)
    reads[0] = 100
    assert main([*arguments, "--json"]) == 0
    whole, all_reads = json.loads(capsys.readouterr().out), reads[0] - 100
    assert second < all_reads
    same = {"evaluate": "measures", "compare": "candidates", "record": "tokens"}[command]
    assert resumed[same] == whole[same]


@pytest.mark.parametrize(
    ("command", "has", "lacks"),
    [
        ("evaluate M --text T", ["--stream", "--device-map", "--dtype", "--window"], []),
        ("record M --text T -o r.rec --distributions exact", ["--dtype", "--window"], ["--stream"]),
        ("compare M M@int8 --text T --dtype bfloat16", ["--window"], ["--stream", "--dtype"]),
        ("train --text T -o R", ["--batch", "--accumulate", "--resume"], ["--window", "--stream"]),
        ("quantise M --scheme int8 -o Q", ["more memory"], ["--window"]),
        ("evaluate M --source S", ["more memory"], ["--stream", "--dtype"]),
    ],
)
@pytest.mark.parametrize("kind", [MemoryError, RuntimeError])
def test_a_memory_that_is_too_small_is_one_sentence(
    command: str,
    has: list[str],
    lacks: list[str],
    kind: type[Exception],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where a CPU's allocation fails outside of a pass: only options of the command are named."""
    import torch  # noqa: F401 # which a command that computes has loaded

    def fail(options: argparse.Namespace) -> None:
        raise kind("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")

    name = command.split()[0]
    monkeypatch.setattr(f"kullback.cli.{name}._{name}", fail)
    assert main(command.split()) == 2
    error = the_error(capsys.readouterr().err)
    assert "memory is too small (DefaultCPUAllocator" in error
    for word in has:
        assert word in error
    for word in lacks:
        assert word not in error
