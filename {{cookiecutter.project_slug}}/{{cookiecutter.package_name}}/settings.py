"""The settings that `settings.yml` may hold: each is a field here, with its type and rule.

To add a setting, write it in `settings.yml` and as a field below. The classes are pydantic
models, so a `field_validator` can check a field by code. `ProjectSettings` has the settings
that every project needs: `name`, `workspace`, `compute`, `schedules` and `keep_runs`.
"""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime, time
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    BeforeValidator,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

from .runtime import rules
from .runtime.project import Project
from .runtime.rule import Rule, one_of, whole
from .runtime.search_space import ValuesToTry
from .runtime.settings_models import (
    ByColumn,
    ByName,
    Column,
    Count,
    DataPath,
    Follows,
    ListOf,
    ProjectSettings,
    Section,
    Text,
    refuse,
)

Delimiter = Annotated[str, Follows(Rule("one character", lambda mark: len(mark) == 1))]
DecimalMark = Annotated[str, Follows(one_of(".", ","))]
ThousandsMark = Annotated[str, Follows(one_of(".", ",", " ", "'"))]
NegativeNumbers = Annotated[str, Follows(one_of("parentheses", "trailing_minus"))]
Fraction = Annotated[
    float, Follows(Rule("above 0 and below 1", lambda fraction: 0 < fraction < 1))
]
Date = Annotated[
    str, Follows(Rule("a date such as 2026-01-31", datetime.fromisoformat))
]
Margin = Annotated[
    float, Follows(Rule("from 0, below 1", lambda margin: 0 <= margin < 1))
]
PositiveNumber = Annotated[float, Follows(Rule("above 0", lambda number: number > 0))]
RegisteredOutput = Annotated[str, Follows(one_of("prepared", "predictions"))]
Hyperparameter = Annotated[str | int | float | bool, Follows(rules.HYPERPARAMETER)]

# The metrics by which models of a task can be compared. The first one is the default.
METRICS = {
    "classification": [
        "log_loss",
        "roc_auc",
        "average_precision",
        "f1_macro",
        "balanced_accuracy",
        "accuracy",
    ],
    "regression": ["rmse", "mae", "mape", "r2"],
}
METRIC_NAMES = ["default", *METRICS["classification"], *METRICS["regression"]]


class Tables(Section):
    """Paths of the data, relative to the project's folder, and the roles of columns."""

    training: DataPath
    scoring: DataPath
    target: Column
    keys: ListOf[Column]
    ignore: ListOf[Column]
    # Rows with the same value in this column are all trained on, or all held out.
    group: Column | None = None
    rows_per_part: Count

    @field_validator("keys", "ignore")
    @classmethod
    def _reject_target(cls, columns: list[str], info: ValidationInfo) -> list[str]:
        """Refuse the target as a key or as an ignored column."""
        target = info.data.get("target")
        if target in columns:
            raise refuse(f"names the target, {target}", fix="remove it")
        return columns

    @field_validator("keys", "ignore")
    @classmethod
    def _reject_repeated_columns(
        cls, columns: list[str], info: ValidationInfo
    ) -> list[str]:
        """Refuse a column that is named twice, in one list or in both."""
        # This method checks `keys` first, and then `ignore`. info.data holds the fields that
        # have passed already. So it holds `keys` only while `ignore` is checked.
        earlier_columns = list(info.data.get("keys", []))
        for column in columns:
            if column in earlier_columns:
                raise refuse(
                    f"names {column} again", fix="name it once, in keys or in ignore"
                )
            earlier_columns.append(column)
        return columns

    @field_validator("group")
    @classmethod
    def _check_group(cls, group: str | None, info: ValidationInfo) -> str | None:
        """Refuse the target or an ignored column as the group."""
        if group is not None and group == info.data.get("target"):
            raise refuse(f"names the target, {group}", fix="name another column")
        if group in info.data.get("ignore", []):
            raise refuse(
                f"names {group}, which data.ignore leaves out",
                fix="remove it from data.ignore; a group is never a feature",
            )
        return group


