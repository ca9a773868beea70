# SPDX-License-Identifier: Apache-2.0
# `make help` lists what there is.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
# What `make run` shows: flags of the command demo, or for devices: trigger metadata (KEY=VALUE …), the trigger's KEDA
# metricType, and the replicas there are.
ADDRESS    ?= 127.0.0.1:6000
DEMO       ?=
METADATA   ?=
VALUE_TYPE ?=
REPLICAS   ?=
# How many processes run the tests at the same time. Many tests wait for another process, so there is one more than cores.
WORKERS    ?= $(shell $(PYTHON) -c "import os; print((os.cpu_count() or 1) + 1)")
# Where `make judge` finds the simulator of a fleet, how many of its runs go on at the same time, and which
# variations of its standard machine are measured (a regular expression over the names in benchmarks/scaling.py).
JUDGE       ?= ../shared/judge
JUDGE_JOBS  ?= 2
VARIATIONS  ?= .
JUDGE_VENV  := .tools/judge
AUDIT_VENV  := .tools/audit
# How long `make fuzz` takes for each decoder, how many it fuzzes at the same time, and which (by default all).
FUZZ_SECONDS ?= 3600
FUZZ_JOBS    ?= 2
FUZZ_TARGETS ?=
FUZZ_VENV    ?= .tools/fuzz
JUDGE_STAMP := $(JUDGE_VENV)/.installed
# The checks start hundreds of processes. Python keeps their bytecode, also where the caller's shell says otherwise:
# without it each process compiles every module that it imports, and the tests take almost twice the time.
unexport PYTHONDONTWRITEBYTECODE
# The tests of the chart fail where they have no tools, instead of being skipped.
CHART_TESTS := KEDA_GPU_SCALER_TEST_TOOLS=required
# What `make deploy` installs, and where: a Helm release, its namespace, and more of helm's flags.
RELEASE   ?= keda-gpu-scaler
NAMESPACE ?= keda
HELM_ARGS ?=
CHART     := deploy/helm/keda-gpu-scaler
HELM       = $(or $(shell command -v helm),$(wildcard .tools/bin/helm))
# Says what is missing, before helm says it at length.
define REACH
	@[ -n "$(HELM)" ] || { echo "make $@ needs helm 3: install it, or let \`make chart\` build one into .tools/bin (with Go)" >&2; exit 1; }
	@$(HELM) list --namespace $(NAMESPACE) >/dev/null || { \
		echo "make $@ needs a cluster, and helm reaches none: see above, and what \`kubectl cluster-info\` says" >&2; exit 1; }
endef

.DEFAULT_GOAL := help
.PHONY: help setup run check test test-core test-long test-with-chart test-optimized lint types tools fmt proto lock docs bench judge fuzz audit sbom build krew image image-test docker-release chart manifests deploy undeploy clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(STAMP) ## Make .venv with the locked dependencies and the keda-gpu-scaler command

$(STAMP): pyproject.toml requirements/dev.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "keda-gpu-scaler needs Python 3.11 or later, but $(PYTHON) is $$($(PYTHON) -V); name another: make PYTHON=python3.12 setup" >&2; exit 1; }
	@echo "setting up $(VENV) (once, about half a minute)"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip --disable-pip-version-check install --quiet --no-compile --require-hashes -r requirements/dev.txt
	@$(BIN)/python -m pip --disable-pip-version-check install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

run: setup ## Show on this machine how a workload follows its load; DEMO=--devices for its GPUs or a recording
	@$(BIN)/keda-gpu-scaler demo --address $(ADDRESS) $(DEMO) $(addprefix --metadata ,$(METADATA)) \
		$(if $(REPLICAS),--replicas $(REPLICAS)) $(if $(VALUE_TYPE),--value-type $(VALUE_TYPE))

check: setup ## Run everything that CI runs
	@$(MAKE) --no-print-directory --jobs 2 lint types test-with-chart

# The tests begin while mypy works, which has work for one core only.
test-with-chart: tools
	@$(CHART_TESTS) MAKEFLAGS= $(BIN)/python -m pytest -q -n $(WORKERS)

test: setup ## Run the tests, the rules of the repository among them
	@$(BIN)/python -m pytest -q -n $(WORKERS)

test-core: setup ## Run the tests of the pure part only: a few seconds
	@$(BIN)/python -m pytest -q -n $(WORKERS) tests/core

test-long: setup ## Run the tests with every example of each property, where `make test` draws a quarter
	@KEDA_GPU_SCALER_TEST_EXAMPLES=all $(BIN)/python -m pytest -q -n $(WORKERS)

test-optimized: setup ## Run the tests under python -OO, as the image runs
	@PYTHONOPTIMIZE=2 $(BIN)/python -m pytest -q -n $(WORKERS)

lint: setup
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

types: setup
	@$(BIN)/mypy

tools: setup
	@$(BIN)/python scripts/tools.py

fmt: setup ## Format the code, and repair what ruff can repair
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

