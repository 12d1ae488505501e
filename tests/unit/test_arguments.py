"""Test the command lines of steps, and the option `--data` of the command `publish`."""

from __future__ import annotations

import pytest
import template_package

commands = template_package.load("runtime.commands")
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


@pytest.mark.parametrize(
    ("assignment", "folder"),
    [
        ("customers", "customers"),
        ("raw_data=customers", "customers"),
        ("raw_data=sales/year=2026", "sales/year=2026"),
        ("raw_data=year=2026", "year=2026"),
        ("sales/year=2026", "sales/year=2026"),
    ],
)
def test_publish_reads_the_folder_of_its_option_data(
    assignment: str, folder: str
) -> None:
    assert commands._parse_folders([assignment], ["raw_data"]) == {"raw_data": folder}


def test_folder_for_an_unknown_data_parameter_is_refused() -> None:
    with pytest.raises(template_package.errors.CommandError) as error:
        commands._parse_folders(["row_data=sales"], ["raw_data"])
    assert str(error.value) == "--data row_data=sales: write raw_data=sales."
