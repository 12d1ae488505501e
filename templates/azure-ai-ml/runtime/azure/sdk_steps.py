"""Read the pipeline jobs of the Azure ML SDK: what each node would run, with what.

It reads the YAML that azure-ai-ml itself writes of a job, whose form is documented.
"""

from __future__ import annotations

import logging
import re
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

import yaml
from azure.ai.ml import Input as SdkInput
from azure.ai.ml._utils._asset_utils import get_ignore_file
from azure.ai.ml.entities import Environment, PipelineJob

from ..project import PipelineDefinition, Pipelines
from ..steps import Argument, Input, Output, Parameter, PipelineError, Source, Step

#: The settings of a parallel node that are parameters of its pipeline, here and for
#: `submit`, though the SDK lets no input be put in their place: where each one is.
WORK = {
    "mini_batch_size": ("mini_batch_size",),
    "process_count_per_node": ("max_concurrency_per_instance",),
    "node_count": ("resources", "instance_count"),
}
REFERENCE = r"\$\{\{\s*(inputs|outputs)\.(\w+)\s*\}\}"
PARENT = r"\$\{\{\s*parent\.(?:inputs\.(\w+)|jobs\.(\w+)\.outputs\.(\w+))\s*\}\}"

# The SDK warns of its own classes that they are experimental.
logging.getLogger("azure.ai.ml").setLevel(logging.ERROR)


def build_steps(
    pipeline: PipelineDefinition,
    settings: Any,
    folders: Mapping[str, str] | None = None,
) -> PipelineJob:
    """The job of a pipeline, on folders of the workspace, by address, if there is one."""
    # In a local run, folders of the project are read in the place of this.
    found = folders or dict.fromkeys(pipeline.data, "https://localhost/data")
    data = {
        name: SdkInput(type="uri_folder", path=found[name]) for name in pipeline.data
    }
    job: PipelineJob = pipeline.build(settings, data)
    return job


def set_parameters(job: PipelineJob, values: Mapping[str, Any]) -> None:
    """Give parameters of a pipeline other values than the settings'."""
    for name, value in values.items():
        if name in job.inputs:
            setattr(job.inputs, name, value)
        for node in job.jobs.values():
            if node.type == "parallel" and name in WORK:
                *path, last = WORK[name]
                owner = node
                for key in path:
                    owner = getattr(owner, key)
                setattr(owner, last, value)


def environments(pipelines: Pipelines, settings: Any) -> list[Environment]:
    """Each environment that steps of the pipelines run in."""
    jobs = [build_steps(pipeline, settings) for pipeline in pipelines.values()]
    nodes = [node for job in jobs for node in job.jobs.values()]
    owners = [node.task if node.type == "parallel" else node for node in nodes]
    found = [owner.environment for owner in owners]
    return list({(one.name, one.version): one for one in found}.values())


def read_steps(job: PipelineJob) -> list[Step]:
    """The nodes of a pipeline job as the local run takes them.

    PipelineError for what cannot be run here, and for what the SDK lets pass though the
    service would refuse it: a name that is nowhere, a script that is not there.
    """
    modules: dict[str, Any] = sys.modules
    # To see whether this is a notebook the SDK would import it, which takes long.
    is_hidden = modules.setdefault("IPython", None) is None
    try:
        text: dict[str, Any] = yaml.safe_load(str(job))
    finally:
        if is_hidden:
            del modules["IPython"]
    return [_Node(name, node, text).step() for name, node in text["jobs"].items()]


