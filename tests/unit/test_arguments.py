"""Test the command lines of steps, and the options `--data` and `--set` of commands."""

from __future__ import annotations

from pathlib import Path

import pytest
import template_package

steps = template_package.load("runtime.steps")
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


@pytest.mark.parametrize("assignment", ["", "raw_data="])
def test_empty_folder_is_refused(assignment: str) -> None:
    with pytest.raises(template_package.errors.CommandError) as error:
        commands._parse_folders([assignment], ["raw_data"])
    assert str(error.value) == f"--data {assignment}: write raw_data=FOLDER."


@pytest.mark.parametrize("folder", ["..", ".", "data/../..", "/"])
def test_folder_that_contains_the_project_is_refused(
    folder: str, tmp_path: Path
) -> None:
    with pytest.raises(steps.PipelineError, match="contains the whole project"):
        steps._convert_to_type_of(Path("data"), "raw_data", folder, tmp_path)


def test_link_to_itself_is_left_to_the_step_that_reads_it(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    value = steps._convert_to_type_of(Path("data"), "raw_data", "loop", tmp_path)
    assert value == Path("loop")


def test_folder_beside_the_project_is_accepted(tmp_path: Path) -> None:
    value = steps._convert_to_type_of(Path("data"), "raw_data", "../other", tmp_path)
    assert value == Path("../other")


@pytest.mark.parametrize(
    ("text", "value"), [("false", False), ("False", False), ("true", True)]
)
def test_text_becomes_true_or_false(text: str, value: bool, tmp_path: Path) -> None:
    assert steps._convert_to_type_of(True, "flag", text, tmp_path) is value


def test_text_that_is_neither_true_nor_false_is_refused(tmp_path: Path) -> None:
    with pytest.raises(steps.PipelineError) as error:
        steps._convert_to_type_of(True, "flag", "no", tmp_path)
    assert str(error.value) == "flag is 'no', but must be true or false."
