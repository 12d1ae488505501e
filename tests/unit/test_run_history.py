"""Test the tables of earlier runs: their edits, their figures, and broken records."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from template_package import errors, load

commands = load("runtime.commands")
run_folder = load("runtime.local.run_folder")
run_history = load("runtime.local.run_history")
run_record = load("runtime.local.run_record")
run_tables = load("runtime.local.run_tables")

NO_METRICS: dict[str, float] = {}
#: The tables of MLflow that are read, with the columns that matter.
TABLES = """
CREATE TABLE latest_metrics (run_uuid, key, value, is_nan);
CREATE TABLE tags (run_uuid, key, value);
CREATE TABLE params (run_uuid, key, value);
CREATE TABLE model_versions (name, version, creation_time, current_stage, run_id);
CREATE TABLE model_version_tags (name, version, key, value);
"""
STEPS = ["prep", "train"]


class History:
    """A project with the folders of runs, and with what MLflow has recorded of them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "runs").mkdir()
        (root / "mlruns").mkdir()
        self.database = sqlite3.connect(root / "mlruns" / "mlflow.db")
        self.database.executescript(TABLES)

    def add(
        self,
        name: str,
        *,
        settings: str = "training:\n  margin: 0.02\n",
        code: str = "pass\n",
        data: str = "1234",
        values: dict[str, str] | None = None,
        metrics: dict[str, float] = NO_METRICS,
        tags: dict[str, str] | None = None,
        done: Sequence[str] = STEPS,
        reused_from: str = "",
    ) -> Path:
        """Add a run that is newer than all others."""
        folder = self.root / "runs" / name
        (folder / "train" / "code").mkdir(parents=True)
        (folder / "train" / "code" / "train.py").write_text(code)
        (folder / "settings.yml").write_text(settings)
        mlflow_run = f"{len(list((self.root / 'runs').iterdir())):032x}"
        for key, value in metrics.items():
            row = [mlflow_run, key, value, False]
            self.database.execute("INSERT INTO latest_metrics VALUES (?, ?, ?, ?)", row)
        for key, text in (tags or {}).items():
            tag = [mlflow_run, key, text]
            self.database.execute("INSERT INTO tags VALUES (?, ?, ?)", tag)
        self.database.commit()
        steps = {
            step: run_record.StepRecord(
                arguments=[],
                key="k",
                models=[],
                files="f",
                run=reused_from,
                mlflow_run=mlflow_run,
                data={"raw": data} if step == "prep" else {},
            )
            for step in done
        }
        run_record.RunRecord(
            pipeline=name.rpartition("-")[2],
            set=values or {},
            steps=STEPS,
            done=steps,
            started=time.time_ns(),
            mlflow_run=mlflow_run,
        ).write(folder)
        return folder

    def list(self, text: str = "", width: int | None = None) -> list[str]:
        """Return the lines of the table of all runs whose names contain a text."""
        history = run_history.read_history(self.root)
        shown = [run for run in history if text in run.name]
        lines: list[str] = run_tables.format_runs(history, shown, width)
        return lines

    def compare(self, first: str, second: str) -> str:
        """Return the comparison of two runs as text."""
        history = run_history.read_history(self.root)
        runs = [run_history.find_run(history, name) for name in (first, second)]
        return "\n".join(run_tables.format_comparison(*runs))

    def find(self, text: str) -> Any:
        """Return the run that a text names."""
        return run_history.find_run(run_history.read_history(self.root), text)


@pytest.fixture
def history(tmp_path: Path) -> History:
    """A project without runs."""
    return History(tmp_path)


FIRST = "2026-11-29-090000-training"
SECOND = "2026-11-30-090000-training"


def add_two_runs(history: History) -> None:
    """Add two runs of training, between which a setting, code and data were edited."""
    history.add(
        FIRST,
        metrics={"log_loss": 0.5, "training_rows": 80, "holdout_rows": 20},
        tags={
            "metric": "log_loss",
            "verdict": "better than the baseline",
            "version": "1",
        },
    )
    history.add(
        SECOND,
        settings="training:\n  margin: 0.05\n  group: customer\n",
        code="pass\npass\n",
        data="5678",
        values={"max_iterations": "50"},
        metrics={"log_loss": 0.25, "training_rows": 90, "holdout_rows": 30},
        tags={"metric": "log_loss", "verdict": "worse"},
    )


def test_each_run_is_listed_with_its_edits_and_figures(history: History) -> None:
    add_two_runs(history)
    heading, newest, *details = history.list()
    assert heading.split() == ["run", "started", "rows", "version", "log_loss"]
    assert newest.split()[0] == SECOND
    assert newest.split()[3:] == ["120", "-", "0.25"]
    edits = (
        "training.margin: 0.05, training.group: customer, steps/train/train.py, content of"
        " the data"
    )
    assert details[:3] == [
        "    worse",
        "    set: max_iterations=50",
        f"    edited: {edits}",
    ]
    assert details[3].split()[3:] == ["100", "1", "0.5"]
    assert details[4:] == ["    better than the baseline"]
    assert [line.split()[0] for line in history.list("29-09")[1:2]] == [FIRST]


