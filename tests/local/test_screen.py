"""Test what the screen shows of a step: its notes, its failure, and no harmful text."""

from __future__ import annotations

import urllib.request
from pathlib import Path

import pytest
from conftest import Project
from toys import (
    ASCII,
    finish_command,
    read_log,
    run_pipeline,
    start_command,
    write_toy_step,
)

PRINTS_COMMANDS = r"""
print("note: \x1b[31mred\x1b[0m ##vso[task.complete] text")
print("::set-output name=a::b")
raise SystemExit(1)
"""


def test_output_of_a_step_cannot_control_the_terminal(toy_project: Project) -> None:
    write_toy_step(toy_project, "prep", PRINTS_COMMANDS)
    result = run_pipeline(toy_project, "training")
    assert result.code == 1
    for command in ("\x1b", "##vso[", "::set-output"):
        assert command not in result.err
    assert r"\x1b[31mred" in result.err


PRINTS_NOTES = r"""
print("note: ü🐧 [red]first[/] 'x'")
print("  note: not one")
print("note: second")
print("note: second")
sys.stdout.buffer.write(b"\xff\xfe\x00 not text \r\n")
"""


@pytest.mark.parametrize("environment", [{}, ASCII], ids=["UTF-8", "ASCII"])
def test_notes_are_on_the_screen(
    toy_project: Project, environment: dict[str, str]
) -> None:
    write_toy_step(toy_project, "prep", PRINTS_NOTES)
    result = run_pipeline(toy_project, "training", variables=environment)
    assert result.code == 0, result.err
    lines = result.err.splitlines()
    prep, train, *_ = [i for i, line in enumerate(lines) if line.startswith("ran ")]
    assert lines[prep].endswith("done")
    assert [line.strip() for line in lines[prep + 1 : train]] == [
        "note: ü🐧 [red]first[/] 'x'",
        "note: second",
    ]
    assert "note: not one" not in result.err
    assert "note: not one" in read_log(result, "prep")


WRITES_A_REPORT = """
report = Path.cwd().parent / "outputs" / "data_report" / "report.html"
report.write_text("<p>", encoding="utf-8")
print("note: a note")
"""


def test_run_ends_with_links_to_its_reports(toy_project: Project) -> None:
    """The last line of a step and its notes are shown again if its results are reused."""
    write_toy_step(toy_project, "prep", WRITES_A_REPORT)
    for status in ("ran", "reused"):
        result = run_pipeline(toy_project, "training")
        assert result.code == 0, result.err
        prep, note, *_, heading, link = result.err.splitlines()
        assert prep.startswith(f"{status} prep ")
        assert " done" in prep
        assert note == "    note: a note"
        assert heading == "To look at the results, open:"
        with urllib.request.urlopen(link.strip()) as report:
            assert report.read() == b"<p>"
        # Standard output is for programs alone.
        assert "file://" not in result.out


FAULTY_MODULE = """
def check():
    import penguin_models
"""
#: Packages that are not installed. The second one is only for a system that does not exist.
MORE_PINS = """
penguin-models==1.0
other-models==1.0 ; sys_platform == 'nowhere'
"""


def test_message_names_the_file_and_the_missing_package_of_a_failed_step(
    toy_project: Project,
) -> None:
    """The package was pinned by `lock`, but is not installed yet."""
    write_toy_step(toy_project, "train", "import faulty\nfaulty.check()")
    faulty = toy_project.path / "steps" / "train" / "faulty.py"
    faulty.write_text(FAULTY_MODULE, encoding="utf-8")
    pins = toy_project.path / "environment" / "project.txt"
    with pins.open("a", encoding="utf-8") as file:
        file.write(MORE_PINS)
    result = run_pipeline(toy_project, "training")
    assert f'File "{Path("steps/train/faulty.py")}", line 3' in result.err
    assert "ModuleNotFoundError: No module named 'penguin_models'" in result.err
    assert "/code/" not in result.err.partition("Full log")[0]
    _, _, missing = result.err.partition("pinned in environment/project.txt, but not ")
    assert "penguin-models. Install them with: uv pip install -e ." in missing
    assert "other-models" not in missing


def test_command_ends_quietly_if_its_output_is_closed(
    toy_project: Project,
) -> None:
    process = start_command(toy_project, "draw")
    assert process.stdout
    process.stdout.close()
    result = finish_command(process)
    assert (result.code, result.err) == (1, "")


def test_help_lists_the_pipelines(toy_project: Project) -> None:
    result = toy_project.python("-m", toy_project.package, "run", "--help")
    assert result.code == 0
    assert "\npipelines:\n  training  " in result.out
    assert "\n  scoring   " in result.out
