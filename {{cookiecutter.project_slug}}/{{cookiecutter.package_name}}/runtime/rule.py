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

# Text that stands for a value to be filled in: <name>, or an id of zeros.
_PLACEHOLDER = r"\s*(<.*>|0{8}(-0{4}){3}-0{12})\s*"


@dataclass(frozen=True)
class Problem:
    """A problem with a value: it is wrong, empty or unusual. `str` makes it a sentence."""

    #: The file that holds the value. Empty in problems from `Rule.check`, which does not
    #: know the file, and in problems of an option on the command line.
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


def _find_nothing_unusual(_: str) -> str:
    """Return "", for rules under which no value is unusual."""
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
    advise_if_unusual: Callable[[str], str] = _find_nothing_unusual

    def fits(self, value: Any) -> bool:
        """Return whether a value passes the test."""
        try:
            if isinstance(self.test, str):
                return re.fullmatch(self.test, value) is not None
            return bool(self.test(value))
        except ValueError:
            return False

    def check(self, key: str, value: Any, value_type: Any = str) -> Problem | None:
        """Return the problem with the value of a setting, or None if there is no problem.

        The problem has one of three kinds:

        - "wrong": the value breaks the rule.
        - "empty": the value is empty, which is allowed until the project uses Azure.
        - "unusual": the value is allowed, but is probably a mistake.

        `key` is the name of the setting, for the message. The caller adds the file to the
        problem. `value_type` is the type that the value must have, or a union of types such
        as `int | str`.
        """
        if self.may_be_empty_for_now and value == "":
            fix = self._tell_what_to_write()
            return _make_problem(key, "is empty", fix, kind="empty")

        accepted_types = get_args(value_type) or (value_type,)
        # isinstance() would accept True as an int.
        follows_rule = type(value) in accepted_types and self.fits(value)
        if not follows_rule:
            return self._describe_wrong_value(key, value, accepted_types)

        advice = self.advise_if_unusual(value)
        if advice:
            return _make_problem(key, f"is {to_text(value)}", advice, kind="unusual")
        return None

    def _describe_wrong_value(
        self, key: str, value: Any, accepted_types: tuple[type, ...]
    ) -> Problem:
        """Return the problem that a value breaks this rule, or is only a placeholder."""
        is_placeholder = re.fullmatch(_PLACEHOLDER, str(value)) is not None
        if is_placeholder:
            text = f"is {to_text(value)}, a placeholder"
            return _make_problem(key, text, self._tell_what_to_write())

        text = f"is {to_text(value)}, but must be {self.requirement}"
        # If several types are accepted, the value is corrected to the first one.
        fix = self._describe_correction(value, accepted_types[0])
        return _make_problem(key, text, fix or self._tell_what_to_write())

    def _tell_what_to_write(self) -> str:
        """Return what to do about a value for which no correction is known.

        An example is "write a VM size, such as Standard_D4ds_v4".
        """
        if self.expected_value:
            return f"write {self.expected_value}"
        return "correct it"

    def _describe_correction(self, value: Any, value_type: type) -> str:
        """Return how to correct a wrong value, such as "write westeurope".

        `value_type` is the type that the value should have. Returns "" if no correction is
        known.
        """
        corrected = self._correct_value(value, value_type)
        if corrected is None:
            return ""

        # YAML reads `yes` as true, and `1.10` as 1.1. The text that the user wrote is lost,
        # so the message cannot repeat this text in quotes.
        yaml_has_changed_text = value_type is str and isinstance(value, (bool, float))
        if yaml_has_changed_text and self.fits(str(value).lower()):
            return "put it in quotes"
        # The wrong value was a string. A corrected string needs quotes only if the wrong
        # string has them in the file already, and a corrected number needs none.
        if isinstance(value, str):
            return f"write {corrected}"
        # The wrong value was not a string, or would also be wrong in quotes. With !r, a corrected string is shown in quotes,
        # because YAML would read 7 without quotes as a number.
        return f"write {corrected!r}"

    def _correct_value(self, value: Any, value_type: type) -> Any | None:
        """Return the value of the type `value_type` that a user probably meant.

        Returns None if no correction is known, or if it would break the rule itself.
        """
        # Lists and dicts cannot be corrected.
        if not isinstance(value, (str, int, float)):
            return None
        try:
            # The value may be of another type, such as the string "2" instead of 2.
            converted = value_type(str(value).strip())
            corrected = self.correct(converted)
        except ValueError:
            return None
        return corrected if self.fits(corrected) else None


def _make_problem(key: str, text: str, fix: str, kind: str = "wrong") -> Problem:
    """Return a problem with a value. The caller adds the file that holds the value."""
    return Problem(file="", key=key, text=text, fix=fix, kind=kind)


def to_text(value: Any) -> str:
    """Return a value as messages show it: as JSON, or as Python code if this fails.

    The string `a` is shown as `"a"`, True as `true`, and None as `null`.
    """
    try:
        return json.dumps(value, default=str, ensure_ascii=False)
    except (TypeError, ValueError):
        return repr(value)


def whole(low: int, high: float = math.inf) -> Rule:
    """Return a rule that allows only whole numbers from `low` to `high`."""
    limits = f"{low} or more" if high == math.inf else f"{low} to {high}"
    return Rule(
        requirement=f"a whole number, {limits}",
        test=lambda number: low <= number <= high,
    )


def one_of(*choices: str) -> Rule:
    """Return a rule that allows only the given choices."""

    def find_nearest(value: str) -> str:
        """Return the choice that is most similar to a wrong value, or "" if none is similar.

        A choice that differs only in upper and lower case comes first.
        """
        for choice in choices:
            if choice.lower() == value.lower():
                return choice
        nearest = difflib.get_close_matches(value, choices, n=1)
        return nearest[0] if nearest else ""

    return Rule(
        requirement=f"one of {', '.join(choices)}",
        test=lambda value: value in choices,
        correct=find_nearest,
    )
