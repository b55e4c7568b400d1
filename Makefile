# One word per stage: `make annotate RECIPE=recipes/own_data.yaml` is `align annotate recipes/own_data.yaml`.
# Every target sets up what it needs: a virtual environment in .venv with the pinned set of constraints.txt.

PYTHON ?= python3
RECIPE ?= recipes/demo.yaml
VENV   ?= .venv
SET    ?=
PIP_ARGS ?=
JOBS   ?= 2

BIN    := $(VENV)/bin
ALIGN  := $(BIN)/align
STAGES := language connect tune pretrain instruct sample annotate teach pairs dpo steerlm rejection sft evaluate report

export HF_HUB_OFFLINE ?= 0
export TOKENIZERS_PARALLELISM ?= false

.PHONY: help setup setup-dev demo demo-all demo-mlan demo-base demo-seeds demo-data demo-base-data test test-slow check bench docs clean $(STAGES) \
        run sweep status estimate verify env

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14
	@echo "stages:       $(STAGES)   (RECIPE=$(RECIPE), SET='key=value ...')"

# --------------------------------------------------------------------------------------------------------- set-up

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit("mmalign needs Python 3.11 or newer; say PYTHON=python3.11") \
	  if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.setup: $(BIN)/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install -q $(PIP_ARGS) -c constraints.txt -e '.[train,report,demo]'
	@touch $@

$(VENV)/.setup-dev: $(VENV)/.setup
	$(BIN)/python -m pip install -q $(PIP_ARGS) -c constraints.txt -e '.[train,qlora,report,demo,formats,gemini,gemini-legacy,openai,ray,text,dev]'
	@touch $@

setup: $(VENV)/.setup  ## virtual environment with everything the recipes need
setup-dev: $(VENV)/.setup-dev  ## the same and what the tests need

# ------------------------------------------------------------------------------------------------------- the demo

demo: demo-data  ## from images and questions to the verdict table, on a CPU
	$(ALIGN) run recipes/demo.yaml $(SET)

demo-data: $(VENV)/.setup
	@$(BIN)/python data/prepare_demo.py --out data/demo --no-training

demo-base-data: $(VENV)/.setup
	@$(BIN)/python data/prepare_demo.py --out data/demo

demo-base: demo-base-data  ## train the demo's base model from scratch (QUICK=1: minutes, a poorer one)
	$(ALIGN) run recipes/demo_base.yaml $(if $(QUICK),name=demo-base-quick language.steps=700 connect.steps=300 tune.steps=500,) $(SET)

demo-mlan: demo-base-data  ## the demo's VLM tuned on a language-heavy mix instead, for demo-all
	@$(BIN)/python data/mix_demo.py
	$(ALIGN) run recipes/mlan/demo.yaml

demo-all: demo-mlan  ## one table: language model, VLM, VLM of a language-heavy mix, and what repairs the VLM
	$(ALIGN) run recipes/regression_repair.yaml $(SET)

demo-seeds: demo-base-data  ## three full seeds; writes the numbers of recipes/README.md
	$(BIN)/python bench/demo_seeds.py

# -------------------------------------------------------------------------------------------------- one per stage

$(STAGES): $(VENV)/.setup $(if $(findstring recipes/demo_base,$(RECIPE)),demo-base-data,$(if $(findstring recipes/demo,$(RECIPE)),demo-data))
	$(ALIGN) $@ $(RECIPE) $(SET)

run sweep status estimate: $(VENV)/.setup
	$(ALIGN) $@ $(RECIPE) $(SET)

verify: $(VENV)/.setup
	$(ALIGN) verify $(RUN)

env: $(VENV)/.setup
	$(ALIGN) env

# ------------------------------------------------------------------------------------------------- for developers

test: export HF_HUB_OFFLINE = 1
test: export OMP_NUM_THREADS = 1
test: $(VENV)/.setup-dev  ## the test suite (minutes), in JOBS processes
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal

test-slow: export HF_HUB_OFFLINE = 1
test-slow: export OMP_NUM_THREADS = 1
test-slow: $(VENV)/.setup-dev  ## kills, wheels, browser
	$(BIN)/python -m pytest -m slow -n $(JOBS) --dist worksteal

check: $(VENV)/.setup-dev  ## ruff, mypy strict, import-linter
	$(BIN)/ruff check . && $(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(VENV)/.setup-dev demo-data  ## every benchmark of bench/; writes bench/RESULTS.md
	$(BIN)/python bench/results_page.py
	$(BIN)/python bench/annotate.py

clean:  ## caches and build outputs; runs/ and .venv stay
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache *.egg-info