def _wrap_text_in_list(value: Any) -> Any:
    """Return `["%d.%m.%Y"]` for the text `%d.%m.%Y`, and any other value unchanged.

    So a user may write a single date format without the brackets of a list.
    """
    return [value] if isinstance(value, str) else value


DateFormats = Annotated[list[Text], BeforeValidator(_wrap_text_in_list)]


class TextFormat(Section):
    """How numbers, dates and missing values are written in CSV files.

    If a setting has no value, the step `prep` infers it from the data.
    """

    encoding: Text | None = None
    delimiter: Delimiter | None = None
    skip_lines: Annotated[int, Follows(whole(0))] | None = None
    decimal: DecimalMark | None = None
    thousands: ThousandsMark | None = None
    negative: NegativeNumbers | None = None
    units: list[Text] | None = None
    date_format: DateFormats | None = None
    missing: list[Text] | None = None
    not_missing: list[Text] | None = None

    @field_validator("thousands")
    @classmethod
    def _check_thousands(
        cls, thousands: str | None, info: ValidationInfo
    ) -> str | None:
        """Refuse the decimal mark as the thousands mark."""
        decimal = info.data.get("decimal") or "."
        if thousands == decimal:
            raise refuse(
                "is also the decimal mark", fix="choose two different characters"
            )
        return thousands

    def text_format(self) -> str | None:
        """Return the settings of this class as JSON, for the step `prep`.

        Settings without a value are left out. Returns None if no setting has a value.
        """
        fields = set(TextFormat.model_fields)
        values = self.model_dump(include=fields, exclude_none=True)
        if not values:
            return None
        return json.dumps(values)


def _parse_time(text: str) -> datetime:
    """Parse a date or a time in ISO 8601, such as 2026-01-31 or 2026-01-31T06:00.

    A time without a time zone is taken as UTC. Raises ValueError for any other text.
    """
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        return moment.replace(tzinfo=UTC)
    return moment


def _is_bound(value: float | str) -> bool:
    """Return whether a value can be the min or the max of a column.

    This is a finite number, or a date as text. Raises ValueError for any other text.
    """
    if isinstance(value, str):
        _parse_time(value)
        return True
    return math.isfinite(value)


Bound = Annotated[
    int | float | str, Follows(Rule("a number or a date such as 2026-01-31", _is_bound))
]
AllowedValue = Annotated[
    str | int | bool,
    Follows(Rule("a text, a whole number, true or false", lambda value: True)),
]
Share = Annotated[
    float, Follows(Rule("a share from 0 to 1", lambda share: 0 <= share <= 1))
]


def _is_below(maximum: Any, minimum: Any) -> bool:
    """Return whether the limit `maximum` is below the limit `minimum`.

    Both are numbers, or both are dates as text. A maximum without a time of day, such as
    2026-01-31, includes the whole day.
    """
    if isinstance(maximum, str):
        return _find_end(maximum) < _parse_time(minimum)
    return bool(maximum < minimum)


def _find_end(date_text: str) -> datetime:
    """Return the last moment of a date such as 2026-01-31.

    For a date with a time of day, such as 2026-01-31T06:00, this is the time itself.
    """
    moment = _parse_time(date_text)
    has_time_of_day = len(date_text) > len("2026-01-31")
    if has_time_of_day:
        return moment
    return datetime.combine(moment, time.max, UTC)


