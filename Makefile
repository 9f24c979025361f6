# Set-up, demonstration and tests. Everything it makes stays in this folder: .venv, .engines, demo.

PYTHON ?= python3
UV     := $(shell command -v uv 2>/dev/null)
UV_VERSION := 0.13.9
ifeq ($(UV),)
UV      := $(CURDIR)/.engines/uv/bin/uv
NEED_UV := .engines/uv/bin/uv
endif
PYTHONPATH :=
export UV
export PYTHONPATH

.DEFAULT_GOAL := help
.PHONY: help setup engines demo test lint lock clean

help: ## This list
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 18

.engines/uv/bin/uv:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { echo "Python 3.10 or newer is needed: $(PYTHON) is older; name another with make PYTHON=..."; exit 1; }
	$(PYTHON) -m venv .engines/uv || $(PYTHON) -m venv --without-pip .engines/uv
	.engines/uv/bin/python -m pip install -q uv==$(UV_VERSION) || $(PYTHON) -m pip install -q --prefix .engines/uv uv==$(UV_VERSION)

# The environment holds exactly what requirements.lock names, hashes checked.
.venv/installed: requirements.lock pyproject.toml | $(NEED_UV)
	"$(UV)" venv -q --allow-existing --python '>=3.10,<3.14' .venv
	"$(UV)" pip sync -q --require-hashes --python .venv/bin/python requirements.lock
	"$(UV)" pip install -q --no-deps --python .venv/bin/python --editable .
	touch .venv/installed

.engines/nextflow: tools/engine.py | $(NEED_UV)
	@mkdir -p .engines
	nextflow=$$($(PYTHON) tools/engine.py) && printf '#!/bin/sh\nexec "%s" "$$@"\n' "$$nextflow" > .engines/nextflow.partial
	@chmod +x .engines/nextflow.partial && mv .engines/nextflow.partial .engines/nextflow

setup: .venv/installed .engines/nextflow ## The locked Python environment, Nextflow and Java

# The oldest engine that is supported and one with the strict parser: the tests run on both.
engines: | $(NEED_UV)
	@$(PYTHON) tools/engine.py 24.10.0 >/dev/null
	@$(PYTHON) tools/engine.py 25.04.0 >/dev/null

demo: setup ## Simulate a session, run the pipeline on it, compare with the known spikes
	.venv/bin/python tools/demo.py

test: setup engines ## All tests
	.venv/bin/python -m pytest

lint: setup engines ## Style of the Python and the Nextflow code
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.engines/nextflow-25.04.0/nextflow lint main.nf nextflow.config conf modules subworkflows

lock: ## Resolve the dependencies anew into requirements.lock
	"$(UV)" lock -q --upgrade
	"$(UV)" export -q --format requirements.txt --all-extras --no-emit-project --no-annotate --no-header -o requirements.lock
	rm uv.lock

clean: ## Remove what the demonstration made
	rm -rf demo
