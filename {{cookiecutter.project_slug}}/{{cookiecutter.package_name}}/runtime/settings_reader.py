"""Read settings files into pydantic models, and name every problem with its file and key.

A workspace may have a second file, which replaces some settings of `settings.yml`.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError, create_model
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from .rule import Problem, to_text
from .settings_models import REPORT_EVERYTHING, Section

M = TypeVar("M", bound=BaseModel)

# A YAML file may have at most this many aliases.
MAX_ALIASES = 20
RESTORE_FILE = "correct it, or restore it from version control"


@dataclass(frozen=True)
class Reading(Generic[M]):
    """The result of reading a settings file."""

    #: The settings. None if one of the values is wrong.
    model: M | None
    #: All problems, including those of values that are only empty or unusual.
    problems: list[Problem]


# Files


class UnreadableFile(Exception):
    """A file is missing, cannot be read, or is not valid YAML or JSON."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(str(problem))
        self.problem = problem


class WrongValue(Exception):
    """A value breaks its rule."""

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = problems


class DuplicateName(ValueError):
    """A name is written twice in a mapping.

    `line` is the line of the second one. It is None for JSON, whose parser does not report
    lines.
    """

    def __init__(self, name: str, line: int | None = None) -> None:
        super().__init__(name)
        self.name = name
        self.line = line


