"""Run the pipeline jobs of v2 that clients submit: components, their code and bindings."""

from __future__ import annotations

import hashlib
import json
import re
import shlex
from dataclasses import dataclass
from functools import cached_property
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

from .assets import blobs_of, code_files
from .execution import DRIVER, DRIVERS_OWN, Job, Step, StepFailed
from .state import ARTIFACTS, CONTAINER, Json, new_id
from .wire import now

_BINDING = re.compile(
    r"\$\{\{\s*parent\.(?:inputs\.(?P<input>\w+)|outputs\.(?P<output>\w+)"
    r"|jobs\.(?P<node>\w+)\.outputs\.(?P<port>\w+))\s*\}\}"
)
_PORT = re.compile(r"\$\{\{\s*(?:inputs|outputs)\.(\w+)\s*\}\}")
_OPTIONAL = re.compile(r"\$\[\[(.*?)\]\]")


@dataclass
class Value:
    """The value of an input: either a text, or a folder of blobs."""

    text: str = ""
    folder: str = ""


@dataclass
class ComponentJob(Job):
    """A pipeline job. `definition` has the job's properties, as they were sent."""

    definition: Json

    def run_steps(self) -> None:
        """Run the nodes, each after those whose outputs it reads."""
        nodes = self.definition["jobs"]
        parents = {name: self.list_parents(node) for name, node in nodes.items()}
        stops_at_failure = (
            str(self.settings.get("continue_on_step_failure", True)) != "True"
        )
        unfinished: set[str] = set()
        self.log("Starting the experiment.")
        for name in TopologicalSorter(parents).static_order():
            is_stopped = bool(unfinished) and stops_at_failure
            if is_stopped or parents[name] & unfinished:
                unfinished.add(name)
                continue
            try:
                step = NodeStep(self, name, nodes[name])
                self.producers[name] = step.execute()
            except StepFailed:
                unfinished.add(name)
            else:
                self.log(f"Completing processing run id {step.run.id}.")
                outputs = self.producers[name].outputs
                for port, output_of_job in step.pipeline_outputs.items():
                    self.run.outputs[output_of_job] = outputs[port]
        self.log("Finishing experiment: no runs left and nothing to schedule.")
        execution = {
            "StartTime": self.run.started,
            "EndTime": now(),
            "Status": "Finished",
        }
        stages = json.dumps({"Initialization": None, "Execution": execution})
        self.run.properties["azureml.pipelines.stages"] = stages
        if unfinished:
            raise StepFailed(
                "Pipeline has failed child jobs. For more details and logs, please go to "
                "the job detail page and check the child jobs."
            )

    def log(self, line: str) -> None:
        """Append a line to the log of the job, which clients stream."""
        folder = f"{ARTIFACTS}/{self.run.container}/logs/azureml"
        for name in ("executionlogs", "stderrlogs", "stdoutlogs"):
            self.azure.blobs.setdefault(f"{folder}/{name}.txt", b"")
        time = now()[:19].replace("T", " ")
        self.azure.blobs[
            f"{folder}/executionlogs.txt"
        ] += f"[{time}Z] {line}\n".encode()

    @property
    def settings(self) -> Json:
        """Return the settings of the job."""
        return self.definition.get("settings") or {}

    @staticmethod
    def list_parents(node: Json) -> set[str]:
        """Return the names of the nodes whose outputs a node reads."""
        names = set()
        for node_input in (node.get("inputs") or {}).values():
            match = match_binding(node_input)
            if match and match["node"]:
                names.add(match["node"])
        return names

    def resolve_input(self, sent: Json | None) -> Value | None:
        """Return the value of an input of a node or of the job, or None if it has none."""
        if not sent:
            return None
        uri = sent.get("uri")
        if uri:
            return Value(folder=blobs_of(self.azure, self.scope, uri))
        match = match_binding(sent)
        if not match:
            return Value(text=str(sent["value"]))
        if match["node"]:
            return Value(folder=self.producers[match["node"]].outputs[match["port"]])
        inputs_of_job = self.definition.get("inputs") or {}
        return self.resolve_input(inputs_of_job.get(match["input"]))


