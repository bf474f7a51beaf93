# Two commands for a fresh machine: `make demo` and `make test`. Each sets up what it needs in .venv.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
UV := $(BIN)/uv
UV_VERSION := 0.13.9
OUT ?= demo-out

.PHONY: help setup demo demo-live test lint types docs lock bench bench-scrub clean

help:
	@sed -n 's/^## //p' Makefile

## make demo        the whole thread on an example town, no gt needed (about 8 minutes on 2 cores)
demo: $(VENV)/.demo
	$(BIN)/python -m gt_plugins.sim.demo --out $(OUT)

## make demo-live   the same with the real gt, bd, dolt and, where npm is, the real agent client
demo-live: $(VENV)/.all
	$(BIN)/python -m gt_plugins.sim.demo_live --out $(OUT)-live

## make setup       the full environment, every extra (llama-cpp-python compiles for some minutes)
setup: $(VENV)/.all

## make test        lint and all tests, the live ones too where their tools are on PATH
test: setup lint
	$(BIN)/python -m pytest -n 2 --dist loadfile

lint: $(VENV)/.all
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

## make docs        bring the generated parts of docs/ up to date
docs: $(VENV)/.all
	$(BIN)/python -m tests.docs_help

## make lock        resolve the requirements anew
lock: $(UV)
	rm -f uv.lock
	$(UV) lock --quiet
	$(UV) export --quiet --no-emit-project --no-header --no-annotate --all-extras -o requirements/all.txt
	$(UV) export --quiet --no-emit-project --no-header --no-annotate --extra train --extra endpoint --extra setup -o requirements/demo.txt
	rm -f uv.lock

## make bench       the benchmarks, as ratios within one run
bench: $(VENV)/.all
	for each in $$(grep -l "^def main" bench/*.py); do echo "== $$each"; $(BIN)/python $$each || exit 1; done

## make bench-scrub how well scrubbing works, by type of secret and of personal data
bench-scrub: $(VENV)/.all
	$(BIN)/python bench/scrub.py

clean:
	rm -rf $(VENV) $(OUT) $(OUT)-live build dist

$(UV):
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)

# uv stands in the requirements itself, so that a sync leaves it where it is.
$(VENV)/.demo: requirements/demo.txt pyproject.toml | $(UV)
	@echo "setting up $(VENV) for the demo"
	@test -f $(VENV)/.all || $(UV) pip sync --quiet --python $(BIN)/python --require-hashes requirements/demo.txt
	@$(UV) pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/.all: requirements/all.txt pyproject.toml | $(UV)
	@echo "setting up $(VENV) with every extra"
	@$(UV) pip sync --quiet --python $(BIN)/python --require-hashes requirements/all.txt
	@$(UV) pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@touch $@
