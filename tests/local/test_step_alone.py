"""Test a step that runs alone in the folder of an earlier run, or in the debugger."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from conftest import Project, Result
from toys import (
    COLD,
    hash_files,
    list_command,
    list_statuses,
    on_linux,
    read_log,
    read_refusal,
    run_pipeline,
    write_script,
    write_toy_step,
)

STOPS_AT_A_BREAKPOINT = """
import sys
from pathlib import Path
value = 41
breakpoint()
Path(sys.argv[sys.argv.index("--model") + 1], "part.txt").write_text("made")
"""


def debug_step(project: Project, pipeline: str, step: str, keys: str) -> Result:
    """Run a step alone with `--debug`, and type `keys` into its debugger."""
    process = subprocess.run(
        list_command(project, "run", pipeline, "--step", step, "--debug"),
        cwd=project.path,
        env={**os.environ, **COLD, "PYTHONPATH": str(project.path)},
        input=keys,
        capture_output=True,
        text=True,
        check=False,
    )
    return Result(process.returncode, process.stdout, process.stderr)


@on_linux
def test_step_is_debugged_in_its_own_folder(
    toy_project: Project,
) -> None:
    """It runs in the newest run. The steps after it use its results, other runs do not."""
    first = run_pipeline(toy_project, "training")
    script = write_script(toy_project, "train", STOPS_AT_A_BREAKPOINT)
    files_before = hash_files(toy_project.path / "steps")
    result = debug_step(toy_project, "training", "train", "p value + 1\ncontinue\n")
    assert result.code == 0, result.err
    folder = first.json["folder"]
    assert f"The step uses the newest run: {folder}" in result.out
    assert "(Pdb) 42" in result.out
    assert str(script) in result.out
    assert hash_files(toy_project.path / "steps") == files_before
    assert Path(folder, "train", "outputs", "model", "part.txt").exists()
    alone = ["--step", "evaluate", "--folder", folder]
    assert run_pipeline(toy_project, "training", *alone).code == 0
    # A new run does not reuse the step, which fails at its breakpoint without a terminal.
    again = run_pipeline(toy_project, "training")
    assert list_statuses(again)[:2] == ["reused", "failed"]


@on_linux
def test_parallel_step_is_debugged_in_one_process(toy_project: Project) -> None:
    script = "def run(mini_batch):\n    breakpoint()\n    return mini_batch\n"
    write_script(toy_project, "score", script)
    keys = "p len(mini_batch)\ncontinue\n"
    result = debug_step(toy_project, "scoring", "score", keys)
    assert result.code == 0, result.out + result.err
    assert "(Pdb) 1" in result.out
    assert "files handled: 1, mini-batches: 1" in result.out


def test_step_alone_needs_an_earlier_run(toy_project: Project) -> None:
    result = run_pipeline(toy_project, "training", "--step", "train")
    assert "The pipeline training has no run yet" in read_refusal(result)


def test_step_alone_uses_the_project_as_it_is_now(toy_project: Project) -> None:
    """But parameters that were set for the earlier run stay as they were."""
    first = run_pipeline(toy_project, "training", "--set", "max_iterations=7")
    folder = first.json["folder"]

    def run_alone(step: str, *options: str) -> Result:
        """Run a step alone in the folder of the first run."""
        return run_pipeline(
            toy_project, "training", "--step", step, "--folder", folder, *options
        )

    toy_project.edit("settings.yml", "learning_rate: 0.1", "learning_rate: 0.25")
    again = run_alone("train")
    assert again.code == 0, again.err
    assert "learning_rate 0.25" in read_log(again, "train")
    assert "max_iterations 7" in read_log(again, "train")
    again = run_alone("train", "--set", "max_iterations=8")
    assert "max_iterations 8" in read_log(again, "train")

    toy_project.edit("settings.yml", "target: Species", "target: Island")
    refused = run_alone("evaluate")
    assert refused.code == 1
    assert "prep ran with other settings" in refused.err
    assert "Species" in refused.err and "Island" in refused.err
    command = f": python -m {toy_project.package} run training --set max_iterations=8\n"
    assert refused.err.endswith(command)
    toy_project.edit("settings.yml", "target: Island", "target: Island\n  decimal: ','")
    refused = run_alone("evaluate")
    assert 'target: Species, now Island, decimal: nothing, now ","' in refused.err
    toy_project.edit("settings.yml", "target: Island\n  decimal: ','", "target: Island")
    # A step that does not run leaves no trace in the folder.
    assert "target: Species" in Path(folder, "settings.yml").read_text("utf-8")
    assert run_alone("prep").code == 0
    assert "target: Island" in Path(folder, "settings.yml").read_text("utf-8")
    # The results of train are still those for the old target.
    refused = run_alone("evaluate")
    assert "train ran with other settings" in refused.err
    # The command in the message always works, and reuses what it can.
    again = run_pipeline(toy_project, *refused.err.rpartition(" run ")[2].split())
    assert list_statuses(again) == ["reused", "ran", "ran", "ran"]


def test_outputs_of_a_failed_step_are_not_used(toy_project: Project) -> None:
    writes_and_fails = "(Path.cwd().parent / 'outputs/model/x').touch()\nsys.exit(3)"
    write_toy_step(toy_project, "train", writes_and_fails)
    failed = run_pipeline(toy_project, "training")
    assert list_statuses(failed) == ["ran", "failed", "skipped", "skipped"]
    folder = failed.json["folder"]
    result = run_pipeline(
        toy_project, "training", "--step", "evaluate", "--folder", folder
    )
    assert result.code == 1
    assert "train has not succeeded" in result.err
