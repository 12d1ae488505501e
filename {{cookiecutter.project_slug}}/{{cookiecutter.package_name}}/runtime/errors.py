"""The errors that end a command with a message instead of a traceback."""

from __future__ import annotations

from .rule import Problem


class CommandError(Exception):
    """A command cannot be carried out. The message says why, and how to fix it."""


class LocalRunError(CommandError):
    """A run on this machine cannot be started."""


class SettingsError(CommandError):
    """Settings are wrong or missing.

    `problems` lists what is wrong. The message has one line for each problem.
    """

    def __init__(self, problems: list[Problem]) -> None:
        self.problems = problems
        super().__init__("\n".join(str(problem) for problem in problems))
