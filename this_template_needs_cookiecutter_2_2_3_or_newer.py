"""A Jinja extension with what cookiecutter does not offer to templates and hooks.

cookiecutter.json names this module, so cookiecutter imports it before its first question.
This is also the place to refuse a cookiecutter that is too old. Version 1.7.3 cannot import
the module: it prints only "No module named" and the name of this file, which therefore says
what is needed.

`cruft update` generates from two commits of the template in one process, but imports this
module once. If you change what the extension offers, rename its class.
"""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from types import TracebackType
from typing import Any

import cookiecutter
from cookiecutter.exceptions import FailedHookException
from jinja2 import Environment
from jinja2.ext import Extension

PACKAGE = "{{cookiecutter.project_slug}}/{{cookiecutter.package_name}}"
# No file system has longer names of folders.
MAX_NAME_BYTES = 255


class TemplateExtension(Extension):
    """Offers two functions and a filter to the hooks, the templates and cookiecutter.json."""

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        environment.globals["describe_generation"] = describe_generation
        environment.globals["read_unrendered"] = self.read_unrendered
        environment.filters["refuse_impossible_folder"] = refuse_impossible_folder

    def read_unrendered(self, name: str) -> str:
        """Return a file of the folder `templates` as it is, with braces like `${{inputs.raw}}`."""
        loader = self.environment.loader
        assert loader is not None  # cookiecutter always sets one.
        text, _, _ = loader.get_source(self.environment, name)
        return text.removesuffix("\n")


def refuse_old_cookiecutter() -> None:
    """Exit if cookiecutter is older than 2.2.3.

    Older versions do not find the folder `templates`, or do not show the texts of choices.
    Version 2.2.2 reports its version as 2.1.2.dev0.
    """
    version = cookiecutter.__version__
    numbers = [int(number) for number in version.split(".")[:3] if number.isdecimal()]
    if numbers < [2, 2, 3]:
        sys.exit(
            f"This template needs cookiecutter 2.2.3 or newer, and this is {version}: "
            "install a newer one, for example with `pipx install cookiecutter`."
        )


def find_program() -> str:
    """Return the name of the program that generates: "cookiecutter" or "cruft".

    Returns "" if another program calls their functions.
    """
    command = Path(sys.argv[0])
    # `python -m cookiecutter` runs the file cookiecutter/__main__.py.
    program = command.parent.name if command.name == "__main__.py" else command.stem
    return program if program in ("cookiecutter", "cruft") else ""


def describe_generation() -> dict[str, Any]:
    """Return what the hooks need to know about this generation.

    `template` is the folder of the template, and `package` the folder of its package.
    `program` and `arguments` are those of the command that the user has called.
    """
    # cookiecutter renders the hooks while it is in the template's folder.
    template = Path.cwd()
    return {
        "template": str(template),
        "package": str(template / PACKAGE),
        "program": find_program(),
        "arguments": sys.argv[1:],
    }


def refuse_impossible_folder(slug: object) -> str:
    """Return the project's slug as text. Exit if it cannot be the name of a folder.

    cookiecutter creates the folder before the hook can check the answers. If the folder
    cannot be created, cookiecutter ends in a traceback. For the slug `a/b`, it also leaves
    the folder `a` behind.
    """
    name = str(slug)
    is_too_long = len(name.encode("utf-8", "replace")) > MAX_NAME_BYTES
    has_separator = any(character in name for character in "/\\\0")
    if is_too_long or has_separator:
        sys.path.insert(0, os.path.join(os.path.dirname(__file__), PACKAGE))
        from runtime.rules import SLUG

        problem = SLUG.check("project_slug", name)
        sys.exit(str(problem))
    return name


def omit_traceback(record: logging.LogRecord) -> bool:
    """Remove the traceback from a log record about a failed hook, and keep the record.

    The traceback shows only functions of cookiecutter.
    """
    record.exc_info = None
    return True


def print_exception(
    kind: type[BaseException], error: BaseException, traceback: TracebackType | None
) -> None:
    """Print an error. If a hook has failed, leave out the traceback, which is cruft's own."""
    if issubclass(kind, FailedHookException):
        print(error, file=sys.stderr)
    else:
        print_other_exception(kind, error, traceback)


refuse_old_cookiecutter()
logging.getLogger("cookiecutter.hooks").addFilter(omit_traceback)
print_other_exception = sys.excepthook
if find_program() == "cruft":
    sys.excepthook = print_exception
