"""Modules of the generated package, imported straight from the template.

They hold no Jinja, so their tests need no generated project.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

PROJECT = Path(__file__).parents[1] / "{{cookiecutter.project_slug}}"

_package = ModuleType("template")
_package.__path__ = [str(PROJECT / "{{cookiecutter.package_name}}")]
sys.modules[_package.__name__] = _package


def load(module: str) -> Any:
    """Import a module of the package, and write no bytecode into the template.

    Each generated project would get a copy of it.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "dont_write_bytecode", True)
        return importlib.import_module(f"template.{module}")


rules = load("runtime.rules")
errors = load("runtime.errors")
settings_models = load("runtime.settings_models")
project = load("runtime.project")
login = load("runtime.azure.login")
refusals = load("runtime.azure.refusals")
request_guard = load("runtime.azure.request_guard")
call_limits = load("runtime.azure.call_limits")
sdk_errors = load("runtime.azure.sdk_errors")
connection = load("runtime.azure.connection")
roles = load("runtime.azure.roles")
blob_container = load("runtime.azure.blob_container")
online_checks = load("runtime.azure.online_checks")
checks = load("runtime.azure.checks")
settings = load("settings")
