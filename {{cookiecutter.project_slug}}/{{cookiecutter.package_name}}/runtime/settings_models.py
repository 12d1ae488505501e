"""The pydantic models of settings files: their sections, and values that follow rules.

The project's `settings.py` builds on this module. It defines the base class of sections,
the types of values that occur often, and the settings that every project has.
"""

from __future__ import annotations

import difflib
import re
import warnings
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
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
from .rule import Problem, Rule, one_of, whole

#: With this context, a validation also refuses values that are empty or unusual.
REPORT_EVERYTHING = "report everything"
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")

#: How long one interval of each frequency of a schedule lasts at most.
PERIODS = {
    "Minute": timedelta(minutes=1),
    "Hour": timedelta(hours=1),
    "Day": timedelta(days=1),
    "Week": timedelta(weeks=1),
    "Month": timedelta(days=31),
}

# A pydantic model is an abstract base class, and such classes have a method `register`.
# Pydantic would warn that the setting `register` hides this method, which is not needed.
warnings.filterwarnings("ignore", 'Field name "register" in', UserWarning)


def refuse(text: str, fix: str, kind: str = "wrong") -> PydanticCustomError:
    """Return the error that a validator raises to refuse the value of a setting.

    `text` says what is wrong, and continues a sentence that begins with the setting's file
    and key. `fix` says what to do, in the imperative. `refuse("is 7", fix="write 6")` becomes
    a message such as "settings.yml: seed is 7: write 6." `kind` is "wrong", "empty" or
    "unusual", as in `rule.Problem`.
    """
    return PydanticCustomError(kind, "{text}: {fix}", {"text": text, "fix": fix})


