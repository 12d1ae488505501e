"""What an earlier run has made is used again exactly when it would be made again.

Random edits over many runs, against a model of what must run; kills at random moments;
runs that are let go. The steps are toys that write down all that they see, and an
evaluation and a registration that look at MLflow's database as the real ones do.
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
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from inspect import getsource
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from conftest import Bake, Project

# As many as a test suite can wait for; seen to hold by hand with 500 and with 200.
EDITS = int(os.environ.get("REUSE_EDITS", "60"))
KILLS = int(os.environ.get("REUSE_KILLS", "6"))
TOY = """
# {mark}
import json, os, sqlite3, sys, time
from pathlib import Path

{fault}
STEP, OUTPUTS = {step!r}, Path.cwd().parent / "outputs"

def words():
    for word in sys.argv[1:]:
        path = Path(word)
        if path.parent == OUTPUTS:
            yield path.name
        elif path.is_absolute():
            files = sorted(p for p in path.rglob("*") if p.is_file())
            yield [(p.relative_to(path).as_posix(), p.read_text()) for p in files]
        else:
            yield word

seen = [{mark!r}, os.environ["OMP_WAIT_POLICY"], *words()]
database = os.environ["MLFLOW_TRACKING_URI"].removeprefix("sqlite:///")
if STEP == "evaluate":
    query = "SELECT source FROM model_versions WHERE current_stage = 'None'"
    with sqlite3.connect(database) as registry:
        found = registry.execute(query + " ORDER BY version DESC").fetchone()
    model = Path(sys.argv[sys.argv.index("--model") + 1], "part.txt").read_text()
    old = found and Path(found[0].removeprefix("file://"), "part.txt").read_text()
    seen.append("new" if old is None else "same" if model == old else "other " + old)
if STEP == "register" and {mark!r} != "none":
    evaluation = Path(sys.argv[sys.argv.index("--evaluation") + 1], "part.txt")
    if json.loads(evaluation.read_text())[-1] != "same" or "always" in sys.argv:
        model = Path(sys.argv[sys.argv.index("--model") + 1], "part.txt").read_text()
        run = json.loads(os.environ["MLFLOW_RUN_CONTEXT"])["run"]
        sys.path.insert(0, os.environ["PYTHONPATH"])
        from registry import register
        register(database, model, run)
