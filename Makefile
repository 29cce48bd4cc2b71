# The two commands: `make demo` runs the main job on the bundled model, `make test` passes the tests.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
# An exact torch first: a range would pull the build with gigabytes of CUDA.
TORCH := $(shell grep '^torch==' constraints.txt)

.PHONY: demo test clean

demo: $(VENV)/installed
	$(BIN)/tempoquant demo -o demo --overwrite

test: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check --quiet .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -q -m "not slow"

$(VENV)/torch: constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) $(TORCH)
	touch $@

$(VENV)/installed: $(VENV)/torch pyproject.toml
	$(PIP) -e .
	touch $@

$(VENV)/installed-dev: $(VENV)/torch pyproject.toml
	$(PIP) -e '.[dev]'
	touch $@ $(VENV)/installed

clean:
	rm -rf $(VENV) demo
