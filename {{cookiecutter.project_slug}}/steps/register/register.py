"""Register the new model if its evaluation shows that it is good enough.

The model goes to MLflow's registry. In a local run, this is a database file of the project.
On Azure ML, it is the registry of the workspace.
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

# The tag of a registered version that names an earlier version. The step `evaluate` then
# compares later models with the earlier one.
REFERENCE_TAG = "reference"

# The verdicts of the evaluation with which a model is registered.
GOOD_VERDICTS = ("better", "no worse", "within the margin")
# The verdicts that speak against a model. All others leave the decision to a person.
REFUSED_VERDICTS = ("worse", "the same")


def decide(evaluation: dict[str, Any], rule: str = "unless_worse") -> tuple[bool, str]:
    """Decide whether to register a model; return the decision and the reason.

    `evaluation` is the content of `metrics.json`. By the rule `always`, every model is
    registered. By the rule `unless_worse`, a model is registered in these cases:

    - If there is a registered model for the same target, the new model must not be worse
      by more than chance and the margin.
    - Otherwise, the new model must be better than the baseline by more than chance.

    If the two models cannot be compared, the model is not registered, and the reason says
    how a person can register it.
    """
    is_good_enough, reason = _judge_quality(evaluation)
    if is_good_enough:
        return True, reason
    if rule == "always":
        return True, f"{reason}; register is 'always'"

    # The override is not suggested for a model that nobody should want to register.
    registered = evaluation["registered"]
    is_clearly_refused = registered and registered["verdict"] in REFUSED_VERDICTS
    if is_clearly_refused:
        return False, reason
    return False, f"{reason}; to register it anyway: --set register=always"


def _judge_quality(evaluation: dict[str, Any]) -> tuple[bool, str]:
    """Return whether a model is good enough by the rule `unless_worse`, and the reason."""
    registered = evaluation["registered"]
    baseline = evaluation["baseline"]
    if registered is None:
        reason = f"no model is registered yet, and {baseline['reason']}"
        return baseline["is_beaten"], reason
    if registered["verdict"] == "another question":
        reason = f"{registered['reason']}; {baseline['reason']}"
        return baseline["is_beaten"], reason
    return registered["verdict"] in GOOD_VERDICTS, registered["reason"]


def choose_reference(evaluation: dict[str, Any]) -> str | None:
    """Return the registered version with which later models are compared.

    Returns None if they are compared with the new model. If the new model is not clearly
    better than the version that it was compared with, later models are compared with that
    version, too. Otherwise, many small losses could add up unnoticed.
    """
    registered = evaluation["registered"]
    if registered is None or registered["verdict"] not in GOOD_VERDICTS:
        return None
    if registered["comparison"]["becomes_reference"]:
        return None
    return str(registered["version"])


def register(model: Path, name: str, reference: str | None = None) -> str:
    """Register the model in the folder `model` under a name, and return its version.

    `reference` is an earlier version with which later models are compared, or None if they
    are compared with this one. All files are uploaded before the version is created.
    """
    with mlflow.start_run() as run:
        mlflow.log_artifacts(str(model), "model")
        source = mlflow.get_artifact_uri("model")
    # mlflow.register_model("runs:/...") is not used, because with azureml-mlflow it looks
    # for one of MLflow's "logged models", which Azure ML does not have.
    client = MlflowClient()
    try:
        client.create_registered_model(name)
    except MlflowException as error:
        # The name is already registered. MLflow's own server returns the first of these
        # codes, and Azure ML may return the second.
        if error.error_code not in ("RESOURCE_ALREADY_EXISTS", "ALREADY_EXISTS"):
            raise
    tags = {REFERENCE_TAG: reference} if reference else None
    version = client.create_model_version(name, source, run.info.run_id, tags=tags)
    # The command `runs` shows this tag.
    client.set_tag(run.info.run_id, "version", version.version)
    return str(version.version)


def register_if_allowed(
    model: Path, evaluation: Path, registration: Path, *, model_name: str, rule: str
) -> None:
    """Register the model if the rule allows it, and write `registration.json`.

    The file in the folder `registration` holds the decision, its reason and the version.
    """
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
    """Run the step with the arguments of the command line.

    Exits with a message if a file cannot be read or written.
    """
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
