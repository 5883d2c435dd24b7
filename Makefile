# A fresh clone needs python3 (>= 3.11, with venv) and make.
SHELL   := /bin/bash
PYTHON  ?= python3
PROFILE ?= quick
DEVICE  ?= auto
# A GPU computes for one notebook at a time, and long runs take days.
JOBS    ?= $(if $(filter cuda%,$(DEVICE)),1,2)
TIMEOUT ?= $(if $(filter narrow paper paper-jpeg,$(PROFILE)),604800,1800)
UV_VERSION := 0.13.9
BIN := .venv/bin

# An activated environment must not be touched, and byte code must be kept: without it every process
# compiles torch again, which makes imports three times slower.
unexport VIRTUAL_ENV CONDA_PREFIX PYTHONDONTWRITEBYTECODE PYTHONPATH PYTHONHOME
# The models are small, and notebooks and tests run two at a time.
export OMP_NUM_THREADS ?= 1
export MKL_NUM_THREADS ?= 1
export UNROLLING_STORE ?= $(CURDIR)/runs

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup book test check elsewhere lint notebooks refresh browser bench lock clean

help:  ## what can be made
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## */\1|/' | \
	  while IFS='|' read -r verb text; do printf '  make %-10s %s\n' "$$verb" "$$text"; done

setup: .venv/.synced  ## .venv with exactly what requirements.lock names, and this package

.venv/.synced: requirements.lock pyproject.toml Makefile
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("error: Python 3.11 or newer is needed, this is " + sys.version.split()[0] + "; try make PYTHON=python3.12")'
	@echo "Set-up: .venv, a few GB the first time"; SECONDS=0; set -e; \
	test -x $(BIN)/python || $(PYTHON) -m venv .venv; \
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION); \
	$(BIN)/uv pip sync --require-hashes --python $(BIN)/python requirements.lock; \
	$(BIN)/uv pip install --quiet --no-deps --no-build-isolation --python $(BIN)/python --editable .; \
	echo "Set-up took $$SECONDS s"
	@touch $@

book: setup  ## run the notebooks (PROFILE=quick, small, paper; DEVICE=cuda; JOBS=2), render _build/html/index.html
	@$(BIN)/python -m workflow.build_book --profile $(PROFILE) --device $(DEVICE) \
	  --jobs $(JOBS) --timeout $(TIMEOUT)

# The book comes first: its notebooks fill the run store that nbval and the tests then read.
test: setup lint  ## lint, the quick book, unit tests, notebooks under nbval, the built book
	@$(BIN)/python -m workflow.build_book --profile quick --jobs $(JOBS) --timeout $(TIMEOUT)
	$(BIN)/python -m pytest -n $(JOBS)

check: setup lint  ## lint and the tests that are not slow, within a minute
	$(BIN)/python -m pytest -n $(JOBS) -m "not slow" tests

# Other kernels sum in another order: nothing that this processor's have computed may be read.
elsewhere: setup clean  ## make test as on another processor: the oldest kernels, an empty store
	@other=$$(mktemp -d) && trap 'rm -rf "$$other"' EXIT && \
	ATEN_CPU_CAPABILITY=default ONEDNN_MAX_CPU_ISA=SSE41 MKL_CBWR=COMPATIBLE \
	UNROLLING_STORE="$$other/runs" UNROLLING_CACHE="$$other/cache" $(MAKE) test

lint: setup  ## formatting, ruff, canonical notebooks, the table of equations
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	@$(BIN)/python -m workflow.notebooks check
	@$(BIN)/python -m workflow.equations --check

notebooks: setup  ## write the source notebooks in canonical form (python -m workflow.notebooks --help)
	$(BIN)/ruff format notebooks
	@$(BIN)/python -m workflow.notebooks clean

refresh: setup  ## run a notebook's defaults and store its checked outputs: make refresh NOTEBOOK=08_sd_loss
	@$(BIN)/python -m workflow.notebooks refresh $(NOTEBOOK)

# In a folder of its own inside .venv, where the sync above does not remove it.
browser: setup  ## playwright, for the test that opens the book in the system's Chromium
	$(BIN)/uv pip install --quiet --require-hashes --python $(BIN)/python --target .venv/browser \
	  -r requirements-browser.lock

# The peers live in a folder of their own, where the sync above does not remove them; a benchmark leaves out
# what is missing.
bench: setup  ## measure against the peers, into benchmarks/results
	-@$(BIN)/uv pip install --quiet --no-deps --python $(BIN)/python --target .venv/peers \
	  -r benchmarks/requirements.txt
	PYTHONPATH="$(CURDIR)":.venv/peers $(BIN)/python -m benchmarks.curvature
	PYTHONPATH="$(CURDIR)":.venv/peers $(BIN)/python -m benchmarks.stopping
	PYTHONPATH="$(CURDIR)":.venv/peers $(BIN)/python -m benchmarks.training
	PYTHONPATH="$(CURDIR)" $(BIN)/python -m benchmarks.ingredients
	PYTHONPATH="$(CURDIR)" $(BIN)/python -m benchmarks.growth

lock: setup  ## the newest versions that requirements.in allows, with hashes
	$(BIN)/uv pip compile --upgrade --universal --generate-hashes --python-version 3.11 --no-header \
	  requirements.in --output-file requirements.lock
	$(BIN)/uv pip compile --upgrade --universal --generate-hashes --python-version 3.11 --no-header \
	  --constraint requirements.lock requirements-browser.in --output-file requirements-browser.lock

clean:  ## remove what was built; .venv and the runs stay
	rm -rf _build
