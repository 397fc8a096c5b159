# `make help` lists the targets. All but `clean` and `help` first build .venv, once, from
# pyproject.toml and constraints.txt.
#
#   make PYTHON=/path/to/python   another interpreter for .venv (3.11 or later)
#   make test PYTEST_ARGS="-x"    more arguments for pytest
#   make test PYTEST_WORKERS=0    in one process, as a debugger needs it; else one a core, at most 4
#   make demo RECIPE=my.yaml      another recipe
#   make demo STACK=5             on transformers 5, in .venv-v5

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON ?=
PYTEST_ARGS ?=
PYTEST_WORKERS ?= auto
RECIPE ?= recipes/demo-minilm-movie-reviews.yaml
STACK ?= 4

VENV := .venv
VENV5 := .venv-v5
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
FETCHED := demo-assets/.fetched
# Tests of a file stay in one process, with what they share.
PYTEST := -m pytest -n $(PYTEST_WORKERS) --maxprocesses 4 --dist loadfile
PIP := $(BIN)/python -m pip --disable-pip-version-check
ifeq ($(STACK),5)
DEMO_BIN := $(VENV5)/bin
DEMO_INSTALLED := $(VENV5)/.installed
else
DEMO_BIN := $(BIN)
DEMO_INSTALLED := $(INSTALLED)
endif

.PHONY: help
help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "%-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: demo
demo: $(DEMO_INSTALLED) $(FETCHED) ## Prune, export and measure a small model on movie reviews
# Left alone, accelerate gives a single process one CPU thread: hence the thread count.
	@cpu=--cpu; \
	if $(DEMO_BIN)/python -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then cpu=; fi; \
	threads="$${OMP_NUM_THREADS:-$$($(DEMO_BIN)/python -c 'import psutil; print(psutil.cpu_count(logical=False) or 1)')}"; \
	set -x; \
	$(DEMO_BIN)/accelerate launch $$cpu --num_processes 1 --num_machines 1 --mixed_precision no \
		--dynamo_backend no --num_cpu_threads_per_process "$$threads" \
		scripts/prune.py --recipe $(RECIPE)

.PHONY: test
test: lint $(FETCHED) ## Check style, types and schema, then run the fast tests
	$(BIN)/python $(PYTEST) $(PYTEST_ARGS)

.PHONY: test-all
test-all: lint $(FETCHED) ## As test, with the slow tests, and the GPU tests where there is a GPU
	$(BIN)/python $(PYTEST) -m "" $(PYTEST_ARGS)

.PHONY: test-gpu
test-gpu: $(INSTALLED) $(FETCHED) ## On one GPU, within ten minutes: its tests, plans, throughput, a recipe; writes gpu.json
	$(BIN)/python scripts/gpu_check.py --out gpu.json $(GPU_ARGS)

.PHONY: test-v5
test-v5: $(INSTALLED) $(VENV5)/.installed $(FETCHED) ## Run the fast tests on transformers 5, in .venv-v5, and compare the stacks
	HFPRUNE_OTHER_PYTHON=$(BIN)/python $(VENV5)/bin/python $(PYTEST) $(PYTEST_ARGS)

.PHONY: lint
lint: $(INSTALLED) ## Check style, types and the recipe schema
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python scripts/make_schema.py --check
	$(BIN)/python scripts/make_errors.py --check

.PHONY: format
format: $(INSTALLED) ## Format the code and mend what ruff can mend
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.PHONY: schema
schema: $(INSTALLED) ## Write what is generated from the recipe's definition
	$(BIN)/python scripts/make_schema.py
	$(BIN)/python scripts/make_errors.py

# What the site needs is installed here, once, and not for the tests. It is built without a network:
# fonts, icons and search are local. The variable turns off a notice about a later MkDocs.
.PHONY: docs
docs: $(VENV)/.installed-docs ## Build the documentation into site/; any warning fails
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "built: site/index.html"

# In an environment of its own, and without resolving: what is looked up is what is pinned. Strict: a
# package that could not be looked up is no clean bill.
.PHONY: audit
audit: $(INSTALLED) ## Look the pinned versions up among known vulnerabilities (needs the network)
	@test -x $(VENV)-audit/bin/pip-audit || { \
		$(BIN)/python -m venv $(VENV)-audit && \
		$(VENV)-audit/bin/python -m pip --disable-pip-version-check install "pip-audit>=2.7,<3"; }
	$(VENV)-audit/bin/pip-audit --strict --requirement constraints.txt --no-deps --disable-pip

.PHONY: clean
clean: ## Remove caches and build products; keep .venv and demo-assets
	rm -rf build dist site *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +

# An existing .venv is kept if it works. Torch comes first and alone: the pinned version can be
# served by whichever build (CPU or CUDA) pip is set up to find, and nothing else may choose it.
$(INSTALLED): pyproject.toml constraints.txt
	@recent='import sys; sys.exit(sys.version_info < (3, 11))'; \
	if ! $(BIN)/python -c "import pip; $$recent" 2>/dev/null; then \
		found=; \
		for candidate in $(or $(PYTHON),python3.11 python3.12 python3.13 python3 python); do \
			if "$$candidate" -c "$$recent" 2>/dev/null; then found="$$candidate"; break; fi; \
		done; \
		if [ -z "$$found" ]; then \
			echo "hfprune needs Python 3.11 or later; tried: $(or $(PYTHON),python3.11 python3.12 python3.13 python3 python)." >&2; \
			echo "Install one, or name it: make PYTHON=/path/to/python3.11" >&2; \
			exit 1; \
		fi; \
		echo "creating $(VENV) with $$("$$found" --version)"; \
		"$$found" -m venv $(VENV); \
	fi
	$(PIP) install "$$(grep '^torch==' constraints.txt)" -c constraints.txt
	$(PIP) install -c constraints.txt -e ".[optimum,openvino,ner,peft,vision,bench,dev]"
	@touch $@

$(VENV)/.installed-docs: pyproject.toml constraints.txt | $(INSTALLED)
	$(PIP) install -c constraints.txt -e ".[docs]"
	@touch $@

# The interpreter of .venv makes it, so that both stacks run on the same Python.
$(VENV5)/.installed: pyproject.toml constraints-v5.txt | $(INSTALLED)
	$(BIN)/python -m venv $(VENV5)
	$(VENV5)/bin/python -m pip --disable-pip-version-check install \
		"$$(grep '^torch==' constraints-v5.txt)" -c constraints-v5.txt
	$(VENV5)/bin/python -m pip --disable-pip-version-check install \
		-c constraints-v5.txt -e ".[onnx,openvino,ner,peft,vision,bench,test]"
# Its trainers are tested where it can be had; hfprune does not need it, and all that it needs is there.
	-$(VENV5)/bin/python -m pip --disable-pip-version-check install --no-deps "sentence-transformers>=6,<7"
	@touch $@

$(FETCHED): scripts/fetch_demo.py scripts/demo-assets.lock scripts/make_bbc_reranking.py | $(INSTALLED)
	$(BIN)/python scripts/fetch_demo.py --dest demo-assets
	$(BIN)/python scripts/make_bbc_reranking.py --dest demo-assets
	@touch $@
