# Everything here creates its own virtual environment in .venv; nothing else is installed by hand.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
WORKERS ?= 0

.PHONY: micro test test-slow lint types bench clean

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt torch==2.13.0
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

micro: $(VENV)/.installed  ## the paper in miniature: fine-tune, measure, write out/micro/report.html
	$(BIN)/spectralign run micro --out out --workers $(WORKERS)

test: $(VENV)/.installed lint types  ## lint, strict types and every fast test
	$(BIN)/python -m pytest -n 2 -m "not slow"

test-slow: $(VENV)/.installed  ## rebuild a base and run the whole micro study (about 15 minutes)
	$(BIN)/python -m pytest -m slow

lint: $(VENV)/.installed
	$(BIN)/ruff check src tests benchmarks examples
	$(BIN)/ruff format --check src tests benchmarks examples

types: $(VENV)/.installed
	$(BIN)/mypy

bench: $(VENV)/.installed  ## cost of each stage of a cell beside a bare loop
	$(BIN)/python benchmarks/cell_stages.py

clean:
	rm -rf $(VENV) out .mypy_cache .ruff_cache .pytest_cache .hypothesis
