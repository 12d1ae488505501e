"""Runs a pipeline of v1 from what was received, and what running one of v2 shares with that."""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import subprocess
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from graphlib import TopologicalSorter
from pathlib import Path

from .identities import missing_of_step
from .resources import token
from .state import CONTAINER, Azure, Json, Run
from .storage import dataset_folder
from .wire import ML_HOST

_logger = logging.getLogger(__name__)
DRIVER = Path(__file__).with_name("parallel.py")
#: What the service adds for its driver, and the entry script finds in its command line.
DRIVERS_OWN = (
    *("--model", "/mnt/azureml/model", "--aml_core_version", "1.61.0.post4"),
    *("--dataprep_version", "5.5.0", "--run_settings", '{"process_count": 1}'),
)
#: What a step's process inherits; all else comes from the run, as in a container.
_INHERITED = ("PATH", "LANG", "TMPDIR", "TEMP", "TMP", "SYSTEMROOT")
_PORT = re.compile(r"(?:DatasetConsumptionConfig|DatasetOutputConfig):(.+)")
_POLL_SECONDS = 0.05
_SERVICE_LOGS = ("executionlogs", "stderrlogs", "stdoutlogs")


class StepFailed(Exception):
    """A step did not end well; the message says which and how."""


class StepCanceled(Exception):
    """The run was cancelled while a step was under way."""


@dataclass
class Job:
    """A pipeline to run.

    `producers` gets, for each node that is done, the run whose outputs are the node's:
    its own, or an earlier one's that is used again.
    """

    azure: Azure
    scope: str
    run: Run
    producers: dict[str, Run] = field(default_factory=dict, init=False)

    def start(self) -> None:
        """Run in the background; once only, also if a client submits again."""
        if self.run.status == "NotStarted":
            self.run.begin()
            threading.Thread(target=self._execute, daemon=True).start()

    def run_steps(self) -> None:
        raise NotImplementedError

    def _execute(self) -> None:
        try:
            self.run_steps()
        except StepFailed as failure:
            self.run.end("Failed", str(failure))
        except StepCanceled:
            self.run.end("Canceled")
        except Exception as error:
            # A graph that cannot be run here must not look like a run without end.
            _logger.exception("The stand-in cannot run this graph.")
            self.run.end("Failed", f"The stand-in cannot run this graph: {error!r}")
        else:
            self.run.end("Completed")


@dataclass
class PipelineJob(Job):
    """A graph of v1, with the values that submission gave to its parameters.

    `parameters` are texts by name, `datasets` are ids of saved datasets by name.
    """

    graph_id: str
    graph: Json
    parameters: dict[str, str]
    datasets: dict[str, str]

    def run_steps(self) -> None:
        nodes = {node["Id"]: node for node in self.graph["ModuleNodes"]}
        order: TopologicalSorter[str] = TopologicalSorter({id: () for id in nodes})
        for edge in self.graph["Edges"]:
            source = edge["SourceOutputPort"]["NodeId"]
            if source in nodes:
                order.add(edge["DestinationInputPort"]["NodeId"], source)
        for id in order.static_order():
            self.producers[id] = GraphStep(self, nodes[id]).execute()

    def source(self, node: str, port: str) -> str:
        """The folder of blobs that an input port reads."""
        target = {"NodeId": node, "PortName": port}
        edges = self.graph["Edges"]
        source = next(
            edge["SourceOutputPort"]
            for edge in edges
            if target.items() <= edge["DestinationInputPort"].items()
        )
        if producer := self.producers.get(source["NodeId"]):
            return producer.outputs[source["PortName"]]
        dataset_nodes = {node["Id"]: node for node in self.graph["DatasetNodes"]}
        definition = dataset_nodes[source["NodeId"]]["DataSetDefinition"]
        if name := definition.get("ParameterName"):
            id = self.datasets[name]
        else:
            id = definition["Value"]["SavedDataSetReference"]["Id"]
        return dataset_folder(self.azure.datasets[id])


