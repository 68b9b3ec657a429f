# make serve · make test · make lint · make bench · make train-demo     (make help says what each does)
#
# Everything goes into a virtual environment in $(VENV). Versions are pinned in constraints.txt; to take others,
# e.g. another build of torch: make test CONSTRAINTS=my.txt

PYTHON ?= python3
VENV ?= .venv
CONSTRAINTS ?= constraints.txt
ACCELERATOR ?= $(shell nvidia-smi >/dev/null 2>&1 && echo gpu || echo cpu)
HOST ?= 127.0.0.1
PORT ?= 8000
RUNS ?= runs
TEST_WORKERS ?= 2
PIP := $(VENV)/bin/python -m pip --disable-pip-version-check install --quiet -c $(CONSTRAINTS)

.DEFAULT_GOAL := help
.PHONY: help serve test lint format bench bench-serve chaos evaluate train-demo serve-demo train-lite clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	  || { echo "pairfuse needs Python 3.11 or newer with venv; $(PYTHON) is not. Try: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@echo "making a virtual environment in $(VENV)"
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.serve: pyproject.toml $(CONSTRAINTS) | $(VENV)/bin/python
	@echo "installing the service ($(ACCELERATOR))"
	@$(PIP) -e '.[$(ACCELERATOR)]'
	@touch $@

$(VENV)/.dev: pyproject.toml $(CONSTRAINTS) | $(VENV)/bin/python
	@echo "installing the service ($(ACCELERATOR)), training and development tools; torch is large, this takes a while"
	@$(PIP) -e '.[$(ACCELERATOR),train,dev]'
	@touch $@ $(VENV)/.serve

serve: $(VENV)/.serve ## install what the service needs and start it on http://HOST:PORT
	@echo "starting pairfuse on http://$(HOST):$(PORT) (documentation at /docs)"
	@exec $(VENV)/bin/pairfuse serve --host $(HOST) --port $(PORT)

# One thread each: two processes that both start a thread for every core mostly wait for each other.
test: $(VENV)/.dev ## install everything and run all tests, in TEST_WORKERS processes
	@echo "running the tests"
	@OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -n $(TEST_WORKERS) --dist loadfile

lint: $(VENV)/.dev ## style, format and types
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/ruff format --check .
	@$(VENV)/bin/mypy

format: $(VENV)/.dev ## rewrite the code in the project's format
	@$(VENV)/bin/ruff check --fix-only .
	@$(VENV)/bin/ruff format .

bench: $(VENV)/.dev ## operations, times, memory of every released model on this machine, large images included
	@$(VENV)/bin/python -m benchmarks.bench

bench-serve: $(VENV)/.dev ## the running service against its bare pipeline and other servers; OPTIONS=--quick for a short run
	@$(VENV)/bin/python -m benchmarks.serve $(OPTIONS)

chaos: $(VENV)/.dev ## wrong, slow and lost clients, then damaged images for ten minutes; fails if anything does not add up
	@$(VENV)/bin/python -m benchmarks.chaos $(OPTIONS)

evaluate: $(VENV)/.dev ## metrics of the lite model and of five baselines on DATA/ivf/val
	@test -n "$(DATA)" || { echo "give the data root: make evaluate DATA=FOLDER"; exit 1; }
	@$(VENV)/bin/python -m training evaluate --bundle weights/titok-ste-lite --data $(DATA)/ivf/val \
	  --a visible --b infrared --baselines --strength-study --out out/evaluate

train-demo: $(VENV)/.dev ## draw pairs, train the lite model on them for a few minutes, export, evaluate; into RUNS/demo
	@$(VENV)/bin/python -m training demo --out $(RUNS)/demo

serve-demo: $(VENV)/.dev ## serve what train-demo made on http://HOST:PORT
	@test -d $(RUNS)/demo/bundle || { echo "train it first: make train-demo"; exit 1; }
	@echo "starting pairfuse with $(RUNS)/demo/bundle on http://$(HOST):$(PORT) (documentation at /docs)"
	@PAIRFUSE_WEIGHTS=$(RUNS)/demo/bundle exec $(VENV)/bin/pairfuse serve --host $(HOST) --port $(PORT)

train-lite: $(VENV)/.dev ## the recipe of the released lite model on DATA, into RUNS/lite (about an hour on two cores)
	@test -n "$(DATA)" || { echo "give the data root: make train-lite DATA=FOLDER (docs/training.md has its layout)"; exit 1; }
	@OUT=$(RUNS)/lite DATA=$(DATA) PYTHON=$(VENV)/bin/python bash training/lite.sh

clean: ## remove the virtual environment and caches
	@rm -rf $(VENV) build *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