class _Loader(yaml.SafeLoader):
    """Loads YAML, but keeps times as text, and refuses a name that is written twice.

    PyYAML itself would use the last of two values without a message.
    """

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._alias_count = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> Any:
        """Return the next node. Raises ValueError if the text has too many aliases.

        With aliases for lists of further aliases, a short text can have more values than
        any memory can hold.
        """
        if self.check_event(yaml.AliasEvent):
            self._alias_count += 1
        if self._alias_count > MAX_ALIASES:
            raise ValueError(f"it has more than {MAX_ALIASES} aliases, such as *name")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> Any:
        """Return the dict of a mapping.

        Raises DuplicateName, and ConstructorError if a name is a mapping or a list.
        """
        names = set()
        for name, _ in node.value:
            if not isinstance(name, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(
                    problem="a name must be text; put text with braces into quotes",
                    problem_mark=name.start_mark,
                )
            if name.value in names:
                raise DuplicateName(name.value, line=name.start_mark.line + 1)
            names.add(name.value)
        return super().construct_mapping(node, deep)


# The resolvers recognize values by their first character and a pattern. Without the one
# for timestamps, a value such as 2027-01-31 stays text.
_Loader.yaml_implicit_resolvers = {
    first_character: [
        (tag, pattern) for tag, pattern in resolvers if not tag.endswith(":timestamp")
    ]
    for first_character, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def parse_yaml(text: str) -> Any:
    """Return the value of a YAML text. Raises YAMLError, DuplicateName or ValueError."""
    try:
        return yaml.load(text, _Loader)
    except (AttributeError, LookupError, TypeError):
        # PyYAML itself raises these for a value such as `!!bool maybe`.
        raise ValueError("a value does not fit the tag before it") from None


def parse_json(text: str) -> Any:
    """Return the value of a JSON text. Raises JSONDecodeError or DuplicateName."""
    return json.loads(text, object_pairs_hook=_build_dict)


def _build_dict(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """Return the dict of a JSON object. Raises DuplicateName."""
    values: dict[str, Any] = {}
    for name, value in pairs:
        if name in values:
            raise DuplicateName(name)
        values[name] = value
    return values


def load_file(root: Path, file: str, names: Iterable[str]) -> Any:
    """Return the contents of a YAML or JSON file of the project.

    `file` is its path from `root`. `names` are the settings that it should contain, which a
    message lists if the file is missing. Raises UnreadableFile if the file is missing or
    empty, or cannot be read or parsed.
    """
    try:
        text = (root / file).read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        fix = f"write it, with {', '.join(names)}"
        raise UnreadableFile(Problem(file, "", "is missing", fix)) from None
    except (OSError, ValueError) as error:
        # A text that is not UTF-8 raises a ValueError.
        raise UnreadableFile(_describe_parse_error(error, file)) from None

    if not text.strip():
        raise UnreadableFile(Problem(file, "", "is empty", RESTORE_FILE))
    try:
        return parse_json(text) if file.endswith(".json") else parse_yaml(text)
    except (ValueError, yaml.YAMLError, RecursionError) as error:
        raise UnreadableFile(_describe_parse_error(error, file)) from None


def _describe_parse_error(error: Exception, file: str) -> Problem:
    """Return the problem of a file that cannot be read or parsed."""
    if isinstance(error, DuplicateName):
        text = "is written twice"
        if error.line is not None:
            text = f"is written twice (again in line {error.line})"
        return Problem(file, error.name, text, "delete one of the two")

    if isinstance(error, json.JSONDecodeError):
        place = f"line {error.lineno}, column {error.colno}"
        text = f"is not JSON at {place} ({error.msg})"
    elif isinstance(error, yaml.MarkedYAMLError):
        mark: Any = error.problem_mark
        place = f"line {mark.line + 1}, column {mark.column + 1}"
        if "'\\t'" in str(error.problem):
            return Problem(file, "", f"has a tab at {place}", "write blanks instead")
        text = f"is not YAML at {place} ({error.problem})"
    else:
        text = f"cannot be read ({_join_lines(error)})"
    return Problem(file, "", text, RESTORE_FILE)


def _join_lines(error: Exception) -> str:
    """Return the message of an error on one line."""
    return " ".join(str(error).split())


# Models


def read_model(root: Path, model: type[M], file: str) -> Reading[M]:
    """Read a settings file as a model, and return it with all problems."""
    try:
        values = load_file(root, file, model.model_fields)
    except UnreadableFile as error:
        return Reading(None, [error.problem])

    return _validate(model, values, find_problems(model, values, file))


def read_model_with_overrides(
    root: Path,
    model: type[M],
    file: str,
    overrides_file: str,
    may_differ: Iterable[str],
) -> Reading[M]:
    """Read a settings file, and a second file that replaces some of its settings.

    The second file may contain only the sections in `may_differ`. A problem is reported for
    the first file if this file also has it without the second one, and otherwise for the
    second file.
    """
    sections = [name for name in model.model_fields if name in may_differ]
    base = read_model(root, model, file)
    try:
        overrides = load_file(root, overrides_file, sections)
        values = load_file(root, file, model.model_fields)
    except UnreadableFile as error:
        # If `file` itself cannot be read, `base` has the same problem.
        return Reading(None, [*dict.fromkeys([error.problem, *base.problems])])

    if not isinstance(overrides, dict):
        text = f"is {to_text(overrides)}, but must hold names with values"
        fix = f"write some of {', '.join(sections)} there, or delete the file"
        return Reading(None, [Problem(overrides_file, "", text, fix), *base.problems])
    if not isinstance(values, dict):
        return base

    forbidden = _list_forbidden_overrides(model, overrides, sections)
    fix = f"write it in {file} ({', '.join(sections)} may differ)"
    problems = [
        Problem(overrides_file, name, "is the same in every workspace", fix)
        for name in forbidden
    ]

    allowed = {
        name: value for name, value in overrides.items() if name not in forbidden
    }
    merged = merge_overrides(values, allowed)
    problems_of_merged = find_problems(model, merged, overrides_file, allowed)
    problems += _blame_base_file(problems_of_merged, base.problems)
    return _validate(model, merged, problems)


def _list_forbidden_overrides(
    model: type[BaseModel], overrides: Mapping[str, Any], sections: Sequence[str]
) -> list[str]:
    """Return the settings in `overrides` that are not in one of the `sections`."""
    return [
        name
        for name in model.model_fields
        if name in overrides and name not in sections
    ]


def _blame_base_file(
    problems: list[Problem], base_problems: list[Problem]
) -> list[Problem]:
    """Return the problems. Replace each that the base file also has by that of this file."""
    by_key_and_text = {
        (problem.key, problem.text): problem for problem in base_problems
    }
    return [
        by_key_and_text.get((problem.key, problem.text), problem)
        for problem in problems
    ]


def merge_overrides(
    values: Mapping[str, Any], overrides: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the settings after replacing those that are in `overrides`.

    A section keeps the values that `overrides` does not mention. A value in a section is
    replaced as a whole, even if it contains further values, as a schedule does.
    """
    merged = dict(values)
    for name, override in overrides.items():
        value = values.get(name)
        if isinstance(value, dict) and isinstance(override, dict):
            merged[name] = {**value, **override}
        else:
            merged[name] = override
    return merged


def read_value(field: FieldInfo, value: Any, file: str, key: str) -> Any:
    """Check a value as if it were in a settings file, and return it.

    `field` is the model's field whose rules it must follow. `file` and `key` are for the
    messages. Raises WrongValue if it breaks a rule.
    """
    # Pydantic checks only models, so the field becomes the only one of a new model.
    fields: dict[str, Any] = {"value": (field.annotation, field)}
    model: Any = create_model("OneValue", __base__=Section, **fields)
    try:
        return model(value=value).value
    except ValidationError as error:
        problems = [_describe_error(detail, file, key) for detail in error.errors()]
        raise WrongValue(problems) from None


def _validate(model: type[M], values: Any, problems: list[Problem]) -> Reading[M]:
    """Return the values as a model, or no model if one of the problems is a wrong value."""
    if any(problem.kind == "wrong" for problem in problems):
        return Reading(None, problems)
    return Reading(model.model_validate(values), problems)


# Problems


def find_problems(
    model: type[BaseModel], values: Any, file: str, file_values: Any = None
) -> list[Problem]:
    """Return the problems of all wrong, empty and unusual values, in the file's order.

    `file` is the file to name in the messages. If `values` were merged from two files,
    `file_values` are the values of this file alone.
    """
    if file_values is None:
        file_values = values
    try:
        model.model_validate(values, context=REPORT_EVERYTHING)
    except ValidationError as error:
        problems = _describe_errors(error, model, file_values, file)
    else:
        return []

    sections = [*values] if isinstance(values, dict) else []

    def find_position(problem: Problem) -> int:
        """Return the position of a problem's section in the file."""
        section = problem.key.partition(".")[0]
        return sections.index(section) if section in sections else len(sections)

    return sorted(problems, key=find_position)


def _describe_errors(
    validation: ValidationError, model: type[BaseModel], file_values: Any, file: str
) -> list[Problem]:
    """Return the problems for which pydantic has refused the values of a file.

    Of a misspelt name pydantic reports two errors: the name is unknown, and the setting
    that was meant is missing. Only the first becomes a problem.
    """
    problems: list[Problem] = []
    missing: list[Problem] = []
    misspelt_keys = set()
    for error in validation.errors():
        path = _find_path(error)
        key = ".".join(path)
        if error["type"] in ("extra_forbidden", "invalid_key"):
            *parents, name = path
            section = _find_section(model, parents)
            meant = _find_similar_setting(
                name, section, _list_names(file_values, parents)
            )
            if meant:
                misspelt_keys.add(".".join([*parents, meant]))
            problems.append(_describe_unknown_setting(file, key, section, meant))
        elif error["type"] == "model_type":
            names = ", ".join(_list_field_names(_find_section(model, path)))
            text = f"is {to_text(error['input'])}, but must hold names with values"
            problems.append(Problem(file, key, text, f"write {names} there"))
        elif error["type"] == "missing":
            missing.append(_describe_error(error, file, key))
        else:
            problems.append(_describe_error(error, file, key))

    problems += [problem for problem in missing if problem.key not in misspelt_keys]
    return problems


def _find_similar_setting(
    name: str, section: type[BaseModel], present: set[Any]
) -> str | None:
    """Return the setting that a misspelt name probably means, or None.

    Settings that are `present` in the section already are left out.
    """
    absent = set(_list_field_names(section)) - present
    similar = difflib.get_close_matches(name, absent, n=1)
    return similar[0] if similar else None


def _describe_unknown_setting(
    file: str, key: str, section: type[BaseModel], meant: str | None
) -> Problem:
    """Return the problem of a name that is not a setting. `meant` is a similar setting."""
    if meant:
        fix = f"write {meant}"
    else:
        fix = f"delete it ({', '.join(_list_field_names(section))} are settings)"
    return Problem(file, key, "is not a setting", fix)


def _describe_error(error: ErrorDetails, file: str, key: str) -> Problem:
    """Return the problem of one setting that pydantic describes in an error."""
    value = error["input"]
    context = error.get("ctx", {})
    match error["type"]:
        case "wrong" | "empty" | "unusual" as kind:
            # settings_models.refuse has made this error.
            return Problem(file, key, context["text"], context["fix"], kind)
        case "missing":
            return Problem(file, key, "is missing", "add it")
        case "list_type":
            text = f"is {to_text(value)}, but must be a list"
            return Problem(file, key, text, f"write [{value}]")
        case "dict_type":
            text = f"is {to_text(value)}, but must hold names with values"
            return Problem(file, key, text, "write NAME: VALUE there")
        case _:
            # The error is from a validator or a type that the user has added.
            text = _describe_other_error(error["msg"], value)
            return Problem(file, key, text, "correct it")


def _describe_other_error(message: str, value: Any) -> str:
    """Return the text of a problem that is described by a message of pydantic."""
    reason = message.removeprefix("Value error, ")
    if reason.startswith("Input should "):
        return f"is {to_text(value)}, but {reason.removeprefix('Input ')}"
    if isinstance(value, dict):
        # The value is a whole section, which would fill the screen.
        return f"cannot be used ({reason})"
    return f"is {to_text(value)} ({reason})"


def _find_path(error: ErrorDetails) -> list[str]:
    """Return the path of the setting that an error is about, such as ["data", "keys"].

    Pydantic's path also contains positions in lists, which are left out here.
    """
    location = error["loc"]
    if location[-1:] == ("[key]",):
        # The error is about the name before this marker. YAML allows numbers as names.
        return [str(part) for part in location[:-1]]
    if error["type"] == "invalid_key":
        return [str(part) for part in location]
    return [part for part in location if isinstance(part, str)]


def _find_section(model: type[BaseModel], path: Iterable[str]) -> type[BaseModel]:
    """Return the model of the section at a path of names.

    Names that the user has chosen, such as those below `schedules`, are skipped, because
    they do not lead to another model.
    """
    section = model
    for name in path:
        if name in section.model_fields:
            models = _list_models(section.model_fields[name].annotation)
            section = models[0] if models else section
    return section


def _list_field_names(section: type[BaseModel]) -> list[str]:
    """Return the names of a section's settings, as they are written in a file."""
    return [field.alias or name for name, field in section.model_fields.items()]


def _list_models(annotation: Any) -> list[type[BaseModel]]:
    """Return the models in an annotation such as `dict[str, Schedule | None]`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in _list_models(part)]


def _list_names(values: Any, path: Iterable[str]) -> set[Any]:
    """Return the names in the section at a path. Empty if there is no such section."""
    for name in path:
        values = values.get(name) if isinstance(values, dict) else None
    return {*values} if isinstance(values, dict) else set()