def test_list_fits_into_80_columns_of_a_terminal(history: History) -> None:
    add_two_runs(history)
    wide = history.list()
    lines = history.list(width=80)
    assert max(len(line) for line in lines) <= 80
    assert " ".join(" ".join(lines).split()) == " ".join(" ".join(wide).split())


def test_times_are_shown_in_the_time_zone_of_this_machine(
    history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = history.add(FIRST)
    record = run_record.RunRecord.read(folder)
    record.started = 1_774_746_000 * 10**9  # 2026-03-29 01:00 UTC
    record.write(folder)
    for zone, shown in (
        ("UTC", "2026-03-29 01:00"),
        ("Europe/Berlin", "2026-03-29 03:00"),
    ):
        monkeypatch.setenv("TZ", zone)
        time.tzset()
        assert shown in history.list()[1]
    monkeypatch.delenv("TZ")
    time.tzset()


def test_comparison_shows_what_differs_between_two_runs(history: History) -> None:
    add_two_runs(history)
    text = history.compare("11-29", SECOND)
    assert f"A  {FIRST}, better than the baseline, version 1" in text
    assert f"B  {SECOND}, worse\n" in text
    lines = [line.split() for line in text.splitlines()]
    assert ["training.margin", "0.02", "0.05"] in lines
    assert ["training.group", "-", "customer"] in lines
    assert ["--set", "max_iterations", "-", "50"] in lines
    assert ["steps/train/train.py", "+1", "-0"] in lines
    assert "prep: raw: different content" in text
    assert ["log_loss", "0.5", "0.25", "-0.25"] in lines
    assert ["holdout_rows", "20", "30", "+10"] in lines
    same = history.compare(FIRST, FIRST)
    for title in ("settings: the same", "code: the same", "data: the same"):
        assert title in same


def test_values_are_readable(history: History) -> None:
    """A mark is quoted, and a large metric has all digits before the point."""
    tags = {"metric": "rmse", "verdict": "another question"}
    history.add(FIRST, settings="data:\n  decimal: .\n", metrics={"rmse": 12874.6})
    history.add(
        SECOND,
        settings="data:\n  decimal: ','\n  target: Preis €\n",
        metrics={"rmse": 999.66},
        tags=tags,
    )
    lines = history.list()
    assert lines[1].split()[-1] == "999.7"
    assert lines[2:4] == [
        "    predicts something else",
        '    edited: data.decimal: ",", data.target: Preis €',
    ]
    rows = [line.split() for line in history.compare(FIRST, SECOND).splitlines()]
    assert ["data.decimal", '"."', '","'] in rows
    assert ["rmse", "12,875", "999.7", "-11,875"] in rows


def test_reused_code_is_that_of_the_run_that_has_it(history: History) -> None:
    history.add(FIRST, code="old\n")
    history.add(SECOND, code="never ran\n", reused_from=FIRST)
    assert "code: the same" in history.compare(FIRST, SECOND)


def test_run_is_found_by_a_part_of_its_name_or_by_its_path(history: History) -> None:
    add_two_runs(history)
    assert history.find("11-30").name == SECOND
    assert history.find(f"runs/{SECOND}/").name == SECOND
    with pytest.raises(
        errors.CommandError, match="2 runs have names that contain 'training'"
    ):
        history.find("training")
    with pytest.raises(errors.CommandError, match=f"closest name is {SECOND}"):
        history.find("2026-11-30-090000-trainig")
    # A whole name counts, even if it is a part of another one.
    history.add("11-30")
    assert history.find("11-30").name == "11-30"


def test_run_is_listed_by_the_path_of_its_folder(
    history: History, capsys: pytest.CaptureFixture[str]
) -> None:
    add_two_runs(history)
    runs = run_history.read_history(history.root)
    commands._print_runs(runs, name_part=f"runs/{FIRST}/")

    output = capsys.readouterr().out
    assert FIRST in output
    assert SECOND not in output


def test_list_names_the_step_at_which_a_run_failed(history: History) -> None:
    history.add(FIRST, done=["prep"])
    assert history.list()[2] == "    did not finish: train"
    with run_folder.lock_folder(history.root / "runs" / FIRST):
        assert history.list()[2] == "    running: train"


def test_lock_of_a_missing_folder_is_an_os_error(tmp_path: Path) -> None:
    with (
        pytest.raises(OSError, match="unable to open database file"),
        run_folder.lock_folder(tmp_path / "missing"),
    ):
        pass


BROKEN_RECORDS = {
    "not JSON": (b"{", "JSON"),
    "not UTF-8": (b"\xff", "cannot be read"),
    "a list": (b"[]", "JSON"),
    "a wrong value": (b'{"pipeline": "training", "set": {"a": 1}}', "set.a"),
    "another pipeline id": (b'{"pipeline": "a", "mlflow_run": "../x"}', "mlflow_run"),
    "surrogates": (b'{"pipeline": "a", "set": {"a": "\\udcff"}}', "JSON"),
}


@pytest.mark.parametrize(
    ("content", "reason"), BROKEN_RECORDS.values(), ids=BROKEN_RECORDS
)
def test_broken_record_is_listed_with_its_reason(
    history: History, content: bytes, reason: str
) -> None:
    add_two_runs(history)
    (history.root / "runs" / SECOND / "run.json").write_bytes(content)
    lines = history.list()
    row = next(i for i, line in enumerate(lines) if line.startswith(SECOND))
    assert lines[row].split()[1:] == ["-"] * 4
    assert reason in lines[row + 1]
    assert sum(line.startswith(FIRST) for line in lines) == 1
    with pytest.raises(errors.CommandError, match="cannot be read: "):
        history.compare(FIRST, SECOND)


def test_other_files_and_folders_are_not_listed_as_runs(history: History) -> None:
    history.add(FIRST)
    runs = history.root / "runs"
    (runs / "notes").mkdir()
    (runs / ".hidden").mkdir()
    (runs / "azure.log").touch()
    (runs / "2026-11-30-100000-training").mkdir()
    (runs / os.fsdecode(b"kept-\xff")).mkdir()
    text = "\n".join(history.list())
    assert "it has no run.json" in text
    assert "the folder's name is not UTF-8" in text
    assert "notes" not in text
    assert "hidden" not in text
    assert "azure.log" not in text
    # Runs do not reuse the results in the last folder, because no record could name it.
    run_record.RunRecord(pipeline="training").write(runs / os.fsdecode(b"kept-\xff"))
    assert [run.folder.name for run in run_folder.list_runs(runs)] == [FIRST]


def test_history_is_empty_without_runs_and_makes_no_database(tmp_path: Path) -> None:
    assert run_history.read_history(tmp_path) == []
    (tmp_path / "runs" / FIRST).mkdir(parents=True)
    run_record.RunRecord(pipeline="training").write(tmp_path / "runs" / FIRST)
    assert run_history.read_history(tmp_path)[0].results.metrics == {}
    # Reading the history does not make a database.
    assert not (tmp_path / "mlruns").exists()


def test_failed_runs_do_not_push_out_good_ones(history: History) -> None:
    good = [history.add(f"2026-11-30-09000{i}-training") for i in range(3)]
    failed = [
        history.add(f"2026-11-30-10000{i}-training", done=["prep"]) for i in range(4)
    ]
    removed = run_folder.remove_old_runs(
        history.root / "runs", 2, failed[-1], lambda name: False
    )
    assert removed == [good[0].name, failed[0].name, failed[1].name]


def test_record_without_the_list_of_steps_counts_as_good(history: History) -> None:
    """Version 1.0.0 of the template did not write this list."""
    old = run_record.RunRecord(pipeline="training", done={}, started=1)
    assert old.find_unfinished_steps() == []


def test_versions_are_listed_with_their_metric_and_run(history: History) -> None:
    add_two_runs(history)
    parent = f"{1:032x}"
    registration = "ab" * 16
    tags = [
        [registration, "run", FIRST],
        [registration, "mlflow.parentRunId", parent],
    ]
    history.database.executemany("INSERT INTO tags VALUES (?, ?, ?)", tags)
    versions = [
        ["toy", 1, 1_774_746_000_000, "None", registration],
        ["toy", 2, 1_774_746_000_000, "Deleted_Internal", ""],
        ["toy", 3, 1_774_746_000_000, "None", ""],
        ["other", 1, 0, "None", ""],
    ]
    history.database.executemany(
        "INSERT INTO model_versions VALUES (?, ?, ?, ?, ?)", versions
    )
    reference = ["toy", 3, "reference", "1"]
    history.database.execute(
        "INSERT INTO model_version_tags VALUES (?, ?, ?, ?)", reference
    )
    history.database.execute(
        "INSERT INTO params VALUES (?, ?, ?)", [parent, "target", "Species"]
    )
    history.database.commit()
    (history.root / "runs" / FIRST).rename(history.root / "runs" / "the best one")

    registered = load("runtime.local.registered_models").list_versions(
        history.root, "toy"
    )
    assert [version.reference for version in registered] == ["1", "1"]
    past = run_history.read_history(history.root)
    heading, newest, first = run_tables.format_model_versions(
        history.root, registered, past
    )
    assert heading.split() == ["version", "registered", "log_loss", "target", "run"]
    assert newest.split()[0] == "3"
    assert newest.split()[3:] == ["-", "-", "-"]
    assert first.split()[0] == "1"
    assert first.split()[3:] == ["0.5", "Species", "the", "best", "one"]
