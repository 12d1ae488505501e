"""The class Rule: what a value must be, and how a wrong value is corrected.

This module imports only the standard library, because the template's hook also checks
answers by rules, and runs in the environment of cookiecutter.
"""

from __future__ import annotations

import difflib
import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, get_args

# Text in place of a value, such as <name> or an id of zeros.
_PLACEHOLDER = r"\s*(<.*>|0{8}(-0{4}){3}-0{12})\s*"


@dataclass(frozen=True)
class Problem:
    """A value that is wrong, empty or unusual. `str()` of it is one sentence."""

    file: str
    #: The setting in the file, such as `compute.name`. Empty if the whole file is meant.
    key: str
    #: What the problem is. It continues a sentence that begins with the file and the key.
    text: str
    #: What to do about it, in the imperative.
    fix: str
    #: "wrong": the value cannot be used. "empty": Azure needs it, so it must be filled in.
    #: "unusual": it is allowed, but is probably a mistake.
    kind: str = "wrong"

    def __str__(self) -> str:
        place = ": ".join(part for part in (self.file, self.key) if part)
        return f"{place} {self.text}: {self.fix}."


def _keep(value: Any) -> Any:
    """Return a value unchanged, for rules that know no correction."""
    return value


def _accept_without_advice(_: str) -> str:
    """Return no advice, for rules under which no value is unusual."""
    return ""


@dataclass(frozen=True)
class Rule:
    """A rule for a value: a test, its description, and how to correct a wrong value."""

    #: What the test demands. It continues the sentence "The value must be ...".
    requirement: str
    #: A regular expression that the whole value must match, or a function that returns
    #: whether a value passes.
    test: str | Callable[[Any], object]
    #: Returns the value that the user probably meant. Messages offer it only if it passes
    #: the test.
    correct: Callable[[Any], Any] = _keep
    #: Which value is expected. It continues the sentence "Write ..." in messages about
    #: empty values and placeholders.
    expected_value: str = ""
    #: Whether the value may be empty until Azure is used.
    may_be_empty_for_now: bool = False
    #: Returns advice if a value that passes the test is unusual, or "" if it is not.
    advise_if_unusual: Callable[[str], str] = _accept_without_advice

    def fits(self, value: Any) -> bool:
        """Return whether a value passes the test."""
        try:
            if isinstance(self.test, str):
                return re.fullmatch(self.test, value) is not None
            return bool(self.test(value))
        except ValueError:
            return False

    def check(self, key: str, value: Any, value_type: Any = str) -> Problem | None:
        """Return the problem with the value of a setting, or None if it follows the rule.

        `key` is the name of the setting, for the message. `value_type` is the type that the
        value must have, or a union of types such as `int | str`. To find a correction, a
        wrong value is converted to the first of these types.
        """
        if self.may_be_empty_for_now and value == "":
            return Problem("", key, "is empty", self._give_advice(), kind="empty")

        accepted_types = get_args(value_type) or (value_type,)
        if type(value) in accepted_types and self.fits(value):
            advice = self.advise_if_unusual(value)
            if not advice:
                return None
            return Problem("", key, f"is {to_text(value)}", advice, kind="unusual")

        if re.fullmatch(_PLACEHOLDER, str(value)):
            text = f"is {to_text(value)}, a placeholder"
            return Problem("", key, text, self._give_advice())

        text = f"is {to_text(value)}, but must be {self.requirement}"
        fix = self._describe_correction(value, accepted_types[0])
        return Problem("", key, text, fix or self._give_advice())

    def _give_advice(self) -> str:
        """Return what to do about a value for which no correction is known."""
        if self.expected_value:
            return f"write {self.expected_value}"
        return "correct it"

    def _describe_correction(self, value: Any, value_type: type) -> str:
        """Return how to correct a wrong value, or "" if no correction is known.

        `value_type` is the type that the value should have.
        """
        if not isinstance(value, (str, int, float)):
            return ""
        try:
            # The value may be of another type, such as the string "2" instead of 2.
            converted = value_type(str(value).strip())
            corrected = self.correct(converted)
        except ValueError:
            return ""
        if not self.fits(corrected):
            return ""

        yaml_has_changed_text = value_type is str and isinstance(value, (bool, float))
        if yaml_has_changed_text:
            # YAML reads `yes` as true, and `1.10` as 1.1. The user's spelling is lost, so
            # the message cannot repeat it in quotes.
            return "put it in quotes"
        if isinstance(value, str):
            return f"write {corrected}"
        # If the correction is a string, the message shows its quotes: YAML reads 7 as a
        # number, and '7' as a string.
        return f"write {corrected!r}"


def to_text(value: Any) -> str:
    """Return a value as messages show it: as JSON, or as Python code if JSON cannot."""
    try:
        return json.dumps(value, default=str, ensure_ascii=False)
    except (TypeError, ValueError):
        return repr(value)


def whole(low: int, high: float = math.inf) -> Rule:
    """Return the rule that a value is a whole number from `low` to `high`."""
    limits = f"{low} or more" if high == math.inf else f"{low} to {high}"
    return Rule(
        requirement=f"a whole number, {limits}",
        test=lambda number: low <= number <= high,
    )


def one_of(*choices: str) -> Rule:
    """Return the rule that a value is one of some choices."""

    def find_nearest(value: str) -> str:
        """Return the choice that was probably meant, or "" if none is similar."""
        for choice in choices:
            if choice.lower() == value.lower():
                return choice
        nearest = difflib.get_close_matches(value, choices, n=1)
        return nearest[0] if nearest else ""

    return Rule(
        requirement=f"one of {', '.join(choices)}",
        test=choices.__contains__,
        correct=find_nearest,
    )