class Step:
    """One node of a pipeline, executed in a folder of its own.

    `code` are the files that it runs with, `sources` the folder of blobs, or the blob,
    behind each input, and `outputs` the folder of blobs of each output.
    """

    is_parallel: bool
    #: Whether what it made may serve again.
    is_deterministic: bool
    code: dict[str, str]
    sources: dict[str, str]

    def __init__(self, job: Job, name: str, node_id: str, properties: dict[str, str]):
        self.job, self.azure = job, job.azure
        self.run = job.azure.new_run(
            job.run.experiment,
            name=name,
            parent=job.run.id,
            type="azureml.StepRun",
            properties=properties
            | {
                "azureml.runsource": "azureml.StepRun",
                "ComputeTargetType": "AmlCompute",
                "azureml.nodeid": node_id,
                "azureml.pipeline": job.run.id,
                "azureml.pipelinerunid": job.run.id,
            },
            tags={"azureml.nodeid": node_id, "azureml.pipeline": job.run.id},
        )
        self.folder = job.azure.runs_folder / job.run.id / name

    @property
    def cluster(self) -> str:
        """The name of the cluster that the step runs on."""
        raise NotImplementedError

    @property
    def outputs(self) -> dict[str, str]:
        raise NotImplementedError

    @property
    def asset_names(self) -> dict[str, str]:
        """The data assets that outputs are registered as, by the names of the outputs."""
        raise NotImplementedError

    @property
    def paths(self) -> dict[str, Path]:
        """Return the path at which the script finds each input and output."""
        raise NotImplementedError

    @property
    def fingerprint(self) -> str:
        """Return a text on all that the outputs depend on. If it is the same, they are reused."""
        raise NotImplementedError

    def command(self) -> list[str]:
        raise NotImplementedError

    def own_variables(self) -> dict[str, str]:
        """Return the environment variables that only this step has."""
        raise NotImplementedError

    def execute(self) -> Run:
        """Run the step, or reuse an earlier run. Return the run that has its outputs."""
        earlier = self.azure.reusable.get(self.fingerprint)
        if earlier:
            pipeline = earlier.tags["azureml.pipeline"]
            self.run.data_of, self.run.outputs = earlier.id, earlier.outputs
            self.run.properties |= {
                "azureml.isreused": "true",
                "azureml.reusedrunid": earlier.id,
                "azureml.reusednodeid": earlier.tags["azureml.nodeid"],
                "azureml.reusedpipeline": pipeline,
                "azureml.reusedpipelinerunid": pipeline,
            }
            time.sleep(_POLL_SECONDS)  # as it is not started, for a moment
            self.run.end("Completed")
            self.run.started = self.run.ended
            return earlier
        self.azure.clusters[self.run.id] = self.cluster
        self.run.begin()
        try:
            why = self.azure.stillborn_steps.get(self.run.name)
            why = why or missing_of_step(self.azure, self.cluster, self.is_parallel)
            if why:
                self.keep_logs({"logs/azureml/executionlogs.txt": why.encode()})
                raise StepFailed(why)
            self.run_script()
        except StepCanceled:
            self.run.end("Canceled")
            raise
        except StepFailed as failure:
            self.run.end("Failed", str(failure))
            raise
        if self.is_deterministic:
            self.azure.reusable[self.fingerprint] = self.run
        self.run.outputs = self.outputs
        for output, asset in self.asset_names.items():
            self.azure.data_assets[asset].append(self.outputs[output])
        self.run.end("Completed")
        return self.run

    def run_script(self) -> None:
        """Bring what the script reads to disk, run it, and keep what it wrote."""
        code = self.folder / "code"
        code.mkdir(parents=True)
        self.azure.restore(self.code, code)
        for name, source in self.sources.items():
            files = self.azure.files(source)
            if not files:
                raise StepFailed(f"Step {self.run.name} failed: {source} has no files.")
            self.azure.restore(files, self.folder / "inputs" / name)
        for name in self.outputs:
            (self.folder / "outputs" / name).mkdir(parents=True)
        exit_code = self.run_process(code)
        # What a script leaves in `outputs` belongs to the run's artifacts.
        place = f"azureml/{self.run.container}/outputs"
        self.azure.upload(code / "outputs", place)
        if exit_code:
            message = f"Step {self.run.name} failed with exit code {exit_code}."
            raise StepFailed(message)
        for name, folder in self.outputs.items():
            self.azure.upload(self.folder / "outputs" / name, folder)

    def variables(self) -> dict[str, str]:
        """The environment of the script, as the service fills it."""
        variables = {
            name: os.environ[name] for name in _INHERITED if name in os.environ
        }
        tools = (str(Path(self.azure.python).parent), variables.get("PATH", os.defpath))
        variables["PATH"] = os.pathsep.join(tools)
        variables |= self.azure.environment(self.folder / "home")
        variables |= self.own_variables()
        experiment, access = self.run.experiment, token("https://ml.azure.com")
        _, _, subscription, _, group, *_, workspace = self.job.scope.split("/")
        return variables | {
            "AZUREML_RUN_ID": self.run.id,
            "AZUREML_ROOT_RUN_ID": self.job.run.id,
            "AZUREML_RUN_TOKEN": access,
            "AZUREML_ARM_SUBSCRIPTION": subscription,
            "AZUREML_ARM_RESOURCEGROUP": group,
            "AZUREML_ARM_WORKSPACE_NAME": workspace,
            "AZUREML_ARM_PROJECT_NAME": experiment,
            "AZUREML_SERVICE_ENDPOINT": f"https://{ML_HOST}",
            "MLFLOW_TRACKING_URI": f"azureml://{ML_HOST}/mlflow/v1.0{self.job.scope}",
            "MLFLOW_TRACKING_TOKEN": access,
            "MLFLOW_RUN_ID": self.run.id,
            "MLFLOW_EXPERIMENT_NAME": experiment,
            "MLFLOW_EXPERIMENT_ID": self.azure.experiments[experiment]["experimentId"],
        }

    def run_process(self, code: Path) -> int:
        """Run the script to its end; meanwhile its log is an artifact of the run."""
        log = self.folder / "log.txt"
        with log.open("wb") as output:
            process = subprocess.Popen(
                self.command(),
                cwd=code,
                env=self.variables(),
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        while process.poll() is None or self.run.name in self.azure.endless_steps:
            self.publish_log(log.read_bytes())
            if self.job.run.cancel.wait(_POLL_SECONDS):
                # What a shell has started ends with it.
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                raise StepCanceled
        self.publish_log(log.read_bytes(), process.returncode)
        return process.returncode

    def publish_log(self, text: bytes, exit_code: int = 0) -> None:
        logs = {f"logs/azureml/{one}.txt": b"" for one in _SERVICE_LOGS}
        logs["user_logs/std_log.txt"] = text
        if self.is_parallel:
            # The driver keeps apart what the entry script says, and is itself terse.
            end = f"SystemExit: {exit_code}\n" if exit_code else ""
            logs["user_logs/std_log.txt"] = end.encode()
            logs["logs/user/stdout/10.0.0.4/process000.stdout.txt"] = text
            if exit_code:
                logs["logs/job_error.txt"] = b"The job failed.\n"
                logs["logs/user/error.txt"] = text
        self.keep_logs(logs)

    def keep_logs(self, logs: dict[str, bytes]) -> None:
        for path, content in logs.items():
            self.azure.blobs[f"azureml/{self.run.container}/{path}"] = content


class GraphStep(Step):
    """A node of a v1 graph: PythonScriptStep or ParallelRunStep."""

    def __init__(self, job: PipelineJob, node: Json):
        self.graph_job, self.node = job, node
        self.module = job.azure.modules[node["ModuleId"]]
        self.interface = self.module["StructuredInterface"]
        self.is_parallel = self.module["StepType"] == "ParallelRunStep"
        is_wanted_anew = node.get("RegenerateOutput")
        self.is_deterministic = self.module["IsDeterministic"] and not is_wanted_anew
        self.code = job.azure.snapshots[self.module["StorageId"]]
        inputs = self.ports("Inputs")
        self.sources = {name: job.source(node["Id"], name) for name in inputs}
        properties = {
            "StepType": self.module["StepType"],
            "ContentSnapshotId": self.module["StorageId"],
            "azureml.moduleid": self.module["Id"],
            "azureml.moduleName": self.module["Name"],
        }
        if self.is_parallel:
            properties["StepType"] = job.azure.parallel_step_type
            properties["azureml.parallelrunstep"] = "true"
        super().__init__(job, self.module["Name"], node["Id"], properties)

    def ports(self, kind: str) -> list[str]:
        """The names of the inputs or outputs, but for those that only order steps."""
        ports = self.interface[kind]
        return [port["Name"] for port in ports if not port["SkipProcessing"]]

    @property
    def cluster(self) -> str:
        return self.values["Target"]

    @property
    def outputs(self) -> dict[str, str]:
        folder = f"{CONTAINER}/dataset/{self.run.id}"
        return {name: f"{folder}/{name}" for name in self.ports("Outputs")}

    @property
    def asset_names(self) -> dict[str, str]:
        registrations = {
            one["Name"]: one["DatasetRegistration"]
            for one in self.node["ModuleOutputSettings"]
        }
        return {
            output: registration["Name"]
            for output, registration in registrations.items()
            if registration.get("CreateNewVersion")
        }

    @cached_property
    def paths(self) -> dict[str, Path]:
        inputs = {name: self.folder / "inputs" / name for name in self.sources}
        return inputs | {name: self.folder / "outputs" / name for name in self.outputs}

    @cached_property
    def values(self) -> dict[str, str]:
        """The parameters: given in the graph or bound to the pipeline's, else defaults."""
        parameters = self.interface["Parameters"]
        values = {one["Name"]: one.get("DefaultValue") for one in parameters}
        for one in self.node["ModuleParameters"]:
            if "Value" in one:
                value, is_bound = one["Value"], one["ValueType"] == "1"
                values[one["Name"]] = (
                    self.graph_job.parameters[value] if is_bound else value
                )
        return values

    @cached_property
    def fingerprint(self) -> str:
        # The environment's definition is part of it, and so are the run's settings: see
        # learn.microsoft.com/azure/machine-learning/how-to-debug-pipeline-reuse-issues.
        parts = [self.module["Id"], self.values, self.sources, self.node["Runconfig"]]
        return json.dumps(parts, sort_keys=True)

    def command(self) -> list[str]:
        arguments = []
        for one in self.interface["Arguments"]:
            kind, value = one["ValueType"], one["Value"]
            if kind == "Parameter":
                value = self.values[value]
            elif match := _PORT.fullmatch(value):
                value = str(self.paths[match[1]])
            arguments.append(value)
        script = self.values["Script"]
        if self.is_parallel:
            script = str(DRIVER)
            arguments += DRIVERS_OWN
        return [self.azure.python, script, *arguments]

    def own_variables(self) -> dict[str, str]:
        configuration = json.loads(self.node["Runconfig"])
        variables = dict(configuration["environment"]["environmentVariables"] or {})
        variables |= configuration["environmentVariables"] or {}
        for one in self.interface["Parameters"]:
            if one["SetEnvironmentVariable"]:
                variables[one["EnvironmentVariableOverride"]] = self.values[one["Name"]]
        return variables | {name: str(path) for name, path in self.paths.items()}
