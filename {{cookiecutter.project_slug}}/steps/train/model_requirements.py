"""Which packages a model needs, found from the objects that it consists of."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from types import ModuleType
from typing import Any

import cloudpickle

# What loads a model, and the tables that it predicts.
ALWAYS_NEEDED = {"cloudpickle", "mlflow", "pandas", "polars"}
# The packages whose names are not those of their modules.
PACKAGE_NAMES = {"sklearn": "scikit-learn"}


class _Nowhere:
    """A file that keeps nothing of what is written to it."""

    def write(self, data: Any) -> int:
        """Return the number of bytes, as a file does."""
        return len(data)


class _ModuleRecorder(cloudpickle.Pickler):  # type: ignore[misc]  # It has no types.
    """A pickler that notes the modules of all objects that it comes across."""

    def __init__(self) -> None:
        super().__init__(_Nowhere())
        self.modules: set[str] = set()

    def reducer_override(self, obj: Any) -> Any:
        """Note the module of an object or of its class, then pickle it as always."""
        name = getattr(obj, "__module__", None) or type(obj).__module__
        if isinstance(obj, ModuleType):
            name = obj.__name__
        self.modules.add(str(name).partition(".")[0])
        return super().reducer_override(obj)


def list_requirements(model: Any, own_modules: Iterable[str]) -> list[str]:
    """Return the packages that a model needs, with their versions, as pip reads them.

    `own_modules` are modules whose code is saved with the model.
    """
    recorder = _ModuleRecorder()
    recorder.dump(model)
    modules = recorder.modules - sys.stdlib_module_names - set(own_modules)
    packages = set(ALWAYS_NEEDED)
    for module in modules:
        packages |= _find_packages(module)
    return [f"{package}=={version(package)}" for package in sorted(packages)]


def _find_packages(module: str) -> set[str]:
    """Return the packages that a module belongs to; none if it is in no package."""
    name = PACKAGE_NAMES.get(module, module)
    try:
        version(name)
    except PackageNotFoundError:
        # This reads the files of all packages, which takes a moment.
        return set(packages_distributions().get(module, []))
    return {name}
