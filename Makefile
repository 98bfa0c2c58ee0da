# make quickstart        set up and run the main job
# make test              set up and run lint and the tests
# make test-operations   set up and run Ray jobs, Slurm, sweeps and killed processes
# make matrix            set up and run the suites too long for CI; SUITES="chaos ..." names some
# make release-check     say which of those were not run with these sources
# Set-up lives in .venv and .cache of this checkout and is repeated only when it must be.

PYTHON ?=
BIN := .venv/bin
CACHE := $(CURDIR)/.cache

export RLPOST_CACHE ?= $(CACHE)
export TORCH_EXTENSIONS_DIR ?= $(CACHE)/torch_extensions
export HF_HOME ?= $(CACHE)/huggingface
export VLLM_CACHE_ROOT ?= $(CACHE)/vllm
export TORCHINDUCTOR_CACHE_DIR ?= $(CACHE)/inductor
export TRITON_CACHE_DIR ?= $(CACHE)/triton
export MPLCONFIGDIR ?= $(CACHE)/matplotlib
export WANDB_CACHE_DIR ?= $(CACHE)/wandb
export WANDB_CONFIG_DIR ?= $(CACHE)/wandb
# Nothing is reported to anyone.
export RAY_USAGE_STATS_ENABLED ?= 0
export VLLM_NO_USAGE_STATS ?= 1
export HF_HUB_DISABLE_TELEMETRY ?= 1

.PHONY: help setup setup-gpu lint test test-operations test-deps matrix release-check quickstart doctor docs lock clean

help:
	@sed -n 's/^# \(make .*\)/\1/p' Makefile; \
	echo "make setup | setup-gpu | lint | doctor | docs | lock | clean"

setup:
	@PYTHON="$(PYTHON)" scripts/setup.sh

# CUDA builds instead of the lock; afterwards call .venv/bin/rlpost, not the targets below.
setup-gpu:
	@PYTHON="$(PYTHON)" scripts/setup_gpu.sh

test-deps: setup
	@scripts/test_deps.sh

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# A suite that takes longer is interrupted and says what has failed so far.
PYTEST_FOR = timeout --foreground --signal=INT --kill-after=60 $(1) $(BIN)/python -m pytest

# With two tests at a time boots and waits leave two cores idle for a third of the time: three. Those
# of clusters hold several runs each and go one by one. A worker that crashes ends the suite:
# pytest-xdist may wait for ever for the one that replaces it.
test: lint test-deps
	$(call PYTEST_FOR,35m) -n 3 --dist loadfile --no-loadscope-reorder --max-worker-restart 0 --ignore tests/operations

test-operations: test-deps
	$(call PYTEST_FOR,50m) tests/operations

matrix: setup
	$(BIN)/python scripts/matrix.py run $(SUITES)

release-check: setup
	$(BIN)/python scripts/matrix.py check

quickstart: setup
	$(BIN)/rlpost rl experiment=quickstart

doctor: setup
	$(BIN)/rlpost doctor

# Writes docs/algorithms.md from the registries; a test compares the two.
docs: setup
	$(BIN)/python scripts/algorithm_table.py

lock: setup
	$(BIN)/python scripts/lock.py

# Runs and downloaded models stay; the environment and everything rebuilt from it go.
clean:
	rm -rf .venv build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis \
		.import_linter_cache .cache/torch_extensions .cache/inductor .cache/triton .cache/vllm
