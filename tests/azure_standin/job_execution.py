"""Runs a pipeline job of v2 from what was received: components, code, bindings."""

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
    """What an input is given: a text, or a place among the blobs."""

    text: str = ""
    place: str = ""


@dataclass
class ComponentJob(Job):
    """A pipeline job; `definition` are the job's properties, as they were sent."""

    definition: Json

    def run_steps(self) -> None:
        nodes = self.definition["jobs"]
        parents = {name: self.parents(node) for name, node in nodes.items()}
        goes_on = str(self.settings.get("continue_on_step_failure", True)) == "True"
        lost: set[str] = set()
        self.log("Starting the experiment.")
        for name in TopologicalSorter(parents).static_order():
            if parents[name] & lost or (lost and not goes_on):
                lost.add(name)  # and is never started
                continue
            try:
                step = NodeStep(self, name, nodes[name])
                self.producers[name] = step.execute()
            except StepFailed:
                lost.add(name)
            else:
                self.log(f"Completing processing run id {step.run.id}.")
                bound = step.pipeline_outputs.items()
                outputs = self.producers[name].outputs
                self.run.outputs |= {name: outputs[port] for port, name in bound}
        self.log("Finishing experiment: no runs left and nothing to schedule.")
        end = {"StartTime": self.run.started, "EndTime": now(), "Status": "Finished"}
        stages = json.dumps({"Initialization": None, "Execution": end})
        self.run.properties["azureml.pipelines.stages"] = stages
        if lost:
            raise StepFailed(
                "Pipeline has failed child jobs. For more details and logs, please go to "
                "the job detail page and check the child jobs."
            )

    def log(self, line: str) -> None:
        """Append a line to the log of the whole job, which a client streams."""
        for name in ("executionlogs", "stderrlogs", "stdoutlogs"):
            blob = f"{ARTIFACTS}/{self.run.container}/logs/azureml/{name}.txt"
            log = self.azure.blobs.setdefault(blob, b"")
            if name == "executionlogs":
                moment = now()[:19].replace("T", " ")
                self.azure.blobs[blob] = log + f"[{moment}Z] {line}\n".encode()

    @property
    def settings(self) -> Json:
        return self.definition.get("settings") or {}

    @staticmethod
    def parents(node: Json) -> set[str]:
        """Return the names of the nodes whose outputs a node reads."""
        names = set()
        for node_input in (node.get("inputs") or {}).values():
            match = binding(node_input)
            if match and match["node"]:
                names.add(match["node"])
        return names

    def value(self, sent: Json | None) -> Value | None:
        """Return the value of an input of a node or of the job, or None if it has none."""
        if not sent:
            return None
        if uri := sent.get("uri"):
            return Value(place=blobs_of(self.azure, self.scope, uri))
        match = binding(sent)
        if not match:
            return Value(text=str(sent["value"]))
        if match["node"]:
            return Value(place=self.producers[match["node"]].outputs[match["port"]])
        return self.value((self.definition.get("inputs") or {}).get(match["input"]))


def binding(sent: Json) -> re.Match[str] | None:
    """Match the value of an input or output that names another one, such as a node's."""
    return _BINDING.fullmatch(str(sent.get("value", "")))


