# `make demo` and `make test` need nothing before them but python3, 3.10 or newer.

PYTHON ?= python3
# What azureml-sdk supports. uv finds such a Python, or fetches one; a path is right too.
export UV_PYTHON ?= >=3.10,<3.12
# As pip does: companies have certificate authorities of their own.
export UV_SYSTEM_CERTS := 1
TOOLS := build/tools/bin
BIN := .venv/bin
PROJECT := build/demo/penguins
PINS := {{cookiecutter.project_slug}}/environment
# An environment of that Python; its folder is to follow.
VENV = $(TOOLS)/uv venv --quiet --allow-existing $(1) || { echo 'azureml-sdk needs Python \
  3.10 or 3.11, and uv could neither find nor fetch one: install it, or tell where it is, as \
  in make $@ UV_PYTHON=/path/to/python3.11' >&2; exit 1; }
INSTALL := $(TOOLS)/uv pip install --quiet --compile-bytecode --python
COMPILE := $(TOOLS)/uv pip compile --quiet --universal --python-version 3.10 \
  --fork-strategy fewest --no-strip-extras --no-emit-index-url --no-annotate --no-header

.PHONY: demo test lock clean

demo: build/tools/made  ## generate a project, and run both of its pipelines
	@$(call VENV,build/demo/.venv)
	rm -rf $(PROJECT)
	$(TOOLS)/cookiecutter --no-input --output-dir build/demo .
	$(INSTALL) build/demo/.venv --editable $(PROJECT)
	cd $(PROJECT) && ../.venv/bin/python -m penguins run training
	cd $(PROJECT) && ../.venv/bin/python -m penguins run scoring
	@echo
	@echo "The predictions: $$(ls -d $(PROJECT)/runs/*/score/outputs/predictions)"
	@echo "The report:      $$(ls $(PROJECT)/runs/*/evaluate/outputs/evaluation/report.html)"

test: .venv/tests  ## run all tests
	$(BIN)/black --quiet --check hooks tests benchmarks
	$(BIN)/ruff check --quiet hooks tests benchmarks
	$(BIN)/mypy
	$(BIN)/pytest --numprocesses 2 --dist loadfile

build/tools/made: requirements.txt
	@"$(PYTHON)" -c 'import sys; sys.version_info >= (3, 10) or sys.exit( \
	  "Python 3.10 or newer is needed, and $(PYTHON) is older: make PYTHON=python3.13 ...")'
	"$(PYTHON)" -m venv --clear build/tools
	$(TOOLS)/pip install --quiet --disable-pip-version-check --requirement requirements.txt
	touch $@

.venv/tests: build/tools/made tests/requirements.txt
	@$(call VENV,.venv)
	$(INSTALL) .venv --requirement tests/requirements.txt
	touch $@

lock: build/tools/made  ## pin the newest versions that go together, the project's first
	$(COMPILE) --upgrade $(PINS)/project.in --output-file $(PINS)/project.txt
	$(COMPILE) --upgrade $(PINS)/steps.in --constraint $(PINS)/project.txt --output-file $(PINS)/steps.txt
	$(COMPILE) --upgrade tests/requirements.in --constraint $(PINS)/project.txt --output-file tests/requirements.txt
	$(COMPILE) --upgrade requirements.in --constraint tests/requirements.txt --output-file requirements.txt

clean:  ## remove all that was made here
	rm -rf .venv build
