# The few commands a person types. `make` alone prints them.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-slow test-gpu chaos lint format bench pictures clean

help: ## print this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup: $(READY) ## create .venv and install everything, pinned

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed; call make with PYTHON=/path/to/python3.11"; exit 1; }
	@echo "installing into $(VENV): about two minutes"
	@$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

demo: setup ## the main job, small: a RoPE backbone, then RePo, on real text (about five minutes)
	$(BIN)/python -m data sample corpora/sample
	$(BIN)/python -m launch experiment=demo-backbone
	$(BIN)/python -m launch experiment=demo

test: setup ## the tests (about six minutes on two cores)
	$(BIN)/python -m pytest -n 2 --dist loadscope --no-loadscope-reorder

test-slow: setup ## the tests that take minutes
	$(BIN)/python -m pytest -m slow

test-gpu: setup ## the tests that need a CUDA device
	$(BIN)/python -m pytest -m gpu

chaos: setup ## random faults of all kinds on one job, through four ZeRO stages (about 20 minutes)
	$(BIN)/python -m tests.chaos --minutes 11

lint: setup ## format check, lint, types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

format: setup ## format and fix what can be fixed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: setup ## the measurements behind the claims in the README
	$(BIN)/python -m benchmarks

pictures: setup ## the README's pictures, trained and drawn again (minutes)
	$(BIN)/python -m benchmarks.pictures

clean: ## remove the environment and caches; runs/ stays
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis build *.egg-info
