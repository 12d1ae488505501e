"""Run the pipelines of v1 that clients submit. job_execution.py runs those of v2."""

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
from .state import ARTIFACTS, CONTAINER, Azure, Json, Run
from .storage import dataset_folder
from .wire import ML_HOST

_logger = logging.getLogger(__name__)
DRIVER = Path(__file__).with_name("parallel.py")
#: Arguments that the service adds for its driver. Entry scripts see them in `sys.argv`.
DRIVERS_OWN = (
    *("--model", "/mnt/azureml/model", "--aml_core_version", "1.61.0.post4"),
    *("--dataprep_version", "5.5.0", "--run_settings", '{"process_count": 1}'),
)
#: The variables that a step's process inherits. It gets all others from its run.
_INHERITED = ("PATH", "LANG", "TMPDIR", "TEMP", "TMP", "SYSTEMROOT")
_PORT = re.compile(r"(?:DatasetConsumptionConfig|DatasetOutputConfig):(.+)")
_POLL_SECONDS = 0.05
_SERVICE_LOGS = ("executionlogs", "stderrlogs", "stdoutlogs")


class StepFailed(Exception):
    """A step has failed. The message says which step, and why."""


class StepCanceled(Exception):
    """The pipeline was cancelled while a step was running."""


@dataclass
class Job:
    """A pipeline to run.

    `producers` has the run whose outputs a finished node has: its own run, or an earlier
    one that it reuses.
    """

    azure: Azure
    scope: str
    run: Run
    producers: dict[str, Run] = field(default_factory=dict, init=False)

    def start(self) -> None:
        """Run the pipeline in a thread. It runs once, even if a client submits it again."""
        if self.run.status == "NotStarted":
            self.run.begin()
            threading.Thread(target=self._execute, daemon=True).start()

    def run_steps(self) -> None:
        """Run the steps in their order."""
        raise NotImplementedError

    def _execute(self) -> None:
        """Run the steps, and set the status of the pipeline's run."""
        try:
            self.run_steps()
        except StepFailed as failure:
            self.run.end("Failed", str(failure))
        except StepCanceled:
            self.run.end("Canceled")
        except Exception as error:
            # Otherwise the client would wait for this run forever.
            _logger.exception("The stand-in cannot run this graph.")
            self.run.end("Failed", f"The stand-in cannot run this graph: {error!r}")
        else:
            self.run.end("Completed")


@dataclass
class PipelineJob(Job):
    """A graph of v1 that was submitted with values of its parameters.

    `parameters` has the value of each parameter, and `datasets` has the id of the saved
    dataset of each parameter that is one.
    """

    graph_id: str
    graph: Json
    parameters: dict[str, str]
    datasets: dict[str, str]

    def run_steps(self) -> None:
        """Run the steps in the order of the edges of the graph."""
        nodes = {node["Id"]: node for node in self.graph["ModuleNodes"]}
        order: TopologicalSorter[str] = TopologicalSorter({id: () for id in nodes})
        for edge in self.graph["Edges"]:
            source = edge["SourceOutputPort"]["NodeId"]
            # A source can also be a dataset, which is not run.
            if source in nodes:
                order.add(edge["DestinationInputPort"]["NodeId"], source)
        for id in order.static_order():
            self.producers[id] = GraphStep(self, nodes[id]).execute()

    def find_source(self, node_id: str, port: str) -> str:
        """Return the folder of blobs that an input of a node reads."""
        source = self._find_source_port(node_id, port)
        producer = self.producers.get(source["NodeId"])
        if producer:
            return producer.outputs[source["PortName"]]
        dataset_nodes = {node["Id"]: node for node in self.graph["DatasetNodes"]}
        definition = dataset_nodes[source["NodeId"]]["DataSetDefinition"]
        parameter = definition.get("ParameterName")
        if parameter:
            dataset_id = self.datasets[parameter]
        else:
            dataset_id = definition["Value"]["SavedDataSetReference"]["Id"]
        return dataset_folder(self.azure.datasets[dataset_id])

    def _find_source_port(self, node_id: str, port: str) -> Json:
        """Return the output port, or the dataset, that is connected to an input of a node."""
        for edge in self.graph["Edges"]:
            destination = edge["DestinationInputPort"]
            if destination["NodeId"] == node_id and destination["PortName"] == port:
                source: Json = edge["SourceOutputPort"]
                return source
        raise ValueError(f"No edge leads to the input {port} of the node {node_id}.")


