"""Read settings files into pydantic models, and report every problem with its file and key.

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

    #: The settings. None if a value is wrong or the file cannot be read.
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
    """The value of a setting is wrong. `problems` lists what is wrong with it."""

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = problems


class DuplicateName(ValueError):
    """A name is written twice in the same section of a file.

    `line` is the number of the line in which the name is written again. In JSON files,
    `line` is None, because Python's parser of JSON does not report the lines of names.
    """

    def __init__(self, name: str, line: int | None = None) -> None:
        super().__init__(name)
        self.name = name
        self.line = line


class _Loader(yaml.SafeLoader):
    """Loads YAML, and keeps dates and times as text, in contrast to PyYAML's own loader.

    This loader also refuses a name that is written twice. PyYAML's loader would silently use
    the last of the two values.
    """

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._alias_count = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> Any:
        """Return the next node of the YAML text. PyYAML calls this method.

        Raises ValueError if the text has more than MAX_ALIASES aliases. An alias such as
        `*name` repeats an earlier part of the text. Aliases for lists of further aliases can
        make a short text expand beyond any memory.
        """
        if self.check_event(yaml.AliasEvent):
            self._alias_count += 1
        if self._alias_count > MAX_ALIASES:
            # `_describe_parse_error` puts the name of the file before this message.
            raise ValueError(f"it has more than {MAX_ALIASES} aliases, such as *name")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> Any:
        """Return a YAML mapping as a dict. PyYAML calls this method.

        Raises DuplicateName if a name is written twice. Raises ConstructorError if a name is
        itself a mapping or a list, as in `{name}: 1` without quotes.
        """
        names = set()
        for name, _ in node.value:
            if not isinstance(name, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(
                    problem="a name must be text; put a name with braces or brackets in"
                    " quotes",
                    problem_mark=name.start_mark,
                )
            if name.value in names:
                # PyYAML counts lines from 0.
                raise DuplicateName(name.value, line=name.start_mark.line + 1)
            names.add(name.value)
        return super().construct_mapping(node, deep)


# PyYAML's resolvers recognize the type of a value by its first character and a pattern.
# Without the resolver for timestamps, a value such as 2027-01-31 stays text.
_Loader.yaml_implicit_resolvers = {
    first_character: [
        (tag, pattern) for tag, pattern in resolvers if not tag.endswith(":timestamp")
    ]
    for first_character, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def parse_yaml(text: str) -> Any:
    """Return the value that a YAML text describes, such as a dict.

    Raises YAMLError if the text is not YAML, DuplicateName if a name is written twice, and
    ValueError if the text has too many aliases or a value does not fit its tag.
    """
    try:
        return yaml.load(text, _Loader)
    except (AttributeError, LookupError, TypeError):
        # PyYAML raises these errors for a value such as `!!bool maybe`.
        raise ValueError("a value does not fit the tag before it") from None


def parse_json(text: str) -> Any:
    """Return the value that a JSON text describes, such as a dict.

    Raises JSONDecodeError if the text is not JSON, and DuplicateName if a name is written
    twice.
    """
    return json.loads(text, object_pairs_hook=_build_dict)


def _build_dict(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """Return a JSON object as a dict. Raises DuplicateName if a name is written twice."""
    values: dict[str, Any] = {}
    for name, value in pairs:
        if name in values:
            raise DuplicateName(name)
        values[name] = value
    return values


def load_file(root: Path, file: str, names: Iterable[str]) -> Any:
    """Return the contents of a YAML or JSON file of the project.

    `file` is the path of the file from `root`. `names` are the settings that the file should
    contain; the message lists them if the file is missing. Raises UnreadableFile if the file
    is missing or empty, or cannot be read or parsed.
    """
    try:
        # Editors in Windows may write a byte order mark, which utf-8-sig removes.
        text = (root / file).read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        fix = f"create it with the settings {', '.join(names)}"
        raise UnreadableFile(_describe_file(file, "is missing", fix)) from None
    except (OSError, ValueError) as error:
        # Bytes that are not UTF-8 raise a ValueError.
        raise UnreadableFile(_describe_parse_error(error, file)) from None

    if not text.strip():
        raise UnreadableFile(_describe_file(file, "is empty", RESTORE_FILE))
    try:
        return parse_json(text) if file.endswith(".json") else parse_yaml(text)
    except (ValueError, yaml.YAMLError, RecursionError) as error:
        raise UnreadableFile(_describe_parse_error(error, file)) from None


def _describe_file(file: str, text: str, fix: str) -> Problem:
    """Return a problem that is about a whole file, and not about one of its settings."""
    return Problem(file=file, key="", text=text, fix=fix)


def _describe_parse_error(error: Exception, file: str) -> Problem:
    """Return a problem that says why a file cannot be read or parsed.

    `error` is the error of opening, decoding or parsing the file.
    """
    if isinstance(error, DuplicateName):
        text = "is written twice"
        if error.line is not None:
            text = f"is written twice, the second time in line {error.line}"
        return Problem(file, error.name, text, "delete one of the two")

    if isinstance(error, json.JSONDecodeError):
        place = f"line {error.lineno}, column {error.colno}"
        text = f"is not JSON at {place} ({error.msg})"
        return _describe_file(file, text, RESTORE_FILE)

    if isinstance(error, yaml.MarkedYAMLError):
        return _describe_yaml_error(error, file)

    message_in_one_line = " ".join(str(error).split())
    return _describe_file(file, f"cannot be read ({message_in_one_line})", RESTORE_FILE)


def _describe_yaml_error(error: yaml.MarkedYAMLError, file: str) -> Problem:
    """Return a problem that says where a file is not valid YAML."""
    mark: Any = error.problem_mark
    # PyYAML counts lines and columns from 0.
    place = f"line {mark.line + 1}, column {mark.column + 1}"
    # PyYAML's message about a tab: found character '\t' that cannot start any token.
    is_about_tab = r"'\t'" in str(error.problem)
    if is_about_tab:
        return _describe_file(file, f"has a tab at {place}", "write spaces instead")
    text = f"is not YAML at {place} ({error.problem})"
    return _describe_file(file, text, RESTORE_FILE)


# Models


def read_model(root: Path, model: type[M], file: str) -> Reading[M]:
    """Read a settings file, and return its settings as a `model`, with all problems.

    `file` is the path of the file from `root`.
    """
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

    `file` and `overrides_file` are the paths of the two files from `root`. The second file
    may contain only the sections in `may_differ`. A problem that the first file already has
    without the second file is reported for the first file. All other problems are reported
    for the second file.
    """
    allowed_sections = [name for name in model.model_fields if name in may_differ]
    base_reading = read_model(root, model, file)
    try:
        overrides = load_file(root, overrides_file, allowed_sections)
    except UnreadableFile as error:
        return Reading(None, [error.problem, *base_reading.problems])
    try:
        values = load_file(root, file, model.model_fields)
    except UnreadableFile:
        # `base_reading` already reports that the first file cannot be read.
        return base_reading

    if not isinstance(overrides, dict):
        text = f"is {to_text(overrides)}, but must be a group of settings"
        fix = f"write some of {', '.join(allowed_sections)}, or delete the file"
        problem = _describe_file(overrides_file, text, fix)
        return Reading(None, [problem, *base_reading.problems])
    if not isinstance(values, dict):
        return base_reading

    # If the second file has a setting that must be the same in every workspace, a problem
    # is reported, and the value in the first file stays.
    forbidden_overrides = _list_forbidden_overrides(model, overrides, allowed_sections)
    fix = f"write it in {file} ({', '.join(allowed_sections)} may differ)"
    problems = [
        Problem(overrides_file, name, "is the same in every workspace", fix)
        for name in forbidden_overrides
    ]
    allowed_overrides = {
        name: override
        for name, override in overrides.items()
        if name not in forbidden_overrides
    }

    merged = merge_overrides(values, allowed_overrides)
    merged_problems = find_problems(model, merged, overrides_file, allowed_overrides)
    problems += _attribute_to_files(merged_problems, base_reading.problems)
    return _validate(model, merged, problems)


