"""Read hyperparameters from the command line, and check that `build_model` accepts them."""

from __future__ import annotations

import ast
import difflib
import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sklearn.pipeline import Pipeline
from training_rows import DataError

# A function that builds a model from nothing but hyperparameters: `build_model` with its
# other arguments filled in.
BuildFunction = Callable[..., Pipeline]


def parse_hyperparameters(arguments: Sequence[str]) -> dict[str, Any]:
    """Return hyperparameters from the arguments `NAME VALUE NAME VALUE ...`.

    For example, `max_depth 3 max_features sqrt` gives the integer 3 and the text "sqrt".
    Raises ValueError if the last name has no value.
    """
    names = arguments[::2]
    texts = arguments[1::2]
    return {name: _parse_value(text) for name, text in zip(names, texts, strict=True)}


def _parse_value(text: str) -> Any:
    """Return the value of a Python literal such as "3", or the text if it is no literal."""
    try:
        return ast.literal_eval(text)
    except (SyntaxError, ValueError):
        return text


def check_hyperparameters(
    setting: str, hyperparameters: Mapping[str, Any], build: BuildFunction
) -> None:
    """Raise DataError if a hyperparameter has a name that `build_model` does not accept.

    `build` is `build_model` with its other arguments filled in. `setting` is the setting
    that the names come from, such as "training.hyperparameters". The message has a sentence
    on each wrong name.

    Values are not checked: if one is wrong, the training reports it.
    """
    if _is_accepted(hyperparameters, build):
        return

    names = _list_names(build)
    problems = []
    for name, value in hyperparameters.items():
        # If `build_model` has this argument, the value is wrong, and not the name.
        if name in names.arguments or _is_accepted({name: value}, build):
            continue
        problems.append(
            f"{setting} names {name}, which build_model in steps/train/train.py does not"
            f" take: {_propose_fix(name, names.arguments | names.passed_on)}."
        )
    if problems:
        raise DataError(" ".join(problems))


def _is_accepted(hyperparameters: Mapping[str, Any], build: BuildFunction) -> bool:
    """Return whether a model can be built with these hyperparameters."""
    try:
        build(**hyperparameters)
    except (TypeError, ValueError):
        return False
    return True


@dataclass(frozen=True)
class _HyperparameterNames:
    """The names of hyperparameters that `build_model` accepts.

    `arguments` are those that it takes itself. `passed_on` are those that it passes on to
    the model by `**hyperparameters`.
    """

    arguments: set[str]
    passed_on: set[str]


def _list_names(build: BuildFunction) -> _HyperparameterNames:
    """Return the names of hyperparameters that `build_model` accepts.

    `build` is `build_model` with its other arguments filled in. If it has no argument such
    as `**hyperparameters`, it passes nothing on to the model.
    """
    arguments = set()
    passes_on = False
    for parameter in inspect.signature(build).parameters.values():
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            passes_on = True
        else:
            arguments.add(parameter.name)
    if not passes_on:
        return _HyperparameterNames(arguments, set())

    model = build()[-1]
    # If a model contains another one, the parameters of the inner model have a prefix, such
    # as `estimator__max_depth`. `build_model` takes them without the prefix.
    passed_on = {name.rpartition("__")[2] for name in model.get_params()}
    return _HyperparameterNames(arguments, passed_on)


def _propose_fix(name: str, accepted_names: Collection[str]) -> str:
    """Return what to do about a wrong name, such as "write max_depth" or "delete it"."""
    similar = difflib.get_close_matches(name, accepted_names, n=1)
    # If the most similar name is the name itself, the model has this parameter, but
    # `build_model` sets it, and cannot take a second value.
    if similar and similar[0] != name:
        return f"write {similar[0]}"
    return "delete it"
