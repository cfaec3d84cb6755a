# SPDX-License-Identifier: Apache-2.0
# Every target sets up what it needs; a machine needs only Python 3.11+ and make.

PYTHON ?= python3
VENV := .venv/$(notdir $(PYTHON))
BIN := $(VENV)/bin
WORKERS ?= auto
# Tests start hundreds of Python processes: none of them should compile the package again.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: help demo cluster serve test conformance clients foreign lint format bench bench-counts bench-scale torture clean

help: ## List the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/'

# The environment of demo and serve.
$(VENV)/ready: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed: make PYTHON=python3.11 ..." >&2; exit 1; }
	@echo "Setting up $(VENV), once: this takes about a minute" >&2
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --editable '.[server,sandbox]'
	@touch $@

# The additional packages of all other targets.
$(VENV)/ready-dev: $(VENV)/ready
	@echo "Setting up $(VENV) for development" >&2
	@$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'
	@$(BIN)/python -m pip install --quiet --group dev
	@touch $@

demo: $(VENV)/ready ## Kill a writer in mid-save and a server, and show what survived (half a minute)
	@PATH="$(CURDIR)/$(BIN):$$PATH" sh docs/demo/demo.sh

cluster: $(VENV)/ready-dev ## Two servers on three nodes of PostgreSQL, of which the primary is killed (half a minute)
	@$(BIN)/python -m tests.store.postgres

serve: $(VENV)/ready ## Serve environments over MCP on http://127.0.0.1:8080/mcp until Ctrl-C
	@$(BIN)/waggle-fsstore serve

test: $(VENV)/ready-dev ## Run all tests
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal

conformance: $(VENV)/ready-dev ## Run the public conformance tool of MCP against the server (needs npm)
	@$(BIN)/python -m tests.conformance

$(VENV)/foreign/ready: tests/foreign/pyproject.toml $(VENV)/ready-dev
	@echo "Setting up $(VENV)/foreign for the tests of another project" >&2
	@$(PYTHON) -m venv --clear $(VENV)/foreign
	@$(BIN)/python -m pip --python $(VENV)/foreign install --quiet --editable . --group tests/foreign/pyproject.toml:test
	@touch $@

foreign: $(VENV)/foreign/ready ## Run the tests of another project, with the plugins that such projects use
	cd tests/foreign && $(CURDIR)/$(VENV)/foreign/bin/python -m pytest -p no:cacheprovider --basetemp=$(CURDIR)/$(VENV)/foreign/tmp

clients: $(VENV)/ready-dev ## Have MCP clients of other projects talk to the server (needs npm)
	@$(BIN)/python -m tests.clients

lint: $(VENV)/ready-dev ## Check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/ready-dev ## Format the sources, and fix what ruff can fix
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/ready-dev ## Compare with sqlite3 and lmdb: make bench ARGS="--dir /mnt/x"
	$(BIN)/python -m benchmarks $(ARGS)

bench-counts: $(VENV)/ready-dev ## Fail if an operation takes more instructions or system calls (needs strace and valgrind)
	$(BIN)/python -m benchmarks.counts --check $(ARGS)

bench-scale: $(VENV)/ready-dev ## Measure 10 to 1,000,000 documents, continuing an interrupted run
	$(BIN)/python -m benchmarks.scale $(ARGS)
	$(BIN)/python -m benchmarks.plots $(ARGS)

torture: $(VENV)/ready-dev ## Run the long tests; as root on Linux, with real power cuts
	HYPOTHESIS_PROFILE=torture WAGGLE_TEST_STEPS=20000 WAGGLE_TEST_CRASH_STATES=full \
	  WAGGLE_TEST_COPIES=50 WAGGLE_TEST_STRIDE=1 WAGGLE_TEST_EVENTS=100000 WAGGLE_TEST_FAILOVERS=20 WAGGLE_TEST_ATTACKS=full \
	  $(BIN)/python -m pytest -n $(WORKERS)
	$(BIN)/python -m pytest -m torture tests/torture

clean: ## Remove everything that these targets made
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis dist build
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
