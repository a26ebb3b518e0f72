# All that a machine must have is make and a Python of 3.10 or newer; what else is needed comes into .tools and .venv.
.DEFAULT_GOAL := test
.PHONY: demo test matrix lint types bench docs check fmt

# Development happens on 3.11 where it is present; `make test UV_PYTHON=3.13` takes another one.
PYTHON ?= $(shell for name in python3.11 python3.12 python3.13 python3.10 python3.14 python3; do \
	$$name -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null && echo $$name && break; done)
UV_PYTHON ?= $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)
export UV_PYTHON
# A Python is never downloaded: the ones on the machine are what is tested.
export UV_PYTHON_DOWNLOADS := never
# What is compiled is kept: the tests start two thousand programs.
unexport PYTHONDONTWRITEBYTECODE
# A cache and a project folder on different file systems is no reason for a warning.
export UV_LINK_MODE ?= copy

UV := $(or $(shell command -v uv 2>/dev/null),.tools/uv/bin/uv)
BIN := .venv/bin
PIP_FLAGS := --quiet --disable-pip-version-check

demo: $(UV)
	@$(UV) sync --quiet --locked --inexact --no-default-groups --group traced
	@$(BIN)/python -m agentlightning.testing.demo

test: lint types
	@$(BIN)/pytest -n auto --cov --cov-report=term

# Each environment gets one result line; `make matrix ENV="openai-1 python-3.10"` runs only these.
matrix: $(UV)
	@$(PYTHON) scripts/matrix.py --uv $(UV) $(ENV)

lint: .venv
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --quiet --check . || { echo 'not formatted; run: make fmt'; exit 1; }
	@$(BIN)/lint-imports --no-logo

types: .venv
	@$(BIN)/pyright

bench: .venv
	@for script in benchmarks/*.py; do [ ! -e $$script ] || $(BIN)/python $$script || exit 1; done

docs: .venv
	@$(BIN)/pytest -q tests/unit/project/test_docs.py

check: lint types docs

fmt: .venv
	@$(BIN)/ruff check --quiet --fix-only .
	@$(BIN)/ruff format .

# Always run: uv itself sees in a moment when there is nothing to do.
.PHONY: .venv
.venv: $(UV)
	@$(UV) sync --quiet --locked

.tools/uv/bin/uv:
	@test -n '$(PYTHON)' || { echo 'no Python of 3.10 or newer was found; install one, or name it: make PYTHON=/path/to/python3'; exit 1; }
	@echo 'uv is not installed; putting one into .tools/uv'
	@$(PYTHON) -m venv --clear .tools/uv 2>/dev/null && .tools/uv/bin/pip install $(PIP_FLAGS) 'uv>=0.9,<1' \
		|| $(PYTHON) -m pip install $(PIP_FLAGS) --target .tools/uv 'uv>=0.9,<1' \
		|| { echo '$(PYTHON) has neither venv nor pip; install one of them (Debian: python3-venv), or uv'; exit 1; }
