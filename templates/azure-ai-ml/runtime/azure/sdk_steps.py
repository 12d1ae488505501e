"""Build pipeline jobs with azure-ai-ml, and describe their nodes for the local run.

The description is read from the YAML that azure-ai-ml writes of a job. Its format is
documented by Microsoft.
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

#: Settings of parallel nodes that `run` and `submit` treat as pipeline parameters, with the
#: attributes that lead to them. The SDK does not accept inputs of the pipeline for them.
PARALLEL_SETTINGS = {
    "mini_batch_size": ("mini_batch_size",),
    "process_count_per_node": ("max_concurrency_per_instance",),
    "node_count": ("resources", "instance_count"),
}
#: A placeholder for an input or output of a node, in a command.
REFERENCE = r"\$\{\{\s*(inputs|outputs)\.(\w+)\s*\}\}"
#: A placeholder for an input of the pipeline, or an output of another node.
PARENT = r"\$\{\{\s*parent\.(?:inputs\.(\w+)|jobs\.(\w+)\.outputs\.(\w+))\s*\}\}"

# The SDK would warn the user that some of its own classes are experimental.
logging.getLogger("azure.ai.ml").setLevel(logging.ERROR)

# A pipeline cannot be built without data. This address takes the place of the data where a
# pipeline is built only to describe its nodes. Nothing is read from it.
PLACEHOLDER_ADDRESS = "https://localhost/data"


def build_command(script: str, **options: Any) -> str:
    """Return the command of a step that runs a Python script with these options."""
    arguments = [str(argument) for argument in build_arguments(**options)]
    return shlex.join(["python", script, *arguments])


def declare_inputs(
    **inputs: Any,
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Return a decorator that declares the inputs of a function for `dsl.pipeline`.

    The SDK reads the inputs of a pipeline from the signature of its function. A signature
    in the code could not name the hyperparameters, which the user chooses in settings.yml.
    So the decorator replaces the signature by one with these `inputs`. An `Input` of the
    SDK declares a folder or file; any other value is the default of a parameter.
    """

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        """Replace the signature of the function by one with the declared inputs."""
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
        # The SDK reads the folders and files from the annotations, and the names and the
        # defaults from the signature, so both are replaced.
        function.__annotations__ = annotations
        function.__signature__ = Signature(parameters)  # type: ignore[attr-defined]
        return function

    return decorate


def build_steps(
    pipeline: PipelineDefinition,
    settings: Any,
    addresses: Mapping[str, str] | None = None,
) -> PipelineJob:
    """Build the job of a pipeline with azure-ai-ml.

    `addresses` are the addresses of the data, by the names of the pipeline's inputs for
    data. Without them, the job can be described by read_steps, but not submitted.
    """
    if addresses is None:
        addresses = dict.fromkeys(pipeline.data, PLACEHOLDER_ADDRESS)
    data = {
        name: SdkInput(type="uri_folder", path=addresses[name])
        for name in pipeline.data
    }
    job: PipelineJob = pipeline.build(settings, data)
    return job


def set_parameters(job: PipelineJob, values: Mapping[str, Any]) -> None:
    """Set the parameters of a job, which was built with the values of the settings.

    Some of them are settings of the parallel nodes: see PARALLEL_SETTINGS.
    """
    for name, value in values.items():
        if name in job.inputs:
            setattr(job.inputs, name, value)
        if name not in PARALLEL_SETTINGS:
            continue
        *path, attribute = PARALLEL_SETTINGS[name]
        for node in job.jobs.values():
            if node.type == "parallel":
                owner = node
                for name_of_part in path:
                    owner = getattr(owner, name_of_part)
                setattr(owner, attribute, value)


def environments(pipelines: Pipelines, settings: Any) -> list[Environment]:
    """Return the environments of the nodes of all pipelines, each only once."""
    by_version: dict[tuple[str, str], Environment] = {}
    for pipeline in pipelines.values():
        for node in build_steps(pipeline, settings).jobs.values():
            owner = node.task if node.type == "parallel" else node
            environment = owner.environment
            by_version[environment.name, environment.version] = environment
    return list(by_version.values())


