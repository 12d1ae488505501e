"""Build pipeline jobs by azure-ai-ml, and read what each node would run on Azure ML.

It reads the YAML that azure-ai-ml itself writes of a job. Its form is documented.
"""

from __future__ import annotations

import logging
import re
import shlex
import sys
from collections.abc import Callable, Mapping
from inspect import Parameter as FunctionParameter
from inspect import Signature
from pathlib import Path
from typing import Any, NoReturn

import yaml
from azure.ai.ml import Input as SdkInput
from azure.ai.ml._utils._asset_utils import get_ignore_file
from azure.ai.ml.entities import Environment, PipelineJob

from ..arguments import build_arguments
from ..project import PipelineDefinition, Pipelines
from ..steps import Argument, Input, Output, Parameter, PipelineError, Source, Step

#: The path of each setting of a parallel node that is a parameter of its pipeline, here
#: and for `submit`. The SDK lets no input of the pipeline be put in their place.
PARALLEL_SETTINGS = {
    "mini_batch_size": ("mini_batch_size",),
    "process_count_per_node": ("max_concurrency_per_instance",),
    "node_count": ("resources", "instance_count"),
}
#: A placeholder for an input or output of a node, in a command.
REFERENCE = r"\$\{\{\s*(inputs|outputs)\.(\w+)\s*\}\}"
#: A placeholder for an input of the pipeline, or an output of another node.
PARENT = r"\$\{\{\s*parent\.(?:inputs\.(\w+)|jobs\.(\w+)\.outputs\.(\w+))\s*\}\}"

# The SDK warns of its own classes that they are experimental.
logging.getLogger("azure.ai.ml").setLevel(logging.ERROR)


def build_command(script: str, **options: Any) -> str:
    """Return the command of a step that runs a Python script with these options."""
    arguments = [str(argument) for argument in build_arguments(**options)]
    return shlex.join(["python", script, *arguments])


