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

# This tag of a registered version names an earlier version. The step `evaluate` then
# compares later models with the earlier version.
REFERENCE_TAG = "reference"

# The verdicts of the evaluation with which a model is registered.
GOOD_VERDICTS = ("better", "no worse", "within the margin")
# The verdicts with which a model should not be registered. With all other verdicts, a
# person may decide.
REFUSED_VERDICTS = ("worse", "the same")
# The verdict if the registered model has another task or target than the new model.
PREDICTS_SOMETHING_ELSE = "another question"


def decide(evaluation: dict[str, Any], rule: str = "unless_worse") -> tuple[bool, str]:
    """Decide whether to register a model, and return the decision and the reason in words.

    `evaluation` is the content of `metrics.json`. With the rule `always`, every model is
    registered. With the rule `unless_worse`, a comparison decides:

    - If a model is registered for the same target, the new model must not be worse than the
      registered model by more than the margin, unless the difference may be chance. A new
      model that cannot be compared with the registered model is not registered.
    - If no model is registered for the same target, the new model must be better than the
      baseline by more than chance.

    The reason also says how a person can register a refused model, unless the model is
    worse than the registered model or gives the same predictions.
    """
    is_good_enough, reason = _judge_quality(evaluation)
    if is_good_enough:
        return True, reason
    if rule == "always":
        return True, f"{reason}; registered all the same because register is 'always'"

    registered = evaluation["registered"]
    lost_to_registered = (
        registered is not None and registered["verdict"] in REFUSED_VERDICTS
    )
    if not lost_to_registered:
        reason += "; to register it anyway: --set register=always"
    return False, reason


def _judge_quality(evaluation: dict[str, Any]) -> tuple[bool, str]:
    """Return whether a model is good enough for the rule `unless_worse`, and the reason.

    `evaluation` is the content of `metrics.json`. If no model is registered for the same
    target, the comparison with the baseline decides.
    """
    registered = evaluation["registered"]
    baseline = evaluation["baseline"]
    if registered is None:
        reason = f"no model is registered yet, and {baseline['reason']}"
        return baseline["is_beaten"], reason
    if registered["verdict"] == PREDICTS_SOMETHING_ELSE:
        reason = f"{registered['reason']}; {baseline['reason']}"
        return baseline["is_beaten"], reason
    return registered["verdict"] in GOOD_VERDICTS, registered["reason"]


def choose_reference(evaluation: dict[str, Any]) -> str | None:
    """Return the earlier version with which later models are to be compared.

    Returns None if later models are to be compared with the new model itself. An earlier
    version stays the reference until a new model is clearly better. If every new version
    became the reference, many small losses could add up unnoticed. `evaluation` is the
    content of `metrics.json`.
    """
    registered = evaluation["registered"]
    if registered is None:
        # The new model is the first one.
        return None
    if registered["verdict"] not in GOOD_VERDICTS:
        # The models could not be compared, or a person wants the new model although it is
        # no better. In both cases, the new model becomes the standard.
        return None
    if registered["comparison"]["becomes_reference"]:
        # The new model is clearly better.
        return None
    return str(registered["version"])


def register(model: Path, name: str, reference: str | None = None) -> str:
    """Register the model in the folder `model` under a name, and return its version.

    Later models are compared with the earlier version `reference`. If `reference` is None,
    they are compared with the newly registered version.
    """
    # All files are uploaded before the version is created, so no version is incomplete.
    with mlflow.start_run() as run:
        mlflow.log_artifacts(str(model), "model")
        source = mlflow.get_artifact_uri("model")
    # mlflow.register_model("runs:/...") is not used, because with azureml-mlflow it looks
    # for one of MLflow's "logged models", which Azure ML does not have.
    client = MlflowClient()
    try:
        client.create_registered_model(name)
    except MlflowException as error:
        # It is not an error if the name exists already. MLflow's own server returns the
        # first of these codes, and Azure ML may return the second.
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

    `model` is the folder of the saved model, and `evaluation` the folder with the results
    of the step evaluate. The file is written into the folder `registration`. It holds the
    decision, its reason, and the version, if the model was registered.
    """
    results_as_json = (evaluation / "metrics.json").read_text(encoding="utf-8")
    results = json.loads(results_as_json)
    should_register, reason = decide(results, rule)
    version = None
    if should_register:
        version = register(model, model_name, choose_reference(results))

    # These are the results of the model that was registered before. There are none if no
    # model is registered, and no comparison if the two models cannot be compared.
    results_of_registered = results["registered"] or {}
    decision = {
        "model": model_name,
        "registered": should_register,
        "version": version,
        "reason": reason,
        "comparison": results_of_registered.get("comparison"),
    }
    registration.mkdir(parents=True, exist_ok=True)
    (registration / "registration.json").write_text(
        json.dumps(decision, indent=2), encoding="utf-8"
    )
    if should_register:
        print(f"{model_name}: registered as version {version}: {reason}")
    else:
        print(f"{model_name}: not registered: {reason}")


def main() -> None:
    """Run the step with the command-line arguments.

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
