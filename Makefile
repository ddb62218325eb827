# What people and CI call; `make install` comes by itself when .venv is missing.

PYTHON ?= python3
# Pinned, and installed first: a bare `torch` may bring gigabytes of CUDA to a machine without a GPU.
TORCH ?= torch==2.13.0
BIN := .venv/bin
INSTALLED := .venv/.installed
PYTEST_ARGS ?=

.PHONY: install demo test test-slow check bench

install: $(INSTALLED)

$(INSTALLED): setup.py
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install '$(TORCH)'
	$(BIN)/python -m pip install --editable '.[test]'
	touch $@

demo: $(INSTALLED)
	$(BIN)/python -m gfl.train --gin_file demo.gin --workdir runs/demo/$(shell date +%Y%m%d-%H%M%S)

# The variable GFL_TEST_DATA, where it is set, names the folder of test pictures; tests that need it skip without.
test: $(INSTALLED)
	$(BIN)/python -m pytest -m "not slow" $(PYTEST_ARGS)

test-slow: $(INSTALLED)
	$(BIN)/python -m pytest -m slow $(PYTEST_ARGS)

check: $(INSTALLED)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy --strict gfl/tensors gfl/model gfl/config.py
	$(BIN)/python -m pytest -q tests/test_layers.py

bench: $(INSTALLED)
	$(BIN)/python -m benchmarks --output docs/benchmarks.md
