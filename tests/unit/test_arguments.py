"""Test how keyword arguments in `pipelines.py` become the command line of a step."""

from __future__ import annotations

import template_package

build_arguments = template_package.load("runtime.arguments").build_arguments


def test_options_become_the_arguments_of_a_command_line() -> None:
    assert build_arguments(
        test_fraction=0.2,
        keys=["studyName", "Individual ID"],
        hyperparameters={"learning_rate": 0.1, "max_iterations": 200},
    ) == [
        *("--test-fraction", 0.2),
        *("--keys", "studyName", "Individual ID"),
        *("--hyperparameters", "learning_rate", 0.1, "max_iterations", 200),
    ]


def test_options_without_a_value_are_left_out() -> None:
    assert build_arguments(target=None, keys=[], hyperparameters={}) == []


def test_zero_and_the_empty_text_are_values() -> None:
    assert build_arguments(seed=0, prefix="") == ["--seed", 0, "--prefix", ""]
