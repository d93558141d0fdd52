# Every command of a developer, the same ones that CI calls. `make` lists them.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# Two workers of one thread each: half the time of one worker of two.
PYTEST := OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m pytest -n 2 --dist loadfile
say = @printf '\n== %s\n' "$(1)"

help:  ## list the commands
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

$(READY): pyproject.toml constraints.txt
	$(call say,making $(VENV) and installing Splatmend (PyTorch is large: some minutes and 6 GB))
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Splatmend needs Python 3.11 or newer, this is " + sys.version.split()[0])'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

install: $(READY)  ## make the environment in .venv

demo: $(READY)  ## mend a real clip with compact; leaves video, picture and figures in demo/
	$(call say,demo: a splatted portrait in motion and mended by compact)
	$(BIN)/python examples/01_demo.py

test: lint types unit  ## lint, types and tests

lint: $(READY)  ## ruff, rules and format
	$(call say,ruff)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# A checker finds splatmend.core as ../splatmend/core, whatever the checkout is called.
types: $(READY)  ## mypy strict
	$(call say,mypy)
	@view=$$(mktemp -d); ln -s "$(CURDIR)" "$$view/splatmend"; \
	$(BIN)/mypy --config-file "$$view/splatmend/pyproject.toml"; \
	status=$$?; rm -r "$$view"; exit $$status

unit: $(READY)  ## pytest
	$(call say,pytest)
	$(PYTEST)

test-fast: lint types  ## lint, types and the tests that take less than a second
	$(call say,pytest without the slow tests)
	$(PYTEST) -m "not slow"

format: $(READY)  ## rewrite the files as ruff wants them
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(READY)  ## measure compact and restore-video on this machine
	$(BIN)/python benchmarks/video.py

.PHONY: help install demo test test-fast lint types unit format bench
