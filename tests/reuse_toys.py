"""Projects with toy steps that write down all that they see, for tests of reuse.

Their commands run in processes that are forked from one that has imported the SDK, as such
tests call many of them.
"""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from inspect import getsource
from pathlib import Path
from typing import Any

import pytest
from conftest import Bake, Project
from toys import skip_preloading

#: Writes down all that it sees. `evaluate` and `register` use the registry as real ones do.
TOY_STEP = """
# {mark}
import json, os, sqlite3, sys, time
from pathlib import Path

{fault}
STEP, OUTPUTS = {step!r}, Path.cwd().parent / "outputs"

def read_arguments():
    for argument in sys.argv[1:]:
        path = Path(argument)
        if path.parent == OUTPUTS:
            yield path.name
        elif path.is_absolute():
            files = sorted(p for p in path.rglob("*") if p.is_file())
            yield [(p.relative_to(path).as_posix(), p.read_text()) for p in files]
        else:
            yield argument

seen = [{mark!r}, os.environ["OMP_WAIT_POLICY"], *read_arguments()]
database = os.environ["MLFLOW_TRACKING_URI"].removeprefix("sqlite:///")
if STEP == "evaluate":
    query = "SELECT source FROM model_versions WHERE current_stage = 'None'"
    with sqlite3.connect(database) as registry:
        newest = registry.execute(query + " ORDER BY version DESC").fetchone()
    model = Path(sys.argv[sys.argv.index("--model") + 1], "part.txt").read_text()
    old = newest and Path(newest[0].removeprefix("file://"), "part.txt").read_text()
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
TOY_SCORE = """
# {mark}
{fault}
def run(mini_batch):
    return mini_batch
"""
#: Runs one command after another, each in a process that is forked once the SDK has been
#: imported. The pipelines are read again for each. A command may be killed after a time.
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
#: The steps of each pipeline, in their order.
STEPS = {
    "training": ["prep", "train", "evaluate", "register"],
    "scoring": ["prep", "monitor", "score", "summarize"],
}
#: The newest version of the model that was not deleted comes first.
LIST_VERSIONS = """
    SELECT version, run_id, source FROM model_versions
    WHERE name = 'toy' AND current_stage = 'None' ORDER BY version DESC
"""


def register(
    database: str, text: str, local_run: str | None = None, name: str = "toy"
) -> None:
    """Register a model that consists of a text. The toy step `register` calls this too."""
    import sqlite3
    import uuid
    from pathlib import Path

    id = uuid.uuid4().hex
    folder = Path(database).parent / "artifacts" / id
    folder.mkdir(parents=True)
    (folder / "part.txt").write_text(text)
    with sqlite3.connect(database, timeout=60) as registry:
        registry.execute("BEGIN IMMEDIATE")
        if local_run:
            registry.execute("INSERT INTO runs (run_uuid, name) VALUES (?, '')", [id])
            registry.execute("INSERT INTO tags VALUES ('run', ?, ?)", [local_run, id])
        registry.execute(
            "INSERT INTO model_versions (name, version, creation_time, current_stage,"
            " source, run_id) SELECT ?, coalesce(max(version), 0) + 1, 0, 'None', ?, ?"
            " FROM model_versions WHERE name = ?",
            [name, folder.as_uri(), id, name],
        )


def read_model(source: str) -> str:
    """Return the text of a registered model by the URI of its files."""
    return Path(source.removeprefix("file://"), "part.txt").read_text()


@dataclass
class ReuseToy:
    """A project with toy steps, and the process that runs its commands."""

    project: Project
    shell: subprocess.Popen[str]

    @property
    def path(self) -> Path:
        return self.project.path

    def run(self, *arguments: str, kill_after: float | None = None) -> Any:
        """Call `run`, and return its JSON, or None if it was killed before its end."""
        assert self.shell.stdin and self.shell.stdout
        line = json.dumps([kill_after, "run", *arguments, "--json"])
        print(line, file=self.shell.stdin, flush=True)
        code, out, err = json.loads(self.shell.stdout.readline())
        if code == -9:
            return None
        assert "Traceback" not in err or "failed" in err, err
        assert out, err
        return json.loads(out.splitlines()[-1])

    def write_step(
        self, step: str, mark: str = "0", fault: str = "", pause: float = 0
    ) -> None:
        """Write a step, which pauses for some seconds while it writes."""
        write_step(self.path, step, mark, fault, pause)

    def query_registry(self, query: str, *values: object) -> list[Any]:
        """Execute a query on MLflow's database, and return its rows."""
        database = self.path / "mlruns" / "mlflow.db"
        with closing(sqlite3.connect(database, timeout=60)) as connection, connection:
            return connection.execute(query, values).fetchall()

    def list_versions(self) -> list[Any]:
        """Return the number, run and source of each registered version, newest first."""
        return self.query_registry(LIST_VERSIONS)

    def register(self, text: str, name: str = "toy") -> None:
        """Register a model, as somebody else than a run would."""
        register(str(self.path / "mlruns/mlflow.db"), text, None, name)

    def keep_runs(self, number: int) -> None:
        """Set how many runs are kept."""
        self.project.edit("settings.yml", "keep_runs: 1000000", f"keep_runs: {number}")

    def list_runs(self) -> set[str]:
        """Return the names of the folders of all runs."""
        return {path.name for path in self.path.glob("runs/[!.]*")}


def write_step(
    project: Path, step: str, mark: str = "0", fault: str = "", pause: float = 0
) -> None:
    """Write the script of a toy step, with a mark that shows in its outputs."""
    template = TOY_SCORE if step == "score" else TOY_STEP
    text = template.format(mark=mark, fault=fault, step=step, pause=pause)
    (project / "steps" / step / f"{step}.py").write_text(text)


def list_statuses(result: Any) -> list[str]:
    """Return how each step of a run has ended."""
    return [step["status"] for step in result["steps"]]


@pytest.fixture(scope="session")
def unused_reuse_toy(bake: Bake, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project with toy steps and MLflow's database, without runs. To be copied."""
    generated = bake(project_name="Toy")
    path = tmp_path_factory.mktemp("reuse") / "toy"
    project = Project(shutil.copytree(generated.path, path), generated.package)
    skip_preloading(project)
    (path / "registry.py").write_text(
        f"from __future__ import annotations\n\n{getsource(register)}"
    )
    for step in {*STEPS["training"], *STEPS["scoring"]}:
        write_step(path, step)
    assert project.run("scoring").code == 0
    shutil.rmtree(path / "runs")
    return project


@pytest.fixture
def toy(unused_reuse_toy: Project, tmp_path: Path) -> Iterator[ReuseToy]:
    """A project with toy steps that keeps all its runs, for this test alone."""
    path = shutil.copytree(unused_reuse_toy.path, tmp_path / "toy")
    project = Project(path, unused_reuse_toy.package)
    project.edit("settings.yml", "keep_runs: 20 ", "keep_runs: 1000000 ")
    with subprocess.Popen(
        [sys.executable, "-B", "-c", SHELL, project.package],
        cwd=path,
        env={**os.environ, "PYTHONPATH": str(path)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as shell:
        yield ReuseToy(project, shell)
