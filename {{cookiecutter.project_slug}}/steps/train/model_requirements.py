"""List the packages that a model needs, from the objects that it consists of."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from types import ModuleType
from typing import Any

import cloudpickle

# The packages that load a model, and those for the tables that it predicts.
ALWAYS_NEEDED = {"cloudpickle", "mlflow", "pandas", "polars"}
# The package of a module, if it has another name than the module.
PACKAGE_OF_MODULE = {"sklearn": "scikit-learn"}


class _NullFile:
    """A file that discards everything that is written to it."""

    def write(self, data: Any) -> int:
        """Return the number of bytes, as the method of a real file does."""
        return len(data)


class _ModuleRecorder(cloudpickle.Pickler):  # type: ignore[misc]  # It has no types.
    """A pickler that records which modules the pickled objects come from.

    `modules` has the first part of each module's name: "sklearn" for `sklearn.pipeline`.
    """

    def __init__(self) -> None:
        super().__init__(_NullFile())
        self.modules: set[str] = set()

    def reducer_override(self, obj: Any) -> Any:
        """Record the module of an object or of its class, and pickle it as usual.

        The pickler calls this method for each object.
        """
        name = getattr(obj, "__module__", None) or type(obj).__module__
        if isinstance(obj, ModuleType):
            name = obj.__name__
        self.modules.add(str(name).partition(".")[0])
        return super().reducer_override(obj)


def list_requirements(model: Any, saved_modules: Iterable[str]) -> list[str]:
    """Return the packages that a model needs, as lines of a requirements file.

    For example, a model that contains an object of `sklearn.pipeline` needs the line
    `scikit-learn==1.7.2`. `saved_modules` names the modules of this project that are saved
    with the model. They need no package.
    """
    # Pickling visits all objects of the model. The result of pickling is discarded.
    recorder = _ModuleRecorder()
    recorder.dump(model)
    modules = recorder.modules - sys.stdlib_module_names - set(saved_modules)
    packages = set(ALWAYS_NEEDED)
    for module in modules:
        packages |= _find_packages(module)
    return [f"{package}=={version(package)}" for package in sorted(packages)]


def _find_packages(module: str) -> set[str]:
    """Return the names of the installed packages that a module belongs to.

    Usually there is one. There is none if the module is a file outside any package.
    """
    package = PACKAGE_OF_MODULE.get(module, module)
    try:
        version(package)
    except PackageNotFoundError:
        # No package has the name of the module. The metadata of all installed packages
        # tells which package the module belongs to. Reading it all is slow, so this is the
        # last resort.
        return set(packages_distributions().get(module, []))
    return {package}