class Step:
    """A node of a pipeline, which is executed in a folder of its own.

    `code` has the blob of each file of its code, `sources` the folder of blobs (or the
    blob) that each input reads, and `outputs` the folder of blobs of each output.
    """

    is_parallel: bool
    #: Whether its outputs may be reused.
    is_deterministic: bool
    code: dict[str, str]
    sources: dict[str, str]

    def __init__(
        self, job: Job, name: str, node_id: str, properties: dict[str, str]
    ) -> None:
        self.job = job
        self.azure = job.azure
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
        """Return the name of the cluster that the step runs on."""
        raise NotImplementedError

    @property
    def outputs(self) -> dict[str, str]:
        """Return the folder of blobs of each output."""
        raise NotImplementedError

    @property
    def asset_names(self) -> dict[str, str]:
        """Return the name of the data asset that each output is registered as."""
        raise NotImplementedError

    @property
    def paths(self) -> dict[str, Path]:
        """Return the path at which the script finds each input and output."""
        raise NotImplementedError

    @property
    def fingerprint(self) -> str:
        """Return a text that is the same for two steps exactly if their outputs are."""
        raise NotImplementedError

    def command(self) -> list[str]:
        """Return the command line of the step's process."""
        raise NotImplementedError

    def own_variables(self) -> dict[str, str]:
        """Return the environment variables that only this step has."""
        raise NotImplementedError

    def execute(self) -> Run:
        """Run the step, or reuse an earlier run. Return the run that has its outputs."""
        earlier_run = self.azure.reusable.get(self.fingerprint)
        if earlier_run:
            self.reuse(earlier_run)
            return earlier_run

        self.azure.clusters[self.run.id] = self.cluster
        self.run.begin()
        try:
            self.check_start()
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

    def reuse(self, earlier_run: Run) -> None:
        """Let the step's run end with the outputs and logs of an earlier one."""
        pipeline = earlier_run.tags["azureml.pipeline"]
        self.run.data_of = earlier_run.id
        self.run.outputs = earlier_run.outputs
        self.run.properties |= {
            "azureml.isreused": "true",
            "azureml.reusedrunid": earlier_run.id,
            "azureml.reusednodeid": earlier_run.tags["azureml.nodeid"],
            "azureml.reusedpipeline": pipeline,
            "azureml.reusedpipelinerunid": pipeline,
        }
        # On Azure, such a run is "not started" for a moment, which clients see.
        time.sleep(_POLL_SECONDS)
        self.run.end("Completed")
        self.run.started = self.run.ended

    def check_start(self) -> None:
        """Raise StepFailed if the step must fail before its script runs."""
        error = self.azure.stillborn_steps.get(self.run.name)
        if not error:
            error = missing_of_step(self.azure, self.cluster, self.is_parallel)
        if error:
            self.keep_logs({"logs/azureml/executionlogs.txt": error.encode()})
            raise StepFailed(error)

    def run_script(self) -> None:
        """Write the code and inputs to disk, run the script, and upload its outputs."""
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
        # Files that a script writes into `outputs` are artifacts of its run.
        artifacts = f"{ARTIFACTS}/{self.run.container}/outputs"
        self.azure.upload(code / "outputs", artifacts)
        if exit_code:
            message = f"Step {self.run.name} failed with exit code {exit_code}."
            raise StepFailed(message)
        for name, folder in self.outputs.items():
            self.azure.upload(self.folder / "outputs" / name, folder)

    def variables(self) -> dict[str, str]:
        """Return the environment variables of the script, as the service sets them."""
        variables = {
            name: os.environ[name] for name in _INHERITED if name in os.environ
        }
        tools = (str(Path(self.azure.python).parent), variables.get("PATH", os.defpath))
        variables["PATH"] = os.pathsep.join(tools)
        variables |= self.azure.environment(self.folder / "home")
        variables |= self.own_variables()
        experiment = self.run.experiment
        access = token("https://ml.azure.com")
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
        """Run the script, publish its log meanwhile, and return its exit code."""
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
                # The processes that the script has started end with it.
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                raise StepCanceled
        self.publish_log(log.read_bytes(), process.returncode)
        return process.returncode

    def publish_log(self, text: bytes, exit_code: int = 0) -> None:
        """Write what the script has printed so far into the log files of the service."""
        logs = {f"logs/azureml/{name}.txt": b"" for name in _SERVICE_LOGS}
        logs["user_logs/std_log.txt"] = text
        if self.is_parallel:
            # The driver writes the entry script's output to other files than its own.
            driver_output = f"SystemExit: {exit_code}\n" if exit_code else ""
            logs["user_logs/std_log.txt"] = driver_output.encode()
            logs["logs/user/stdout/10.0.0.4/process000.stdout.txt"] = text
            if exit_code:
                logs["logs/job_error.txt"] = b"The job failed.\n"
                logs["logs/user/error.txt"] = text
        self.keep_logs(logs)

    def keep_logs(self, logs: dict[str, bytes]) -> None:
        """Write log files into the artifacts of the run."""
        for path, content in logs.items():
            self.azure.blobs[f"{ARTIFACTS}/{self.run.container}/{path}"] = content


