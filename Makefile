# `make demo` and `make test` need Python 3.11 or later and nothing else.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Processes of one thread each: matrices are small here, and more threads would wait for each other. A file's tests
# share a process, and what it prepares.
WORKERS ?= 2
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile
READY := $(VENV)/.done

# Containers often forbid bytecode; each of many short processes would then compile the package anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test quick lowest lint types docs bench reproduce wheel clean

demo: $(READY)
	$(BIN)/innerloop demo --out demo

test: $(READY)
	$(PYTEST)

quick: $(READY)
	$(PYTEST) -m "not slow"

# The quick tests with the lowest versions that pyproject.toml allows.
LOWEST := .venv-lowest
lowest:
	$(PYTHON) -m venv $(LOWEST)
	$(LOWEST)/bin/python benchmarks/floors.py > $(LOWEST)/floors.txt
	$(LOWEST)/bin/python -m pip install --quiet --disable-pip-version-check -c $(LOWEST)/floors.txt -e '.[test]' pytest-xdist
	OMP_NUM_THREADS=1 $(LOWEST)/bin/python -m pytest -n $(WORKERS) --dist loadfile -m "not slow"

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY)
	$(BIN)/mypy

# A site of static files, docs/_build/html/index.html, that needs no network.
docs: $(VENV)/.docs
	$(BIN)/python -m sphinx -W --keep-going -d docs/_build/doctrees docs docs/_build/html

reproduce: $(READY)
	$(BIN)/innerloop reproduce fig2 fig3 fig5 map --out figures --jobs -1

bench: $(READY)
	$(BIN)/python benchmarks/solve_path.py --out benchmarks/results/solve_path.json
	$(BIN)/python benchmarks/draw.py benchmarks/results/solve_path.json
	$(BIN)/python benchmarks/simulation_speed.py --out benchmarks/results/simulation_speed.json
	$(BIN)/python benchmarks/theory_speed.py --out benchmarks/results/theory_speed.json
	$(BIN)/python benchmarks/theory_vs_monte_carlo.py --out benchmarks/results/theory_vs_monte_carlo.json
	$(BIN)/python benchmarks/neural_speed.py --out benchmarks/results/neural_speed.json
	$(BIN)/python benchmarks/mixed_models.py --out benchmarks/results/mixed_models.json

wheel: $(READY)
	$(BIN)/python -m build --wheel

clean:
	rm -rf $(VENV) $(LOWEST) docs/_build docs/generated build dist demo figures .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "innerloop needs Python 3.11 or later: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

$(VENV)/.docs: $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[docs]'
	touch $@
