# The common tasks. `make` lists them; the environment is .venv, or what PYTHON says: make lint PYTHON=python
PYTHON ?= .venv/bin/python

# What parts of a test run share: all cores.
PYTEST = $(PYTHON) -m pytest -n auto --dist worksteal

.DEFAULT_GOAL := help
.PHONY: help install lint format types test-fast test mutants plugins bench book dist

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install:  ## an environment for development: the library as it lies here, tests, lint, types, build
	test -x .venv/bin/python || python3 -m venv .venv
	.venv/bin/pip install -e '.[dev]'

lint:  ## ruff's rules, and whether ruff's format is kept
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .

format:  ## bring the source into ruff's format, and mend what ruff can mend
	$(PYTHON) -m ruff check --fix .
	$(PYTHON) -m ruff format .

types:  ## mypy, strict
	$(PYTHON) -m mypy

test-fast:  ## most tests, of every room, within a minute; without Torch those that need none
	$(PYTEST) -m "not slow"

test:  ## all tests
	$(PYTEST)

mutants:  ## changes of the mathematics that no test notices, by mutmut; it goes on where it was stopped
	$(PYTHON) -m pip install --quiet 'mutmut==3.8.*'
	OMP_NUM_THREADS=1 $(PYTHON) -m mutmut run
	$(PYTHON) -m mutmut results

plugins:  ## install the example plugins, list what is registered, and run their tests
	$(PYTHON) -m pip install --quiet ./plugins/*/ 'tensorboard==2.21.*'
	$(PYTHON) -m tinyddpm plugins
	$(PYTHON) -m pytest -q plugins

bench:  ## what a step of the default network takes, operation by operation
	$(PYTHON) -m tinyddpm bench

book:  ## the annotated edition of the source, in build/book
	$(PYTHON) -m tinyddpm book --out build/book

dist:  ## the sdist and, of it, the wheel, in dist/
	$(PYTHON) -m build
