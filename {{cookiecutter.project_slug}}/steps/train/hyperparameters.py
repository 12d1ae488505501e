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

    The values are not checked here, because the model reports a wrong value when it is
    trained.
    """
    if _is_accepted(hyperparameters, build):
        return

    names = _list_hyperparameter_names(build)
    problems = []
    for name, value in hyperparameters.items():
        # `build_model` may refuse a wrong value, too. But the name of one of its own
        # arguments is certainly right.
        is_right_name = name in names.arguments or _is_accepted({name: value}, build)
        if not is_right_name:
            fix = _propose_fix(name, names.arguments | names.passed_on)
            problems.append(
                f"{setting} names {name}, which build_model in steps/train/train.py does"
                f" not take: {fix}."
            )
    if problems:
        raise DataError(" ".join(problems))


def _is_accepted(hyperparameters: Mapping[str, Any], build: BuildFunction) -> bool:
    """Return whether `build_model` returns a model for these hyperparameters.

    `build` is `build_model` with its other arguments filled in.
    """
    try:
        build(**hyperparameters)
    except (TypeError, ValueError):
        return False
    return True


@dataclass(frozen=True)
class _HyperparameterNames:
    """The names of hyperparameters that `build_model` accepts.

    `arguments` are the names of its own arguments. `passed_on` are the parameters of the
    model, to which it passes on `**hyperparameters`.
    """

    arguments: set[str]
    passed_on: set[str]


def _list_hyperparameter_names(build: BuildFunction) -> _HyperparameterNames:
    """Return the names of hyperparameters that `build_model` accepts.

    `build` is `build_model` with all arguments but the hyperparameters filled in. If `build`
    has an argument such as `**hyperparameters`, it passes further names on to the model, and
    the names of the model's parameters are accepted, too.
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

    pipeline = build()
    # The last step of the pipeline is the model.
    model = pipeline[-1]
    # If a model contains another one, scikit-learn names a parameter of the inner model
    # `estimator__max_depth`, for example. In settings.yml, its name is `max_depth`.
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
