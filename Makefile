# `make demo` and `make test` need nothing before them but python3 (3.10 or 3.11).

PYTHON ?= python3
BIN := .venv/bin
# As pip does: companies have certificate authorities of their own.
export UV_SYSTEM_CERTS := 1
PROJECT := build/demo/penguins
PINS := {{cookiecutter.project_slug}}/environment
COMPILE := $(BIN)/uv pip compile --quiet --universal --python-version 3.10 \
  --fork-strategy fewest --no-strip-extras --no-emit-index-url --no-annotate --no-header

.PHONY: demo test lock clean

demo: .venv/tools  ## generate a project, and run both of its pipelines
	rm -rf $(PROJECT)
	$(BIN)/cookiecutter --no-input --output-dir build/demo .
	$(BIN)/uv venv --quiet --allow-existing --python $(BIN)/python build/demo/.venv
	$(BIN)/uv pip install --quiet --compile-bytecode --python build/demo/.venv/bin/python --editable $(PROJECT)
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

.venv/tools: requirements.txt
	@$(PYTHON) -c 'import sys; (3, 10) <= sys.version_info < (3, 12) or sys.exit( \
	  "azureml-sdk needs Python 3.10 or 3.11, and $(PYTHON) is another: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint requirements.txt uv
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python --requirement requirements.txt
	touch $@

.venv/tests: .venv/tools tests/requirements.txt
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python --requirement tests/requirements.txt
	touch $@

lock:  ## pin the newest versions that go together, the project's first
	$(COMPILE) --upgrade $(PINS)/project.in --output-file $(PINS)/project.txt
	$(COMPILE) --upgrade $(PINS)/steps.in --constraint $(PINS)/project.txt --output-file $(PINS)/steps.txt
	$(COMPILE) --upgrade tests/requirements.in --constraint $(PINS)/project.txt --output-file tests/requirements.txt
	$(COMPILE) --upgrade requirements.in --constraint tests/requirements.txt --output-file requirements.txt

clean:  ## remove all that was made here
	rm -rf .venv build
