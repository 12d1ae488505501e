"""Build pipeline jobs with azure-ai-ml, and describe their nodes for the local run.

The description is read from the YAML text into which azure-ai-ml converts a job. Microsoft
documents the format of this text.
"""

from __future__ import annotations

import logging
import re
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from inspect import Parameter as FunctionParameter
from inspect import Signature
from pathlib import Path
from typing import Any

import yaml
from azure.ai.ml import Input as SdkInput
from azure.ai.ml._utils._asset_utils import get_ignore_file
from azure.ai.ml.entities import Environment, PipelineJob

from ..arguments import build_arguments
from ..project import PipelineDefinition, Pipelines
from ..steps import Argument, Input, Output, Parameter, PipelineError, Source, Step

#: Settings of parallel nodes for which the SDK does not accept inputs of the pipeline. So
#: `run` and `submit` treat them as pipeline parameters. Each parameter is mapped to the
#: attributes that lead from a node to the setting, such as node.resources.instance_count.
PARALLEL_SETTINGS = {
    "mini_batch_size": ("mini_batch_size",),
    "process_count_per_node": ("max_concurrency_per_instance",),
    "node_count": ("resources", "instance_count"),
}
#: A placeholder in a command for an input or output of the node: ${{inputs.prepared}}.
PLACEHOLDER = r"\$\{\{\s*(inputs|outputs)\.(\w+)\s*\}\}"
#: A placeholder for an input of the pipeline: ${{parent.inputs.raw_data}}.
PIPELINE_INPUT = r"\$\{\{\s*parent\.inputs\.(\w+)\s*\}\}"
#: A placeholder for an output of another node: ${{parent.jobs.prep.outputs.prepared}}.
NODE_OUTPUT = r"\$\{\{\s*parent\.jobs\.(\w+)\.outputs\.(\w+)\s*\}\}"
#: An optional part of a command, such as $[[--seed ${{inputs.seed}}]].
OPTIONAL_PART = r"\$\[\[(.*?)\]\]"

# The SDK would warn the user that some of its own classes are experimental.
logging.getLogger("azure.ai.ml").setLevel(logging.ERROR)

# A pipeline cannot be built without data. If it is built only to describe its nodes, this
# address takes the place of the data. Nothing is read from it.
PLACEHOLDER_ADDRESS = "https://localhost/data"


def build_command(script: str, **options: Any) -> str:
    """Return the command of a step that runs a Python script with options.

    `build_command("prep.py", keys=["a b"])` gives `python prep.py --keys 'a b'`.
    """
    arguments = [str(argument) for argument in build_arguments(**options)]
    return shlex.join(["python", script, *arguments])