def match_binding(sent: Json) -> re.Match[str] | None:
    """Match the value of an input or output if it is the name of another one."""
    return _BINDING.fullmatch(str(sent.get("value", "")))


class NodeStep(Step):
    """A node of a pipeline job: a command or a parallel component."""

    def __init__(self, job: ComponentJob, name: str, node: Json) -> None:
        self.node = node
        self.spec = job.azure.components[node["componentId"].lower()]
        kind = self.spec["type"]
        if kind not in ("command", "parallel"):
            raise ValueError(f"The stand-in cannot run {name}, of the type {kind}.")
        if node.get("partition_keys"):
            raise ValueError(f"The stand-in cannot run {name}, with partition keys.")
        self.is_parallel = kind == "parallel"
        self.task = node.get("task") or self.spec.get("task") or self.spec
        is_deterministic = str(self.spec.get("is_deterministic", True)) == "True"
        is_forced = str(job.settings.get("force_rerun", False)) == "True"
        self.is_deterministic = is_deterministic and not is_forced
        code = self.task.get("code")
        self.code = code_files(job.azure, code) if code else {}
        self.values: dict[str, str] = {}
        self.sources = {}
        self.inputs = self.spec.get("inputs") or {}
        for port, declared in self.inputs.items():
            value = job.resolve_input((node.get("inputs") or {}).get(port))
            if value and value.folder:
                self.sources[port] = value.folder
            elif value:
                self.values[port] = value.text
            elif declared.get("default") is not None:
                self.values[port] = str(declared["default"])
        properties = {
            "azureml.DevPlatv2": "true",
            "azureml.DatasetAccessMode": "Asset",
            "azureml.pipelineComponent": "masterescloud",
            "StepType": "PythonScriptStep",
            "azureml.moduleid": node["componentId"].rpartition("/")[2],
            "azureml.moduleName": self.spec["name"],
            "azureml.moduleVersion": self.spec["version"],
        }
        if self.is_parallel:
            properties["azureml.parallelrunstep"] = "true"
        super().__init__(job, name, new_id()[:8], properties)
        self.job_outputs = job.definition.get("outputs") or {}
        default = job.settings.get("default_compute")
        self.job_cluster = job.definition.get("computeId") or default or ""

    @cached_property
    def pipeline_outputs(self) -> dict[str, str]:
        """Return the output of the job that each output of this node is, if it is one."""
        names = {}
        for port, sent in (self.node.get("outputs") or {}).items():
            match = match_binding(sent)
            if match and match["output"]:
                names[port] = match["output"]
        return names

    @cached_property
    def output_uris(self) -> dict[str, str]:
        """Return the URI to write each output to, for those that have one."""
        outputs = dict(self.node.get("outputs") or {})
        for port, output_of_job in self.pipeline_outputs.items():
            outputs[port] = self.job_outputs.get(output_of_job) or {}
        return {port: sent["uri"] for port, sent in outputs.items() if sent.get("uri")}

    @property
    def cluster(self) -> str:
        """Return the name of the cluster that the node runs on."""
        cluster_id = self.node.get("computeId") or self.job_cluster
        return str(cluster_id).rpartition("/")[2]

    @property
    def outputs(self) -> dict[str, str]:
        """Return the folders of the outputs in the storage, by output."""
        folders = {
            port: f"{CONTAINER}/azureml/{self.run.id}/{port}"
            for port in self.spec.get("outputs") or {}
        }
        for port, uri in self.output_uris.items():
            uri_of_run = uri.replace("${{name}}", self.run.id)
            uri_of_output = uri_of_run.replace("${{output_name}}", port)
            folders[port] = blobs_of(self.azure, self.job.scope, uri_of_output)
        return folders

    @property
    def asset_names(self) -> dict[str, str]:
        """Return the names of the assets that outputs are registered as, by output."""
        outputs = self.node.get("outputs") or {}
        return {
            port: sent["name"] for port, sent in outputs.items() if sent.get("name")
        }

    @cached_property
    def paths(self) -> dict[str, Path]:
        """Return the paths of the inputs and outputs by their names."""
        paths = {port: self.folder / "inputs" / port for port in self.sources}
        for port, path in paths.items():
            if self.inputs[port]["type"] == "uri_file":
                (name,) = self.azure.files(self.sources[port])
                paths[port] = path / name
        for port, declared in (self.spec.get("outputs") or {}).items():
            paths[port] = self.folder / "outputs" / port
            if declared["type"] == "uri_file":
                paths[port] /= port
        return paths

    @cached_property
    def fingerprint(self) -> str:
        """Return a text that is the same for nodes that write the same."""
        code = {
            path: hashlib.sha256(self.azure.blobs[blob]).hexdigest()
            for path, blob in self.code.items()
        }
        # These keys describe a component, and do not change what it writes.
        descriptive_keys = {"name", "version", "display_name", "description", "tags"}
        descriptive_keys.add("_source")
        spec = {
            key: value
            for key, value in self.spec.items()
            if key not in descriptive_keys
        }
        spec["task"] = {key: self.task[key] for key in self.task if key != "code"}
        spec["code"] = ""
        # The values below stand for the inputs, the outputs and the component.
        resolved_keys = {"inputs", "outputs", "componentId", "computeId", "task"}
        node = {
            key: value
            for key, value in self.node.items()
            if key not in resolved_keys | descriptive_keys
        }
        parts = [spec, code, self.values, self.sources, self.output_uris, node]
        return json.dumps(parts, sort_keys=True)

    def fill_in(self, text: str) -> str:
        """Replace the placeholders of a text by values and paths.

        An optional part, `$[[...]]`, is removed if a placeholder in it has no value.
        """
        values = self.values | {port: str(path) for port, path in self.paths.items()}

        def fill_in_optional_part(match: re.Match[str]) -> str:
            has_values = all(port in values for port in _PORT.findall(match[1]))
            return match[1] if has_values else ""

        text = _OPTIONAL.sub(fill_in_optional_part, text)
        return _PORT.sub(lambda match: values[match[1]], text)

    def command(self) -> list[str]:
        """Return the command line of the node."""
        if self.is_parallel:
            return self.driver_command()
        return ["bash", "-c", self.fill_in(self.spec["command"])]

    def driver_command(self) -> list[str]:
        """Return the command line of the driver that the service makes of a parallel node."""
        settings: dict[str, Any] = self.spec | self.node
        retries = settings.get("retry_settings") or {}
        options = {
            "scoring_module_name": self.task["entry_script"],
            "mini_batch_size": settings["mini_batch_size"],
            "input_fds_0": f"AZURE_ML_INPUT_{self.port_of(settings['input_data'])}",
            "error_threshold": settings.get("error_threshold", -1),
            "allowed_failed_count": settings.get("mini_batch_error_threshold", -1),
            "run_max_try": retries.get("max_retries", 3),
            "run_invocation_timeout": retries.get("timeout", 60),
            "logging_level": settings.get("logging_level", "INFO"),
            "output_action": "summary_only",
        }
        row_file = self.task.get("append_row_to")
        if row_file:
            path = self.paths[self.port_of(row_file)]
            options["output_action"] = "append_row"
            options["output"] = path.parent
            options["append_row_file_name"] = path.name

        command = [self.azure.python, str(DRIVER)]
        for name, value in options.items():
            command += [f"--{name}", str(value)]
        arguments = self.task.get("program_arguments") or ""
        return [*command, *shlex.split(self.fill_in(arguments)), *DRIVERS_OWN]

    def port_of(self, text: str) -> str:
        """Return the input or output whose placeholder a text is."""
        match = _PORT.fullmatch(text)
        assert match, text
        return match[1]

    def own_variables(self) -> dict[str, str]:
        """Return the environment variables that the node declares, and its paths."""
        variables = dict(self.node.get("environment_variables") or {})
        for port, path in self.paths.items():
            kind = "INPUT" if port in self.sources else "OUTPUT"
            variables[f"AZURE_ML_{kind}_{port}"] = str(path)
        return variables
