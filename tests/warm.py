"""Runs commands of projects in processes that need not import the SDK anew.

A server imports what takes them more than a second, and forks for each. It holds no thread
and nothing of a project; the process that it forks is as any other from there on.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryFile

SERVER = """
import importlib, json, os, runpy, socket, sys
number, *modules = sys.argv[1:]
for name in modules:
    importlib.import_module(name)
assert len(os.listdir("/proc/self/task")) == 1
calls = socket.socket(fileno=int(number))
while True:
    message, streams, _, _ = socket.recv_fds(calls, 2**20, 2)
    if not message:
        sys.exit()
    if not (process := os.fork()):
        break
    for stream in streams:
        os.close(stream)
    code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    calls.send(str(code).encode())
calls.close()
folder, arguments, variables = json.loads(message)
for target, stream in enumerate(streams, 1):
    os.dup2(stream, target)
    os.close(stream)
os.environ.clear()
os.environ.update(variables)
os.chdir(folder)
sys.path[0] = folder
sys.argv[1:] = arguments[1:]
runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)
"""
MODULES = {
    "azureml-sdk": ["azureml.core", "azureml.pipeline.steps"],
    "azure-ai-ml": ["azure.ai.ml", "azure.ai.ml.dsl"],
}
COMMON = ["azure.identity", "azure.storage.blob", "requests", "rich.progress", "yaml"]
# What a project's package sets before it imports an SDK.
NO_TELEMETRY = {"HBI_WORKSPACE_JOB": "true", "MLFLOW_DISABLE_TELEMETRY": "true"}
_servers: dict[str, socket.socket] = {}


def run(
    sdk: str,
    interpreter: str,
    module: Sequence[str],
    folder: Path,
    variables: Mapping[str, str],
) -> tuple[int, str, str]:
    """Run `python -m` with a module and its arguments: exit code, output, errors."""
    if sdk not in _servers:
        _servers[sdk], theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        number = str(theirs.fileno())
        subprocess.Popen(
            [interpreter, "-c", SERVER, number, *MODULES[sdk], *COMMON],
            env={**os.environ, **NO_TELEMETRY},
            stdin=subprocess.DEVNULL,
            pass_fds=[theirs.fileno()],
        )
        theirs.close()
    with TemporaryFile("w+") as out, TemporaryFile("w+") as err:
        call = json.dumps([str(folder), module, dict(variables)]).encode()
        socket.send_fds(_servers[sdk], [call], [out.fileno(), err.fileno()])
        code = int(_servers[sdk].recv(100))
        out.seek(0)
        err.seek(0)
        return code, out.read(), err.read()
