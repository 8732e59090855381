# The few commands a person types. `make` alone prints them.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
VLLM    := .venv-vllm
LM_EVAL := .venv-lm-eval
unexport PYTHONDONTWRITEBYTECODE # tests start many processes, which would compile everything again

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-system test-slow test-gpu test-vllm lm-eval chaos lint format bench pictures clean

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
	@echo "ready: make demo trains a small model, make help lists the rest"

demo: setup ## the main job, small: a RoPE backbone, then RePo, on real text (about five minutes)
	$(BIN)/python -m data sample corpora/sample
	$(BIN)/python -m launch experiment=demo-backbone
	$(BIN)/python -m launch experiment=demo

PYTEST := $(BIN)/python -m pytest -n 3 --dist loadscope --no-loadscope-reorder

test: setup ## the tests but for those below (under five minutes on two cores)
	$(PYTEST)

test-system: setup ## whole runs on real ranks, launchers, SLURM, browsers, kills (six minutes on two cores)
	$(PYTEST) -m 'system and not slow'

test-slow: setup lm-eval ## the tests that take minutes
	$(BIN)/python -m pytest -m slow

test-gpu: setup ## the tests that need a CUDA device
	$(BIN)/python -m pytest -m gpu

test-vllm: setup $(VLLM)/.ready ## an export in vLLM on CPUs (installs 3.4 GB into .venv-vllm)
	$(BIN)/python -m pytest -m vllm -s

$(VLLM)/.ready: requirements/vllm.txt
	@echo "installing vLLM for CPUs into $(VLLM): 3.4 GB, about four minutes"
	@$(PYTHON) -m venv --clear $(VLLM)
	$(VLLM)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -r $<
	@touch $@

lm-eval: $(LM_EVAL)/.ready ## create .venv-lm-eval, which runs lm_eval on exports

$(LM_EVAL)/.ready: requirements/lm-eval.txt $(READY)
	@echo "installing lm-eval into $(LM_EVAL): about three minutes"
	@$(PYTHON) -m venv --clear $(LM_EVAL)
	@$(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' > $(LM_EVAL)/project.pth
	@mv $(LM_EVAL)/project.pth "$$($(LM_EVAL)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"
	$(LM_EVAL)/bin/python -m pip install --quiet --disable-pip-version-check -r $< -c constraints.txt
	@touch $@

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

bench: setup ## the measurements behind the claims in the README, in one table with targets
	$(BIN)/python -m benchmarks

pictures: setup ## the README's pictures, trained and drawn again (minutes)
	$(BIN)/python -m benchmarks.pictures

clean: ## remove the environment and caches; runs/ stays
	rm -rf $(VENV) $(VLLM) $(LM_EVAL) .pytest_cache .mypy_cache .ruff_cache .hypothesis build *.egg-info