def declare_inputs(
    **inputs: Any,
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Return a decorator that declares the inputs of a function for `dsl.pipeline`.

    The SDK reads the inputs of a pipeline from the signature of its function. Some inputs are
    hyperparameters, which are known only once settings.yml is read, so no signature in the
    code can contain them. The decorator therefore replaces the signature.

    Each argument is one input of the pipeline: an `Input` of the SDK declares a folder or
    file, and any other value is the default of an input that is a number or text. With
    `declare_inputs(training_data=Input(...), depth=6)`, the pipeline has the inputs
    `training_data` and `depth`.
    """

    def replace_signature(function: Callable[..., None]) -> Callable[..., None]:
        """Replace the signature of a function with one that has the declared inputs."""
        # The SDK takes the names of the inputs from the signature. It takes the type of a
        # folder or file from its annotation, and the type of a number or text from its
        # default.
        arguments: list[FunctionParameter] = []
        annotations: dict[str, Any] = {}
        for name, value in inputs.items():
            if isinstance(value, SdkInput):
                annotations[name] = value
                arguments.append(_make_argument(name))
            else:
                arguments.append(_make_argument(name, default=value))
        function.__annotations__ = annotations
        function.__signature__ = Signature(arguments)  # type: ignore[attr-defined]
        return function

    return replace_signature


def _make_argument(
    name: str, default: Any = FunctionParameter.empty
) -> FunctionParameter:
    """Return an argument for the signature of a function.

    The argument has no default unless `default` is passed.
    """
    return FunctionParameter(
        name, FunctionParameter.POSITIONAL_OR_KEYWORD, default=default
    )


def build_steps(
    pipeline: PipelineDefinition,
    settings: Any,
    addresses: Mapping[str, str] | None = None,
) -> PipelineJob:
    """Build the job of azure-ai-ml that contains the steps of a pipeline.

    `addresses` maps each data input of the pipeline to the address of its data. Without
    `addresses`, the job can be described by read_steps, but not submitted.
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
    """Set parameters of a job to values other than those that it was built with.

    `values` maps the names of parameters to their new values. A parameter in
    PARALLEL_SETTINGS is set on each parallel node of the job.
    """
    for name, value in values.items():
        if name in job.inputs:
            setattr(job.inputs, name, value)
        # A pipeline may have an input with the name of a parallel setting. Both are set then.
        if name in PARALLEL_SETTINGS:
            for node in job.jobs.values():
                if node.type == "parallel":
                    _set_parallel_setting(node, name, value)


def _set_parallel_setting(node: Any, name: str, value: Any) -> None:
    """Set one of the PARALLEL_SETTINGS of a node to a value.

    `name` is the pipeline parameter for the setting: `node_count` sets
    `node.resources.instance_count`.
    """
    *outer_attributes, attribute = PARALLEL_SETTINGS[name]
    settings = node
    for outer_attribute in outer_attributes:
        settings = getattr(settings, outer_attribute)
    setattr(settings, attribute, value)


def list_environments(pipelines: Pipelines, settings: Any) -> list[Environment]:
    """Return the environments of the nodes of all pipelines, each only once."""
    environment_by_version: dict[tuple[str, str], Environment] = {}
    for pipeline in pipelines.values():
        for node in build_steps(pipeline, settings).jobs.values():
            # A parallel node has its environment in its task.
            environment = (node.task if node.type == "parallel" else node).environment
            name_and_version = (environment.name, environment.version)
            environment_by_version[name_and_version] = environment
    return list(environment_by_version.values())


def read_steps(job: PipelineJob) -> list[Step]:
    """Describe the steps of a pipeline job for the local run.

    azure-ai-ml calls the steps of a job its nodes. Raises PipelineError if a node cannot be
    run on this machine, if its script is missing, or if it refers to an input or output that
    does not exist. The SDK accepts such a reference, which the service refuses later.
    """
    # str(job) is the job in YAML, as the SDK writes it for Azure ML.
    with _hide_ipython():
        job_dict: dict[str, Any] = yaml.safe_load(str(job))
    return [
        _Node(name, node, job_dict).read_step()
        for name, node in job_dict["jobs"].items()
    ]


@contextmanager
def _hide_ipython() -> Iterator[None]:
    """Make imports of IPython fail at once, unless it is imported already.

    When the SDK writes a job as text, it imports IPython to learn whether it is running in a
    notebook. The import takes long. If IPython is imported already, nothing is changed.
    """
    modules: dict[str, Any] = sys.modules
    if "IPython" in modules:
        yield
        return
    # An import raises an error at once if the module has the value None here.
    modules["IPython"] = None
    try:
        yield
    finally:
        del modules["IPython"]


class _Node:
    """A node of a pipeline job, read from the YAML of the job."""

    def __init__(self, name: str, node: dict[str, Any], job: dict[str, Any]) -> None:
        """Read the inputs and the outputs of a node.

        `job` is the YAML of the whole job, and `node` is the section in it about this node.
        Raises PipelineError if the node cannot run on this machine, or if an input refers to
        something that does not exist.
        """
        self.name = name
        self.node = node
        self.job = job
        self.require_local_code()
        #: The section about the component: the command or the script, inputs and outputs.
        self.component: dict[str, Any] = node["component"]
        self.is_parallel = node["type"] == "parallel"
        self.outputs = list(self.component.get("outputs") or {})

        #: Where each input that is a folder gets its files from.
        self.folders: dict[str, Source] = {}
        #: The value of each input that is a number or text.
        self.values: dict[str, Parameter | str] = {}
        for input_name in self.component.get("inputs") or {}:
            source = self.find_source(input_name)
            if isinstance(source, tuple):
                # The input is an output folder of another step.
                self.folders[input_name] = source
            elif isinstance(source, Parameter) and source.default is None:
                # Only a parameter for a folder of data has no default.
                self.folders[input_name] = source
            else:
                self.values[input_name] = source

    def require_local_code(self) -> None:
        """Raise PipelineError if the node is of a kind that cannot run on this machine."""
        kind = self.node["type"]
        if kind not in ("command", "parallel"):
            raise self.make_error(
                f"is a {kind} node",
                "write it as a command or a parallel_run_function",
            )
        # The YAML describes a component of the project by a section, and a registered
        # component only by its name.
        component = self.node.get("component")
        if isinstance(component, str):
            raise self.make_error(
                f"uses the component {component}, but its code is not in this project",
                "write it as a command or a parallel_run_function with its code",
            )

    def make_error(self, text: str, fix: str) -> PipelineError:
        """Return an error about this node.

        `text` continues a sentence that begins with the node's name, such as "is a sweep
        node". `fix` is an imperative, such as "correct the name".
        """
        return PipelineError(f"pipelines.py: {self.name} {text}: {fix}.")

    def find_source(self, input_name: str) -> Source | str:
        """Return the source of an input: where the node gets its files or its value from.

        A source is a parameter of the pipeline, an output of another step (a tuple of the
        name of the step and the name of the output), or a fixed text. Raises PipelineError if
        the input refers to a parameter or an output that does not exist, or to files that
        are not on this machine.
        """
        value = (self.node.get("inputs") or {}).get(input_name)
        if value is None:
            # The pipeline passes nothing to this input, so the default of the component is
            # used. An optional input without a default has an empty value.
            declaration = self.component["inputs"][input_name]
            return str(declaration.get("default", ""))
        if not isinstance(value, dict):
            return str(value)

        address = value["path"]
        pipeline_input = re.fullmatch(PIPELINE_INPUT, address)
        if pipeline_input is not None:
            return self.find_parameter(pipeline_input[1])
        node_output = re.fullmatch(NODE_OUTPUT, address)
        if node_output is not None:
            step, output = node_output.groups()
            self.require_output(step, output)
            return step, output
        raise self.make_error(
            f"reads {address}, which has no files here",
            f"make {input_name} an input of the pipeline, or an output of another step",
        )

    def find_parameter(self, name: str) -> Parameter:
        """Return the pipeline parameter for an input of the pipeline.

        Raises PipelineError if the pipeline has no input of this name.
        """
        pipeline_inputs = self.job["inputs"]
        if name not in pipeline_inputs:
            raise self.make_error(
                f"reads {name}, which is not an input of the pipeline",
                "correct the name",
            )
        # The YAML describes a folder of data by a dict, and any other input by its default.
        declaration = pipeline_inputs[name]
        if isinstance(declaration, dict):
            return Parameter(name, default=None)
        return Parameter(name, default=declaration)

    def require_output(self, step: str, output: str) -> None:
        """Raise PipelineError if no step of this name has an output of this name."""
        outputs = self.job["jobs"].get(step, {}).get("outputs", {})
        if output not in outputs:
            raise self.make_error(
                f"reads {step}.{output}, which no step writes", "correct the name"
            )

    def read_step(self) -> Step:
        """Return the step that a local run makes of this node.

        Raises PipelineError if its script or an input or output in its command is missing, or
        if it uses a feature that a local run does not support.
        """
        # A parallel node has its code and its environment in the task of its component.
        task = self.component["task"] if self.is_parallel else self.component
        folder = Path(task["code"]).resolve()

        if self.is_parallel:
            script, arguments = self.read_driver()
            # The number of nodes has no effect in a local run, which uses one machine.
            unused_parameters = [self.read_parallel_setting("node_count")]
        else:
            script, arguments = self.read_command()
            unused_parameters = []
        if not (folder / script).is_file():
            raise self.make_error(
                f"runs {script}, which is not in {folder}", "correct the name"
            )

        return Step(
            name=self.name,
            source_directory=folder,
            snapshot=_list_snapshot(folder),
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
        """Return the script of a command node, and the arguments of the script.

        Raises PipelineError if the command is not of the form `python SCRIPT.py ...`.
        """
        command = self.component["command"]
        match shlex.split(self.resolve_optional_parts(command)):
            case ["python", script, *arguments] if script.endswith(".py"):
                return script, [self.read_argument(text) for text in arguments]
        raise self.make_error(
            f"runs `{command}`", "write the command as `python SCRIPT.py ...`"
        )

    def read_driver(self) -> tuple[str, list[Argument]]:
        """Return the script of a parallel node, and the arguments of its driver.

        The driver is the program that divides the files of an input into mini-batches, and
        calls the script's `run(mini_batch)` with each of them. Raises PipelineError if the
        node uses a feature that a local run does not support.
        """
        task = self.component["task"]
        if task.get("append_row_to"):
            raise self.make_error(
                "uses append_row_to, which a local run does not support",
                "write the results to files in the script instead",
            )

        arguments = self.list_driver_options()
        # The driver's option for its first input has the name --input_fds_0.
        arguments += ["--input_fds_0", str(self.find_divided_input())]
        # The service splits the script's arguments at each space, even inside quotes, so they
        # are split here in the same way.
        program_arguments = task.get("program_arguments") or ""
        for text in self.resolve_optional_parts(program_arguments).split():
            arguments.append(self.read_argument(text))
        return task["entry_script"], arguments

    def list_driver_options(self) -> list[Argument]:
        """Return the options of the driver of a parallel node.

        They set the size of the mini-batches, the number of processes, and what happens after
        errors.
        """
        retries = self.node.get("retry_settings") or {}
        options: dict[str, Parameter | Any] = {
            "scoring_module_name": self.component["task"]["entry_script"],
            "mini_batch_size": self.read_parallel_setting("mini_batch_size"),
            "process_count_per_node": self.read_parallel_setting(
                "process_count_per_node"
            ),
            "run_max_try": retries.get("max_retries"),
            "run_invocation_timeout": retries.get("timeout"),
            "error_threshold": self.node.get("error_threshold"),
            "allowed_failed_count": self.node.get("mini_batch_error_threshold"),
            # The driver collects no results, because the script writes them itself.
            "output_action": "summary_only",
        }
        arguments: list[Argument] = []
        for name, value in options.items():
            if isinstance(value, Parameter):
                arguments += [f"--{name}", value]
            elif value is not None:
                arguments += [f"--{name}", str(value)]
        return arguments

    def find_divided_input(self) -> Input:
        """Return the input that a parallel node divides into mini-batches.

        The node names the input in `input_data`. Raises PipelineError if this is not an input
        folder of the node.
        """
        divided_input = self.read_argument(str(self.node.get("input_data")))
        if not isinstance(divided_input, Input):
            raise self.make_error(
                f"names {divided_input} in input_data, which is not one of its inputs",
                "correct input_data",
            )
        return divided_input

    def read_parallel_setting(self, name: str) -> Parameter:
        """Return a setting of a parallel node as a pipeline parameter.

        `name` is the name of the parameter in PARALLEL_SETTINGS, such as `node_count`. If the
        node does not contain the setting, the parameter has the default 1.
        """
        value: Any = self.node
        for key in PARALLEL_SETTINGS[name]:
            value = value.get(key) or {}
        return Parameter(name, default=value or 1)

    def resolve_optional_parts(self, command: str) -> str:
        """Resolve the optional parts of a command, such as `$[[--seed INPUT]]`.

        INPUT stands for a placeholder of an input. A part is kept without its brackets if all
        its inputs have values. Otherwise, the part is dropped.
        """
        source_by_input = self.folders | self.values

        def keep_or_drop(part: re.Match[str]) -> str:
            """Return the text in the brackets, or "" if one of its inputs has no value."""
            text_in_brackets = part[1]
            # Each placeholder is found as a pair such as ("inputs", "seed").
            input_names = [
                name for _, name in re.findall(PLACEHOLDER, text_in_brackets)
            ]
            has_all_values = all(source_by_input.get(name) for name in input_names)
            return text_in_brackets if has_all_values else ""

        return re.sub(OPTIONAL_PART, keep_or_drop, command)

    def read_argument(self, text: str) -> Argument:
        """Return what an argument of a command stands for.

        A placeholder stands for an input folder, an output folder, or the value of an input
        that is a number or text. Any other argument stands for itself. Raises PipelineError
        if the node does not have the input or output, or if the argument mixes a placeholder
        with other text.
        """
        placeholder = re.fullmatch(PLACEHOLDER, text)
        if placeholder is None:
            if re.search(PLACEHOLDER, text):
                raise self.make_error(
                    f"has the argument {text}, which mixes a placeholder with other text",
                    "make the placeholder an argument of its own",
                )
            return text

        kind, name = placeholder.groups()
        if kind == "outputs" and name in self.outputs:
            return Output(name)
        if kind == "inputs" and name in self.folders:
            return Input(name)
        if kind == "inputs" and name in self.values:
            return self.values[name]
        raise self.make_error(
            f"names {kind}.{name}, which it does not have", "correct the name"
        )


def _list_snapshot(folder: Path) -> list[Path]:
    """Return the files in a step's folder that are uploaded, as paths relative to the folder.

    Files that .amlignore or .gitignore excludes are left out.
    """
    ignore_file = get_ignore_file(folder)
    snapshot = []
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not ignore_file.is_file_excluded(path.as_posix()):
            snapshot.append(path.relative_to(folder))
    return snapshot