text = json.dumps(seen)
for folder in OUTPUTS.iterdir():
    with (folder / "part.txt").open("w") as file:
        for half in (text[:len(text) // 2], text[len(text) // 2:]):
            file.write(half)
            file.flush()
            time.sleep({pause})
"""
SCORE = """
# {mark}
{fault}
def run(mini_batch):
    return mini_batch
"""
# Answers one command after another, each in a process that is forked once the SDK is
# there; the pipelines are read anew. A command may be killed after some seconds.
SHELL = """
import contextlib, importlib, inspect, io, json, os, signal, sys, time
main = importlib.import_module(sys.argv[1] + ".__main__")
importlib.import_module(sys.argv[1] + ".pipelines")
inspect.stack()  # looks up the files of all modules, as the SDK has it do
for line in sys.stdin:
    seconds, *sys.argv[1:] = json.loads(line)
    del sys.modules[main.PROJECT.package + ".pipelines"]
    child = os.fork()
    if not child:
        try:
            out, err = io.StringIO(), io.StringIO()
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                code = main.main(main.PROJECT, main.load_pipelines)
            with open("answer", "w") as file:
                json.dump([code, out.getvalue(), err.getvalue()], file)
            os._exit(0)
        finally:
            os._exit(1)
    importlib.import_module(main.PROJECT.package + ".pipelines")
    if seconds is not None:
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
    is_killed = os.waitpid(child, 0)[1]
    print('[-9, "", ""]' if is_killed else open("answer").read(), flush=True)
"""
STEPS = {"training": ["prep", "train", "evaluate", "register"]}
STEPS["scoring"] = ["prep", "score"]
INPUTS = {"train": ["prep"], "evaluate": ["train"], "register": ["train", "evaluate"]}
INPUTS["score"] = ["prep"]
LOOK_UP = {"training": {"evaluate", "register"}, "scoring": {"prep", "score"}}
DEFAULT = "unless_worse"  # of `register`, and no value of another parameter
PARAMETERS = {"prep": [], "train": ["max_iterations"], "register": ["register"]}


def register(
    database: str, text: str, made_by: str | None = None, name: str = "toy"
) -> None:
    """Register a model that holds a text; also done by a toy step, from this source."""
    import sqlite3
    import uuid
    from pathlib import Path

    id = uuid.uuid4().hex
    folder = Path(database).parent / "artifacts" / id
    folder.mkdir(parents=True)
    (folder / "part.txt").write_text(text)
    with sqlite3.connect(database, timeout=60) as registry:
        registry.execute("BEGIN IMMEDIATE")
        if made_by:
            registry.execute("INSERT INTO runs (run_uuid, name) VALUES (?, '')", [id])
            registry.execute("INSERT INTO tags VALUES ('run', ?, ?)", [made_by, id])
        registry.execute(
            "INSERT INTO model_versions (name, version, creation_time, current_stage,"
            " source, run_id) SELECT ?, coalesce(max(version), 0) + 1, 0, 'None', ?, ?"
            " FROM model_versions WHERE name = ?",
            [name, folder.as_uri(), id, name],
        )


@dataclass
class Toy:
    """A project with toy steps, and the shell in which its commands are run."""

    project: Project
    shell: subprocess.Popen[str]

    def run(self, *command: str, kill_after: float | None = None) -> Any:
        """Run a command and return its JSON, or None if it was killed before its end."""
        assert self.shell.stdin and self.shell.stdout
        line = json.dumps([kill_after, "run", *command, "--json"])
        print(line, file=self.shell.stdin, flush=True)
        code, out, err = json.loads(self.shell.stdout.readline())
        if code == -9:
            return None
        assert "Traceback" not in err or "failed" in err, err
        assert out, err
        return json.loads(out.splitlines()[-1])

    def write(
        self, step: str, mark: str = "0", fault: str = "", pause: float = 0
    ) -> None:
        text = SCORE if step == "score" else TOY
        text = text.format(mark=mark, fault=fault, step=step, pause=pause)
        self.project.path.joinpath("steps", step, f"{step}.py").write_text(text)

    def registry(self, query: str, *values: object) -> list[Any]:
        database = self.project.path / "mlruns" / "mlflow.db"
        with closing(sqlite3.connect(database, timeout=60)) as connection, connection:
            return connection.execute(query, values).fetchall()

    def register(self, text: str, name: str = "toy") -> None:
        """Somebody else registers a model."""
        register(str(self.project.path / "mlruns/mlflow.db"), text, None, name)


NEWEST = "version, run_id, source FROM model_versions WHERE name = 'toy'"
NEWEST = f"SELECT {NEWEST} AND current_stage = 'None' ORDER BY version DESC"


def statuses(result: Any) -> list[str]:
    return [step["status"] for step in result["steps"]]


@pytest.fixture(scope="module")
def baked(bake: Bake, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project with toy steps, whose database is there."""
    baked = bake(project_name="Toy")
    path = tmp_path_factory.mktemp("reuse") / "toy"
    project = Project(shutil.copytree(baked.path, path), baked.package)
    (path / "registry.py").write_text(
        f"from __future__ import annotations\n\n{getsource(register)}"
    )
    toy = Toy(project, None)  # type: ignore[arg-type]
    for step in (*STEPS["training"], "score"):
        toy.write(step)
    assert project.run("scoring").code == 0
    shutil.rmtree(path / "runs")
    return project


@pytest.fixture
def toy(baked: Project, tmp_path: Path) -> Iterator[Toy]:
    path = shutil.copytree(baked.path, tmp_path / "toy")
    with subprocess.Popen(
        [sys.executable, "-B", "-c", SHELL, baked.package],
        cwd=path,
        env={**os.environ, "PYTHONPATH": str(path)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as shell:
        toy = Toy(Project(path, baked.package), shell)
        toy.project.edit("settings.yml", "keep_runs: 20 ", "keep_runs: 1000000 ")
        yield toy


# What must run ---------------------------------------------------------------------------


@dataclass
class Execution:
    """A step that has run: from what, and which registered models it still stands for."""

    signature: object
    seen: set[object]
    output: Path | None
    is_whole: bool = True


@dataclass
class World:
    """The project as its edits have made it, and all that has been executed in it."""

    toy: Toy
    code: dict[str, str] = field(default_factory=dict)
    data: dict[str, object] = field(default_factory=dict)
    set: dict[str, str] = field(default_factory=dict)
    pins: int = 0
    variable: str = "PASSIVE"
    version: str = "latest"
    executions: dict[str, list[Execution]] = field(default_factory=dict)

    def newest(self, version: str = "latest") -> object:
        """The registered model that a step would find: which one, and what it holds."""
        for number, run, source in self.toy.registry(NEWEST):
            if version in ("latest", str(number)):
                files = Path(source.removeprefix("file://"), "part.txt")
                return number, run, files.read_text()
        return None

    def check(self, pipeline: str, fresh: bool) -> Any:
        """Run a pipeline, and compare what runs with what must."""
        used: dict[str, Execution] = {}
        arguments = [w for k, v in self.set.items() for w in ("--set", f"{k}={v}")]
        if pipeline == "scoring":
            arguments = []
        look_up = LOOK_UP[pipeline]
        before = {step: self.newest(self.version_read_by(step)) for step in look_up}
        result = self.toy.run(pipeline, *arguments, *["--fresh"] * fresh)
        after = {step: self.newest(self.version_read_by(step)) for step in look_up}
        expected: list[str] = []
        new: list[str] = []
        for step, told in zip(STEPS[pipeline], result["steps"], strict=True):
            if expected and expected[-1] in ("failed", "skipped"):
                expected.append("skipped")
                continue
            inputs: list[object] = [id(used[one]) for one in INPUTS.get(step, [])]
            if step == "prep":
                inputs = [self.data[pipeline]]
            told_values = [
                self.set.get(name, DEFAULT) for name in PARAMETERS.get(step, [])
            ]
            told_values = (
                told_values if pipeline == "training" else [self.version_read_by(step)]
            )
            code = self.code.get(step, "0")
            signature = repr([pipeline, step, code, self.pins, inputs, told_values])
            if step != "score":  # which has a variable of its own
                signature += self.variable
            known = self.executions.setdefault(step, [])
            fits = [
                one
                for one in known
                if one.signature == signature
                and one.is_whole
                and (step not in look_up or before[step] in one.seen)
            ]
            if fits and not fresh:
                used[step] = fits[-1]
                known.remove(fits[-1])
                known.append(fits[-1])
                expected.append("reused")
            elif code == "fails":
                expected.append("failed")
            else:
                output = next(iter(told["outputs"].values()), None)
                used[step] = Execution(signature, set(), output and Path(output))
                new.append(step)
                known.append(used[step])
                expected.append("ran")
        assert statuses(result) == expected
        for step in look_up & used.keys():
            if step in new:
                used[step].seen.add(after[step] if step == "register" else before[step])
            if "register" in new:  # it has registered what was evaluated, if anything
                used[step].seen.add(after[step])
        return result

    def version_read_by(self, step: str) -> str:
        return self.version if step in LOOK_UP["scoring"] else "latest"


def edit(world: World, chance: random.Random) -> str:
    """One random edit; returns what it was."""
    toy, root = world.toy, world.toy.project.path
    step = chance.choice([*STEPS["training"], "score"])

    def edit_code() -> None:
        world.code[step] = chance.choice(["0", "0", "1", "1", "2", "fails"])
        fault = "raise SystemExit(3)" if world.code[step] == "fails" else ""
        toy.write(step, world.code[step], fault)

    def edit_data() -> None:
        of = chance.choice(["training", "scoring"])
        file = min((root / "data/sample" / of).iterdir())
        about, content = file.stat(), bytearray(file.read_bytes())
        content[-5] = chance.choice(b"123")
        file.write_bytes(content)
        os.utime(file, ns=(about.st_atime_ns, about.st_mtime_ns))  # as if unchanged

    def rename_data() -> None:
        file = min((root / "data/sample/training").iterdir())
        file.rename(file.with_name(chance.choice(["A.csv", "B.csv"])))

    def touch_data() -> None:
        file = min((root / "data/sample/training").iterdir())
        file.touch()
        (file.parent / ".hidden").write_text(str(chance.random()))

    def set_parameter() -> None:
        name, values = chance.choice(
            [("max_iterations", "10 20 30"), ("register", "always unless_worse")]
        )
        world.set[name] = chance.choice(values.split())

    def pin() -> None:
        world.pins = chance.choice([0, 1])
        pins = root / "environment" / "steps.txt"
        lines = [x for x in pins.read_text().splitlines() if not x.startswith("toy")]
        pins.write_text("\n".join([*lines, *["toy==1"] * world.pins, ""]))

    def set_variable() -> None:
        old, world.variable = world.variable, chance.choice(["PASSIVE", "ACTIVE"])
        pipelines = f"{toy.project.package}/pipelines.py"
        toy.project.edit(pipelines, f'POLICY": "{old}', f'POLICY": "{world.variable}')

    def pin_model() -> None:
        version = chance.choice(["latest", 1])
        toy.project.set("scoring", model_version=version)
        world.version = str(version)

    def register_another() -> None:
        toy.register(str(chance.random()))

    def register_elsewhere() -> None:
        toy.register("another", "other_model")

    def delete_version() -> None:
        stage = "UPDATE model_versions SET current_stage = 'Deleted_Internal'"
        for number, _, _ in toy.registry(NEWEST)[:1]:
            toy.registry(f"{stage} WHERE version = ? AND name = 'toy'", number)

    def edit_registered() -> None:
        for _, _, source in toy.registry(NEWEST)[:1]:
            Path(source.removeprefix("file://"), "part.txt").write_text("edited")

    def spoil_output() -> None:
        known = [e for e in world.executions.get(step, []) if e.output and e.is_whole]
        if not known:
            return
        one = chance.choice(known)
        assert one.output
        match chance.choice(["edit", "remove", "add"]):
            case "edit":
                (one.output / "part.txt").write_text("spoilt")
            case "remove":
                shutil.rmtree(one.output)
            case "add":
                (one.output / "more.txt").write_text("more")
        one.is_whole = False

    edits: list[Callable[[], None]] = [edit_code] * 4
    edits += [edit_data, rename_data, touch_data, set_parameter, set_parameter, pin]
    edits += [
        set_variable,
        pin_model,
        register_another,
        register_elsewhere,
        delete_version,
    ]
    edits += [edit_registered, spoil_output]
    chosen = chance.choice(edits)
    chosen()
    return f"{chosen.__name__} {step}"


def data_of(world: World) -> None:
    for of in ("training", "scoring"):
        files = sorted((world.toy.project.path / "data/sample" / of).glob("[!.]*"))
        world.data[of] = [(file.name, file.read_bytes()) for file in files]


def test_exactly_what_has_changed_runs(toy: Toy) -> None:
    """Random edits, one or some or none before each run."""
    seed = random.randrange(2**32)
    chance, world = random.Random(seed), World(toy)
    done: list[str] = [f"seed {seed}"]
    try:
        for _ in range(EDITS):
            for _ in range(chance.choice([0, 1, 1, 1, 2, 4])):
                done.append(edit(world, chance))
            data_of(world)
            pipeline = chance.choice(["training"] * 4 + ["scoring"])
            fresh = chance.random() < 0.05
            done.append(f"{pipeline}{' --fresh' * fresh}")
            result = world.check(pipeline, fresh)
            done.append(" ".join(statuses(result)))
    except AssertionError:
        print("\n".join(done[-40:]))
        raise


# Killed ----------------------------------------------------------------------------------


def assert_whole(result: Any, marks: dict[str, str]) -> None:
    """Each output is complete, of the code as it is, and of the outputs before it."""
    texts = {
        Path(path).name: Path(path, "part.txt").read_text()
        for step in result["steps"]
        for path in step["outputs"].values()
    }
    of = {"prepared": "prep", "model": "train", "evaluation": "evaluate"}
    for port, step in (of | {"holdout": "train", "registration": "register"}).items():
        mark, _, *words = json.loads(texts[port])
        assert mark == marks[step]
        for option, word in pairwise(words):
            if isinstance(word, list) and option != "--raw":
                assert word == [["part.txt", texts[option.removeprefix("--")]]]


def test_what_is_killed_is_never_used(toy: Toy) -> None:
    marks = dict.fromkeys(STEPS["training"], "0")
    for step in marks:
        toy.write(step, pause=0.01)
    chance, count = random.Random(), 0
    while count < KILLS:
        for _ in range(chance.choice([0, 1, 2])):
            step = chance.choice(STEPS["training"])
            marks[step] = chance.choice("012")
            toy.write(step, marks[step], pause=0.01)
        fresh = ["--fresh"] * (chance.random() < 0.5)
        for _ in range(chance.choice([1, 2])):
            count += toy.run("training", *fresh, kill_after=chance.random() * 2) is None
        result = toy.run("training")
        assert result["status"] == "completed"
        assert_whole(result, marks)
        for (source,) in toy.registry("SELECT source FROM model_versions"):
            json.loads(Path(source.removeprefix("file://"), "part.txt").read_text())
        assert set(statuses(toy.run("training"))) == {"reused"}


def test_data_that_changes_while_it_is_read(toy: Toy) -> None:
    data = "next(Path(sys.argv[sys.argv.index('--raw') + 1]).iterdir())"
    toy.write("prep", fault=f"with {data}.open('a') as file: file.write('x')")
    for _ in range(2):
        assert statuses(toy.run("training"))[0] == "ran"


def test_one_byte_of_large_data(toy: Toy) -> None:
    """It is not read again while nothing says that it has changed."""
    file = toy.project.path / "data" / "sample" / "training" / "large.csv"
    file.write_bytes(bytes(10**6))
    time.sleep(2.5)
    about = file.stat()
    assert statuses(toy.run("training"))[0] == "ran"
    assert statuses(toy.run("training"))[0] == "reused"
    with closing(sqlite3.connect(toy.project.path / "runs/.digests.db")) as kept:
        (path,) = kept.execute("SELECT path FROM files").fetchone()
    assert path == os.fsencode(file)
    for content in (bytes(10**6 - 1) + b"1", bytes(10**6)):
        file.write_bytes(content)
        os.utime(file, ns=(about.st_atime_ns, about.st_mtime_ns))
        first = statuses(toy.run("training"))[0]
        assert first == ("reused" if content[-1] == 0 else "ran")


# Let go ----------------------------------------------------------------------------------


def runs_of(toy: Toy) -> set[str]:
    return {path.name for path in toy.project.path.glob("runs/[!.]*")}


def keep(toy: Toy, number: int) -> None:
    toy.project.edit("settings.yml", "keep_runs: 1000000", f"keep_runs: {number}")


def test_runs_beyond_a_number_are_removed(toy: Toy) -> None:
    """But none that another run uses, that the registry needs, or that was renamed."""
    keep(toy, 2)
    first = Path(toy.run("training")["folder"])
    newest = []
    for i in range(4):
        toy.write("train", str(i + 1))
        result = toy.run("training")
        newest.append(Path(result["folder"]).name)
        assert statuses(result) == ["reused", "ran", "ran", "ran"]
    assert runs_of(toy) == {first.name, *newest[-2:]}  # the first one has the data

    folder = first.rename(first.with_name("the best one"))
    result = toy.run("training", "--fresh")
    needed = Path(result["folder"])
    toy.register("its files are in a run")
    source = (needed / "train/outputs/model").as_uri()
    toy.registry("UPDATE model_versions SET source = ? WHERE run_id IS NOT 0", source)
    for _ in range(3):
        result = toy.run("training", "--fresh")
    assert folder.exists()
    assert len(runs_of(toy)) == 4
    assert needed.exists()


def test_a_run_never_removes_itself(toy: Toy) -> None:
    """Though other runs seem to be newer, as where the clock was set back."""
    keep(toy, 1)
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
    assert set(statuses(third)) == {"reused"}
    assert str(second) in third["steps"][0]["outputs"]["prepared"]


def test_a_record_that_leads_out_of_the_runs_is_not_followed(toy: Toy) -> None:
    folder = Path(toy.run("training")["folder"])
    record = json.loads((folder / "run.json").read_text())
    for bad in ("../elsewhere", "/tmp", 7):
        record["done"]["prep"]["run"] = bad
        (folder / "run.json").write_text(json.dumps(record))
        result = toy.project.run("training", "--step", "train", "--folder", str(folder))
        assert result.code == 1
        assert "is not the folder of a run" in result.err


def test_a_run_at_work_is_not_removed(toy: Toy) -> None:
    keep(toy, 1)
    toy.write("train", fault="import time; time.sleep(8)")
    with subprocess.Popen(
        [sys.executable, "-m", toy.project.package, "run", "training", "--json"],
        cwd=toy.project.path,
        env={**os.environ, "PYTHONPATH": str(toy.project.path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        while not list(toy.project.path.glob("runs/*/train/code/train.py")):
            time.sleep(0.1)
        (at_work,) = runs_of(toy)
        time.sleep(1)  # of one second's runs, those of another pipeline may be newer
        folder = str(toy.project.path / "runs" / at_work)
        assert len({toy.run("scoring", "--fresh")["folder"] for _ in range(2)}) == 2
        assert len(runs_of(toy)) == 2
        out, err = process.communicate()
    assert json.loads(out.splitlines()[-1])["folder"] == folder, err
    assert process.returncode == 0
    assert at_work in runs_of(toy)  # A run never removes its own results.


def test_a_step_alone_works_on_what_was_reused(toy: Toy) -> None:
    first = toy.run("training")
    toy.write("train", "1")
    folder = toy.run("training")["folder"]
    again = toy.run("training", "--step", "evaluate", "--folder", folder)
    assert statuses(again) == ["ran"]
    assert statuses(toy.run("training")) == [*["reused"] * 3, "ran"]
    shutil.rmtree(Path(first["folder"]))
    result = toy.project.run("training", "--step", "train", "--folder", folder)
    assert result.code == 1
    assert "what prep made is gone: run it first, with --step prep" in result.err
    assert statuses(toy.run("training", "--step", "prep", "--folder", folder)) == [
        "ran"
    ]
    assert statuses(toy.run("training"))[0] == "reused"
