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
    """Decide by the `metrics.json` of an evaluation; return the decision and the reason.

    By the rule `unless_worse` a model is refused if it is worse than the registered one
    by more than chance, if it is that one again, and if the two cannot be compared, so
    that a person decides. By the rule `always` it is registered.
    """
    registered = evaluation["registered"]
    if registered is None:
        return True, "no model is registered yet"
    verdict = registered["verdict"]
    reason = registered["reason"]
    if rule == "always":
        return True, f"{reason}; register is 'always'"
    if verdict == "not comparable":
        return False, f"{reason}; to register it all the same: --set register=always"
    return verdict in ("better", "no worse"), reason


def register(model: Path, name: str) -> str:
    """Register the model in a folder under a name, and return its version.

    The files are complete in the run's artifacts before the registry names them.
    """
    with mlflow.start_run() as run:
        mlflow.log_artifacts(str(model), "model")
        source = mlflow.get_artifact_uri("model")
    # mlflow.register_model("runs:/...") would do the same. But with azureml-mlflow it
    # takes the model for one of MLflow's logged models, which Azure ML does not have.
    client = MlflowClient()
    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    version = client.create_model_version(name, source, run.info.run_id)
    return str(version.version)


def register_if_allowed(
    model: Path, evaluation: Path, registration: Path, *, model_name: str, rule: str
) -> None:
    """Register the model if the rule allows it; write what was decided, and why."""
    text = (evaluation / "metrics.json").read_text(encoding="utf-8")
    metrics = json.loads(text)
    is_registered, reason = decide(metrics, rule)
    version = register(model, model_name) if is_registered else None
    decision = {
        "model": model_name,
        "registered": is_registered,
        "version": version,
        "reason": reason,
        "comparison": (metrics["registered"] or {}).get("comparison"),
    }
    registration.mkdir(parents=True, exist_ok=True)
    (registration / "registration.json").write_text(
        json.dumps(decision, indent=2), encoding="utf-8"
    )
    if is_registered:
        print(f"{model_name}: registered as version {version}: {reason}")
    else:
        print(f"{model_name}: not registered: {reason}")


def main() -> None:
    """Register as the command line says; end with one sentence if a file is in the way."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--evaluation", type=Path, required=True)
    parser.add_argument("--registration", type=Path, required=True)
    parser.add_argument("--model-name", required=True)
    parser.add_argument("--register", choices=["unless_worse", "always"], required=True)
    args = parser.parse_args()
    try:
        register_if_allowed(
            args.model,
            args.evaluation,
            args.registration,
            model_name=args.model_name,
            rule=args.register,
        )
    except OSError as error:
        sys.exit(f"register: a file cannot be read or written: {error}")


if __name__ == "__main__":
    main()
