"""Test how the file run.json of a run is read, and that no path in it leaves the runs.

Records that a run has written are read as they were. Records of version 1.0.0 are read,
too. All others are refused.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from template_package import load

run_record = load("runtime.local.run_record")
run_folder = load("runtime.local.run_folder")

#: A record as version 1.0.0 of the template wrote it.
RECORD_OF_1_0_0 = {
    "pipeline": "training",
    "set": {"max_iterations": "7"},
    "done": {
        "prep": {
            "words": ["--raw", "raw", "data/sample/training"],
            "key": "b178",
            "models": [""],
            "files": "501c",
            "seconds": 0.07,
            "run": "2026-11-24-101500-training",
            "id": "0bbe",
        }
    },
}


def write_record(folder: Path, record: Any) -> None:
    """Write a right or wrong record into the folder of a run."""
    (folder / "run.json").write_text(json.dumps(record), encoding="utf-8")


def test_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    step = run_record.StepRecord(
        arguments=["--task", "ü"], key="k", models=["none"], files="f", seconds=1.5
    )
    record = run_record.RunRecord(
        pipeline="scoring", set={"a": "1"}, done={"prep": step}, started=5
    )
    record.write(tmp_path)
    assert run_record.RunRecord.read(tmp_path) == record
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]


def test_record_of_version_1_0_0_is_read(tmp_path: Path) -> None:
    write_record(tmp_path, RECORD_OF_1_0_0)
    record = run_record.RunRecord.read(tmp_path)
    prep = record.done["prep"]
    assert prep.arguments == ["--raw", "raw", "data/sample/training"]
    assert prep.run == "2026-11-24-101500-training"
    # That version did not record the start of a run, so the time of the file counts.
    assert record.started == (tmp_path / "run.json").stat().st_mtime_ns


WRONG_VALUES_OF_A_STEP = {
    "the folder above the runs": {"run": ".."},
    "the folder of the runs": {"run": "."},
    "a path upwards": {"run": "../elsewhere"},
    "an absolute path": {"run": "/etc"},
    "a path of Windows": {"run": "..\\elsewhere"},
    "a drive of Windows": {"run": "C:"},
    "a null character": {"run": "a\0b"},
    "a number as a run": {"run": 7},
    "a text as arguments": {"words": "abc"},
    "a mapping as arguments": {"words": {"a": 1}},
    "seconds as text": {"seconds": "1"},
    "seconds without an end": {"seconds": float("inf")},
    "seconds that are no number": {"seconds": float("nan")},
    "no key": {"key": None},
}


@pytest.mark.parametrize(
    "values", WRONG_VALUES_OF_A_STEP.values(), ids=WRONG_VALUES_OF_A_STEP
)
def test_wrong_value_of_a_step_is_refused(
    tmp_path: Path, values: dict[str, Any]
) -> None:
    prep = {**RECORD_OF_1_0_0["done"]["prep"], **values}  # type: ignore[index]
    write_record(tmp_path, {**RECORD_OF_1_0_0, "done": {"prep": prep}})
    with pytest.raises(ValueError, match="validation error"):
        run_record.RunRecord.read(tmp_path)


WRONG_VALUES_OF_A_RUN = {
    "a list as parameters": {"set": [["a", "b"]]},
    "a number as a parameter": {"set": {"a": 1}},
    "a list as steps": {"done": []},
    "a text as a step": {"done": {"prep": "ran"}},
    "a start of true": {"started": True},
    "a start without an end": {"started": float("inf")},
    "a start of too many digits": {"started": 10**400},
    "a number as the pipeline": {"pipeline": 1},
}


@pytest.mark.parametrize(
    "values", WRONG_VALUES_OF_A_RUN.values(), ids=WRONG_VALUES_OF_A_RUN
)
def test_wrong_value_of_a_run_is_refused(
    tmp_path: Path, values: dict[str, Any]
) -> None:
    write_record(tmp_path, {**RECORD_OF_1_0_0, **values})
    with pytest.raises(ValueError, match="validation error"):
        run_record.RunRecord.read(tmp_path)


NO_RECORDS = {
    "empty": b"",
    "null": b"null",
    "a list": b"[]",
    "an empty mapping": b"{}",
    "cut off": b'{"pipeline": "tr',
    "not UTF-8": b"\xff\xfe",
    "very deep lists": b"[" * 100_000,
    "very deep mappings": b'{"done":' * 100_000,
}


@pytest.mark.parametrize("content", NO_RECORDS.values(), ids=NO_RECORDS)
def test_file_without_a_record_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "run.json").write_bytes(content)
    with pytest.raises(ValueError):
        run_record.RunRecord.read(tmp_path)


def test_run_that_was_replaced_by_a_link_is_not_removed(
    tmp_path: Path,
) -> None:
    names = ["2026-11-24-101500-training", "2026-11-24-101600-training"]
    runs = tmp_path / "runs"
    for name in names:
        (runs / name).mkdir(parents=True)
        write_record(runs / name, RECORD_OF_1_0_0 | {"done": {}})
    moved = (runs / names[0]).rename(tmp_path / "moved")
    (runs / names[0]).symlink_to(moved)

    removed = run_folder.remove_old_runs(runs, 0, tmp_path, lambda name: False)
    assert removed == [names[1]]
    assert [path.name for path in moved.glob("*.json")] == ["run.json"]
