"""What the local run adds: beside its steps in a plain script, and beside kedro.

Of training on the sample: an unchanged run; a fresh one, beside the same four commands
one after another, with no pipeline at all; and kedro's run of four nodes that do nothing,
which is what kedro adds.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

from .generation import KEDRO, KEDRO_NEW
from .measure import TEMPLATE, Figures, generate, measure

PYTHONS = {
    "azureml-sdk": sys.executable,
    "azure-ai-ml": TEMPLATE / "build/azure-ai-ml/bin/python",
}
# Runs the pipeline, and writes down the command, folder and variables of each step.
RECORD = """
import json, sys
from benchmark.__main__ import PROJECT, load_pipelines
from benchmark.runtime import command_line
from benchmark.runtime.local import processes
found, run = [], processes.StepProcesses.run
def record(self, command, *variables):
    arguments = [sys.executable, *command.arguments]
    found.append([arguments, command.folder, command.environment])
    return run(self, command, *variables)
processes.StepProcesses.run = record
sys.argv = ["benchmark", "run", "training", "--fresh"]
assert not command_line.main(PROJECT, load_pipelines)
json.dump(found, open("commands.json", "w"))
"""
CHAIN = """
import json, pathlib, shutil, subprocess
for command, folder, variables in json.load(open("commands.json")):
    for output in pathlib.Path(folder).parent.glob("outputs/*"):
        shutil.rmtree(output)
        output.mkdir()
    subprocess.run(command, cwd=folder, env=variables, check=True)
"""
NODES = """
from kedro.pipeline import Pipeline, node
def same(value):
    return value
def register_pipelines():
    names = ["params:first", "a", "b", "c", "d"]
    pairs = zip(names, names[1:])
    return {"__default__": Pipeline([node(same, *pair, name=pair[1]) for pair in pairs])}
"""


def figures(rounds: int) -> Figures:
    """Seconds, and how many times the script's they are."""
    found: Figures = {}
    run = ("-m", "benchmark", "run", "training")
    with tempfile.TemporaryDirectory() as name:
        kedro = _kedro(Path(name))
        for sdk, python in PYTHONS.items():
            project = generate(Path(name) / sdk, f"azureml_sdk={sdk}")
            measure(project, python, *run)
            script = generate(Path(name) / f"{sdk}-script", f"azureml_sdk={sdk}")
            measure(script, python, "-c", RECORD)
            for _ in range(rounds):
                again = measure(project, python, *run).seconds
                fresh = measure(project, python, *run, "--fresh").seconds
                chain = measure(script, python, "-c", CHAIN).seconds
                nothing = measure(kedro, KEDRO, "run").seconds
                for what, value in {
                    "unchanged, s": again,
                    "fresh, s": fresh,
                    "the four commands alone, s": chain,
                    "fresh / the four commands": fresh / chain,
                    "what the run adds, s": fresh - chain,
                    "kedro, four nodes that do nothing, s": nothing,
                }.items():
                    found.setdefault(f"{sdk}: {what}", []).append(value)
    return found


def _kedro(folder: Path) -> Path:
    measure(folder, *KEDRO_NEW)
    project = folder / "nodes"
    (project / "src/nodes/pipeline_registry.py").write_text(NODES)
    (project / "conf/base/parameters.yml").write_text(json.dumps({"first": 1}))
    return project
