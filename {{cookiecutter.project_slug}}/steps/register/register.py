"""Register the new model if it is good enough by its evaluation.

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

# The tag of a registered version; evaluate reads it.
REFERENCE_TAG = "reference"

# A model with one of these verdicts of the evaluation is registered.
GOOD_VERDICTS = ("better", "no worse", "within the margin")


def decide(evaluation: dict[str, Any], rule: str = "unless_worse") -> tuple[bool, str]:
    """Decide by the `metrics.json` of an evaluation; return the decision and the reason.

    By the rule `unless_worse`, a first model is registered if it is better than the
    baseline by more than chance; so is a model of another question than the registered
    one. Any other model is refused if it is worse than the registered one by more than
    chance and the margin, if it is that one again, and if the two cannot be compared, so
    that a person decides. By the rule `always` it is registered.
    """
    registered = evaluation["registered"]
    baseline = evaluation["baseline"]
    if registered is None:
        is_good = baseline["is_beaten"]
        reason = f"no model is registered yet, and {baseline['reason']}"
    elif registered["verdict"] == "another question":
        is_good = baseline["is_beaten"]
        reason = f"{registered['reason']}; {baseline['reason']}"
    else:
        is_good = registered["verdict"] in GOOD_VERDICTS
        reason = registered["reason"]
    if is_good:
        return True, reason
    if rule == "always":
        return True, f"{reason}; register is 'always'"
    if registered and registered["verdict"] in ("worse", "the same"):
        return False, reason
    return False, f"{reason}; to register it all the same: --set register=always"


def choose_reference(evaluation: dict[str, Any]) -> str | None:
    """Return the registered version by which later models are judged, None for this one.

    A version that is no better than the one it was compared with does not take its place.
    So many small losses cannot add up.
    """
    registered = evaluation["registered"]
    if registered and registered["verdict"] in ("no worse", "within the margin"):
        return str(registered["version"])
    return None


def register(model: Path, name: str, reference: str | None = None) -> str:
    """Register the model in a folder under a name, and return its version.

    `reference` is the version by which later models are judged in place of this one. The
    files are complete in the run's artifacts before the registry names them.
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
        # MLflow's own server says the first, Azure ML may say the second.
        if error.error_code not in ("RESOURCE_ALREADY_EXISTS", "ALREADY_EXISTS"):
            raise
    tags = {REFERENCE_TAG: reference} if reference else None
    version = client.create_model_version(name, source, run.info.run_id, tags=tags)
    return str(version.version)


def register_if_allowed(
    model: Path, evaluation: Path, registration: Path, *, model_name: str, rule: str
) -> None:
    """Register the model if the rule allows it; write what was decided, and why."""
    text = (evaluation / "metrics.json").read_text(encoding="utf-8")
    metrics = json.loads(text)
    is_registered, reason = decide(metrics, rule)
    version = None
    if is_registered:
        version = register(model, model_name, choose_reference(metrics))
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