def declare_inputs(
    **inputs: Any,
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Declare the inputs of a function that `dsl.pipeline` decorates.

    The SDK reads the inputs of a pipeline from the signature of its function, which cannot
    name the hyperparameters: they are in settings.yml. So this decorator replaces the
    signature. An `Input` declares a folder or file; any other value is a default.
    """

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        parameters: list[FunctionParameter] = []
        annotations: dict[str, Any] = {}
        for name, value in inputs.items():
            if isinstance(value, SdkInput):
                annotations[name] = value
                default = FunctionParameter.empty
            else:
                default = value
            parameters.append(
                FunctionParameter(
                    name, FunctionParameter.POSITIONAL_OR_KEYWORD, default=default
                )
            )
        # The SDK reads the types of data from the annotations, all else from the signature.
        function.__annotations__ = annotations
        function.__signature__ = Signature(parameters)  # type: ignore[attr-defined]
        return function

    return decorate


def build_steps(
    pipeline: PipelineDefinition,
    settings: Any,
    addresses: Mapping[str, str] | None = None,
) -> PipelineJob:
    """Build the job of a pipeline, on data of the workspace by its address.

    Without `addresses` it is for reading only: a local run has folders in their place.
    """
    if addresses is None:
        addresses = dict.fromkeys(pipeline.data, "https://localhost/data")
    data = {
        name: SdkInput(type="uri_folder", path=addresses[name])
        for name in pipeline.data
    }
    job: PipelineJob = pipeline.build(settings, data)
    return job


def set_parameters(job: PipelineJob, values: Mapping[str, Any]) -> None:
    """Replace the values of a pipeline's parameters, which were those of the settings."""
    for name, value in values.items():
        if name in job.inputs:
            setattr(job.inputs, name, value)
        if name not in PARALLEL_SETTINGS:
            continue
        *path, attribute = PARALLEL_SETTINGS[name]
        for node in job.jobs.values():
            if node.type == "parallel":
                owner = node
                for step in path:
                    owner = getattr(owner, step)
                setattr(owner, attribute, value)


def environments(pipelines: Pipelines, settings: Any) -> list[Environment]:
    """Return each environment that steps of the pipelines run in, once."""
    by_version: dict[tuple[str, str], Environment] = {}
    for pipeline in pipelines.values():
        for node in build_steps(pipeline, settings).jobs.values():
            owner = node.task if node.type == "parallel" else node
            environment = owner.environment
            by_version[environment.name, environment.version] = environment
    return list(by_version.values())


def read_steps(job: PipelineJob) -> list[Step]:
    """Describe the nodes of a pipeline job for the local run.

    Raises PipelineError for what cannot be run here, and for what the SDK lets pass though
    the service would refuse it: a name that does not exist, a script that is missing.
    """
    modules: dict[str, Any] = sys.modules
    # The SDK would import IPython, which takes long, to see whether this is a notebook.
    is_hidden = modules.setdefault("IPython", None) is None
    try:
        text: dict[str, Any] = yaml.safe_load(str(job))
    finally:
        if is_hidden:
            del modules["IPython"]
    return [_Node(name, node, text).read_step() for name, node in text["jobs"].items()]


class _Node:
    """A node of a pipeline job, as its YAML has it."""

    def __init__(self, name: str, node: dict[str, Any], job: dict[str, Any]) -> None:
        self.name = name
        self.node = node
        self.job = job
        component: Any = node.get("component")
        if node["type"] not in ("command", "parallel") or isinstance(component, str):
            self.refuse(
                f"is a {node['type']} node or of a component that is elsewhere",
                "write it as a command or a parallel_run_function with its code",
            )
        self.component: dict[str, Any] = component
        self.is_parallel = node["type"] == "parallel"
        self.outputs = list(component.get("outputs") or {})

        # Inputs are folders, of data or of another step's output, or values.
        self.folders: dict[str, Source] = {}
        self.values: dict[str, Parameter | str] = {}
        for port in component.get("inputs") or {}:
            source = self.find_source(port)
            if isinstance(source, tuple) or (
                isinstance(source, Parameter) and source.default is None
            ):
                self.folders[port] = source
            else:
                self.values[port] = source

    def refuse(self, text: str, fix: str) -> NoReturn:
        raise PipelineError(f"pipelines.py: {self.name} {text}: {fix}.")

    def find_source(self, port: str) -> Source | str:
        """Return the parameter, the step and its output, or the text that an input has."""
        value = (self.node.get("inputs") or {}).get(port)
        if value is None:
            declaration = self.component["inputs"][port]
            return str(declaration.get("default", ""))
        if not isinstance(value, dict):
            return str(value)

        reference = re.fullmatch(PARENT, value["path"])
        if reference is None:
            self.refuse(
                f"reads {value['path']}, which has no files here",
                f"make {port} an input of the pipeline, or an output of another step",
            )
        parameter, step, output = reference.groups()
        if step:
            outputs = self.job["jobs"].get(step, {}).get("outputs", {})
            if output not in outputs:
                self.refuse(
                    f"reads {step}.{output}, which no step writes", "correct the name"
                )
            return step, output

        if parameter not in self.job["inputs"]:
            self.refuse(
                f"reads {parameter}, no input of the pipeline", "correct the name"
            )
        default = self.job["inputs"][parameter]
        is_data = isinstance(default, dict)
        return Parameter(parameter, None if is_data else default)

    def read_step(self) -> Step:
        """Describe the node."""
        task = self.component["task"] if self.is_parallel else self.component
        folder = Path(task["code"]).resolve()
        ignore_file = get_ignore_file(folder)
        files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
        snapshot = [
            file.relative_to(folder)
            for file in files
            if not ignore_file.is_file_excluded(file.as_posix())
        ]

        if self.is_parallel:
            script, arguments = self.read_driver()
            unused_parameters = [self.parallel_parameter("node_count")]
        else:
            script, arguments = self.read_command()
            unused_parameters = []
        if not (folder / script).is_file():
            self.refuse(f"runs {script}, which is not in {folder}", "correct the name")

        return Step(
            name=self.name,
            source_directory=folder,
            snapshot=snapshot,
            script=script,
            arguments=arguments,
            inputs=self.folders,
            outputs=self.outputs,
            run_after=[],
            environment_variables=dict(self.node.get("environment_variables") or {}),
            environment=str(task["environment"]),
            allow_reuse=self.component.get("is_deterministic", True),
            unused_parameters=unused_parameters,
            is_parallel=self.is_parallel,
        )

    def read_command(self) -> tuple[str, list[Argument]]:
        """Return the script of a command node, and its arguments."""
        command = self.component["command"]
        match shlex.split(self.drop_empty_options(command)):
            case ["python", script, *arguments] if script.endswith(".py"):
                return script, [self.read_argument(text) for text in arguments]
        self.refuse(f"runs `{command}`", "let it begin with python and a script")

    def read_driver(self) -> tuple[str, list[Argument]]:
        """Return the script of a parallel node, and the arguments of its driver."""
        task = self.component["task"]
        script = task["entry_script"]
        retries = self.node.get("retry_settings") or {}
        if task.get("append_row_to"):
            self.refuse("has append_row_to", "let the script write its files itself")

        options: dict[str, Any] = {
            "scoring_module_name": script,
            "mini_batch_size": self.parallel_parameter("mini_batch_size"),
            "process_count_per_node": self.parallel_parameter("process_count_per_node"),
            "run_max_try": retries.get("max_retries"),
            "run_invocation_timeout": retries.get("timeout"),
            "error_threshold": self.node.get("error_threshold"),
            "allowed_failed_count": self.node.get("mini_batch_error_threshold"),
            "output_action": "summary_only",
        }
        arguments: list[Argument] = []
        for name, value in options.items():
            if isinstance(value, Parameter):
                arguments += [f"--{name}", value]
            elif value is not None:
                arguments += [f"--{name}", str(value)]

        split_input = self.read_argument(str(self.node.get("input_data")))
        if not isinstance(split_input, Input):
            self.refuse(
                f"splits {split_input}, none of its inputs", "correct input_data"
            )
        arguments += ["--input_fds_0", str(split_input)]

        # The service splits the script's arguments at each space, quoted or not.
        program_arguments = self.drop_empty_options(task.get("program_arguments") or "")
        for text in program_arguments.split():
            arguments.append(self.read_argument(text))
        return script, arguments

    def parallel_parameter(self, name: str) -> Parameter:
        """Return a setting of a parallel node as a parameter of the pipeline."""
        value: Any = self.node
        for key in PARALLEL_SETTINGS[name]:
            value = value.get(key) or {}
        return Parameter(name, value or 1)

    def drop_empty_options(self, command: str) -> str:
        """Return a command without the parts in `$[[ ]]` whose inputs have no value."""

        def replace(part: re.Match[str]) -> str:
            values = self.folders | self.values
            names = [name for _, name in re.findall(REFERENCE, part[1])]
            return part[1] if all(values.get(name) for name in names) else ""

        return re.sub(r"\$\[\[(.*?)\]\]", replace, command)

    def read_argument(self, text: str) -> Argument:
        """Return an argument of a command, which may stand for an input or an output."""
        reference = re.fullmatch(REFERENCE, text)
        if reference is None:
            if re.search(REFERENCE, text):
                self.refuse(f"has the word {text}", "let such a word stand alone")
            return text

        kind, name = reference.groups()
        if kind == "outputs" and name in self.outputs:
            return Output(name)
        if kind == "inputs" and name in self.folders:
            return Input(name)
        if kind == "inputs" and name in self.values:
            return self.values[name]
        self.refuse(f"names {kind}.{name}, which it has not", "correct the name")
