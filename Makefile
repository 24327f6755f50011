# Two commands are enough: `make book` and `make test`. Both make what they need and reuse what is there.

SHELL := /bin/bash
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory

PYTHON ?= python3# the Python that makes .venv
PY := .venv/bin/python
READY := .venv/.ready
ARGS ?=# passed on: make test ARGS="-k patch -x", make book ARGS="-p n_forget 20"
TORCH_INDEX ?=# another source of PyTorch builds, see the README

# Where the tests look for a browser.
FIND_BROWSER = { command -v chromium || command -v chromium-browser || command -v google-chrome; }

.PHONY: help .venv book live test soak lint format notebooks study pocket tune pocket-card bench browser clean

help:  ## this list
	@awk -F ':.*## ' '/^[.a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' Makefile

.venv: $(READY)  ## the environment with pinned requirements and this library

$(READY): requirements.txt pyproject.toml
	@command -v "$(PYTHON)" >/dev/null || { \
	    echo "There is no $(PYTHON). Install Python 3.11 or newer, or name one: make PYTHON=/path/to/python3.12" >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	    echo "Python 3.11 or newer is needed; $(PYTHON) is $$("$(PYTHON)" -V 2>&1). Name another: make PYTHON=/path/to/python3.12" >&2; exit 1; }
	@"$(PYTHON)" -c 'import ensurepip, venv' 2>/dev/null || { \
	    echo "This Python cannot make environments. On Debian or Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	@$(PY) -m pip --version >/dev/null 2>&1 || "$(PYTHON)" -m venv --clear .venv
	@echo "Installing the pinned requirements into .venv (minutes the first time) …"
	@$(PY) -m pip install --quiet --disable-pip-version-check $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) -r requirements.txt
	@$(PY) -m pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps -e .
	@touch $@

book: $(READY)  ## run a part of each question on the embedded model and render the book to _build/html
	@$(PY) book/execute.py $(ARGS)
	@$(PY) book/build.py

live: $(READY)  ## open the notebooks in JupyterLab
	@$(PY) -m jupyter lab notebooks

test: $(READY) browser  ## run the tests, with a browser where there is one
	@$(PY) -m pytest -n 2 --dist worksteal $(ARGS)

soak: $(READY) browser  ## run the tests that take longer
	@$(PY) -m pytest -m slow $(ARGS)

lint: $(READY)  ## check style and format, and look the pinned packages up in the advisories
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check --quiet . || { echo "Some files are not formatted: make format"; exit 1; }
	@$(PY) .ci/audit.py

format: $(READY)  ## put code into the common format
	@$(PY) -m ruff check --fix --quiet . || true
	@$(PY) -m ruff format .

notebooks: $(READY)  ## derive each .ipynb from the .py beside it
	@$(PY) book/execute.py --derive

study: $(READY)  ## run the whole study on the embedded model (hours; goes on where it stopped)
	@$(PY) -m editunlearn_lib study $(ARGS)

pocket: $(READY)  ## train the embedded model, its twin and the contracts anew (ten hours of a core; goes on where it stopped)
	@$(PY) benchmarks/pocket_train.py base
	@$(PY) benchmarks/pocket_train.py base --without
	@$(PY) benchmarks/pocket_train.py contracts

tune: $(READY)  ## choose the hyperparameters of the embedded model on forget sets that no table reports
	@$(PY) benchmarks/pocket_tune.py $(ARGS)

pocket-card: $(READY)  ## measure the embedded model and write its card
	@$(PY) benchmarks/pocket_card.py $(ARGS)

bench: $(READY)  ## measure speed and memory, as ratios and counts
	@$(PY) benchmarks/evaluation.py $(ARGS)
	@$(PY) benchmarks/methods.py $(ARGS)
	@$(PY) benchmarks/memory.py
	@$(PY) benchmarks/growth.py

browser:
	@if $(FIND_BROWSER) >/dev/null; then exit 0; fi; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    echo "Installing Chromium for the browser tests …"; \
	    { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium; } </dev/null >/dev/null || true; \
	fi; \
	if ! $(FIND_BROWSER) >/dev/null; then \
	    echo "No Chromium was found, so the browser tests are skipped. To have them run, install it so that chromium,"; \
	    echo "chromium-browser or google-chrome is on the PATH, for instance: sudo apt-get install chromium"; \
	fi

clean:  ## remove what was built; results, weights and .venv stay
	rm -rf _build book/executed book/_static/vendor .ruff_cache *.egg-info
	find editunlearn_lib book tests benchmarks notebooks -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true