class NodeStep(Step):
    """A node of a pipeline job: a command, or a parallel one."""

    def __init__(self, job: ComponentJob, name: str, node: Json):
        self.node = node
        self.spec = job.azure.components[node["componentId"].lower()]
        kind = self.spec["type"]
        if kind not in ("command", "parallel"):
            raise ValueError(f"{name} is of type {kind}, which is not played")
        if node.get("partition_keys"):
            raise ValueError(f"{name} has partition keys, which are not played")
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
            value = job.value((node.get("inputs") or {}).get(port))
            if value and value.place:
                self.sources[port] = value.place
            elif value or declared.get("default") is not None:
                self.values[port] = value.text if value else str(declared["default"])
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
        """Return the outputs of the job that are outputs of this node, by the node's."""
        names = {}
        for port, sent in (self.node.get("outputs") or {}).items():
            match = binding(sent)
            if match and match["output"]:
                names[port] = match["output"]
        return names

    @cached_property
    def chosen_places(self) -> dict[str, str]:
        """Return the URIs to write outputs to, for the outputs that have one."""
        outputs = dict(self.node.get("outputs") or {})
        outputs |= {
            port: self.job_outputs.get(name) or {}
            for port, name in self.pipeline_outputs.items()
        }
        return {port: sent["uri"] for port, sent in outputs.items() if sent.get("uri")}

    @property
    def cluster(self) -> str:
        """Return the name of the cluster that the node runs on."""
        cluster_id = self.node.get("computeId") or self.job_cluster
        return str(cluster_id).rpartition("/")[2]

    @property
    def outputs(self) -> dict[str, str]:
        places = {
            port: f"{CONTAINER}/azureml/{self.run.id}/{port}"
            for port in self.spec.get("outputs") or {}
        }
        for port, uri in self.chosen_places.items():
            uri_of_run = uri.replace("${{name}}", self.run.id)
            uri_of_output = uri_of_run.replace("${{output_name}}", port)
            places[port] = blobs_of(self.azure, self.job.scope, uri_of_output)
        return places

    @property
    def asset_names(self) -> dict[str, str]:
        outputs = self.node.get("outputs") or {}
        return {
            port: sent["name"] for port, sent in outputs.items() if sent.get("name")
        }

    @cached_property
    def paths(self) -> dict[str, Path]:
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
        contents = {
            path: hashlib.sha256(self.azure.blobs[blob]).hexdigest()
            for path, blob in self.code.items()
        }
        own = ("name", "version", "display_name", "description", "tags", "_source")
        spec = {key: self.spec[key] for key in self.spec if key not in own}
        spec["task"] = {key: self.task[key] for key in self.task if key != "code"}
        told = ("inputs", "outputs", "name", "componentId", "computeId", "task")
        node = {key: self.node[key] for key in self.node if key not in (*told, *own)}
        places = [self.sources, self.chosen_places]
        parts = [spec | {"code": ""}, contents, self.values, *places, node]
        return json.dumps(parts, sort_keys=True)

    def fill(self, text: str) -> str:
        """A text with its values and paths; what is optional falls out without any."""
        known = self.values | {port: str(path) for port, path in self.paths.items()}

        def optional(match: re.Match[str]) -> str:
            is_given = all(port in known for port in _PORT.findall(match[1]))
            return match[1] if is_given else ""

        text = _OPTIONAL.sub(optional, text)
        return _PORT.sub(lambda match: known[match[1]], text)

    def command(self) -> list[str]:
        if self.is_parallel:
            return self.driver_command()
        return ["bash", "-c", self.fill(self.spec["command"])]

    def driver_command(self) -> list[str]:
        """What the service makes of a parallel node for its driver."""
        said: dict[str, Any] = self.spec | self.node
        tries = said.get("retry_settings") or {}
        options = {
            "scoring_module_name": self.task["entry_script"],
            "mini_batch_size": said["mini_batch_size"],
            "input_fds_0": f"AZURE_ML_INPUT_{self.port_of(said['input_data'])}",
            "error_threshold": said.get("error_threshold", -1),
            "allowed_failed_count": said.get("mini_batch_error_threshold", -1),
            "run_max_try": tries.get("max_retries", 3),
            "run_invocation_timeout": tries.get("timeout", 60),
            "logging_level": said.get("logging_level", "INFO"),
            "output_action": "summary_only",
        }
        if row_file := self.task.get("append_row_to"):
            path = self.paths[self.port_of(row_file)]
            options["output_action"] = "append_row"
            options["output"], options["append_row_file_name"] = path.parent, path.name
        given = [word for key in options for word in (f"--{key}", str(options[key]))]
        arguments = shlex.split(self.fill(self.task.get("program_arguments") or ""))
        start = [self.azure.python, str(DRIVER), *given]
        return [*start, *arguments, *DRIVERS_OWN]

    def port_of(self, text: str) -> str:
        match = _PORT.fullmatch(text)
        assert match, text
        return match[1]

    def own_variables(self) -> dict[str, str]:
        variables = dict(self.node.get("environment_variables") or {})
        for port, path in self.paths.items():
            kind = "INPUT" if port in self.sources else "OUTPUT"
            variables[f"AZURE_ML_{kind}_{port}"] = str(path)
        return variables
