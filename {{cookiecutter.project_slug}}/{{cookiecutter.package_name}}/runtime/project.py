"""A project: its files, its settings, and its pipelines.

`settings.yml` has the settings of the pipelines, and `.azureml/config.json` names the
workspace. All problems of these files are reported at once.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from . import rules
from .errors import SettingsError
from .rule import Problem
from .settings_models import Config, Follows, ProjectSettings
from .settings_reader import (
    Reading,
    UnreadableFile,
    WrongValue,
    check_value,
    load_file,
    parse_yaml,
    read_model,
    read_model_with_overrides,
)
from .workspaces import (
    NEEDED,
    SETTINGS,
    WorkspaceConfig,
    WorkspaceFiles,
    find_missing_config,
    list_workspaces,
)


@dataclass(frozen=True)
class PipelineDefinition:
    """A pipeline of a project: the function that builds it, and the data that it reads."""

    #: The function that builds the SDK's pipeline. It takes the settings, and a dict with
    #: an input of the pipeline for each name in `data`.
    build: Callable[[Any, Mapping[str, Any]], Any]
    #: The pipeline parameters for data. Each is mapped to the setting below `data` that has
    #: its path.
    data: Mapping[str, str]
    #: The names of the steps that look up the registered model. They run again if another
    #: version is registered.
    reads_model: Sequence[str] = ()
    #: The pipeline parameter that names the version of this model. If there is none, the
    #: steps use the newest version.
    model_version: str | None = None


Pipelines = Mapping[str, PipelineDefinition]
S = TypeVar("S", bound=ProjectSettings)


class Project(Generic[S]):
    """A project, with its settings for one workspace."""

    def __init__(self, package: Path, model: type[S], workspace: str = "") -> None:
        """Describe a project by the folder of its package and the model of its settings.

        `workspace` is the name of a workspace, or "" for the default workspace, which
        `.azureml/config.json` describes.
        """
        self.package = package.name
        self.root = package.parent
        self.command = f"python -m {self.package}"
        self.model = model
        self.files = WorkspaceFiles(workspace)

    # Workspaces

    def for_workspace(self, workspace: str) -> Project[S]:
        """Return the same project with the settings for a named workspace.

        Raises SettingsError if no workspace can have this name, or if the project has no
        file `.azureml/NAME.json` for this workspace.
        """
        name_problem = rules.NAME.check("--workspace", workspace)
        if name_problem is not None:
            raise SettingsError([name_problem])

        project = Project(self.root / self.package, self.model, workspace)
        missing_config = find_missing_config(self.root, project.files)
        if missing_config is not None:
            raise SettingsError([missing_config])
        return project

    def for_all_workspaces(self) -> list[Project[S]]:
        """Return the project once for each workspace, beginning with `config.json`."""
        package = self.root / self.package
        return [
            Project(package, self.model, files.name)
            for files in list_workspaces(self.root)
        ]

    # Settings

    def settings(self) -> S:
        """Return the settings. Values that only Azure needs may be empty.

        Raises SettingsError, which lists every wrong value.
        """
        reading = self._read_settings()
        if reading.model is None:
            wrong = [problem for problem in reading.problems if problem.kind == "wrong"]
            raise SettingsError(wrong)
        return reading.model

    def workspace_config(self, needed_keys: Iterable[str] = NEEDED) -> WorkspaceConfig:
        """Return the names, region and cloud of the workspace, as the files describe it.

        `needed_keys` are the settings that must not be empty, such as `resource_group`. Two
        of them may be short forms: `region` means `workspace.region`, and `compute.name`
        means the name of every cluster, in `compute` and in `computes`. Raises
        SettingsError, which lists every wrong value, and every needed value that is empty.
        """
        config = read_model(self.root, Config, self.files.config)
        settings = self._read_settings()
        blocking_problems = [
            problem
            for problem in config.problems + settings.problems
            if _is_blocking(problem, set(needed_keys))
        ]
        # If a model is None, one of its values is wrong, and blocking_problems is not empty.
        # The first two conditions only tell mypy that both models exist below.
        if config.model is None or settings.model is None or blocking_problems:
            raise SettingsError(blocking_problems)

        return WorkspaceConfig(
            subscription_id=config.model.subscription_id,
            resource_group=config.model.resource_group,
            workspace_name=config.model.workspace_name,
            region=settings.model.workspace.region,
            cloud=settings.model.workspace.cloud,
            files=self.files,
        )

    def find_problems(self) -> list[Problem]:
        """Return the problems of all wrong, empty and unusual values of the project.

        A problem with the package's name comes first, then the problems of the settings
        files, and at the end the problems of the workspace's config.
        """
        problems: list[Problem] = []
        package_problem = rules.PACKAGE.check("package_name", self.package)
        if package_problem is not None:
            problems.append(package_problem)

        problems += self._read_settings().problems

        missing_config = find_missing_config(self.root, self.files)
        if missing_config is not None:
            problems.append(missing_config)
        else:
            problems += read_model(self.root, Config, self.files.config).problems
        return problems

    @property
    def settings_files(self) -> list[str]:
        """The files with the settings for this workspace, by their paths in the project."""
        if self._has_own_settings:
            return [SETTINGS, self.files.settings, self.files.config]
        return [SETTINGS, self.files.config]

    def file_of(self, key: str) -> str:
        """Return the file in which a setting, such as `compute.name`, has its value.

        This is `settings.yml`, or the workspace's own `settings.NAME.yml` if that file
        replaces the setting. If `settings.NAME.yml` cannot be read, its path is returned as
        well, because it is the file to repair.
        """
        if not self._has_own_settings:
            return SETTINGS
        try:
            # `names` would only matter if the file were missing, and it exists.
            own_settings = load_file(self.root, self.files.settings, names=())
        except UnreadableFile:
            return self.files.settings

        value = own_settings
        for name in key.split("."):
            if not isinstance(value, dict) or name not in value:
                return SETTINGS
            value = value[name]
        return self.files.settings

    def list_data_paths(self) -> dict[str, str]:
        """Return the paths of data in the settings, as a dict from key to path.

        A key is the name of a setting with its section, such as `data.training`.
        """
        data = self.settings().data
        path_by_key: dict[str, str] = {}
        for name, field in type(data).model_fields.items():
            # The section `data` also holds other settings. A setting is a path if its field
            # is annotated with Follows(rules.FILES), as the type DataPath is.
            is_path = Follows(rules.FILES) in field.metadata
            if is_path:
                path_by_key[f"data.{name}"] = getattr(data, name)
        return path_by_key

    def parse_parameter(self, name: str, text: str) -> Any:
        """Convert the value of a pipeline parameter from a string, and check it.

        The value gets the type of the setting with the parameter's name, in whatever section
        this setting is, and must follow the rules of this setting: `0.3` for
        `test_fraction` becomes a number. If no setting has this name, the string is returned
        unchanged. Raises SettingsError if the value breaks a rule.
        """
        field = self._find_setting_of_parameter(name)
        if field is None:
            return text

        value: Any = text
        # A string that is not valid YAML is checked as it is, so that the message says what
        # the value of the setting must be.
        with suppress(ValueError, RecursionError, yaml.YAMLError):
            value = parse_yaml(text)
        try:
            # The message names the option `--set` where it otherwise names a file.
            return check_value(field, value, file="--set", key=name)
        except WrongValue as error:
            raise SettingsError(error.problems) from None

    def _find_setting_of_parameter(self, name: str) -> FieldInfo | None:
        """Return the first setting that has the name of a pipeline parameter, or None."""
        # The parameter node_count of a parallel step has its default from the setting
        # compute.max_nodes.
        setting_name = "max_nodes" if name == "node_count" else name
        for field in self.model.model_fields.values():
            section_model = field.annotation
            if not isinstance(section_model, type):
                continue
            if not issubclass(section_model, BaseModel):
                # This is not a section but a single setting, such as `name`.
                continue
            if setting_name in section_model.model_fields:
                return section_model.model_fields[setting_name]
        return None

    @property
    def _has_own_settings(self) -> bool:
        """Return whether the workspace has a file that replaces some of the settings."""
        return self.files.name != "" and (self.root / self.files.settings).exists()

    def _read_settings(self) -> Reading[S]:
        """Read the settings for the workspace, and find all problems of their files."""
        if self._has_own_settings:
            return read_model_with_overrides(
                self.root,
                self.model,
                SETTINGS,
                overrides_file=self.files.settings,
                may_differ=self.model.may_differ,
            )
        return read_model(self.root, self.model, SETTINGS)


def _is_blocking(problem: Problem, needed_keys: set[str]) -> bool:
    """Return whether a workspace cannot be used because of a problem.

    The workspace cannot be used if a value is wrong, or if a setting in `needed_keys` is
    empty. In `needed_keys`, `region` is the short form of `workspace.region`, and
    `compute.name` also means settings such as `computes.gpu.name`.
    """
    if problem.kind == "wrong":
        return True
    short_key = problem.key.removeprefix("workspace.")
    short_key = re.sub(r"^computes\.\w+\.", "compute.", short_key)
    return problem.kind == "empty" and short_key in needed_keys