class _Node:
    """A node of a pipeline job, as its YAML has it."""

    def __init__(self, name: str, node: dict[str, Any], job: dict[str, Any]) -> None:
        self.name, self.node, self.job = name, node, job
        component: Any = node.get("component")
        if node["type"] not in ("command", "parallel") or isinstance(component, str):
            self.refuse(
                f"is a {node['type']} node or of a component that is elsewhere",
                "write it as a command or a parallel_run_function with its code",
            )
        self.component: dict[str, Any] = component
        self.is_parallel = node["type"] == "parallel"
        self.outputs = list(self.component.get("outputs") or {})
        self.folders: dict[str, Source] = {}  # of data, or that another step writes
        self.values: dict[str, Parameter | str] = {}
        for port in self.component.get("inputs") or {}:
            source = self.source(port)
            is_data = isinstance(source, Parameter) and source.default is None
            if isinstance(source, tuple) or (is_data and not isinstance(source, str)):
                self.folders[port] = source
            else:
                self.values[port] = source

    def refuse(self, what: str, fix: str) -> NoReturn:
        raise PipelineError(f"pipelines.py: {self.name} {what}: {fix}.")

    def source(self, name: str) -> Source | str:
        """Where an input comes from: data, a step's output port, a parameter, a text."""
        given = (self.node.get("inputs") or {}).get(name)
        if given is None:
            declared = self.component["inputs"][name]
            return str(declared.get("default", ""))
        if isinstance(given, dict) and (found := re.fullmatch(PARENT, given["path"])):
            parameter, step, port = found.groups()
            if step:
                outputs = self.job["jobs"].get(step, {}).get("outputs", {})
                if port not in outputs:
                    self.refuse(
                        f"reads {step}.{port}, which no step writes", "correct the name"
                    )
                return step, port
            if parameter not in self.job["inputs"]:
                self.refuse(
                    f"reads {parameter}, no input of the pipeline", "correct the name"
                )
            value = self.job["inputs"][parameter]
            return Parameter(parameter, None if isinstance(value, dict) else value)
        if isinstance(given, dict):
            self.refuse(
                f"reads {given['path']}, which has no files here",
                f"make {name} an input of the pipeline, or an output of another step",
            )
        return str(given)

    def step(self) -> Step:
        task = self.component["task"] if self.is_parallel else self.component
        folder = Path(task["code"]).resolve()
        ignored = get_ignore_file(folder)
        files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
        sent = [file for file in files if not ignored.is_file_excluded(file.as_posix())]
        script, arguments = self.driver() if self.is_parallel else self.command()
        if not (folder / script).is_file():
            self.refuse(f"runs {script}, which is not in {folder}", "correct the name")
        return Step(
            name=self.name,
            source_directory=folder,
            snapshot=[file.relative_to(folder) for file in sent],
            script=script,
            arguments=arguments,
            inputs=self.folders,
            outputs=self.outputs,
            run_after=[],
            environment_variables=dict(self.node.get("environment_variables") or {}),
            environment=str(task["environment"]),
            allow_reuse=self.component.get("is_deterministic", True),
            unused_parameters=[self.work("node_count")] if self.is_parallel else [],
            is_parallel=self.is_parallel,
        )

    def command(self) -> tuple[str, list[Argument]]:
        """The script of a command node, and its arguments."""
        given = self.component["command"]
        match shlex.split(self.optional(given)):
            case ["python", script, *words] if script.endswith(".py"):
                return script, [self.argument(word) for word in words]
        self.refuse(f"runs `{given}`", "let it begin with python and a script")

    def driver(self) -> tuple[str, list[Argument]]:
        """The script of a parallel node, and what the driver of such nodes is given."""
        node, task = self.node, self.component["task"]
        retries, script = node.get("retry_settings") or {}, task["entry_script"]
        if task.get("append_row_to"):
            self.refuse("has append_row_to", "let the script write its files itself")
        given: dict[str, Any] = {
            "scoring_module_name": script,
            "mini_batch_size": self.work("mini_batch_size"),
            "process_count_per_node": self.work("process_count_per_node"),
            "run_max_try": retries.get("max_retries"),
            "run_invocation_timeout": retries.get("timeout"),
            "error_threshold": node.get("error_threshold"),
            "allowed_failed_count": node.get("mini_batch_error_threshold"),
            "output_action": "summary_only",
        }
        arguments: list[Argument] = []
        for name, value in given.items():
            if value is not None:
                is_parameter = isinstance(value, Parameter)
                arguments += [f"--{name}", value if is_parameter else str(value)]
        read = self.argument(str(node.get("input_data")))
        if not isinstance(read, Input):
            self.refuse(f"splits {read}, none of its inputs", "correct input_data")
        arguments += ["--input_fds_0", str(read)]
        # The service splits them at each space, quoted or not.
        words = self.optional(task.get("program_arguments") or "").split()
        return script, arguments + [self.argument(word) for word in words]

    def work(self, name: str) -> Parameter:
        value: Any = self.node
        for key in WORK[name]:
            value = value.get(key) or {}
        return Parameter(name, value or 1)

    def optional(self, text: str) -> str:
        """A command without the parts whose optional inputs have not been given."""

        def keep(part: re.Match[str]) -> str:
            given = self.folders | self.values
            names = [name for _, name in re.findall(REFERENCE, part[1])]
            return part[1] if all(given.get(name) for name in names) else ""

        return re.sub(r"\$\[\[(.*?)\]\]", keep, text)

    def argument(self, word: str) -> Argument:
        found = re.fullmatch(REFERENCE, word)
        if found is None:
            if re.search(REFERENCE, word):
                self.refuse(f"has the word {word}", "let such a word stand alone")
            return word
        kind, name = found.groups()
        if kind == "outputs" and name in self.outputs:
            return Output(name)
        if kind == "inputs" and name in self.folders:
            return Input(name)
        if kind == "inputs" and name in self.values:
            return self.values[name]
        self.refuse(f"names {kind}.{name}, which it has not", "correct the name")
