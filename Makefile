# make repro      set up .venv and reproduce the pipeline: what is up to date does not run again
# make test       set up .venv, lint, check types, and run the tests that are not slow
# make test-all   the same with all tests
#
# Checks that have passed on the files as they are do not run again.
#
# PYTHON=python3.12    another interpreter (3.11 or newer)
# TORCH_INDEX=URL      the package index to take torch and torchvision from, for a build without
#                      CUDA

PYTHON ?= python3
TORCH_INDEX ?=

VENV := .venv
BIN := $(CURDIR)/$(VENV)/bin
SOURCES := $(wildcard $(shell git ls-files --cached --others --exclude-standard 2>/dev/null))

# The stages are started as `python`: by DVC, and by whom a user has activated .venv for.
export PATH := $(BIN):$(PATH)
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: repro test test-all clean

repro: $(VENV)/.installed
	python -m commands doctor --outs
	dvc repro

test: $(VENV)/.tested
	@echo "make test: all checks have passed on this state; make test-all runs the slow tests too"

test-all: $(VENV)/.tested-all
	@echo "make test-all: all checks have passed on this state"

$(VENV)/.tested: TESTS := -m "not slow"

$(VENV)/.tested $(VENV)/.tested-all: $(VENV)/.installed $(SOURCES)
	ruff check
	ruff format --check
	mypy
	@# One more than the two cores of the smallest machine: many tests wait for processes.
	pytest -n 3 --durations 25 $(TESTS)
	@touch $@

$(VENV)/.installed: requirements.lock
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; v >= (3, 11) or sys.exit(f"make: expected Python 3.11 or newer, got {v[0]}.{v[1]}; name another one: make repro PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	@# The same versions from another index satisfy the lock, which names none.
	$(if $(TORCH_INDEX),pip install --index-url $(TORCH_INDEX) $$(grep -E '^(torch|torchvision)==' requirements.lock))
	pip install -r requirements.lock
	@touch $@

clean:
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache
