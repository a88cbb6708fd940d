# Each target first brings .venv up to what it needs: make demo the packages that limoe itself imports, make test and
# make lint also those of the extra dev. Nothing is installed again until pyproject.toml or constraints.txt changes.
SUPPORTED := import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
  $$p -c '$(SUPPORTED)' 2>/dev/null && break; p=python3; done; echo $$p)
VENV := .venv
PY := $(VENV)/bin/python
RUNTIME := $(VENV)/.runtime
DEV := $(VENV)/.dev
PIP := $(PY) -m pip install -qq --disable-pip-version-check -c constraints.txt
TORCH := $(shell sed -n 's/^\(torch==[^ ]*\).*/\1/p' constraints.txt)
PYTEST_ARGS ?= -n 2

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help install demo test lint clean

help:  ## list the targets
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 18

install: $(DEV)  ## build .venv with the tested versions, tools for development included
	@echo "limoe: $(VENV) is up to date"

demo: $(RUNTIME)  ## train a dense and a sparse model on built-in data and compare them
	@$(PY) -m limoe demo

test: $(DEV)  ## run the fast tests
	@OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} $(PY) -m pytest -m "not slow" $(PYTEST_ARGS)

lint: $(DEV)  ## check format, style and types
	@$(PY) -m ruff format --check .
	@$(PY) -m ruff check .
	@$(PY) -m mypy

clean:  ## remove .venv and the caches; logs stay
	rm -rf $(VENV) build dist .cache .hypothesis .mypy_cache .pytest_cache .ruff_cache .coverage
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +

# A usable environment is kept and updated; torch goes first and alone, so that the build on offer for this machine
# (CPU only, where there is one) stays when the other packages ask for torch.
$(RUNTIME): pyproject.toml constraints.txt
	@rm -f $@
	@$(PY) -c '$(SUPPORTED)' 2>/dev/null && $(PY) -m pip --version >/dev/null 2>&1 || { \
	  command -v $(PYTHON) >/dev/null \
	    || { echo "limoe needs Python 3.11, 3.12 or 3.13: '$(PYTHON)' was not found; try: make PYTHON=python3.12" >&2; exit 1; }; \
	  $(PYTHON) -c '$(SUPPORTED)' \
	    || { echo "limoe needs Python 3.11, 3.12 or 3.13, but $(PYTHON) is $$($(PYTHON) -V 2>&1); try: make PYTHON=python3.12" >&2; exit 1; }; \
	  rm -rf $(VENV) && $(PYTHON) -m venv $(VENV); }
	@start=$$(date +%s); echo "limoe: installing into $(VENV) (first time: some minutes)"; \
	  echo "limoe: $(TORCH)" && $(PIP) '$(TORCH)' && \
	  echo "limoe: limoe and the tested versions of its dependencies" && $(PIP) -e . && \
	  touch $@ && echo "limoe: installed in $$(( $$(date +%s) - start )) s"

$(DEV): $(RUNTIME)
	@start=$$(date +%s); echo "limoe: tools for development"; \
	  $(PIP) -e '.[dev]' && touch $@ && echo "limoe: installed in $$(( $$(date +%s) - start )) s"
