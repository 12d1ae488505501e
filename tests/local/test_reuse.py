"""Test that a run reuses earlier results exactly if the steps would write the same again.

The steps are toys that write down everything that they read. Random edits are made between
many runs, and the steps that run are compared with those that must run. Other runs are
killed at random moments.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from reuse_toys import STEPS, ReuseToy, list_statuses, read_model

# The suite has no time for more. By hand, 500 edits and 200 kills were tried.
EDITS = int(os.environ.get("REUSE_EDITS", "60"))
KILLS = int(os.environ.get("REUSE_KILLS", "6"))
#: The steps whose outputs a step reads.
INPUTS = {
    "train": ["prep"],
    "evaluate": ["train"],
    "register": ["train", "evaluate"],
    "monitor": ["prep"],
    "score": ["prep", "monitor"],
    "summarize": ["score", "monitor"],
}
#: The steps that look up the registered model, by pipeline.
READS_MODEL = {
    "training": {"evaluate", "register"},
    "scoring": {"prep", "monitor", "score"},
}
#: The pipeline parameters that a step of training reads, with their default values.
PARAMETERS = {
    "train": {"max_iterations": "200"},
    "register": {"register": "unless_worse"},
}


# Random edits -----------------------------------------------------------------------------


@dataclass
class Execution:
    """A step that has run once."""

    signature: str  # describes all that it depended on, except the registered model
    models: list[object]  # the registered models for which its results hold
    output: Path | None
    is_intact: bool = True  # until its output is edited


@dataclass
class ExpectedReuse:
    """The state of a project, from which follows which steps must run."""

    toy: ReuseToy
    code: dict[str, str] = field(default_factory=dict)
    data: dict[str, object] = field(default_factory=dict)
    parameters: dict[str, str] = field(default_factory=dict)
    pins: int = 0
    variable: str = "PASSIVE"
    scoring_version: str = "latest"
    executions: dict[str, list[Execution]] = field(default_factory=dict)

    def run_and_compare(self, pipeline: str, fresh: bool) -> Any:
        """Run a pipeline, and compare which steps run with those that must."""
        arguments = ["--fresh"] if fresh else []
        if pipeline == "training":
            for name, value in self.parameters.items():
                arguments += ["--set", f"{name}={value}"]
        self._read_data()
        models_before = self._find_models(pipeline)
        result = self.toy.run(pipeline, *arguments)
        models_after = self._find_models(pipeline)

        used: dict[str, Execution] = {}
        new: list[str] = []
        expected: list[str] = []
        for step in result["steps"]:
            name = step["name"]
            if expected and expected[-1] in ("failed", "skipped"):
                expected.append("skipped")
                continue
            signature = self._describe(pipeline, name, used)
            execution = self._find_execution(name, signature, models_before)
            if execution and not fresh:
                used[name] = execution
                expected.append("reused")
            elif self.code.get(name) == "fails":
                expected.append("failed")
            else:
                output = next(iter(step["outputs"].values()), None)
                used[name] = Execution(signature, [], Path(output) if output else None)
                self.executions.setdefault(name, []).append(used[name])
                new.append(name)
                expected.append("ran")
        assert list_statuses(result) == expected

        for name in READS_MODEL[pipeline] & used.keys():
            if name == "register" and name in new:
                used[name].models.append(models_after[name])
            elif name in new:
                used[name].models.append(models_before[name])
            if "register" in new:
                # The run may have registered the model that was evaluated.
                used[name].models.append(models_after[name])
        return result

    def _read_data(self) -> None:
        """Read the files of both pipelines, except for hidden ones."""
        for pipeline in ("training", "scoring"):
            folder = self.toy.path / "data" / "sample" / pipeline
            self.data[pipeline] = [
                (file.name, file.read_bytes()) for file in sorted(folder.glob("[!.]*"))
            ]

    def _find_models(self, pipeline: str) -> dict[str, object]:
        """Return the registered model that each step would find: which, and its text."""
        models: dict[str, object] = {}
        for step in READS_MODEL[pipeline]:
            models[step] = None
            wanted = self._version_read_by(step)
            for number, run, source in self.toy.list_versions():
                if wanted in ("latest", str(number)):
                    models[step] = (number, run, read_model(source))
                    break
        return models

    def _version_read_by(self, step: str) -> str:
        """Return which version of the model a step looks up."""
        return self.scoring_version if step in READS_MODEL["scoring"] else "latest"

    def _describe(self, pipeline: str, step: str, used: dict[str, Execution]) -> str:
        """Return a text that differs once anything that a step depends on does."""
        inputs: list[object] = [id(used[producer]) for producer in INPUTS.get(step, [])]
        if step == "prep":
            inputs = [self.data[pipeline]]
        values = [self._version_read_by(step)]
        if pipeline == "training":
            values = []
            for name, default in PARAMETERS.get(step, {}).items():
                values.append(self.parameters.get(name, default))
        # The variable is that of all steps but score, which has another one.
        variable = "" if step == "score" else self.variable
        code = self.code.get(step, "0")
        return repr([pipeline, step, code, self.pins, inputs, values, variable])

    def _find_execution(
        self, step: str, signature: str, models: dict[str, object]
    ) -> Execution | None:
        """Return the execution that must be reused, the one that was used last first."""
        executions = self.executions.get(step, [])
        for execution in reversed(executions):
            fits_model = step not in models or models[step] in execution.models
            if execution.signature == signature and execution.is_intact and fits_model:
                executions.remove(execution)
                executions.append(execution)
                return execution
        return None


class RandomEdits:
    """Edits of a project that change what must run, or seem to."""

    def __init__(self, state: ExpectedReuse, chance: random.Random) -> None:
        self.state = state
        self.chance = chance
        self.toy = state.toy
        self.edits = [
            *[self.edit_code] * 4,
            *[self.set_parameter] * 2,
            self.edit_data,
            self.rename_data,
            self.touch_data,
            self.pin_package,
            self.set_variable,
            self.choose_model_version,
            self.register_model,
            self.register_other_model,
            self.delete_version,
            self.edit_registered_model,
            self.spoil_output,
        ]

    def edit(self) -> str:
        """Make an edit by chance, and return what was edited."""
        step = self.chance.choice([*STEPS["training"], *STEPS["scoring"][1:]])
        edit = self.chance.choice(self.edits)
        edit(step)
        return f"{edit.__name__} {step}"

    def edit_code(self, step: str) -> None:
        """Change the script of a step, or let it fail."""
        mark = self.chance.choice(["0", "0", "1", "1", "2", "fails"])
        fault = "raise SystemExit(3)" if mark == "fails" else ""
        self.state.code[step] = mark
        self.toy.write_step(step, mark, fault)

    def edit_data(self, _: str) -> None:
        """Change a byte of a file, which keeps its size and time."""
        pipeline = self.chance.choice(["training", "scoring"])
        file = min((self.toy.path / "data/sample" / pipeline).iterdir())
        status = file.stat()
        content = bytearray(file.read_bytes())
        content[-5] = self.chance.choice(b"123")
        file.write_bytes(content)
        os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))

    def rename_data(self, _: str) -> None:
        """Rename a file of the training data."""
        file = min((self.toy.path / "data/sample/training").iterdir())
        file.rename(file.with_name(self.chance.choice(["A.csv", "B.csv"])))

    def touch_data(self, _: str) -> None:
        """Change the time of a file, and add a hidden one: nothing must run."""
        file = min((self.toy.path / "data/sample/training").iterdir())
        file.touch()
        (file.parent / ".hidden").write_text(str(self.chance.random()))

    def set_parameter(self, _: str) -> None:
        """Choose the value of a pipeline parameter for the next runs."""
        name = self.chance.choice(["max_iterations", "register"])
        values = {
            "max_iterations": ["10", "20", "30"],
            "register": ["always", "unless_worse"],
        }
        self.state.parameters[name] = self.chance.choice(values[name])

    def pin_package(self, _: str) -> None:
        """Add a package to the pins of the steps, or remove it."""
        self.state.pins = self.chance.choice([0, 1])
        pins = self.toy.path / "environment" / "steps.txt"
        lines = [
            line for line in pins.read_text().splitlines() if not line.startswith("toy")
        ]
        if self.state.pins:
            lines.append("toy==1")
        pins.write_text("\n".join([*lines, ""]))

    def set_variable(self, _: str) -> None:
        """Set the environment variable that all steps but score have."""
        old = self.state.variable
        self.state.variable = self.chance.choice(["PASSIVE", "ACTIVE"])
        self.toy.project.edit(
            f"{self.toy.project.package}/pipelines.py",
            f'POLICY": "{old}',
            f'POLICY": "{self.state.variable}',
        )

    def choose_model_version(self, _: str) -> None:
        """Let scoring use the newest version of the model, or version 1."""
        version = self.chance.choice(["latest", 1])
        self.toy.project.set("scoring", model_version=version)
        self.state.scoring_version = str(version)

    def register_model(self, _: str) -> None:
        """Register a new version of the model."""
        self.toy.register(str(self.chance.random()))

    def register_other_model(self, _: str) -> None:
        """Register a model of another name: nothing must run."""
        self.toy.register("another", "other_model")

    def delete_version(self, _: str) -> None:
        """Delete the newest version of the model, as MLflow does."""
        for number, _run, _source in self.toy.list_versions()[:1]:
            self.toy.query_registry(
                "UPDATE model_versions SET current_stage = 'Deleted_Internal'"
                " WHERE version = ? AND name = 'toy'",
                number,
            )

    def edit_registered_model(self, _: str) -> None:
        """Change the files of the newest version of the model."""
        for _number, _run, source in self.toy.list_versions()[:1]:
            Path(source.removeprefix("file://"), "part.txt").write_text("edited")

    def spoil_output(self, step: str) -> None:
        """Change the output of an execution, which must not be reused any more."""
        intact: list[tuple[Execution, Path]] = []
        for execution in self.state.executions.get(step, []):
            if execution.output and execution.is_intact:
                intact.append((execution, execution.output))
        if not intact:
            return
        execution, output = self.chance.choice(intact)
        match self.chance.choice(["edit", "remove", "add"]):
            case "edit":
                (output / "part.txt").write_text("spoilt")
            case "remove":
                shutil.rmtree(output)
            case "add":
                (output / "more.txt").write_text("more")
        execution.is_intact = False


def test_exactly_the_changed_steps_run(toy: ReuseToy) -> None:
    """Before each run, there are some random edits or none."""
    seed = random.randrange(2**32)
    chance = random.Random(seed)
    state = ExpectedReuse(toy)
    edits = RandomEdits(state, chance)
    history = [f"seed {seed}"]
    try:
        for _ in range(EDITS):
            for _ in range(chance.choice([0, 1, 1, 1, 2, 4])):
                history.append(edits.edit())
            pipeline = chance.choice(["training"] * 4 + ["scoring"])
            fresh = chance.random() < 0.05
            history.append(f"{pipeline}, fresh: {fresh}")
            result = state.run_and_compare(pipeline, fresh)
            history.append(" ".join(list_statuses(result)))
    except AssertionError:
        print("\n".join(history[-40:]))
        raise


# Killed ----------------------------------------------------------------------------------


#: The step that writes each output of the training pipeline.
PRODUCERS = {
    "prepared": "prep",
    "model": "train",
    "holdout": "train",
    "evaluation": "evaluate",
    "registration": "register",
}


def check_outputs_are_whole(result: Any, marks: dict[str, str]) -> None:
    """Check that each output has its step's mark, and what its step has read.

    An input that a step has read must be the output that the run has now.
    """
    texts = {}
    for step in result["steps"]:
        for port, folder in step["outputs"].items():
            texts[port] = Path(folder, "part.txt").read_text()
    for port, step in PRODUCERS.items():
        mark, _variable, *arguments = json.loads(texts[port])
        assert mark == marks[step]
        for option, value in pairwise(arguments):
            is_folder = isinstance(value, list)
            if is_folder and option != "--raw":
                assert value == [["part.txt", texts[option.removeprefix("--")]]]


def test_outputs_of_killed_runs_are_never_reused(toy: ReuseToy) -> None:
    marks = dict.fromkeys(STEPS["training"], "0")
    for step in marks:
        toy.write_step(step, pause=0.01)
    chance = random.Random()
    started = time.monotonic()
    toy.run("training")
    seconds_of_a_run = time.monotonic() - started
    kills = 0
    while kills < KILLS:
        for _ in range(chance.choice([0, 1, 2])):
            step = chance.choice(STEPS["training"])
            marks[step] = chance.choice("012")
            toy.write_step(step, marks[step], pause=0.01)
        options = ["--fresh"] if chance.random() < 0.5 else []
        for _ in range(chance.choice([1, 2])):
            kill_after = chance.random() * seconds_of_a_run
            result = toy.run("training", *options, kill_after=kill_after)
            if result is None:
                kills += 1

        result = toy.run("training")
        assert result["status"] == "completed"
        check_outputs_are_whole(result, marks)
        for _number, _run, source in toy.list_versions():
            # A model that was registered is complete.
            json.loads(read_model(source))
        assert set(list_statuses(toy.run("training"))) == {"reused"}


# Data -------------------------------------------------------------------------------------


def test_step_is_not_reused_if_its_data_changed_meanwhile(toy: ReuseToy) -> None:
    file = "next(Path(sys.argv[sys.argv.index('--raw') + 1]).iterdir())"
    toy.write_step("prep", fault=f"with {file}.open('a') as file: file.write('x')")
    for _ in range(2):
        assert list_statuses(toy.run("training"))[0] == "ran"


def test_change_of_one_byte_in_a_large_file_is_noticed(toy: ReuseToy) -> None:
    """But the file is not read again while nothing says that it has changed."""
    file = toy.path / "data" / "sample" / "training" / "large.csv"
    zeros = bytes(10**6)
    file.write_bytes(zeros)
    # Until its times are older than this, a file may change once more without a trace.
    time.sleep(2.5)
    status = file.stat()
    assert list_statuses(toy.run("training"))[0] == "ran"
    assert list_statuses(toy.run("training"))[0] == "reused"
    with closing(sqlite3.connect(toy.path / "runs/.digests.db")) as database:
        (path,) = database.execute("SELECT path FROM files").fetchone()
    assert path == os.fsencode(file)

    for content, expected in ((zeros[1:] + b"1", "ran"), (zeros, "reused")):
        file.write_bytes(content)
        os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
        assert list_statuses(toy.run("training"))[0] == expected


# Removal of old runs ----------------------------------------------------------------------


def test_only_the_newest_runs_are_kept(toy: ReuseToy) -> None:
    """Those stay that another run uses, that hold a registered model, or were renamed."""
    toy.keep_runs(2)
    first = Path(toy.run("training")["folder"])
    newest = []
    for i in range(4):
        toy.write_step("train", str(i + 1))
        result = toy.run("training")
        newest.append(Path(result["folder"]).name)
        assert list_statuses(result) == ["reused", "ran", "ran", "ran"]
    # The first run stays, as it has the prepared data that all others use.
    assert toy.list_runs() == {first.name, *newest[-2:]}

    renamed = first.rename(first.with_name("the best one"))
    run_with_model = Path(toy.run("training", "--fresh")["folder"])
    toy.register("its files are in a run")
    source = (run_with_model / "train/outputs/model").as_uri()
    toy.query_registry(
        "UPDATE model_versions SET source = ? WHERE run_id IS NOT 0", source
    )
    for _ in range(3):
        toy.run("training", "--fresh")
    assert renamed.exists()
    assert run_with_model.exists()
    assert len(toy.list_runs()) == 4


def test_run_never_removes_itself(toy: ReuseToy) -> None:
    """It does not even if other runs seem to be newer, as the clock was set back."""
    toy.keep_runs(1)
    first = Path(toy.run("training")["folder"])
    record = json.loads((first / "run.json").read_text())
    record["started"] += 10**18
    (first / "run.json").write_text(json.dumps(record))
    folder = first.rename(first.with_name("2100-01-01-000000-training"))
    second = Path(toy.run("training", "--fresh")["folder"])
    assert second.exists()
    assert not folder.exists()
    # It counts as the newest, so that the next run uses what it has made.
    third = toy.run("training")
    assert set(list_statuses(third)) == {"reused"}
    assert str(second) in third["steps"][0]["outputs"]["prepared"]


def test_record_with_a_path_outside_runs_is_refused(toy: ReuseToy) -> None:
    folder = Path(toy.run("training")["folder"])
    record = json.loads((folder / "run.json").read_text())
    for wrong in ("..", "../elsewhere", "/tmp", 7):
        record["done"]["prep"]["run"] = wrong
        (folder / "run.json").write_text(json.dumps(record))
        result = toy.project.run("training", "--step", "train", "--folder", str(folder))
        assert result.code == 1
        assert "is not the folder of a run" in result.err


def test_running_run_is_not_removed(toy: ReuseToy) -> None:
    toy.keep_runs(1)
    waits = "while not Path('../../../../finish').exists(): time.sleep(0.1)"
    toy.write_step("train", fault=waits)
    with subprocess.Popen(
        [sys.executable, "-m", toy.project.package, "run", "training", "--json"],
        cwd=toy.path,
        env={**os.environ, "PYTHONPATH": str(toy.path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            while not list(toy.path.glob("runs/*/train/code/train.py")):
                assert process.poll() is None
                time.sleep(0.1)
            (at_work,) = toy.list_runs()
            # Two runs end meanwhile, and would keep only the newest of all runs.
            folders = {toy.run("scoring", "--fresh")["folder"] for _ in range(2)}
            assert len(folders) == 2
            assert len(toy.list_runs()) == 2
            assert at_work in toy.list_runs()
        finally:
            (toy.path / "finish").touch()
        out, err = process.communicate()
    assert process.returncode == 0, err
    assert json.loads(out.splitlines()[-1])["folder"] == str(
        toy.path / "runs" / at_work
    )
    # A run never removes its own results.
    assert at_work in toy.list_runs()


# A step alone -----------------------------------------------------------------------------


def test_step_alone_uses_reused_inputs(toy: ReuseToy) -> None:
    first = toy.run("training")
    toy.write_step("train", "1")
    folder = toy.run("training")["folder"]
    again = toy.run("training", "--step", "evaluate", "--folder", folder)
    assert list_statuses(again) == ["ran"]
    assert list_statuses(toy.run("training")) == [*["reused"] * 3, "ran"]
    shutil.rmtree(Path(first["folder"]))
    result = toy.project.run("training", "--step", "train", "--folder", folder)
    assert result.code == 1
    assert "The outputs of prep are gone. Run the whole pipeline" in result.err
    assert list_statuses(toy.run("training", "--step", "prep", "--folder", folder)) == [
        "ran"
    ]
    assert list_statuses(toy.run("training"))[0] == "reused"