class ColumnRules(Section):
    """Rules for the values of a column, which `prep` checks on every run."""

    min: Bound | None = None
    # A date without a time of day includes the whole day.
    max: Bound | None = None
    # All values that may occur.
    values: list[AllowedValue] | None = None
    # The largest share of missing values, from 0 to 1.
    missing: Share | None = None
    # Whether each value may occur only once.
    unique: bool | None = None

    @field_validator("max")
    @classmethod
    def _check_max(cls, maximum: Bound | None, info: ValidationInfo) -> Any:
        """Refuse a max below min, and a date that would be compared with a number."""
        minimum = info.data.get("min")
        if maximum is None or minimum is None:
            return maximum
        # Dates are strings here.
        max_is_date = isinstance(maximum, str)
        min_is_date = isinstance(minimum, str)
        if max_is_date != min_is_date:
            raise refuse(
                f"is {maximum} and min is {minimum}, but a date cannot be compared with a"
                " number",
                fix="write two numbers or two dates",
            )
        if _is_below(maximum, minimum):
            raise refuse(
                f"is {maximum}, which is below min, {minimum}",
                fix="correct one of the two",
            )
        return maximum

    @field_validator("values")
    @classmethod
    def _check_values(
        cls, values: list[str | int | bool] | None, info: ValidationInfo
    ) -> list[str | int | bool] | None:
        """Refuse an empty list, and a list together with min or max."""
        if values is None:
            return None
        if not values:
            raise refuse("is an empty list", fix="list the values that may occur")
        for limit in ("min", "max"):
            if info.data.get(limit) is not None:
                raise refuse(
                    f"lists all values that may occur, so {limit} is superfluous",
                    fix=f"delete values or {limit}",
                )
        return values

    @model_validator(mode="after")
    def _require_a_rule(self) -> ColumnRules:
        """Refuse a column without any rule."""
        if all(value is None for _, value in self):
            raise refuse(
                "has no rule", fix="write min, max, values, missing or unique below it"
            )
        return self


class Data(TextFormat, Tables):
    """All settings below `data`, including the settings of TextFormat and Tables."""

    expect: ByColumn[ColumnRules] = Field(default_factory=dict)
    on_violation: Annotated[str, Follows(one_of("stop", "warn"))] = "stop"

    def expectations(self) -> str | None:
        """Return the rules of all columns as JSON, or None if there are none.

        This is the value of the option `--expect` of `prep`, such as `{"age": {"min": 0}}`.
        """
        if not self.expect:
            return None
        section = self.model_dump(include={"expect"}, exclude_none=True)
        return json.dumps(section["expect"])


class Holdout(Section):
    """The column and the first date of the rows that are held out for evaluation.

    The date is called `from` in settings.yml. Python does not allow this name for a field.
    """

    column: Column
    start: Date = Field(alias="from")


class Search(Section):
    """How many tries a search of hyperparameters has, and which values it tries."""

    tries: Count = 50
    minutes: PositiveNumber | None = None
    space: ByName[ValuesToTry]

    @field_validator("space")
    @classmethod
    def _check_space(cls, space: dict[str, Any]) -> dict[str, Any]:
        """Refuse a search without hyperparameters."""
        if not space:
            raise refuse(
                "names no hyperparameter",
                fix="add one, such as learning_rate: [0.05, 0.1]",
            )
        return space


