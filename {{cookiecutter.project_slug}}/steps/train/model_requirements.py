"""List the packages that a model needs, from the objects that it consists of."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from types import ModuleType
from typing import Any

import cloudpickle

# The packages that load a model, and the tables that it predicts.
ALWAYS_NEEDED = {"cloudpickle", "mlflow", "pandas", "polars"}
# The packages that have another name than their module.
PACKAGE_NAMES = {"sklearn": "scikit-learn"}


class _NullFile:
    """A file that discards everything that is written to it."""

    def write(self, data: Any) -> int:
        """Return the number of bytes, as a file does."""
        return len(data)


class _ModuleRecorder(cloudpickle.Pickler):  # type: ignore[misc]  # It has no types.
    """A pickler that records the module of each object that it pickles."""

    def __init__(self) -> None:
        super().__init__(_NullFile())
        self.modules: set[str] = set()

    def reducer_override(self, obj: Any) -> Any:
        """Record the module of an object or of its class, and pickle it as usual."""
        name = getattr(obj, "__module__", None) or type(obj).__module__
        if isinstance(obj, ModuleType):
            name = obj.__name__
        self.modules.add(str(name).partition(".")[0])
        return super().reducer_override(obj)


def list_requirements(model: Any, own_modules: Iterable[str]) -> list[str]:
    """Return the packages that a model needs, as lines of a requirements file.

    `own_modules` are modules of this project. Their code is saved with the model, so they
    need no package.
    """
    recorder = _ModuleRecorder()
    recorder.dump(model)
    modules = recorder.modules - sys.stdlib_module_names - set(own_modules)
    packages = set(ALWAYS_NEEDED)
    for module in modules:
        packages |= _find_packages(module)
    return [f"{package}=={version(package)}" for package in sorted(packages)]


def _find_packages(module: str) -> set[str]:
    """Return the packages that a module belongs to, which may be none."""
    name = PACKAGE_NAMES.get(module, module)
    try:
        version(name)
    except PackageNotFoundError:
        # This is slow, because it reads the metadata of all installed packages.
        return set(packages_distributions().get(module, []))
    return {name}