class GraphStep(Step):
    """A node of a v1 graph: a PythonScriptStep or a ParallelRunStep."""

    def __init__(self, job: PipelineJob, node: Json) -> None:
        self.graph_job = job
        self.node = node
        self.module = job.azure.modules[node["ModuleId"]]
        self.interface = self.module["StructuredInterface"]
        self.is_parallel = self.module["StepType"] == "ParallelRunStep"
        must_run_again = node.get("RegenerateOutput")
        self.is_deterministic = self.module["IsDeterministic"] and not must_run_again
        self.code = job.azure.snapshots[self.module["StorageId"]]
        self.sources = {
            port: job.find_source(node["Id"], port) for port in self.ports("Inputs")
        }
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
        """Return the names of `Inputs` or `Outputs`, without those that only order steps."""
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
        """Return the names of the datasets that outputs are registered as, by output."""
        names = {}
        for output in self.node["ModuleOutputSettings"]:
            registration = output["DatasetRegistration"]
            if registration.get("CreateNewVersion"):
                names[output["Name"]] = registration["Name"]
        return names

    @cached_property
    def paths(self) -> dict[str, Path]:
        """Return the folders of the inputs and outputs by their names."""
        inputs = {name: self.folder / "inputs" / name for name in self.sources}
        return inputs | {name: self.folder / "outputs" / name for name in self.outputs}

    @cached_property
    def values(self) -> dict[str, str]:
        """Return the parameters of the step.

        The graph has a value, or the name of a parameter of the pipeline. Otherwise the
        default of the step's module applies.
        """
        values = {}
        for parameter in self.interface["Parameters"]:
            values[parameter["Name"]] = parameter.get("DefaultValue")
        for parameter in self.node["ModuleParameters"]:
            if "Value" not in parameter:
                continue
            value = parameter["Value"]
            is_parameter_of_pipeline = parameter["ValueType"] == "1"
            if is_parameter_of_pipeline:
                value = self.graph_job.parameters[value]
            values[parameter["Name"]] = value
        return values

    @cached_property
    def fingerprint(self) -> str:
        """Return a text that is the same for steps that write the same."""
        # The environment and the settings of a run are part of its run configuration. See
        # learn.microsoft.com/azure/machine-learning/how-to-debug-pipeline-reuse-issues.
        parts = [self.module["Id"], self.values, self.sources, self.node["Runconfig"]]
        return json.dumps(parts, sort_keys=True)

    def command(self) -> list[str]:
        """Return the command line of the step."""
        arguments = []
        for argument in self.interface["Arguments"]:
            value = argument["Value"]
            port = _PORT.fullmatch(value)
            if argument["ValueType"] == "Parameter":
                value = self.values[value]
            elif port:
                value = str(self.paths[port[1]])
            arguments.append(value)
        script = self.values["Script"]
        if self.is_parallel:
            script = str(DRIVER)
            arguments += DRIVERS_OWN
        return [self.azure.python, script, *arguments]

    def own_variables(self) -> dict[str, str]:
        """Return the environment variables that the step declares, and its paths."""
        configuration = json.loads(self.node["Runconfig"])
        variables = dict(configuration["environment"]["environmentVariables"] or {})
        variables |= configuration["environmentVariables"] or {}
        for parameter in self.interface["Parameters"]:
            if parameter["SetEnvironmentVariable"]:
                variable = parameter["EnvironmentVariableOverride"]
                variables[variable] = self.values[parameter["Name"]]
        return variables | {name: str(path) for name, path in self.paths.items()}
