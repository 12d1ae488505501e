"""Register the new model, unless the model that is registered now is better.

Through MLflow's registry: here a database file of the project, on Azure ML the workspace.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import mlflow
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException


def decide(evaluation: dict[str, Any], rule: str = "unless_worse") -> tuple[bool, str]:
    """Whether to register the model of an evaluation (its `metrics.json`), and why.

    By the rule `unless_worse` a model is refused if it is worse than the registered one
    by more than chance, if it is that one again, and if the two cannot be compared, so
    that a person decides. By the rule `always` it is registered.
    """
    registered = evaluation["registered"]
    if registered is None:
        return True, "no model is registered yet"
    verdict, reason = registered["verdict"], registered["reason"]
    if rule == "always":
        return True, f"{reason}; register is 'always'"
    if verdict == "not comparable":
        return False, f"{reason}; to register it all the same: --set register=always"
    return verdict in ("better", "no worse"), reason


def register(model: Path, name: str) -> str:
    """Register the model in a folder; returns its version.

    The files are complete in the run's artifacts before the registry names them.
    """
    with mlflow.start_run() as run:
        mlflow.log_artifacts(str(model), "model")
        source = mlflow.get_artifact_uri("model")
    # What mlflow.register_model("runs:/...") would do, but that with azureml-mlflow it
    # takes the model for one of MLflow's logged models, which Azure ML does not have.
    client = MlflowClient()
    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    return str(client.create_model_version(name, source, run.info.run_id).version)


def run(args: argparse.Namespace) -> None:
    """Register as the command line says, and write down what was done and why."""
    evaluation = json.loads((args.evaluation / "metrics.json").read_text())
    is_registered, reason = decide(evaluation, args.register)
    version = register(args.model, args.model_name) if is_registered else None
    written = {
        "model": args.model_name,
        "registered": is_registered,
        "version": version,
        "reason": reason,
        "comparison": (evaluation["registered"] or {}).get("comparison"),
    }
    args.registration.mkdir(parents=True, exist_ok=True)
    (args.registration / "registration.json").write_text(json.dumps(written, indent=2))
    done = f"registered as version {version}" if is_registered else "not registered"
    print(f"{args.model_name}: {done}: {reason}")


def main() -> None:
    """Read the command line, and end with one sentence where a file cannot be written."""
    parser = argparse.ArgumentParser(description=__doc__)
    for folder in ("--model", "--evaluation", "--registration"):
        parser.add_argument(folder, type=Path, required=True)
    parser.add_argument("--model-name", required=True)
    parser.add_argument("--register", choices=["unless_worse", "always"], required=True)
    try:
        run(parser.parse_args())
    except OSError as error:
        sys.exit(f"register: {error}")


if __name__ == "__main__":
    main()
