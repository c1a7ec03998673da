# `make demo` and `make test` need Python 3.11+ and nothing else; the environment is made on first use.
VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
# A read-only or shared checkout can keep its environment elsewhere: make VENV=/somewhere/venv test
INSTALLED := $(VENV)/.installed-$(shell cat pyproject.toml constraints.txt 2>/dev/null | cksum | cut -d' ' -f1)
export HF_HUB_OFFLINE := 1
export TOKENIZERS_PARALLELISM := false

.DEFAULT_GOAL := help
.PHONY: help install demo test check lint types unit docs goldens bench faults study evidence recipes images manifests chart-lint cluster-test clean

help: ## Show what there is to make
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

install: $(INSTALLED) ## Create the environment in .venv

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed; set PYTHON=…"; exit 1; }
	@if command -v uv >/dev/null; then \
	  uv venv -q --allow-existing --python $(PYTHON) $(VENV) && \
	  uv pip install -q --python $(BIN)/python -c constraints.txt -e '.[train,kfp,dev]'; \
	else \
	  $(PYTHON) -m venv $(VENV) && \
	  $(BIN)/python -m pip install -q -c constraints.txt -e '.[train,kfp,dev]'; \
	fi
	@rm -f $(VENV)/.installed-* && touch $@

demo: $(INSTALLED) ## Build a small world and post-train its model, gated, with a report
	@PATH="$(abspath $(BIN)):$$PATH" bash examples/countdown/demo.sh

test: $(INSTALLED) check unit ## Everything that must hold: lint, types, tests

check: lint types

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python docs/generate.py --check
	PYTHONPATH=. $(BIN)/python study/report.py --check
	PYTHONPATH=. $(BIN)/python manifests/render.py --check

types: $(INSTALLED)
	$(BIN)/mypy posttrain components pipelines

unit: $(INSTALLED)
	$(BIN)/python -m pytest -n 2 --dist loadgroup

docs: $(INSTALLED) ## Renew the generated tables of the READMEs and of docs/recipes.md
	$(BIN)/python docs/generate.py

goldens: $(INSTALLED) ## Rewrite the golden compiled pipelines
	POSTTRAIN_REWRITE_GOLDEN=1 $(BIN)/python -m pytest tests/pipelines -k golden

manifests: $(INSTALLED) ## Render the chart and the compiled pipelines into manifests/
	PYTHONPATH=. $(BIN)/python manifests/render.py

chart-lint: $(INSTALLED) ## What Helm, kubeconform, kube-score and checkov say of the chart and of manifests/
	$(BIN)/python charts/lint.py

bench: $(INSTALLED) ## Benchmarks: sampling, and what a stage adds to bare TRL
	PYTHONPATH=. $(BIN)/python benchmarks/sampling.py
	PYTHONPATH=. $(BIN)/python benchmarks/stage_overhead.py

faults: $(INSTALLED) ## Kill runs at random moments, break the line to their store, see what keeping them costs (long)
	PYTHONPATH=. $(BIN)/python benchmarks/kills.py
	PYTHONPATH=. $(BIN)/python benchmarks/faults.py
	PYTHONPATH=. $(BIN)/python benchmarks/stall.py

study: $(INSTALLED) ## Run every short sequence of steps in every world (hours; resumable), and write docs/evidence.md
	PYTHONPATH=. $(BIN)/python study/run.py
	PYTHONPATH=. $(BIN)/python study/report.py

evidence: $(INSTALLED) ## Write docs/evidence.md from the stored results of the study
	PYTHONPATH=. $(BIN)/python study/report.py

recipes: $(INSTALLED) ## Run every named recipe in a tiny world, a few steps a stage (two minutes)
	$(BIN)/python examples/recipes/run_all.py

# What `make images` builds, by name: the extras that are installed, on which base.
IMAGES ?= control train rollout
EXTRAS_control := kfp,model-registry
EXTRAS_train := kfp,train,deepspeed,tracking
EXTRAS_rollout := kfp,train,vllm
BASE ?= python:3.11-slim
# With a compiler, for what comes as source; vLLM's kernels are compiled when they first run.
BUILD ?= python:3.11
BASE_rollout ?= $(BUILD)
# vLLM wants an older NumPy and FastAPI than the rest may have.
CONSTRAINTS_rollout := images/rollout.txt
VERSION := $(shell sed -n 's/^__version__ = "\(.*\)"/\1/p' posttrain/__init__.py)
BUILDER ?= $(firstword $(foreach tool,podman docker buildah,$(shell $(tool) info >/dev/null 2>&1 && echo $(tool))))
# The same time in every build, so that the same versions are the same bytes. Docker's own is images/README.md.
SOURCE_DATE_EPOCH ?= 315532800
BUILD_FLAGS ?=
TIMES = $(if $(findstring docker,$(BUILDER)),,--layers --timestamp $(SOURCE_DATE_EPOCH))

images: $(addprefix image-,$(IMAGES)) ## Build the images with podman, docker or buildah (IMAGES, BASE, BUILD, BUILDER)

image-%:
	@test -n "$(BUILDER)" || { echo "podman, docker or buildah is needed, and for docker its daemon; set BUILDER=…"; exit 1; }
	$(BUILDER) build $(TIMES) $(BUILD_FLAGS) -f images/Containerfile --build-arg BASE=$(or $(BASE_$*),$(BASE)) \
	  --build-arg BUILD=$(BUILD) --build-arg EXTRAS=$(EXTRAS_$*) \
	  --build-arg CONSTRAINTS=$(or $(CONSTRAINTS_$*),constraints.txt) --build-arg SOURCE_DATE_EPOCH=$(SOURCE_DATE_EPOCH) \
	  --build-arg NAME=$* --build-arg VERSION=$(VERSION) --build-arg REVISION=$(shell git describe --always --dirty) \
	  -t posttrain/$*-python:$(VERSION) .

cluster-test: $(INSTALLED) ## Test on a real cluster: KUBECONFIG and POSTTRAIN_CLUSTER, the URL of Kubeflow Pipelines' API
	$(BIN)/python -m pytest tests/cluster -n 0 -v --durations=0

clean: ## Remove the environment and what the demo wrote
	rm -rf $(VENV) demo
