# The verbs of a checkout. What they need (a virtual environment, Docker, Swarm, an image) they make ready where it is
# absent; what is ready stays as it is.
SHELL := /bin/bash
PYTHON ?= python3
BIN := .venv/bin
export PYTHON

.PHONY: help quickstart down test check bench docs build clean

help:
	@echo 'make quickstart   four agents and the gateway of a user on this machine, answering by a stub LLM'
	@echo 'make down         takes it away again; volumes, database and key stay'
	@echo 'make test         every test; ARGS="tests/unit -k name" for some'
	@echo 'make check        format, lint, types, imports, spelling'
	@echo 'make bench        the benchmarks, as ratios'
	@echo 'make docs         writes the generated reference pages anew'
	@echo 'make build        wheel and sdist into dist/'
	@echo 'make clean        removes what these verbs made inside the checkout'

quickstart: .venv/.ready
	@stacks/quickstart/quickstart.sh

down:
	@stacks/quickstart/quickstart.sh down

test: .venv/.dev
	@tests/sandbox.sh $(ARGS)

check: .venv/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/codespell

bench: .venv/.dev
	@$(BIN)/python -m tests.bench $(ARGS)

docs: .venv/.dev
	@$(BIN)/python -m tests.docs.reference

build: .venv/.ready
	@$(BIN)/python -m hatchling build

clean:
	rm -rf .venv dist build .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find mosaic_fleet tests -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/.ready: requirements.lock pyproject.toml
	@stacks/quickstart/venv.sh

.venv/.dev: .venv/.ready requirements-dev.lock
	@stacks/quickstart/venv.sh dev
