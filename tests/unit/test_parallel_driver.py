"""The driver of a parallel step calls an entry script as Azure ML's own driver does.

The tests run the template's own driver on a few small files, without a generated project.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from template_package import PROJECT

DRIVER = PROJECT / "{{cookiecutter.package_name}}/runtime/local/parallel_driver.py"
RETURN_ALL = """
def run(mini_batch):
    return mini_batch
"""


@dataclass
class DriverResult:
    """How the driver ended, and what it and the entry script have printed."""

    code: int
    output: str


def run_driver(
    folder: Path, script: str, *options: str, file_count: int = 3
) -> DriverResult:
    """Run an entry script over small files, two a mini-batch, each tried once."""
    code_folder = folder / "code"
    data_folder = folder / "data"
    code_folder.mkdir()
    data_folder.mkdir()
    (code_folder / "entry.py").write_text(script, encoding="utf-8")
    for number in range(file_count):
        (data_folder / f"{number} ü.txt").write_text(str(number), encoding="utf-8")

    process = subprocess.run(
        [
            *(sys.executable, str(DRIVER)),
            *("--scoring_module_name", "entry.py", "--input_fds_0", "data"),
            *("--mini_batch_size", "2", "--process_count_per_node", "1"),
            *("--output_action", "summary_only"),
            *("--error_threshold", "0", "--run_max_try", "1"),
            *options,
        ],
        cwd=code_folder,
        env={**os.environ, "data": str(data_folder), "PYTHONUTF8": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        timeout=60,
        check=False,
    )
    return DriverResult(process.returncode, process.stdout)


# The contract with the entry script -----------------------------------------------------

CHECKS_HOW_IT_IS_LOADED = """
import argparse, sys
from dataclasses import dataclass

@dataclass
class State:
    names: list[str]

def init():
    global state
    state = State([])
    assert __name__ not in ("__main__", "entry"), __name__
    assert __name__ not in sys.modules
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--model-name")
    args, others = parser.parse_known_args()
    assert args.model_name == "mine", args
    assert "--model" in others, others
    assert any(other.startswith("--aml_core_version") for other in others)

def run(mini_batch):
    return mini_batch
"""


def test_entry_script_is_loaded_as_on_azure(tmp_path: Path) -> None:
    result = run_driver(tmp_path, CHECKS_HOW_IT_IS_LOADED, "--model-name", "mine")
    assert result.code == 0, result.output
    assert "files handled: 3, mini-batches: 2" in result.output


def test_script_that_fails_on_azure_fails_here_too(tmp_path: Path) -> None:
    """Dataclasses with postponed annotations need a module that is registered."""
    script = f"from __future__ import annotations\n{CHECKS_HOW_IT_IS_LOADED}"
    result = run_driver(tmp_path, script, "--model-name", "mine")
    assert result.code != 0
    assert "'NoneType' object has no attribute '__dict__'" in result.output


WRONG_RETURNS = {
    "None": ("None", "run() returned NoneType, not a list, a tuple or"),
    "text": ("'ab'", "run() returned str, not a list, a tuple or"),
    "iterator": ("iter(mini_batch)", "not a list, a tuple or"),
    "mapping": ("{'a': 1}", "run() returned dict, not a list, a tuple or"),
    "too few rows": ("mini_batch[:1]", "run() returned 1 rows for 2 files"),
    "no rows": ("[]", "run() returned 0 rows for 2 files"),
}


@pytest.mark.parametrize(
    ("returned", "message"), WRONG_RETURNS.values(), ids=WRONG_RETURNS
)
def test_wrong_return_value_of_run_is_explained(
    tmp_path: Path, returned: str, message: str
) -> None:
    script = f"def run(mini_batch):\n    return {returned}\n"
    result = run_driver(tmp_path, script, file_count=2)
    assert result.code != 0
    assert message in result.output
    assert "more failed than the settings allow" in result.output
    assert "Traceback" not in result.output


RETURNS = {
    "tuple": "tuple(mini_batch)",
    "DataFrame": "pandas.DataFrame({'a': mini_batch, 'b': 1})",
}


@pytest.mark.parametrize("returned", RETURNS.values(), ids=RETURNS)
def test_run_may_return_a_tuple_or_a_dataframe(tmp_path: Path, returned: str) -> None:
    script = f"import pandas\ndef run(mini_batch):\n    return {returned}\n"
    result = run_driver(tmp_path, script)
    assert result.code == 0, result.output


SCRIPTS_THAT_CANNOT_START = {
    "syntax error": ("def run(:\n", "SyntaxError"),
    "missing package": ("import nothing_of_this_name\n", "nothing_of_this_name"),
    "init raises": ("def init():\n    raise OSError('no model')\n", "no model"),
}


@pytest.mark.parametrize(
    ("script", "message"),
    SCRIPTS_THAT_CANNOT_START.values(),
    ids=SCRIPTS_THAT_CANNOT_START,
)
def test_error_of_an_entry_script_that_cannot_start_is_shown(
    tmp_path: Path, script: str, message: str
) -> None:
    result = run_driver(tmp_path, script)
    assert result.code != 0
    assert message in result.output
    assert "init() failed" in result.output


def test_input_without_files_is_refused(tmp_path: Path) -> None:
    result = run_driver(tmp_path, RETURN_ALL, file_count=0)
    assert result.code == 1
    assert "the inputs contain no files" in result.output


# Time limits, and the end of a worker ---------------------------------------------------


def test_init_that_never_ends_is_stopped(tmp_path: Path) -> None:
    """Check that the log names the line that was running."""
    script = f"import time\ndef init():\n    time.sleep(600)\n{RETURN_ALL}"
    result = run_driver(tmp_path, script, "--first_task_creation_timeout", "1")
    assert result.code == 1
    assert 'entry.py", line 3 in init' in result.output
    assert "init() failed, or took more than 1 s" in result.output


LEAVES_A_FILE_OPEN = f"""
import time
file = open("open.txt", "w")
{RETURN_ALL}
def shutdown():
    file.write("whole")
    time.sleep(4)
    print("shut down", flush=True)
"""


def test_worker_waits_for_shutdown_and_closes_its_files(tmp_path: Path) -> None:
    """Let `shutdown()` take four seconds, and leave a file open."""
    result = run_driver(tmp_path, LEAVES_A_FILE_OPEN)
    assert result.code == 0, result.output
    assert "shut down" in result.output
    assert (tmp_path / "code" / "open.txt").read_text() == "whole"