def _list_forbidden_overrides(
    model: type[BaseModel],
    overrides: Mapping[str, Any],
    allowed_sections: Sequence[str],
) -> list[str]:
    """Return the names in `overrides` that are fields of `model`, but are not allowed there.

    The `allowed_sections` may be in `overrides`, and all other fields may not. Names that
    are not fields of `model` are left out: they are reported when the values are validated.
    """
    return [
        name
        for name in model.model_fields
        if name in overrides and name not in allowed_sections
    ]


def _attribute_to_files(
    merged_problems: list[Problem], base_problems: list[Problem]
) -> list[Problem]:
    """Return the problems of two merged files, each with the file that causes it.

    `merged_problems` come from checking the merged values, and all name the second file.
    `base_problems` come from checking the first file alone, and name the first file. If a
    problem is in both lists, the first file causes it.
    """
    base_problem_by_key_and_text = {
        (problem.key, problem.text): problem for problem in base_problems
    }
    return [
        base_problem_by_key_and_text.get((problem.key, problem.text), problem)
        for problem in merged_problems
    ]


def merge_overrides(
    values: Mapping[str, Any], overrides: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the settings in `values`, overridden by the settings in `overrides`.

    A section keeps the values that `overrides` does not mention. A value inside a section is
    replaced as a whole, even if this value is a dict itself, such as a schedule.
    """
    merged = dict(values)
    for name, override in overrides.items():
        value = values.get(name)
        if isinstance(value, dict) and isinstance(override, dict):
            merged[name] = {**value, **override}
        else:
            merged[name] = override
    return merged


def check_value(field: FieldInfo, value: Any, file: str, key: str) -> Any:
    """Check a value by the rules of a setting, and return it with the setting's type.

    `field` is the model field that describes the setting. `file` and `key` appear in the
    messages. Raises WrongValue if the value breaks a rule.
    """
    # Pydantic can only check whole models, so the field is put into a new model that has no
    # other field.
    fields: dict[str, Any] = {"value": (field.annotation, field)}
    model: Any = create_model("OneValue", __base__=Section, **fields)
    try:
        return model(value=value).value
    except ValidationError as error:
        problems = [_describe_error(detail, file, key) for detail in error.errors()]
        raise WrongValue(problems) from None


def _validate(model: type[M], values: Any, problems: list[Problem]) -> Reading[M]:
    """Return the values as a `model`, with their problems.

    There is no model if one of the problems is a wrong value.
    """
    if any(problem.kind == "wrong" for problem in problems):
        return Reading(None, problems)
    return Reading(model.model_validate(values), problems)


# Problems


def find_problems(
    model: type[BaseModel], values: Any, file: str, file_values: Any = None
) -> list[Problem]:
    """Return the problems of all wrong, empty and unusual values.

    The messages name `file`. If `values` were merged from two files, `file_values` are the
    values in `file` alone; otherwise `file_values` is None. The problems are in the order of
    the sections in `values`.
    """
    if file_values is None:
        file_values = values
    try:
        # Without this context, empty and unusual values would pass the validation.
        model.model_validate(values, context=REPORT_EVERYTHING)
    except ValidationError as error:
        problems = _describe_errors(error, model, file_values, file)
        return _sort_by_section(problems, values)
    return []


def _sort_by_section(problems: list[Problem], values: Any) -> list[Problem]:
    """Return the problems, sorted in the order of the sections in `values`.

    Problems of sections that are missing in `values` come last.
    """
    sections = list(values) if isinstance(values, dict) else []

    def find_position(problem: Problem) -> int:
        """Return the position of the section that a problem is in."""
        section, _, _ = problem.key.partition(".")
        return sections.index(section) if section in sections else len(sections)

    return sorted(problems, key=find_position)


def _describe_errors(
    validation_error: ValidationError,
    model: type[BaseModel],
    file_values: Any,
    file: str,
) -> list[Problem]:
    """Turn pydantic's errors about the settings in a file into problems.

    For a misspelt name pydantic reports two errors: the name is unknown, and the setting
    that was meant is missing. Only the error about the unknown name becomes a problem.
    """
    problems: list[Problem] = []
    missing_problems: list[Problem] = []
    misspelt_keys: set[str] = set()
    for error in validation_error.errors():
        path = _find_path(error)
        key = ".".join(path)
        if error["type"] in ("extra_forbidden", "invalid_key"):
            section = _find_section(model, path[:-1])
            meant_name = _find_meant_setting(path, section, file_values)
            if meant_name is not None:
                misspelt_keys.add(".".join([*path[:-1], meant_name]))
            problems.append(_describe_unknown_name(file, key, section, meant_name))
        elif error["type"] == "model_type":
            section = _find_section(model, path)
            problems.append(_describe_missing_group(file, key, error["input"], section))
        elif error["type"] == "missing":
            missing_problems.append(_describe_error(error, file, key))
        else:
            problems.append(_describe_error(error, file, key))

    problems += [
        problem for problem in missing_problems if problem.key not in misspelt_keys
    ]
    return problems


def _find_meant_setting(
    path: Sequence[str], section: type[BaseModel], file_values: Any
) -> str | None:
    """Return the setting of a section that a misspelt name probably means.

    The misspelt name is the last part of `path`. A setting that the section already has in
    the file, with the contents `file_values`, cannot be meant. Returns None if no other
    setting has a similar name.
    """
    *parents, misspelt_name = path
    candidates = set(_list_field_names(section)) - _list_names(file_values, parents)
    similar = difflib.get_close_matches(misspelt_name, candidates, n=1)
    return similar[0] if similar else None


def _describe_unknown_name(
    file: str, key: str, section: type[BaseModel], meant_name: str | None
) -> Problem:
    """Return the problem that a name in the file is not a setting of the section.

    `meant_name` is the setting that the user probably meant, or None.
    """
    if meant_name is not None:
        fix = f"write {meant_name}"
    else:
        names = ", ".join(_list_field_names(section))
        fix = f"delete it, or use one of the settings {names}"
    return Problem(file, key, "is not a setting", fix)


def _describe_missing_group(
    file: str, key: str, value: Any, section: type[BaseModel]
) -> Problem:
    """Return the problem that a section has a single value instead of its settings."""
    text = f"is {to_text(value)}, but must be a group of settings"
    fix = f"write its settings below it ({', '.join(_list_field_names(section))})"
    return Problem(file, key, text, fix)


def _describe_error(error: ErrorDetails, file: str, key: str) -> Problem:
    """Turn an error of pydantic about a single setting into a problem.

    `file` and `key` say where the setting is.
    """
    value = error["input"]
    context = error.get("ctx", {})
    match error["type"]:
        case "wrong" | "empty" | "unusual" as kind:
            # This error comes from settings_models.refuse.
            return Problem(file, key, context["text"], context["fix"], kind)
        case "missing":
            return Problem(file, key, "is missing", "add it")
        case "list_type":
            text = f"is {to_text(value)}, but must be a list"
            return Problem(file, key, text, f"write [{value}]")
        case "dict_type":
            text = f"is {to_text(value)}, but must be a group of names with values"
            return Problem(file, key, text, "write each as NAME: VALUE below it")
        case _:
            # This error comes from a validator or a type that the user has added.
            text = _describe_other_error(error["msg"], value)
            return Problem(file, key, text, "correct it")


def _describe_other_error(message: str, value: Any) -> str:
    """Turn a message of pydantic about a value into the text of a problem.

    The text continues a sentence that begins with the key of the setting. For the value 7,
    "Input should be a valid string" becomes "is 7, but should be a valid string".
    """
    reason = message.removeprefix("Value error, ")
    if reason.startswith("Input should "):
        return f"is {to_text(value)}, but {reason.removeprefix('Input ')}"
    if isinstance(value, dict):
        # The value is a whole section, which would fill the screen.
        return f"cannot be used ({reason})"
    return f"is {to_text(value)} ({reason})"


def _find_path(error: ErrorDetails) -> list[str]:
    """Return the path to the setting that an error is about, such as ["data", "keys"].

    Pydantic's location of an error may end with a position in a list, as in
    ("data", "keys", 2). The path leaves out this position.
    """
    location = error["loc"]
    if location[-1:] == ("[key]",):
        # Pydantic adds this marker if the error is about a name in a dict. The name may be
        # a number, as in ("training", "hyperparameters", 5, "[key]").
        return [str(part) for part in location[:-1]]
    if error["type"] == "invalid_key":
        # A name in the YAML file is not text, for example the number 2024. This name is the
        # last part of the location.
        return [str(part) for part in location]
    return [part for part in location if isinstance(part, str)]


def _find_section(model: type[BaseModel], path: Iterable[str]) -> type[BaseModel]:
    """Return the pydantic model of the section to which a path leads.

    The path ["schedules", "scoring"] leads to the model Schedule. Names that are not fields
    of a model are skipped, such as `scoring`, which the user has chosen.
    """
    section = model
    for name in path:
        if name not in section.model_fields:
            continue
        models = _list_models_in_type(section.model_fields[name].annotation)
        # The type of a section contains exactly one model, as dict[str, Schedule | None]
        # does. The type of a single value contains none, so the search stays in the section.
        if models:
            section = models[0]
    return section


def _list_field_names(section: type[BaseModel]) -> list[str]:
    """Return the names of a section's settings, as they are written in a file."""
    return [field.alias or name for name, field in section.model_fields.items()]


def _list_models_in_type(annotation: Any) -> list[type[BaseModel]]:
    """Return the pydantic models in a type annotation.

    `dict[str, Schedule | None]` gives `[Schedule]`.
    """
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    models: list[type[BaseModel]] = []
    for argument in get_args(annotation):
        models += _list_models_in_type(argument)
    return models


def _list_names(values: Any, path: Iterable[str]) -> set[Any]:
    """Return the names that are written in the section to which a path leads.

    `values` are the contents of a settings file. The set is empty if the file does not have
    this section.
    """
    section = values
    for name in path:
        section = section.get(name) if isinstance(section, dict) else None
    return set(section) if isinstance(section, dict) else set()
