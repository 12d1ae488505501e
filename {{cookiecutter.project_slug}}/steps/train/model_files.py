"""Write the files of a trained model, and the rows that were held out."""

from __future__ import annotations

import logging
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import ModuleType

import cloudpickle
import mlflow
import pandas as pd
import polars as pl
from baseline import Baseline
from mlflow.types import ColSpec, Schema
from model_requirements import list_requirements
from sklearn.pipeline import Pipeline
from split import Split, TimeSplit

# The types of columns in the signature of a model, by the kinds of NumPy's types.
SIGNATURE_TYPES = {"f": "double", "M": "datetime", "O": "string"}


@dataclass(frozen=True)
class ModelDescription:
    """The metadata that is saved with a model, for later steps and for people.

    `baseline` is the name of the baseline. `holdout_column` is empty if rows were held out
    at random. `parameters` has the settings and hyperparameters of the training run, as
    text.
    """

    task: str
    target: str
    keys: list[str]
    split: Split | TimeSplit
    baseline: str
    holdout_column: str = ""
    training_rows: int | None = None
    parameters: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def save_model(
    pipeline: Pipeline,
    features: pd.DataFrame,
    description: ModelDescription,
    baseline: Baseline,
    folder: Path,
) -> None:
    """Save a trained pipeline as an MLflow model, with its description and its baseline.

    The signature of the model names the features and their types. The file `baseline.pkl`
    holds the baseline, and `split.pkl` holds the rule by which rows were held out. The
    files also contain the code of this step that the saved objects use. So the model needs
    no file of this project, and later changes of the code do not change the model.
    """
    modules = list_modules_of_this_step()
    for module in modules:
        cloudpickle.register_pickle_by_value(module)
    requirements = list_requirements(pipeline, [module.__name__ for module in modules])
    _silence_warning_about_cloudpickle()
    mlflow.sklearn.save_model(
        pipeline,
        folder,
        serialization_format="cloudpickle",
        pip_requirements=requirements,
        signature=_make_signature(features),
        metadata=asdict(description),
    )
    (folder / "split.pkl").write_bytes(cloudpickle.dumps(description.split))
    (folder / "baseline.pkl").write_bytes(cloudpickle.dumps(baseline.model))


def list_modules_of_this_step() -> list[ModuleType]:
    """Return the modules that have been imported from the folder of this file.

    Their names may differ from those of the files: train.py is `__main__` if it is run as a
    script, and may be imported as `steps.train.train`.
    """
    folder = Path(__file__).resolve().parent
    file_names = {path.stem for path in folder.glob("*.py")}
    modules = []
    for name, module in sorted(sys.modules.items()):
        last_name = name.rpartition(".")[2]
        may_be_of_this_step = last_name == "__main__" or last_name in file_names
        if may_be_of_this_step and _find_folder(module) == folder:
            modules.append(module)
    return modules


def _find_folder(module: ModuleType) -> Path | None:
    """Return the folder of a module's file, or None if the module is built into Python."""
    file = getattr(module, "__file__", None)
    return None if file is None else Path(file).resolve().parent


def _silence_warning_about_cloudpickle() -> None:
    """Suppress MLflow's warning that a model is saved by cloudpickle.

    The other formats of MLflow cannot save every pipeline. The filter stays in place until
    the step ends.
    """
    logger = logging.getLogger("mlflow.sklearn")
    logger.addFilter(lambda record: "cloudpickle" not in record.getMessage())


def _make_signature(features: pd.DataFrame) -> mlflow.models.ModelSignature:
    """Return the signature of a model: the name and the type of each feature.

    No feature is required, so that rows with missing values can be predicted.
    """
    columns = [
        ColSpec(SIGNATURE_TYPES[dtype.kind], name, required=False)
        for name, dtype in features.dtypes.items()
    ]
    return mlflow.models.ModelSignature(Schema(columns))


def write_holdout(rows: pl.DataFrame, folder: Path) -> None:
    """Write the held-out rows as a Parquet file. Raises OSError if that fails."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "holdout.parquet"
    try:
        rows.write_parquet(file)
    except pl.exceptions.PolarsError as error:
        # polars raises this error if the disk is full.
        raise OSError(f"{file}: {error}") from None
