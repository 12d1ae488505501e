# `make demo` and `make test` need nothing before them but python3, 3.10 or newer.

PYTHON ?= python3
# Two packages of azureml-sdk, azureml-dataprep-native and azureml-dataprep-rslex, have no
# wheels for Macs with Apple chips. There uv fetches a Python for x86-64, which macOS runs
# through Rosetta.
MACHINE := $(shell uname -s)-$(shell uname -m)
SDK_PYTHON := $(if $(filter Darwin-arm64,$(MACHINE)),cpython-3.11-macos-x86_64,3.11)
# The Python that azureml-sdk runs with: uv finds it or fetches it; a path is right too.
export UV_PYTHON ?= $(SDK_PYTHON)
# As pip does: companies have certificate authorities of their own.
export UV_SYSTEM_CERTS := 1
TOOLS := build/tools/bin
BIN := .venv/bin
PROJECT := build/demo/penguins
SDK ?= azureml-sdk
PINS := {{cookiecutter.project_slug}}/environment
# The other SDK, which does not go into one environment with the first.
OTHER_SDK := build/azure-ai-ml
OTHER_PYTHON ?= >=3.11,<3.15
LOCK := build/lock
BENCHMARKS := build/benchmarks
# Create an environment, whose folder is the argument.
VENV = $(TOOLS)/uv venv --quiet --allow-existing $(1) || { echo "uv could neither find nor fetch \
  Python $$UV_PYTHON. Install it, or say where it is: make $@ UV_PYTHON=/path/to/python3.11" >&2; exit 1; }
INSTALL := $(TOOLS)/uv pip install --quiet --compile-bytecode --python
COMPILE := $(TOOLS)/uv pip compile --quiet --universal \
  --fork-strategy fewest --no-strip-extras --no-emit-index-url --no-annotate --no-header
# Pin a generated project, as its command `lock` does. That command itself would need the
# packages that are to be pinned; its module needs none. The arguments: package, folder.
LOCK_PROJECT = PATH="$(CURDIR)/$(TOOLS):$$PATH" PYTHONPATH=$(2) $(TOOLS)/python -c \
  'import pathlib, $(1).runtime.lock as lock; lock.lock_packages(pathlib.Path("$(2)/environment"))'

.PHONY: demo pictures test bench lock clean

demo: build/tools/made  ## generate a project, and run both of its pipelines
	@$(if $(filter azure-ai-ml,$(SDK)),UV_PYTHON='$(OTHER_PYTHON)';) $(call VENV,build/demo/.venv)
	rm -rf $(PROJECT)
	$(TOOLS)/cookiecutter --no-input --output-dir build/demo . azureml_sdk=$(SDK)
	$(INSTALL) build/demo/.venv --editable $(PROJECT)
	cd $(PROJECT) && ../.venv/bin/python -m penguins run training
	cd $(PROJECT) && ../.venv/bin/python -m penguins run scoring
	@echo
	@echo "The predictions: $$(ls -d $(PROJECT)/runs/*/score/outputs/predictions)"
	@echo "The report:      $$(ls $(PROJECT)/runs/*/evaluate/outputs/evaluation/report.html)"

pictures: demo  ## make the pictures of README.md anew
	build/demo/.venv/bin/python docs/pictures/make.py $(PROJECT)

test: .venv/tests  ## run all tests
	$(BIN)/black --quiet --check *.py hooks tests benchmarks docs
	$(BIN)/ruff check --quiet *.py hooks tests benchmarks docs
	$(BIN)/mypy
	$(BIN)/pytest --numprocesses 3 --dist loadfile --no-loadscope-reorder

bench: .venv/tests  ## measure everything side by side; ARGS='--only prep --rounds 5'
	@$(call VENV,$(BENCHMARKS))
	$(INSTALL) $(BENCHMARKS) --requirement benchmarks/requirements.txt
	$(BIN)/python -m benchmarks --json $(BENCHMARKS)/figures.json $(ARGS)

build/tools/made: requirements.txt
	@"$(PYTHON)" -c 'import sys; sys.version_info >= (3, 10) or sys.exit( \
	  "Python 3.10 or newer is needed, and $(PYTHON) is older: make PYTHON=python3.13 ...")'
	"$(PYTHON)" -m venv --clear build/tools
	$(TOOLS)/pip install --quiet --disable-pip-version-check --requirement requirements.txt
	touch $@

.venv/tests: build/tools/made tests/requirements.txt tests/azure-ai-ml.txt
	@$(call VENV,.venv)
	$(INSTALL) .venv --requirement tests/requirements.txt
	@UV_PYTHON='$(OTHER_PYTHON)'; $(call VENV,$(OTHER_SDK))
	$(INSTALL) $(OTHER_SDK) --requirement tests/azure-ai-ml.txt
	touch $@

lock: build/tools/made  ## pin the newest versions that go together, azureml-sdk's first
	rm -rf $(LOCK)
	for sdk in azureml-sdk azure-ai-ml; do $(TOOLS)/cookiecutter --no-input \
	  --output-dir $(LOCK) . project_name=$$sdk azureml_sdk=$$sdk; done
	rm $(LOCK)/*/environment/*.txt
	$(call LOCK_PROJECT,azureml_sdk,$(LOCK)/azureml-sdk)
	# The steps of both SDKs have the same pins, which the project of azure-ai-ml starts from.
	cp $(LOCK)/azureml-sdk/environment/steps.txt $(LOCK)/azure-ai-ml/environment/steps.txt
	$(call LOCK_PROJECT,azure_ai_ml,$(LOCK)/azure-ai-ml)
	cmp $(LOCK)/*/environment/steps.txt
	cp $(LOCK)/azureml-sdk/environment/steps.txt $(PINS)/steps.txt
	for sdk in azureml-sdk azure-ai-ml; do \
	  cp $(LOCK)/$$sdk/environment/project.txt templates/$$sdk/environment/project.txt; done
	$(COMPILE) --python-version 3.11 --upgrade tests/requirements.in \
	  --constraint $(LOCK)/azureml-sdk/environment/project.txt --output-file tests/requirements.txt
	grep '^black\|^mypy\|^pytest\|^ruff' tests/requirements.txt > $(LOCK)/checks.txt
	$(COMPILE) --python-version 3.11 --upgrade tests/azure-ai-ml.in --constraint $(LOCK)/checks.txt \
	  --constraint $(LOCK)/azure-ai-ml/environment/project.txt --output-file tests/azure-ai-ml.txt
	# The tools run with any python3 from 3.10 on.
	$(COMPILE) --python-version 3.10 --upgrade requirements.in \
	  --constraint tests/requirements.txt --output-file requirements.txt

clean:  ## remove all that was made here
	rm -rf .venv build
