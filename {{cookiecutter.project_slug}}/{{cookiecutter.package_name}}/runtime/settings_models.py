"""What settings files consist of, as pydantic models: sections, and values that follow rules.

The project's `settings.py` builds on this module. Here are the base class of its sections,
the types of values that occur often, and the settings that every project has.
"""

from __future__ import annotations

import re
import warnings
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, TypeVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    GetCoreSchemaHandler,
    ValidationInfo,
    field_validator,
)
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from . import rules
from .rules import Problem, Rule, one_of, whole

#: The context of a validation that refuses also what is only empty or unusual.
REPORT_EVERYTHING = "report everything"
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")

# Abstract base classes, which pydantic's models are, have a method of this name.
warnings.filterwarnings("ignore", 'Field name "register" in', UserWarning)


def refuse(text: str, fix: str, kind: str = "wrong") -> PydanticCustomError:
    """Return the error to raise about a setting, in a validator of its model.

    `text` continues a sentence that begins with the setting's file and key. `fix` says what
    to do, in the imperative. The kinds are those of `rules.Problem`.
    """
    return PydanticCustomError(kind, "{text}: {fix}", {"text": text, "fix": fix})


@dataclass(frozen=True)
class Follows:
    """Make pydantic check a value by a rule, as in `Annotated[int, Follows(whole(1))]`."""

    rule: Rule

    def __get_pydantic_core_schema__(
        self, value_type: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        def validate(value: Any, info: ValidationInfo) -> Any:
            if value is None and value_type is str:
                value = ""  # YAML reads a name with nothing behind it as null.
            if type(value) is int and value_type is float:
                value = float(value)

            problem = self.rule.check("", "", value, value_type)
            if problem and _is_refused(problem, info):
                raise refuse(problem.text, problem.fix, problem.kind)
            return value

        return core_schema.with_info_before_validator_function(
            validate, handler(value_type)
        )


def _is_refused(problem: Problem, info: ValidationInfo) -> bool:
    """Return whether a problem makes a value unfit for what is being done."""
    return problem.kind == "wrong" or info.context == REPORT_EVERYTHING


def _replace_null_by_list(value: Any) -> Any:
    return [] if value is None else value


def _replace_null_by_dict(value: Any) -> Any:
    return {} if value is None else value


def _check_name(name: Any) -> Any:
    if not re.fullmatch("[A-Za-z_][A-Za-z0-9_]*", str(name)):
        raise refuse(
            "is not a name of letters, digits and underscores",
            fix="choose another name",
        )
    return name


T = TypeVar("T")

# Types of settings that occur often.
ListOf = Annotated[list[T], BeforeValidator(_replace_null_by_list)]
Name = Annotated[str, BeforeValidator(_check_name)]
ByName = Annotated[dict[Name, T], BeforeValidator(_replace_null_by_dict)]
DataPath = Annotated[str, Follows(rules.FILES)]
Column = Annotated[str, Follows(rules.COLUMN)]
Text = Annotated[str, Follows(rules.TEXT)]
Count = Annotated[int, Follows(whole(1))]


class Section(BaseModel):
    """A section of a settings file. Its fields are the only names that it may hold."""

    # Strict: text is not converted to numbers. A user who writes "2" gets a message.
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Location(Section):
    """The region and the cloud of the workspace."""

    region: Annotated[str, Follows(rules.REGION)]
    cloud: Annotated[str, Follows(one_of(*rules.CLOUDS))]
    #: The cluster that builds images, where the registry is in a private network.
    image_build_compute: Annotated[str, Follows(rules.CLUSTER)] | None = None


class Compute(Section):
    """The compute cluster that the steps run on in Azure ML."""

    name: Annotated[str, Follows(rules.CLUSTER)]
    vm_size: Annotated[str, Follows(rules.VM_SIZE)]
    max_nodes: Count
    #: By which steps read and write data without keys: `system`, or the id of an identity.
    identity: Annotated[str, Follows(rules.IDENTITY)] | None = None
    subnet: Annotated[str, Follows(rules.SUBNET)] | None = None
    public_ip: bool = True  # Of the nodes.


class Schedule(Section):
    """When a published pipeline runs. The names are those of azureml's ScheduleRecurrence."""

    frequency: Annotated[str, Follows(one_of("Minute", "Hour", "Day", "Week", "Month"))]
    interval: Count
    hours: list[Annotated[int, Follows(whole(0, 23))]] | None = None
    minutes: list[Annotated[int, Follows(whole(0, 59))]] | None = None
    week_days: list[Annotated[str, Follows(one_of(*DAYS))]] | None = None
    time_zone: Annotated[str, Follows(rules.TIME_ZONE)] = "UTC"
    start_time: Annotated[str, Follows(rules.START_TIME)] | None = None

    @field_validator("hours", "minutes")
    @classmethod
    def _go_with_days_and_weeks(cls, times: Any, info: ValidationInfo) -> Any:
        frequency = info.data.get("frequency", "Day")
        if times is not None and frequency not in ("Day", "Week"):
            raise refuse(
                f"does not go with frequency: {frequency}",
                fix="delete it, or write frequency: Day",
            )
        return times

    @field_validator("week_days")
    @classmethod
    def _go_with_weeks(cls, week_days: Any, info: ValidationInfo) -> Any:
        frequency = info.data.get("frequency", "Week")
        if week_days is not None and frequency != "Week":
            raise refuse(
                f"does not go with frequency: {frequency}",
                fix="delete it, or write frequency: Week",
            )
        return week_days

    def describe(self) -> str:
        """Return the schedule as text, such as "frequency Day, interval 1, hours [6]"."""
        return ", ".join(f"{name} {value}" for name, value in self if value)


class ProjectSettings(Section):
    """The settings of every project, from `settings.yml`."""

    #: The sections that `settings.NAME.yml` may hold; all else is the same in each workspace.
    may_differ: ClassVar[frozenset[str]] = frozenset(
        {"data", "workspace", "compute", "schedules"}
    )

    name: Annotated[str, Follows(rules.NAME)]  # Of the experiment and of the model.
    data: Any  # A section of the project's own, with the paths of its data.
    workspace: Location
    compute: Compute
    schedules: ByName[Schedule | None] = {}  # By pipeline.
    keep_runs: Count = (
        20  # The number of runs on this machine that are kept, newest first.
    )


class Config(Section):
    """The contents of `.azureml/config.json`, the file that both SDKs look for."""

    subscription_id: Annotated[str, Follows(rules.SUBSCRIPTION)]
    resource_group: Annotated[str, Follows(rules.RESOURCE_GROUP)]
    workspace_name: Annotated[str, Follows(rules.WORKSPACE)]
