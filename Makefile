# What people and CI call; `make install` comes by itself when .venv is missing.

PYTHON ?= python3
# Pinned, and installed first: a bare `torch` may bring gigabytes of CUDA to a machine without a GPU.
TORCH ?= torch==2.13.0
BIN := .venv/bin
INSTALLED := .venv/.installed
PYTEST_ARGS ?=

# docs: the interpreter, one with the extra `docs`; .venv gets it by itself.
DOCS_PYTHON ?= $(BIN)/python

# npu-check and coco: the interpreter (one with torch_npu, where .venv has none) and the device.
NPU_PYTHON ?= $(BIN)/python
DEVICE ?= npu
# coco: the data, devices on this host, precision, and the folder of the run.
DATA_ROOT ?= data/coco
NPROC ?= 1
PRECISION ?= o1
COCO_RUN ?= runs/coco/$(shell date +%Y%m%d-%H%M%S)

.PHONY: help install demo test test-slow check bench docs npu-check npu-trace coco

help:
	@echo "make install     .venv with the project, its test tools and $(TORCH)"
	@echo "make demo        train, evaluate, export and detect on pictures that the project draws itself"
	@echo "make test        the quick tests; make test-slow: the long ones, in an environment of their own, for an hour or two"
	@echo "make check       format, lint, types and the order of imports"
	@echo "make docs        the site, into site/index.html"
	@echo "make bench       the measurements of docs/benchmarks.md"
	@echo "make npu-check   everything that a person with an Ascend NPU should run; DEVICE=cpu tries it without"
	@echo "make npu-trace   a training step through torch_npu's dispatcher, without an NPU"
	@echo "make coco        the paper's recipe on COCO; DATA_ROOT=data/coco NPROC=1 DEVICE=npu"

install: $(INSTALLED)

$(INSTALLED): setup.py
	@echo "installing into .venv: $(TORCH), then the project with its tools; two minutes by a fast connection"
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet '$(TORCH)'
	$(BIN)/python -m pip install --quiet --editable '.[test]'
	touch $@

# The whole job on pictures that the project draws itself: train, evaluate, export, detect.
demo: RUN := runs/demo/$(shell date +%Y%m%d-%H%M%S)
demo: $(INSTALLED)
	@echo "train, evaluate, export and detect: about five minutes on two cores; the run is in $(RUN)"
	$(BIN)/python -m gfl.train --gin_file demo.gin --workdir $(RUN)
	$(BIN)/python -m export.onnx --checkpoint $(RUN)/best.pt --output $(RUN)/onnx
	$(BIN)/python infer/run.py --model $(RUN)/onnx --input data/synthetic/val2017 --output $(RUN)/found --draw --edges
	@echo "the run is in $(RUN); look at $(RUN)/report.html and at the pictures in $(RUN)/found/drawn"

# The variable GFL_TEST_DATA, where it is set, names the folder of test pictures; tests that need it skip without.
test: $(INSTALLED)
	$(BIN)/python -m pytest -m "not slow" -n auto --dist loadfile $(PYTEST_ARGS)

# In an environment of its own: what these tests need brings two gigabytes, and packages that the project must do without.
test-slow: .venv-slow/.installed
	.venv-slow/bin/python -m pytest -m slow -rs $(PYTEST_ARGS)

.venv-slow/.installed: setup.py
	$(PYTHON) -m venv .venv-slow
	.venv-slow/bin/python -m pip install --quiet '$(TORCH)'
	.venv-slow/bin/python -m pip install --quiet --editable '.[test-slow]'
	touch $@

check: $(INSTALLED)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy --strict gfl export infer benchmarks website
	$(BIN)/python -m pytest -q tests/test_imports.py

bench: $(INSTALLED)
	$(BIN)/python -m benchmarks --output docs/benchmarks.md

# The site, into site/index.html: pages from docs/ and from the code (website/), with every warning an error.
docs: $(if $(filter $(BIN)/python,$(DOCS_PYTHON)),.venv/.docs)
	$(DOCS_PYTHON) -m website --output build/docs
	$(DOCS_PYTHON) -m zensical build --clean --strict

.venv/.docs: $(INSTALLED)
	$(BIN)/python -m pip install --editable '.[docs]'
	touch $@

# Everything that a person with an NPU should run; DEVICE=cpu runs the same with a tiny model. SOC_VERSION: ATC's name.
npu-check: $(if $(filter $(BIN)/python,$(NPU_PYTHON)),$(INSTALLED))
	$(NPU_PYTHON) -m gfl.npu_check --device $(DEVICE) $(if $(SOC_VERSION),--soc_version $(SOC_VERSION))

# The paper's 1x recipe on COCO. One epoch, a look at its AP, then the rest: a broken setup shows after an epoch.
coco: LAUNCH = $(NPU_PYTHON) -m $(if $(filter-out 1,$(NPROC)),torch.distributed.run --nproc_per_node $(NPROC) -m )gfl.train
coco: RUN := $(COCO_RUN)
coco: $(if $(filter $(BIN)/python,$(NPU_PYTHON)),$(INSTALLED))
	@echo "expected: about 23 AP after epoch 1, 41.0 after epoch 12; the run is in $(RUN)"
	$(LAUNCH) --gin_file r50.gin --workdir $(RUN) --gin_bindings "DATA_ROOT = '$(DATA_ROOT)'" "DEVICE = '$(DEVICE)'" \
		"PRECISION = '$(PRECISION)'" "EPOCHS = 1" $(BINDINGS)
	$(NPU_PYTHON) -m gfl.npu_check.tripwire $(RUN) --epoch 1
	$(LAUNCH) --resume --workdir $(RUN) --gin_bindings "EPOCHS = 12"
	$(NPU_PYTHON) -m gfl.npu_check.tripwire $(RUN) --epoch 12

# A step through torch_npu's own dispatcher over stubs of CANN: no hardware test. Says why where it cannot be set up.
npu-trace: $(INSTALLED)
	$(BIN)/python tests/support/npu_trace.py