proto: setup ## Generate the protobuf stubs in src/keda_gpu_scaler/wire
	@$(BIN)/python -m grpc_tools.protoc -Ikeda_gpu_scaler/wire=proto --python_out=src --pyi_out=src \
		--grpc_python_out=src $(patsubst proto/%,keda_gpu_scaler/wire/%,$(wildcard proto/*.proto))

lock: setup ## Choose the newest dependencies that pyproject.toml allows, with their hashes
	@$(BIN)/python scripts/lock.py

docs: setup ## Generate docs/reference from the code
	@$(BIN)/python scripts/reference.py

bench: setup ## Measure, and print what benchmarks/RESULTS.md records
	@$(BIN)/python -m benchmarks

judge: ## Judge the scaling decisions in a simulated fleet (JUDGE names its folder), into benchmarks/SCALING.md
	@if [ -f "$(JUDGE)/run.py" ]; then \
		$(MAKE) --no-print-directory $(JUDGE_STAMP) && \
		PYTHONPATH=src $(JUDGE_VENV)/bin/python -m benchmarks.scaling --judge "$(JUDGE)" --jobs $(JUDGE_JOBS) \
			--variations '$(VARIATIONS)'; \
	else \
		echo "nothing is judged: there is no simulator in $(JUDGE); name its folder: make judge JUDGE=PATH/TO/judge"; \
	fi

$(JUDGE_STAMP): requirements/judge.txt
	@echo "setting up $(JUDGE_VENV) (once)"
	@$(PYTHON) -m venv $(JUDGE_VENV)
	@$(JUDGE_VENV)/bin/python -m pip --disable-pip-version-check install --quiet --require-hashes -r requirements/judge.txt
	@touch $@

fuzz: $(FUZZ_VENV)/.installed ## Fuzz the decoders for hours, guided by coverage (FUZZ_SECONDS for each of them)
	@nice -n 10 $(FUZZ_VENV)/bin/python scripts/fuzz.py --seconds $(FUZZ_SECONDS) --jobs $(FUZZ_JOBS) $(FUZZ_TARGETS)

$(FUZZ_VENV)/.installed: requirements/fuzz.txt
	@echo "setting up $(FUZZ_VENV) (once)"
	@$(PYTHON) -m venv $(FUZZ_VENV)
	@$(FUZZ_VENV)/bin/python -m pip --disable-pip-version-check install --quiet --require-hashes -r requirements/fuzz.txt
	@touch $@

audit: ## Look for known vulnerabilities of the packages in the image; needs the network
	@$(PYTHON) -m venv $(AUDIT_VENV)
	@$(AUDIT_VENV)/bin/python -m pip --disable-pip-version-check install --quiet --require-hashes -r requirements/audit.txt
	@$(AUDIT_VENV)/bin/pip-audit --requirement requirements/run.txt --require-hashes --disable-pip --strict --progress-spinner off

sbom: ## Write the list of the image's packages into dist/sbom.cdx.json, in CycloneDX
	@$(PYTHON) scripts/sbom.py dist/sbom.cdx.json

build: setup ## Build the wheel and the source archive into dist
	@rm -f dist/*.whl dist/*.tar.gz
	@$(BIN)/python -m build --no-isolation --outdir dist

krew: setup ## Write the kubectl plugin of the wheel in dist, and its manifest for krew, into dist
	@$(BIN)/python scripts/krew.py dist

image: ## Build the container image of this working tree for this machine; IMAGE names it otherwise
	@$(PYTHON) scripts/image_docker.py build $(if $(IMAGE),--image $(IMAGE))

image-test: setup ## Run the image's content on its base's Debian packages, without a container engine, where namespaces are allowed
	@$(BIN)/python scripts/image_test.py

docker-release: ## Build and push the image for amd64 and arm64: VERSION=v0.1.0, on a clean, tagged commit
	@$(PYTHON) scripts/image_docker.py release "$(VERSION)" $(if $(IMAGE),--image $(IMAGE))

chart: tools ## Check the Helm chart and its alerts; Go builds helm, kubeconform and promtool into .tools (once)
	@$(BIN)/python scripts/tools.py --promtool
	@$(CHART_TESTS) $(BIN)/python -m pytest -q -n $(WORKERS) tests/deploy

manifests: tools ## Render deploy/manifests.yaml and the chart's golden files
	@$(BIN)/python scripts/chart.py

deploy: ## Install or upgrade in a cluster; RELEASE, NAMESPACE and HELM_ARGS say what and where
	$(REACH)
	@$(HELM) upgrade --install $(RELEASE) $(CHART) --namespace $(NAMESPACE) --create-namespace $(HELM_ARGS)

undeploy: ## Remove from a cluster what deploy installed
	$(REACH)
	@$(HELM) uninstall $(RELEASE) --namespace $(NAMESPACE) --ignore-not-found --wait

clean: ## Remove what was built
	@rm -rf $(VENV) dist .hypothesis .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .fuzz .tools
