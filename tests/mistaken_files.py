"""A folder of good, damaged and mistaken files, for calls that are malformed."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

from tiny_models import TEXT, gguf_header, tiny_llama
from tiny_runs import WEATHER

__all__ = ["mistaken_files"]


def mistaken_files(folder: Path, run: Path) -> None:
    """Fill `folder`: a model, its quantisation, a run, records, recordings, texts, and damage."""
    from kullback.cli import main

    tiny_llama(folder / "model")
    shutil.copytree(run, folder / "run")
    (folder / "text.txt").write_text(TEXT, encoding="utf-8")
    (folder / "weather.toml").write_text(WEATHER, encoding="utf-8")
    here = [str(folder / "model"), "--text", str(folder / "text.txt"), "-o"]
    for name, *how in (
        ("some.parquet",),
        ("exact.rec", "--distributions", "exact"),
        ("top.rec", "--distributions", "top-k", "-k", "4"),
    ):
        assert main(["record", *here, str(folder / name), *how]) == 0
    made = ["quantise", str(folder / "model"), "--scheme", "int8", "-o", str(folder / "int8")]
    assert main(made) == 0
    result = ["evaluate", str(folder / "run"), "--source", str(folder / "weather.toml"), "--json"]
    assert main(result) == 0
    gguf_header(folder / "header.gguf", "llama")
    for name in ("some.parquet", "exact.rec", "top.rec", "weather.toml"):
        content = (folder / name).read_bytes()
        (folder / f"cut.{name}").write_bytes(content[: len(content) // 2])
    (folder / "cut.gguf").write_bytes((folder / "header.gguf").read_bytes()[:20])
    for name in ("empty.txt", "empty.parquet", "empty.rec", "empty.toml", "empty.gguf"):
        (folder / name).touch()
    (folder / "empty.jsonl").touch()
    (folder / "empty.kld").touch()
    (folder / "spaces.txt").write_text("\n", encoding="utf-8")
    (folder / "binary.txt").write_bytes(bytes(range(256)) * 8)
    (folder / "latin.txt").write_bytes("naïve façade".encode("latin-1") * 20)
    (folder / "results.json").write_text(json.dumps({"schema": "kullback.x/1"}), encoding="utf-8")
    (folder / "body.jsonl").write_text('{"body": "some words"}\n' * 5, encoding="utf-8")
    (folder / "broken.jsonl").write_text('{"text": "a b"}\n{"text": "a', encoding="utf-8")
    (folder / "numbers.jsonl").write_text('{"text": 3}\n', encoding="utf-8")
    (folder / "list.jsonl").write_text("[1, 2]\n", encoding="utf-8")
    (folder / "wrong.toml").write_text(WEATHER.replace("0.6", "0.7"), encoding="utf-8")
    (folder / "text.kld").write_text(TEXT, encoding="utf-8")
    (folder / "text.rec").write_text(TEXT, encoding="utf-8")
    (folder / "text.parquet").write_text(TEXT, encoding="utf-8")
    (folder / "text.gguf").write_text(TEXT, encoding="utf-8")
    (folder / "text.toml").write_text(TEXT, encoding="utf-8")
    (folder / "page.html").write_text("<html>mine</html>", encoding="utf-8")
    (folder / "nothing").mkdir()
    (folder / "readme-only").mkdir()
    (folder / "readme-only" / "README.md").write_text("no model", encoding="utf-8")
    os.mkfifo(folder / "pipe.txt")
    _damaged_models(folder)


def _damaged_models(folder: Path) -> None:
    def copy(name: str, of: str = "model") -> Path:
        return Path(shutil.copytree(folder / of, folder / name))

    def cut(path: Path) -> None:
        content = path.read_bytes()
        path.write_bytes(content[: len(content) // 2])

    cut(copy("cut-model") / "model.safetensors")
    cut(copy("cut-config") / "config.json")
    cut(copy("cut-tokenizer") / "tokenizer.json")
    (copy("no-weights") / "model.safetensors").unlink()
    (copy("no-tokenizer") / "tokenizer.json").unlink()
    (folder / "no-tokenizer" / "tokenizer_config.json").unlink()
    (copy("empty-config") / "config.json").write_text("", encoding="utf-8")
    (copy("list-config") / "config.json").write_text("[]", encoding="utf-8")
    (copy("odd-config") / "config.json").write_text('{"model_type": "wombat"}', encoding="utf-8")
    cut(copy("cut-run", "run") / "model.safetensors")
    (copy("odd-run", "run") / "training.json").write_text("{}", encoding="utf-8")
    (copy("no-metrics", "run") / "metrics.jsonl").unlink()
    (copy("no-run-tokenizer", "run") / "tokenizer.json").unlink()
    cut(copy("cut-description", "run") / "training.json")
