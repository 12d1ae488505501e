"""The time of a local training run on the sample, compared with a script and with kedro.

Measured are an unchanged run, a fresh run, the four commands of a fresh run in a plain
script, and a kedro run of four nodes that do nothing, which is the time that kedro adds.
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
# Runs the pipeline, and saves the command, the folder and the variables of each step.
RECORD = """
import json, sys
from benchmark.__main__ import PROJECT, load_pipelines
from benchmark.runtime import command_line
from benchmark.runtime.local import processes
commands = []
run = processes.StepProcesses.run
def record(self, command, *variables):
    arguments = [sys.executable, *command.arguments]
    commands.append([arguments, command.folder, command.environment])
    return run(self, command, *variables)
processes.StepProcesses.run = record
sys.argv = ["benchmark", "run", "training", "--fresh"]
assert not command_line.main(PROJECT, load_pipelines)
json.dump(commands, open("commands.json", "w"))
"""
# Runs the saved commands one after another.
CHAIN = """
import json, pathlib, shutil, subprocess
for command, folder, variables in json.load(open("commands.json")):
    for output in pathlib.Path(folder).parent.glob("outputs/*"):
        shutil.rmtree(output)
        output.mkdir()
    subprocess.run(command, cwd=folder, env=variables, check=True)
"""
# A kedro pipeline of four nodes that return their input.
NODES = """
from kedro.pipeline import Pipeline, node
def same(value):
    return value
def register_pipelines():
    names = ["params:first", "a", "b", "c", "d"]
    pairs = zip(names, names[1:])
    return {"__default__": Pipeline([node(same, *pair, name=pair[1]) for pair in pairs])}
"""


def measure_local_run(rounds: int) -> Figures:
    """Return the seconds of each program, and the ratio of a fresh run to the script."""
    figures: Figures = {}
    run = ("-m", "benchmark", "run", "training")
    with tempfile.TemporaryDirectory() as name:
        kedro = _create_kedro_project(Path(name))
        for sdk, python in PYTHONS.items():
            project = generate(Path(name) / sdk, f"azureml_sdk={sdk}")
            measure(project, python, *run)
            script = generate(Path(name) / f"{sdk}-script", f"azureml_sdk={sdk}")
            measure(script, python, "-c", RECORD)
            for _ in range(rounds):
                unchanged = measure(project, python, *run).seconds
                fresh = measure(project, python, *run, "--fresh").seconds
                chain = measure(script, python, "-c", CHAIN).seconds
                empty_nodes = measure(kedro, KEDRO, "run").seconds
                for title, value in {
                    "unchanged, s": unchanged,
                    "fresh, s": fresh,
                    "the four commands alone, s": chain,
                    "fresh / the four commands": fresh / chain,
                    "what the run adds, s": fresh - chain,
                    "kedro, four nodes that do nothing, s": empty_nodes,
                }.items():
                    figures.setdefault(f"{sdk}: {title}", []).append(value)
    return figures


def _create_kedro_project(folder: Path) -> Path:
    """Create a kedro project with the pipeline NODES, and return its folder."""
    measure(folder, *KEDRO_NEW)
    project = folder / "nodes"
    (project / "src/nodes/pipeline_registry.py").write_text(NODES)
    (project / "conf/base/parameters.yml").write_text(json.dumps({"first": 1}))
    return project
