# Everything that one does with this tree. `make help` lists it.
# Counts on: Python 3.11 or later with venv, make, a C compiler. The rest comes into .venv.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-builtin-rules --no-print-directory
.DELETE_ON_ERROR:

# The first interpreter on the path that is recent enough; `make PYTHON=…` chooses another.
PYTHON ?= $(shell for name in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$name -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$name && break; done)

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip -qq --disable-pip-version-check
DISTRIBUTIONS := proto services/bus services/relay services/scheduler services/device-plugin services/quota-watcher \
	fakes/kubelet fakes/api-server libnvshare emulator cli
C_PARTS := libnvshare emulator
C_FILES = $(shell find libnvshare emulator cli tests -name '*.[ch]')
PROTO_FILES := $(wildcard proto/nvshare/*/*.proto)

# cmake and ninja run from the environment, and find the CUDA headers through its python3.
export PATH := $(CURDIR)/$(BIN):$(PATH)
# One name for the build of the library and of the services; both say it in `nvshare status`.
ifndef NVSHARE_BUILD
NVSHARE_BUILD := $(shell git describe --always --dirty 2>/dev/null || echo unknown)
endif
export NVSHARE_BUILD
# Whatever the shell says: the tests start Python a thousand times, and would compile the same modules each time.
unexport PYTHONDONTWRITEBYTECODE

# Where `make wheels` puts them.
DIST ?= dist
WHEEL = $(PIP) wheel --no-deps --no-build-isolation --no-cache-dir -w $(DIST)

# What `make images` makes: from which image, under which tag, with which wheels (none: those of `make wheels`).
# BASE=debian makes a base of Debian's packages, where none can be pulled.
IMAGES ?= link scheduler device-plugin quota-watcher workload fake-kubelet fake-api-server
BASE ?= python:3.11-slim
TAG ?= $(shell sed -n 's/^version = "\(.*\)"/\1/p' cli/pyproject.toml)
WHEELS ?=

# What `make bench` runs; `nvshare bench --list` shows what there is.
SCENARIOS ?= solo-large solo-small pair-small pair-large-serial launch-overhead grant-latency

# How long `make soak` goes on.
SOAK_MINUTES ?= 30

PYTEST := $(BIN)/pytest --budgets tests/budgets.toml
# Files of tests side by side, three at least: most tests wait more than they compute.
SIDE_BY_SIDE := -n $(shell n=$$(nproc); [ "$$n" -gt 3 ] && echo 4 || echo 3) --dist loadfile
# In the order of the files, which conftest.py begins with what takes longest.
HEAVY_SIDE_BY_SIDE := $(SIDE_BY_SIDE) --no-loadscope-reorder

.PHONY: help setup build demo test test-system soak lint format chart-readme bench wheels images clean

help: ## List the targets
	@sed -nE 's/^([a-z-]+):.*## (.*)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 22

setup: build ## Make .venv with everything in it, and build the C parts; quick when nothing changed

$(VENV)/.tools: constraints.txt
	@test -n "$(PYTHON)" || { echo "setup: found no Python 3.11 or later; install one, or say: make PYTHON=/path/to/python3" >&2; exit 1; }
	@command -v cc >/dev/null || { echo "setup: found no C compiler (cc); install one, for example gcc" >&2; exit 1; }
	@test -x $(BIN)/python || { echo "setup: making $(VENV) with $$($(PYTHON) --version)"; $(PYTHON) -m venv $(VENV) || \
	    { rm -rf $(VENV); echo "setup: $(PYTHON) cannot make an environment; install its venv package, for example python3-venv" >&2; exit 1; }; }
	@echo "setup: installing the build tools"
	@$(PIP) install -c constraints.txt pip
	@$(PIP) install -c constraints.txt --group build
	@touch $@

$(VENV)/.installed: $(VENV)/.tools pyproject.toml $(DISTRIBUTIONS:=/pyproject.toml) proto/hatch_build.py $(PROTO_FILES)
	@echo "setup: installing nvshare and what it needs"
	@$(PIP) install -c constraints.txt --no-build-isolation --group dev $(addprefix -e ,$(DISTRIBUTIONS))
	@touch $@

build: $(VENV)/.installed ## Build libnvshare and the emulated GPU into build/
	@grep -qsF '"$(NVSHARE_BUILD)"' proto/src/nvshare/v1/_build.py || $(BIN)/python proto/hatch_build.py
	@mkdir -p build; for part in $(C_PARTS); do \
	    cmake -S $$part -B build/$$part -G Ninja -DCMAKE_BUILD_TYPE=RelWithDebInfo -DCMAKE_EXPORT_COMPILE_COMMANDS=ON \
	        -DPython3_EXECUTABLE=$(CURDIR)/$(BIN)/python3 -DNVSHARE_BUILD=$(NVSHARE_BUILD) >build/$$part.log 2>&1 || { cat build/$$part.log >&2; exit 1; }; \
	    cmake --build build/$$part -- --quiet; \
	done

demo: setup ## Share an emulated GPU among three programs that do not fit together (needs no GPU)
	@$(BIN)/nvshare demo

test: setup ## The tests that need no root and no Docker
	@status=0; $(PYTEST) $(SIDE_BY_SIDE) -m "not (heavy or system or alone)" || status=1; \
	$(PYTEST) -m "alone and not (heavy or system)" || status=1; \
	exit $$status

test-system: setup ## The tests of wheels, users and linters, and the heavy ones; installs what they need
	@tests/system/install
	@status=0; $(PYTEST) $(HEAVY_SIDE_BY_SIDE) -m "(heavy or system) and not alone" || status=1; \
	$(PYTEST) -m "heavy and alone" || status=1; \
	exit $$status

soak: setup ## Long-running: programs at three times the memory, one killed each 10 s; SOAK_MINUTES=30
	@$(BIN)/python tests/soak/oversubscribed.py --minutes $(SOAK_MINUTES)

lint: setup ## ruff, mypy, import-linter, clang-format, clang-tidy
	@status=0; \
	$(BIN)/ruff check . || status=1; \
	$(BIN)/ruff format --check . || status=1; \
	$(BIN)/mypy || status=1; \
	$(BIN)/lint-imports || status=1; \
	$(BIN)/clang-format --dry-run -Werror $(C_FILES) || status=1; \
	for part in $(C_PARTS); do \
	    printf '%s\n' $$part/src/*.c | xargs -P $$(nproc) -n 4 $(BIN)/clang-tidy --quiet -p build/$$part 2>build/$$part-tidy.log || status=1; \
	done; \
	exit $$status

format: setup ## Put Python and C into the tree's format
	@$(BIN)/ruff check --fix-only .
	@$(BIN)/ruff format .
	@$(BIN)/clang-format -i $(C_FILES)

chart-readme: setup ## Write the chart's README.md from the comments of its values
	@$(BIN)/python helm/generate_readme.py

bench: setup ## The scenarios on the emulated GPU, each ending in a table; SCENARIOS="pair-small" chooses
	@$(BIN)/nvshare bench $(SCENARIOS) --emulate

wheels: setup ## Build the wheel of every distribution into dist/, libnvshare for glibc 2.17 and later
	@echo "wheels: installing the release compiler"
	@$(PIP) install -c constraints.txt --group release
	@CC=$(CURDIR)/.ci/release-cc NVSHARE_GLIBC=2.17 $(WHEEL) ./libnvshare
	@CC=$(CURDIR)/.ci/release-cc NVSHARE_GLIBC=2.28 $(WHEEL) $(addprefix ./,$(filter-out libnvshare,$(DISTRIBUTIONS)))
	@ls $(DIST)/*.whl

images: setup ## Build the container images; BASE=debian where none can be pulled
	@BASE=$(BASE) TAG=$(TAG) WHEELS=$(WHEELS) images/build $(IMAGES)

clean: ## Remove what was built, .venv included
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
	rm -f proto/src/nvshare/*/*_pb2.py proto/src/nvshare/*/*_pb2.pyi proto/src/nvshare/v1/_build.py
