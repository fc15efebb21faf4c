# make demo | test | check | faults [N=200] | bench NAME=stem [CHECK=1] | proto | experts | extras | clean
SHELL := /bin/bash
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DEMO_STAMP := $(VENV)/.installed-demo
N ?= 200
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: demo test check faults bench proto experts extras clean

# The demo needs neither torch nor the development tools; `make test` and `make check` add the latter.
$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit("Edgewise needs Python 3.11 or newer; this is %s. Use: make PYTHON=python3.11" % sys.version.split()[0] if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)

NATIVE := $(wildcard optimizer/native/*.[ch] nodes/energy/native/*.[ch] kernels/native/*.[ch]) deploy/build.py

$(DEMO_STAMP): pyproject.toml constraints.txt $(NATIVE) | $(VENV)/bin/python
	@echo "Installing Edgewise and what the demo needs into $(VENV) (about half a minute) ..."
	$(PIP) -e '.[demo]'
	@touch $@

$(STAMP): pyproject.toml constraints.txt $(NATIVE) | $(VENV)/bin/python
	@echo "Installing Edgewise with its development tools into $(VENV) (about a minute) ..."
	$(PIP) -e '.[dev]'
	@touch $@ $(DEMO_STAMP)

demo: $(DEMO_STAMP)
	@$(BIN)/python -m deploy.demo

test: $(STAMP)
	@$(BIN)/python -m pytest

check: $(STAMP)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy orchestrator nodes optimizer kernels deploy tests
	@$(BIN)/python -m deploy.stubs --check
	@$(BIN)/python -m deploy.reference --check

faults: $(STAMP)
	@$(BIN)/python -m tests.faults.campaign --repeats $(N)
	@$(BIN)/python -m tests.faults.ledger_campaign --kills $(N)
	@$(BIN)/python -m tests.faults.personal_kills --kills $(N)
	@$(BIN)/python -m tests.faults.milp_agreement
	@$(BIN)/python -m pytest -q -rs tests/kernels/test_neon.py
	@$(BIN)/python -m tests.faults.deploy_push || test $$? -eq 77
	@EDGEWISE_WHOLE_CORPUS=1 $(BIN)/python -m pytest tests/system/test_hostile_models.py
	@$(BIN)/python -m tests.faults.ray_campaign || test $$? -eq 77
	@$(BIN)/python -m tests.faults.join_storm
	@$(BIN)/python -m tests.faults.join_turns
	@$(BIN)/python -m tests.faults.replicas || test $$? -eq 77

bench: $(STAMP)
	@test -n "$(NAME)" || { echo "Name a benchmark: make bench NAME=<stem>. Known:"; ls tests/bench/bench_*.py | sed 's/.*bench_\(.*\)\.py/  \1/'; exit 2; }
	@$(BIN)/python -m tests.bench.bench_$(NAME) $(if $(CHECK),--check)

proto: $(STAMP)
	@$(BIN)/python -m deploy.stubs
	@$(BIN)/python -m deploy.reference

experts: $(STAMP)
	$(PIP) -e '.[train]'
	@$(BIN)/python -m nodes.zoo train

extras: $(STAMP)
	@$(BIN)/python -m deploy.extras --install cpu,ray,rtx --resolve --aarch64

clean:
	rm -rf build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +
