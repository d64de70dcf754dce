# Every target does its own set-up: a machine with python3, git and make needs nothing else.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SCRIPTS := $(wildcard benchmarks examples scripts)
# Two names, because older pips build with the first and newer ones with the second.
PIP_INSTALL := PIP_CONSTRAINT=constraints.txt PIP_BUILD_CONSTRAINT=constraints.txt \
	$(BIN)/python -m pip install --quiet --disable-pip-version-check

.PHONY: help install demo test check services bench soak lock clean

help: ## list the targets
	@sed -nE 's/^([a-z]+):.*## (.*)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 18

install: $(VENV)/.dev ## set up .venv with the package and the development tools

demo: $(VENV)/.run ## run a workflow, and follow it live in this terminal
	@$(BIN)/runstream demo

# Two processes, each with whole files of tests: half of them wait for a server or an engine to start.
test: $(VENV)/.dev ## run the tests (ARGS="-k name" narrows them, ARGS=-n0 takes one process)
	@$(BIN)/python -m pytest -n 2 --dist loadfile --max-worker-restart 0 $(ARGS)

check: $(VENV)/.dev ## lint, formatting, types, layers
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy src tests $(SCRIPTS)
	@$(BIN)/pyright --pythonpath $(BIN)/python
	@$(BIN)/python -m pytest -q tests/test_layers.py

services: ## install what tests start: Redis, NATS, PostgreSQL, nginx, Chromium, Node (Debian, Ubuntu)
	@missing=; \
	command -v redis-server >/dev/null || missing="$$missing redis-server"; \
	PATH=$$PATH:/usr/sbin:/usr/local/sbin command -v nats-server >/dev/null || missing="$$missing nats-server"; \
	command -v postgres >/dev/null || ls /usr/lib/postgresql/*/bin/postgres >/dev/null 2>&1 || \
		missing="$$missing postgresql"; \
	PATH=$$PATH:/usr/sbin command -v nginx >/dev/null || missing="$$missing nginx"; \
	command -v chromium >/dev/null || missing="$$missing chromium"; \
	command -v npm >/dev/null || missing="$$missing nodejs npm"; \
	[ -n "$$missing" ] || exit 0; \
	command -v apt-get >/dev/null || { echo "Please install:$$missing" >&2; exit 1; }; \
	root=; [ "$$(id -u)" = 0 ] || root='sudo -n'; \
	echo "Installing$$missing ..."; \
	$$root apt-get update -qq && $$root env DEBIAN_FRONTEND=noninteractive \
		apt-get install -y -qq --no-install-recommends $$missing >/dev/null; \
	for name in $$missing; do \
		: 'tests start their own: the one that Debian has just started is in nobody'"'"'s way, but stops'; \
		$$root service $$name stop >/dev/null 2>&1 || true; \
	done

bench: $(VENV)/.dev ## measure, beside the peers where they are installed
	@$(BIN)/python -m benchmarks.peers.venv
	@$(BIN)/python -m benchmarks $(ARGS)

soak: $(VENV)/.dev ## run the long tests
	@$(BIN)/python -m pytest -m soak -o faulthandler_timeout=3600 $(ARGS)

lock: ## write constraints.txt again from the newest releases
	@rm -rf $(VENV) && $(MAKE) --no-print-directory $(BIN)/pip
	@$(BIN)/python -m pip install --quiet hatchling editables -e '.[dev]'
	@head -2 constraints.txt > $(VENV)/lock
	@$(BIN)/python -m pip freeze --exclude-editable >> $(VENV)/lock
	@cp $(VENV)/lock constraints.txt

clean: ## remove what the targets made
	@rm -rf $(VENV) .bench-venv build dist .hypothesis .mypy_cache .pytest_cache .ruff_cache

# The demo needs only the package, and for a real model's tokens an engine (34 MB), if there is a wheel of it
# for this machine; the tools are the larger part and wait for who wants them.
$(VENV)/.run: $(BIN)/pip pyproject.toml constraints.txt
	@echo 'Installing runstream into $(VENV) ...'
	@$(PIP_INSTALL) --only-binary xllamacpp -e '.[server,http,llama-cpp]' 2>/dev/null || \
		$(PIP_INSTALL) -e '.[server,http]'
	@touch $@

$(VENV)/.dev: $(VENV)/.run
	@echo 'Installing the development tools into $(VENV) ...'
	@$(PIP_INSTALL) -e '.[dev]'
	@touch $@

# pip comes last when a venv is made, so an interrupted one is made again.
# Debian splits `ensurepip`, without which a venv has no pip, into python3-venv.
$(BIN)/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo 'Runstream needs Python 3.11 or newer, but "$(PYTHON)" is' \
			"$$($(PYTHON) --version 2>&1). Try: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
		root=; [ "$$(id -u)" = 0 ] || root=$$(command -v sudo || true); \
		if command -v apt-get >/dev/null && { [ "$$(id -u)" = 0 ] || [ -n "$$root" ]; }; then \
			echo 'Installing python3-venv (Python here cannot make a venv) ...'; \
			$$root apt-get update -qq && $$root env DEBIAN_FRONTEND=noninteractive \
				apt-get install -y -qq --no-install-recommends python3-venv || true; fi; \
		$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
			echo '"$(PYTHON)" cannot make a virtual environment: install its venv module' \
				'(Debian, Ubuntu: sudo apt-get install python3-venv), then run make again.' >&2; \
			exit 1; }; }
	@$(PYTHON) -m venv $(VENV)