@dataclass(frozen=True)
class Follows:
    """Makes pydantic check a value by a rule, as in `Annotated[int, Follows(whole(1))]`."""

    rule: Rule

    def __get_pydantic_core_schema__(
        self, value_type: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        """Return a pydantic schema that first applies the rule, and then the setting's type.

        Pydantic calls this method for each setting that is annotated with `Follows`.
        """
        check_rule = partial(_check_rule, self.rule, value_type)
        schema_of_type = handler(value_type)
        return core_schema.with_info_before_validator_function(
            check_rule, schema_of_type
        )


def _check_rule(rule: Rule, value_type: Any, value: Any, info: ValidationInfo) -> Any:
    """Check the value of a setting by its rule, and return it.

    `value_type` is the type of the setting. A value that YAML reads as another type, such as
    1 for the float 1.0, is converted to this type. Raises PydanticCustomError if the value
    breaks the rule. An empty or unusual value passes, unless the validation has the context
    REPORT_EVERYTHING.
    """
    converted = _convert_yaml_value(value, value_type)
    # The file and the key of the value are not known here. settings_reader adds them.
    problem = rule.check(key="", value=converted, value_type=value_type)
    if problem is not None and _is_refused(problem, info):
        raise refuse(problem.text, problem.fix, problem.kind)
    return converted


def _convert_yaml_value(value: Any, value_type: Any) -> Any:
    """Convert a value to the type of its setting if YAML reads it as another type.

    All other values are returned unchanged.
    """
    if value is None and value_type is str:
        # YAML reads `name:`, without a value after the colon, as null.
        return ""
    if type(value) is int and value_type is float:
        # YAML reads 1 as a whole number, also where 1.0 is meant.
        return float(value)
    return value


def _is_refused(problem: Problem, info: ValidationInfo) -> bool:
    """Return whether a validation must fail because of a problem.

    A validation must fail for each wrong value. For an empty or unusual value, only a
    validation with the context REPORT_EVERYTHING must fail.
    """
    return problem.kind == "wrong" or info.context == REPORT_EVERYTHING


def _replace_null_by_list(value: Any) -> Any:
    """Return an empty list for None, which YAML reads where no value is written."""
    return [] if value is None else value


def _replace_null_by_dict(value: Any) -> Any:
    """Return an empty dict for None, which YAML reads where no value is written."""
    return {} if value is None else value


def _check_name(name: Any) -> Any:
    """Check a name that the user has chosen, such as `gpu` below `computes`, and return it.

    Raises PydanticCustomError if the name has characters other than ASCII letters, digits
    and underscores, or begins with a digit.
    """
    if not re.fullmatch("[A-Za-z_][A-Za-z0-9_]*", str(name)):
        raise refuse(
            "must consist of letters, digits and underscores, and not begin with a digit",
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
ByColumn = Annotated[dict[Column, T], BeforeValidator(_replace_null_by_dict)]
Text = Annotated[str, Follows(rules.TEXT)]
Count = Annotated[int, Follows(whole(1))]


class Section(BaseModel):
    """A section of a settings file. Its fields are the only names that it may hold."""

    # In strict mode, text is not converted to numbers: "2" in quotes is reported.
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Location(Section):
    """The region and the cloud of the workspace."""

    region: Annotated[str, Follows(rules.REGION)]
    cloud: Annotated[str, Follows(one_of(*rules.CLOUDS))]
    #: The cluster that builds images. It is needed if the registry is in a private network.
    image_build_compute: Annotated[str, Follows(rules.CLUSTER)] | None = None


class Compute(Section):
    """The compute cluster that the steps run on in Azure ML."""

    name: Annotated[str, Follows(rules.CLUSTER)]
    vm_size: Annotated[str, Follows(rules.VM_SIZE)]
    max_nodes: Count
    #: The identity with which steps read and write data, if they use no account keys. It
    #: is `system`, or the resource id of a user-assigned identity.
    identity: Annotated[str, Follows(rules.IDENTITY)] | None = None
    subnet: Annotated[str, Follows(rules.SUBNET)] | None = None
    #: Whether the nodes have public IP addresses.
    public_ip: bool = True


class Schedule(Section):
    """When a published pipeline runs.

    The fields have the same names and meanings as in azureml-sdk's ScheduleRecurrence.
    """

    frequency: Annotated[str, Follows(one_of("Minute", "Hour", "Day", "Week", "Month"))]
    interval: Count
    hours: list[Annotated[int, Follows(whole(0, 23))]] | None = None
    minutes: list[Annotated[int, Follows(whole(0, 59))]] | None = None
    week_days: list[Annotated[str, Follows(one_of(*DAYS))]] | None = None
    time_zone: Annotated[str, Follows(rules.TIME_ZONE)] = "UTC"
    start_time: Annotated[str, Follows(rules.START_TIME)] | None = None

    @field_validator("hours", "minutes")
    @classmethod
    def _check_times(cls, times: Any, info: ValidationInfo) -> Any:
        """Refuse times of day if the frequency is not Day or Week."""
        # A wrong frequency is missing in info.data. Pydantic has reported it already.
        frequency = info.data.get("frequency", "Day")
        if times is not None and frequency not in ("Day", "Week"):
            raise refuse(
                f"cannot be combined with frequency: {frequency}",
                fix="delete it, or write frequency: Day",
            )
        return times

    @field_validator("week_days")
    @classmethod
    def _check_week_days(cls, week_days: Any, info: ValidationInfo) -> Any:
        """Refuse days of the week if the frequency is not Week."""
        # A wrong frequency is missing in info.data. Pydantic has reported it already.
        frequency = info.data.get("frequency", "Week")
        if week_days is not None and frequency != "Week":
            raise refuse(
                f"cannot be combined with frequency: {frequency}",
                fix="delete it, or write frequency: Week",
            )
        return week_days

    def longest_pause(self) -> timedelta:
        """Return the longest time from one run of the schedule to the next.

        A schedule for every Monday and Friday has its longest pause, four days, from Monday
        to Friday.
        """
        # All starts in one period, as times since the beginning of the period. If the
        # settings name no day, hour or minute, a run starts on the first day, at hour 0 and
        # minute 0.
        starts = sorted(
            timedelta(days=DAYS.index(day), hours=hour, minutes=minute)
            for day in self.week_days or DAYS[:1]
            for hour in self.hours or [0]
            for minute in self.minutes or [0]
        )
        period = self.interval * PERIODS[self.frequency]
        first_start_of_next_period = starts[0] + period
        next_starts = [*starts[1:], first_start_of_next_period]
        pauses = [next_start - start for start, next_start in zip(starts, next_starts)]
        return max(pauses)

    def describe(self) -> str:
        """Return the schedule as text, such as "frequency Day, interval 1, hours [6]".

        Settings without a value are left out.
        """
        return ", ".join(f"{name} {value}" for name, value in self if value)


class ProjectSettings(Section):
    """The settings of every project, from `settings.yml`."""

    #: The sections that `settings.NAME.yml` may hold. All other settings are the same in
    #: each workspace.
    may_differ: ClassVar[frozenset[str]] = frozenset(
        {"data", "workspace", "compute", "computes", "steps", "schedules"}
    )

    #: The name of the experiment and of the registered model.
    name: Annotated[str, Follows(rules.NAME)]
    #: A section with the paths of the data. Each project defines its own class for it.
    data: Any
    workspace: Location
    #: The cluster of all steps that are not below `steps`.
    compute: Compute
    #: Further clusters, by the names that the section `steps` uses for them.
    computes: ByName[Compute] = {}
    #: For each step that runs on a further cluster, the name of this cluster in `computes`.
    steps: Annotated[dict[str, Text], BeforeValidator(_replace_null_by_dict)] = {}
    #: The schedules, by the names of their pipelines. None stands for no schedule.
    schedules: ByName[Schedule | None] = {}
    #: How many runs are kept on this machine. Older runs are removed.
    keep_runs: Count = 20

    @field_validator("steps")
    @classmethod
    def _check_steps(
        cls, steps: dict[str, str], info: ValidationInfo
    ) -> dict[str, str]:
        """Refuse a step whose cluster is not in `computes`."""
        if "computes" not in info.data:
            # `computes` itself is wrong. Pydantic has reported it already.
            return steps
        clusters = list(info.data["computes"])
        for step, cluster in steps.items():
            if cluster not in clusters:
                raise refuse(
                    f"runs {step} on {cluster}, which is not a cluster in computes",
                    fix=_suggest_cluster(cluster, clusters),
                )
        return steps

    def compute_of(self, step: str) -> Compute:
        """Return the cluster that a step runs on."""
        if step in self.steps:
            return self.computes[self.steps[step]]
        return self.compute

    def all_computes(self) -> dict[str, Compute]:
        """Return all clusters, as a dict from key to cluster.

        The main cluster has the key `compute`, and a further cluster a key such as
        `computes.gpu`.
        """
        cluster_by_key = {"compute": self.compute}
        for name, cluster in self.computes.items():
            cluster_by_key[f"computes.{name}"] = cluster
        return cluster_by_key


def _suggest_cluster(unknown_cluster: str, clusters: list[str]) -> str:
    """Return what to do about a cluster that is not in `computes`, in the imperative.

    `clusters` are the names in `computes`.
    """
    similar = difflib.get_close_matches(unknown_cluster, clusters, n=1)
    if similar:
        return f"write {similar[0]}"
    addition = f"add {unknown_cluster} to computes, as docs/azure.md shows"
    if clusters:
        return f"write {' or '.join(clusters)}, or {addition}"
    return addition


class Config(Section):
    """The contents of `.azureml/config.json`, a file that both SDKs can also read."""

    subscription_id: Annotated[str, Follows(rules.SUBSCRIPTION)]
    resource_group: Annotated[str, Follows(rules.RESOURCE_GROUP)]
    workspace_name: Annotated[str, Follows(rules.WORKSPACE)]