class Training(Section):
    """How the model is trained, and when it is registered."""

    test_fraction: Fraction
    seed: Annotated[int, Follows(whole(0, 2**32 - 1))]
    # Hold out the rows from a date on. With None, a share of the rows is held out at random.
    holdout: Holdout | None = None
    metric: Annotated[str, Follows(one_of(*METRIC_NAMES))] = "default"
    margin: Margin = 0.02
    register: Annotated[str, Follows(one_of("unless_worse", "always"))]
    hyperparameters: ByName[Hyperparameter]
    # Without a search, the hyperparameters above are used.
    search: Search | None = None

    @field_validator("hyperparameters")
    @classmethod
    def _reject_reserved_names(
        cls, hyperparameters: dict[str, str | int | float | bool]
    ) -> dict[str, str | int | float | bool]:
        """Refuse a hyperparameter that has the name of another pipeline parameter."""
        for name in ("raw_data", "register", "on_violation"):
            if name in hyperparameters:
                raise refuse(
                    f"names {name}, which is already a parameter of the pipeline",
                    fix="choose another name",
                )
        return hyperparameters

    @model_validator(mode="before")
    @classmethod
    def _drop_empty_holdout(cls, settings: Any) -> Any:
        """Return the settings without `holdout:` if this line has no value.

        Pydantic would otherwise read the line as None. None stands for `holdout: random`,
        by which a user says that the random choice is on purpose.
        """
        if not isinstance(settings, dict) or settings.get("holdout") is not None:
            return settings
        return {name: value for name, value in settings.items() if name != "holdout"}

    @field_validator("holdout", mode="before")
    @classmethod
    def _replace_random_by_none(cls, holdout: Any) -> Any:
        """Return None for the word random, and refuse any other text.

        A value that is not text, such as `{column: order_date, from: 2026-01-31}`, is
        returned unchanged.
        """
        if not isinstance(holdout, str):
            return holdout
        if holdout != "random":
            raise refuse(
                f"is {holdout}",
                fix="write random, or for example {column: order_date, from: 2026-01-31}",
            )
        return None

    def holdout_arguments(self) -> dict[str, str]:
        """Return the options of the step `train` that say which rows are held out.

        The dict is empty if settings.yml says nothing about this. `train` then chooses the
        rows at random, and prints a note if a column of dates would be a better choice.
        """
        if self.holdout is not None:
            return {
                "holdout_column": self.holdout.column,
                "holdout_from": self.holdout.start,
            }
        # The value None comes from `holdout: random`, or from the default if settings.yml
        # does not have this setting. model_fields_set holds only the settings of the file.
        is_set_to_random = "holdout" in self.model_fields_set
        if is_set_to_random:
            return {"holdout_by": "random"}
        return {}

    def search_as_json(self) -> str | None:
        """Return the settings of the search and its metric as JSON, for the step `train`.

        Returns None if there is no search.
        """
        if self.search is None:
            return None
        search = self.search.model_dump(exclude_none=True)
        return json.dumps({"metric": self.metric, **search})

    def parameter_values(self) -> dict[str, str | int | float]:
        """Return the hyperparameters as values of pipeline parameters.

        Numbers stay numbers. True becomes the text "True", which `train` reads as True.
        """
        values: dict[str, str | int | float] = {}
        for name, value in self.hyperparameters.items():
            is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
            values[name] = value if is_number else str(value)
        return values


class Monitoring(Section):
    """When new data counts as drifted from the training data, and what happens then."""

    on_drift: Annotated[str, Follows(one_of("warn", "stop"))] = "warn"
    max_psi: PositiveNumber = 0.2
    ignore: ListOf[Column] = Field(default_factory=list)


class Scoring(Section):
    """Which version of the model scores, and how the work is split into mini-batches."""

    model_version: Annotated[str | int, Follows(rules.MODEL_VERSION)]
    # The format of the files with the predictions.
    format: Annotated[str, Follows(one_of("parquet", "csv"))] = "parquet"
    mini_batch_size: Count
    process_count_per_node: Count
    run_max_try: Count
    run_invocation_timeout: Count
    error_threshold: Annotated[int, Follows(whole(-1))]


class Settings(ProjectSettings):
    """All settings of `settings.yml`."""

    # The sections that a workspace may replace in its `settings.NAME.yml`.
    may_differ = ProjectSettings.may_differ | {
        "monitoring",
        "scoring",
        "register_outputs",
    }

    task: Annotated[str, Follows(one_of("classification", "regression"))]
    data: Data
    training: Training
    monitoring: Monitoring = Field(default_factory=Monitoring)
    scoring: Scoring
    # The outputs of steps that Azure ML registers as data assets.
    register_outputs: ListOf[RegisteredOutput] = Field(default_factory=list)

    @field_validator("training")
    @classmethod
    def _check_metric(cls, training: Training, info: ValidationInfo) -> Training:
        """Refuse a metric of another task, such as rmse for a classification."""
        # A wrong task is missing in info.data. Pydantic has reported it already.
        task = info.data.get("task")
        if task is None or training.metric in ("default", *METRICS[task]):
            return training
        names = ", ".join(METRICS[task])
        raise refuse(
            f"names the metric {training.metric}, which is not for task: {task}",
            fix=f"write metric: default, or one of {names}",
        )

    def asset_name(self, pipeline: str, output: str) -> str | None:
        """Return the name under which Azure ML registers an output as a data asset.

        The output `predictions` of the pipeline `scoring` may have the name
        `penguins-scoring-predictions`. Returns None if the output is not in the setting
        `register_outputs`.
        """
        if output not in self.register_outputs:
            return None
        return f"{self.name}-{pipeline}-{output}"


PROJECT = Project(Path(__file__).resolve().parent, Settings)