def read_steps(job: PipelineJob) -> list[Step]:
    """Describe the nodes of a pipeline job for the local run.

    Raises PipelineError if a node cannot be run on this machine. It is also raised for a
    name that does not exist and for a missing script, which the SDK accepts and the service
    refuses.
    """
    modules: dict[str, Any] = sys.modules
    # The SDK would import IPython, which takes long, to learn whether this is a notebook.
    # With None in sys.modules, the import fails at once.
    is_hidden = modules.setdefault("IPython", None) is None
    try:
        text: dict[str, Any] = yaml.safe_load(str(job))
    finally:
        if is_hidden:
            del modules["IPython"]
    return [_Node(name, node, text).read_step() for name, node in text["jobs"].items()]


class _Node:
    """A node of a pipeline job, as the YAML of the job describes it."""

    def __init__(self, name: str, node: dict[str, Any], job: dict[str, Any]) -> None:
        self.name = name
        self.node = node
        self.job = job
        component: Any = node.get("component")
        if node["type"] not in ("command", "parallel") or isinstance(component, str):
            self.refuse(
                f"is a {node['type']} node, or its component is not in this project",
                "write it as a command or a parallel_run_function with its code",
            )
        self.component: dict[str, Any] = component
        self.is_parallel = node["type"] == "parallel"
        self.outputs = list(component.get("outputs") or {})

        # An input is either a folder (of data, or the output of another step) or a value.
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
        """Raise PipelineError about this node.

        `text` continues a sentence that begins with the node's name. `fix` is in the
        imperative.
        """
        raise PipelineError(f"pipelines.py: {self.name} {text}: {fix}.")

    def find_source(self, port: str) -> Source | str:
        """Return where an input of the node comes from.

        This is a parameter of the pipeline, the name of a step and of its output, or a
        fixed text. Raises PipelineError if the node refers to something unknown.
        """
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
                f"reads {parameter}, which is not an input of the pipeline",
                "correct the name",
            )
        default = self.job["inputs"][parameter]
        is_data = isinstance(default, dict)
        return Parameter(parameter, None if is_data else default)

    def read_step(self) -> Step:
        """Describe the node: its files, its command line, its inputs and its outputs."""
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
        """Return the script of a parallel node, and the arguments of its driver.

        The driver is the program that divides the files of an input into mini-batches, and
        calls the script's `run(mini_batch)` with each.
        """
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
                f"splits {split_input}, which is not one of its inputs",
                "correct input_data",
            )
        arguments += ["--input_fds_0", str(split_input)]

        # The service splits the script's arguments at each space, even within quotes.
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
        """Return a command without its optional parts whose inputs have no value.

        An optional part is in double square brackets, such as `$[[--seed INPUT]]`, where
        INPUT is a placeholder.
        """

        def replace(part: re.Match[str]) -> str:
            """Return the text in the brackets, or "" if one of its inputs has no value."""
            values = self.folders | self.values
            names = [name for _, name in re.findall(REFERENCE, part[1])]
            return part[1] if all(values.get(name) for name in names) else ""

        return re.sub(r"\$\[\[(.*?)\]\]", replace, command)

    def read_argument(self, text: str) -> Argument:
        """Return an argument of a command, which may stand for an input or an output."""
        reference = re.fullmatch(REFERENCE, text)
        if reference is None:
            if re.search(REFERENCE, text):
                self.refuse(
                    f"has the argument {text}, in which a placeholder is only a part",
                    "make the placeholder an argument of its own",
                )
            return text

        kind, name = reference.groups()
        if kind == "outputs" and name in self.outputs:
            return Output(name)
        if kind == "inputs" and name in self.folders:
            return Input(name)
        if kind == "inputs" and name in self.values:
            return self.values[name]
        self.refuse(f"names {kind}.{name}, which it does not have", "correct the name")
