# Every command of the project runs through .venv; `make` alone lists them.
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.setup-done
EXTRAS := service,test,chart,docs
TORCH := torch==2.13.0
# pip's --index-url for torch alone, e.g. PyTorch's CPU index for a machine without CUDA; empty: pip's default index.
TORCH_INDEX ?=
# Folder of the text domains and of prompts/, for `make bench`; empty: the committed test prompts alone.
CORPUS ?=
# What `make bench-check` does with benchmarks/baseline.json.
GUARD ?= --check
# How long `make fuzz` stays at each face.
MINUTES ?= 10

# The first Python of 3.11 or later, unless the caller names one.
ifndef PYTHON
PYTHON := $(shell for python in python3 python3.11 python3.12 python3.13 python3.14; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$python && exit; done; echo python3)
endif

# Tests start hundreds of processes, each of which would compile our modules anew where the environment forbids to keep
# them compiled.
export PYTHONDONTWRITEBYTECODE :=

.DEFAULT_GOAL := help
.PHONY: help setup serve test check bench bench-check fuzz soak protos docs clean

help:  ## List these commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo "Variables: PYTHON=$(PYTHON) TORCH_INDEX=$(TORCH_INDEX) (pip index for torch; see README.md)"

setup: $(STAMP)  ## Create .venv with everything the project needs (again after pyproject.toml changed)

serve: setup  ## Start the fleet of fleet.yaml on this machine, until Ctrl-C
	$(BIN)/python -m cluster up -c fleet.yaml

test: setup  ## Run the tests, three files at a time, for the slow ones wait a lot and come first
	$(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder --ignore tests/helm

check: setup  ## Lint, format, types, import arrows, what is made from code, chart and dashboards
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m helm.schema --check
	$(BIN)/python -m helm.dashboards --check
	$(BIN)/python -m pytest -n 2 --dist loadfile tests/helm
	$(BIN)/python -m docs.make --check

bench: setup  ## Measure the service beside Hugging Face, in turn; CORPUS=DIR for all workloads
	$(BIN)/python -m benchmarks.peers --out build/peers $(if $(CORPUS),--corpus $(CORPUS) --teach 98)

bench-check: setup  ## Fail where a ratio to Hugging Face or between modes has dropped; GUARD=--save-baseline makes them new
	$(BIN)/python -m benchmarks.peers --workload domain --temperature 0 --together 1 --arrival-s 0 --num-prompts 2 \
		$(foreach peer,hf-plain hf-assisted off vanilla pearl fleet,--only $(peer)) $(GUARD) benchmarks/baseline.json

soak: setup  ## Harm a running fleet at random for 20 minutes, and say what became of its requests
	$(BIN)/python -m tests.recovery --minutes 20 --report build/soak.md

fuzz: setup  ## Fuzz the three faces, MINUTES each
	$(BIN)/python -m tests.fuzz.grpc --minutes $(MINUTES)
	$(BIN)/python -m tests.fuzz.http --minutes $(MINUTES)
	$(BIN)/python -m tests.fuzz.fleet --minutes $(MINUTES)

protos: setup  ## Generate the wire types from protos/
	$(BIN)/python -m grpc_tools.protoc -Iprotos --python_out=. --pyi_out=. --grpc_python_out=. protos/specfleet/v1/*.proto

docs: setup  ## Make the documentation a site, in build/site
	$(BIN)/python -m docs.make
	$(BIN)/mkdocs build --strict

clean:  ## Remove caches and build products; .venv stays
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache build dist specfleet.egg-info
	find . -path ./$(VENV) -prune -o -type d -name __pycache__ -exec rm -rf {} +

$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "specfleet needs Python 3.11 or later; $(PYTHON) is $$($(PYTHON) --version 2>&1). Try make PYTHON=python3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { \
		echo "$(PYTHON) cannot create virtual environments; on Debian or Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@# torch first and pinned: any other request may pull another build, with gigabytes of libraries.
	$(BIN)/python -m pip install --quiet $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) $(TORCH)
	$(BIN)/python -m pip install --quiet "setuptools>=77"
	$(BIN)/python -m pip install --quiet --no-build-isolation --editable ".[$(EXTRAS)]"
	@command -v c++ >/dev/null || command -v g++ >/dev/null || command -v clang++ >/dev/null || { \
		echo "No C++ compiler found: installing ziglang, a compiler that pip can install, for the CPU kernels."; \
		$(BIN)/python -m pip install --quiet ziglang; }
	@touch $@
