"""Test how settings files are read: each way to break them, with its message.

No project is generated. The tests read the template's own settings.yml, with answers in
place of its Jinja, by the template's settings.py and runtime/, which hold no Jinja.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from prep import prepare
from pydantic import Field, field_validator, model_validator
from template_package import (
    PROJECT,
    checks,
    errors,
    project,
    settings,
    settings_models,
)

ID = "12345678-9abc-def0-1234-56789abcdef0"
ZERO = "00000000-0000-0000-0000-000000000000"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A project's folder with its two settings files, complete and right."""
    text = (PROJECT / "settings.yml").read_text(encoding="utf-8")
    answers = {
        "project_slug|tojson": "penguins",
        "task": "classification",
        "azure_region|tojson": "westeurope",
        "compute_name|tojson": "cpu-cluster",
        "vm_size|tojson": "Standard_D4ds_v4",
        "__target": "Species",
        "__max_nodes": "2",
    }
    for name, answer in answers.items():
        text = text.replace("{{ cookiecutter." + name + " }}", answer)
    assert "{{" not in text
    (tmp_path / "settings.yml").write_text(text, encoding="utf-8")
    (tmp_path / ".azureml").mkdir()
    config = {"subscription_id": ID, "resource_group": "rg", "workspace_name": "mlw"}
    (tmp_path / ".azureml" / "config.json").write_text(json.dumps(config))
    return tmp_path


def change_setting(root: Path, key: str, value: Any) -> None:
    """Write a value into settings.yml; the value `...` removes the setting."""
    values = yaml.safe_load((root / "settings.yml").read_text(encoding="utf-8"))
    *path, last = key.split(".")
    section = values
    for name in path:
        section = section.setdefault(name, {})
    if value is ...:
        del section[last]
    else:
        section[last] = value
    (root / "settings.yml").write_text(
        yaml.safe_dump(values, sort_keys=False), encoding="utf-8"
    )


def open_project(root: Path) -> Any:
    """Return the project in a folder."""
    return project.Project(root / "penguins", settings.Settings)


def read_refusal(read: Callable[[], Any]) -> str:
    """Return the message of the SettingsError that a function must raise."""
    with pytest.raises(errors.SettingsError) as error:
        read()
    return str(error.value)


def test_check_suggests_a_similar_path_of_data(root: Path) -> None:
    (root / "data" / "sample").mkdir(parents=True)
    change_setting(root, "data.training", "data/sampel/penguins.csv")
    change_setting(root, "data.scoring", "elsewhere")
    fixes = {row.key: row.fix for row in checks.check_settings(open_project(root))}
    assert fixes["data.training"] == "did you mean data/sample?"
    assert fixes["data.scoring"] == "put the data there, or correct the path"


def test_complete_project_is_read_without_problems(root: Path) -> None:
    assert open_project(root).settings().compute.max_nodes == 2
    assert open_project(root).settings().schedules == {}
    workspace = open_project(root).workspace_config()
    assert (workspace.workspace_name, workspace.region) == ("mlw", "westeurope")
    assert [p for p in open_project(root).find_problems() if p.file] == []


POSITIVE = "a whole number, 1 or more"
WRONG_VALUES = [
    ("task", "clasification", '"clasification", but must be one of classification, regression: write classification'),
    ("task", "Regression", "write regression"),
    ("task", "clustering", "correct it"),
    ("data.rows_per_part", 0, f"0, but must be {POSITIVE}: correct it"),
    ("data.rows_per_part", "many", f'"many", but must be {POSITIVE}: correct it'),
    ("data.keys", "Individual ID", 'but must be a list: write [Individual ID]'),
    ("data.keys", [7], "write '7'"),
    ("data.keys", [["a"]], "correct it"),
    ("data.keys", ["-a"], "not begin with a hyphen"),
    ("data.target", 7, "write '7'"),
    ("data.target", None, "must be a column's name"),
    ("data.training", None, "must be a path"),
    ("data", None, "but must be a group of settings: write its settings below it (training, scoring, target"),
    ("data", [1], "but must be a group of settings"),
    ("training.test_fraction", 0, "0.0, but must be above 0 and below 1"),
    ("training.test_fraction", 1, "1.0, but must be above 0 and below 1"),
    ("training.test_fraction", "0.2", "write 0.2"),
    ("training.test_fraction", float("nan"), "must be above 0 and below 1"),
    ("training.metric", "auc", "must be one of default, log_loss"),
    ("training.margin", 1, "must be from 0, below 1"),
    ("training.holdout", {"column": "d"}, "is missing"),
    ("training.holdout", "radom", "is radom: write random, or for example {column: order_date,"),
    ("training.holdout", {"column": "d", "form": "2026-01-01"}, "write from"),
    ("training.holdout", {"column": "d", "from": "May"}, "must be a date such as"),
    ("training.search", {"tries": 3}, "training.search.space is missing: add it"),
    ("training.search", {"tires": 3, "space": {"a": [1]}}, "training.search.tires is not a setting: write tries"),
    ("training.search", {"tries": 0, "space": {"a": [1]}}, POSITIVE),
    ("training.search", {"minutes": 0, "space": {"a": [1]}}, "must be above 0"),
    ("training.search", {"space": {}}, "names no hyperparameter: add one, such as learning_rate: [0.05, 0.1]"),
    ("training.search", {"space": {"a b": [1]}}, "must consist of letters, digits and underscores"),
    ("training.search", {"space": {"a": 0.1}}, "space.a is 0.1, but must be a list or a range: write [0.1], or a range such as {low: 1, high: 10}"),
    ("training.search", {"space": {"a": []}}, "space.a is an empty list"),
    ("training.search", {"space": {"a": [[1]]}}, "space.a holds [1], but must hold numbers"),
    ("training.search", {"space": {"a": {"min": 1, "max": 2}}}, "space.a has min, which a range cannot have: write a range such as {low: 1, high: 10}"),
    ("training.search", {"space": {"a": {"low": 1}}}, "space.a has no high: add high"),
    ("training.search", {"space": {"a": {"low": 3, "high": 1}}}, "space.a is empty, as low is 3 and high is 1: swap them"),
    ("training.search", {"space": {"a": None}}, "space.a is empty: list the values to try"),
    ("training.search", {"space": {"a": {"low": 3, "high": 3}}}, "write [3]"),
    ("training.search", {"space": {"a": {"low": 0, "high": 3, "log": True}}}, "only numbers above 0 have a logarithm: raise low, for example to 0.001, or delete log"),
    ("training.search", {"space": {"a": {"low": 1, "high": 3, "log": "yes"}}}, "log must be true or false"),
    ("training.search", {"space": {"a": {"low": "1e-3", "high": 3}}}, 'has low: "1e-3", which is not a finite number: write low: 0.001'),
    ("training.search", {"space": {"a": {"low": 1, "high": float("inf")}}}, "which is not a finite number: write a number"),
    ("data.group", "Species", "names the target"),
    ("data.expect", [1], "must be a group of names with values: write each as NAME: VALUE below it"),
    ("data.expect", {7: {"min": 0}}, "write '7'"),
    ("data.expect", {"age": None}, "write its settings below it (min, max, values, missing, unique)"),
    ("data.expect", {"age": {}}, "has no rule: write min, max, values, missing or unique"),
    ("data.expect", {"age": {"min": None}}, "has no rule"),
    ("data.expect", {"age": {"minn": 0}}, "expect.age.minn is not a setting: write min"),
    ("data.expect", {"age": {"regex": "a"}}, "expect.age.regex is not a setting: delete it, or use one of the settings min,"),
    ("data.expect", {"age": {"min": "0"}}, "must be a number or a date such as 2026-01-31: write 0"),
    ("data.expect", {"age": {"min": "May"}}, "must be a number or a date such as"),
    ("data.expect", {"age": {"max": True}}, "must be a number or a date such as"),
    ("data.expect", {"age": {"max": float("nan")}}, "must be a number or a date such as"),
    ("data.expect", {"age": {"min": 9, "max": 1}}, "expect.age.max is 1, which is below min, 9"),
    ("data.expect", {"d": {"min": "2026-02-01", "max": "2026-01-31"}}, "is below min"),
    ("data.expect", {"d": {"min": 1, "max": "2026-01-31"}}, "write two numbers or two dates"),
    ("data.expect", {"plan": {"values": "free"}}, "must be a list: write [free]"),
    ("data.expect", {"plan": {"values": []}}, "is an empty list"),
    ("data.expect", {"plan": {"values": [1.5]}}, "a text, a whole number, true or false"),
    ("data.expect", {"plan": {"values": [1], "min": 0}}, "so min is superfluous: delete values or min"),
    ("data.expect", {"plan": {"missing": 5}}, "is 5.0, but must be a share from 0 to 1"),
    ("data.expect", {"plan": {"missing": "5%"}}, "must be a share from 0 to 1"),
    ("data.expect", {"plan": {"unique": "yes"}}, "should be a valid boolean"),
    ("data.on_violation", "stopp", "write stop"),
    ("training.register", "never", "must be one of unless_worse, always"),
    ("training.hyperparameters", [1], "must be a group of names with values"),
    ("training.hyperparameters", {"raw_data": 1}, "is already a parameter of the pipeline"),
    ("training.hyperparameters", {"a b": 1}, "must consist of letters, digits and underscores"),
    ("training.hyperparameters", {"a": [1]}, "must be a number, a text, true or false"),
    ("training.seed", -1, "must be a whole number, 0 to 4294967295"),
    ("training.seed", 2**32, "must be a whole number, 0 to 4294967295"),
    ("training.seed", 1.5, "must be a whole number"),
    ("training.seed", True, "true, but must be a whole number"),
    ("scoring.model_version", 0, "must be latest, or a version's number"),
    ("scoring.model_version", "3", "write 3"),
    ("scoring.model_version", "Latest", "write latest"),
    ("scoring.model_version", 1.5, "number: write 'latest'"),
    ("scoring.model_version", "v3", "write 3"),
    ("scoring.mini_batch_size", 0, POSITIVE),
    ("scoring.process_count_per_node", 0, POSITIVE),
    ("scoring.run_max_try", 0, POSITIVE),
    ("scoring.run_invocation_timeout", 0, POSITIVE),
    ("scoring.error_threshold", -2, "must be a whole number, -1 or more"),
    ("workspace.cloud", "AzureCLoud", "write AzureCloud"),
    ("workspace.cloud", "AzureGermanCloud", "must be one of AzureCloud"),
    ("compute.max_nodes", "2", "write 2"),
    ("compute.max_nodes", 0, POSITIVE),
    ("schedules.scoring", {"frequency": "day", "interval": 1}, "write Day"),
    ("schedules.scoring", {"frequency": "Day", "interval": 0}, POSITIVE),
    ("schedules.scoring", {"frequency": "Day", "interval": 1, "hours": [24]}, "0 to 23"),
    ("schedules.scoring", {"frequency": "Hour", "interval": 1, "hours": [6]}, "hours cannot be combined with frequency: Hour: delete it, or write frequency: Day"),
    ("schedules.scoring", {"frequency": "Day", "interval": 1, "week_days": ["Monday"]}, "write frequency: Week"),
    ("schedules.scoring", {"frequency": "Week", "interval": 1, "week_days": ["monday"]}, "write Monday"),
    ("schedules.scoring", {"frequency": "Day"}, "schedules.scoring.interval is missing"),
    ("schedules.scoring", {"cron": "0 6 * * *"}, "schedules.scoring.cron is not a setting"),
    ("computes", {"gpu": {"name": "gpu-1", "vm_size": "", "max_nodes": 1}}, "computes.gpu.name is"),
    ("computes", {"gpu": {"name": "gpu", "vm_sise": "x", "max_nodes": 1}}, "computes.gpu.vm_sise is not a setting: write vm_size"),
    ("steps", {"train": "gpu"}, "steps runs train on gpu, which is not a cluster in computes: add gpu to computes"),
    ("compute.identity", "System", "write system"),
    ("compute.identity", "/subscriptions/1/resourceGroups/g", "must be system, or the resource id of a user-assigned identity"),
    ("compute.subnet", "default", "must be the resource id of a subnet, such as /subscriptions/"),
    ("compute.subnet", "/subscriptions/1/resourceGroups/g/providers/Microsoft.Network/virtualNetworks/n", "must be the resource id of a subnet"),
    ("compute.public_ip", "no", "should be a valid boolean"),
    ("register_outputs", ["prediction"], "must be one of prepared, predictions: write predictions"),
    ("name", ..., "name is missing: add it"),
    ("data.target", ..., "data.target is missing: add it"),
    ("colour", "blue", "colour is not a setting: delete it"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("key", "value", "text"),
    WRONG_VALUES,
    ids=[f"{key} is {value}" for key, value, _ in WRONG_VALUES],
)
def test_wrong_value_is_refused_with_its_key_and_fix(
    root: Path, key: str, value: Any, text: str
) -> None:
    change_setting(root, key, value)
    message = read_refusal(open_project(root).settings)
    assert message.startswith(f"settings.yml: {key}")
    assert text in message
    assert message.endswith(".")
    assert read_refusal(open_project(root).workspace_config) == message


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("data.keys", []),
        ("data.keys", None),
        ("training.test_fraction", 0.001),
        ("training.test_fraction", 0.999),
        ("training.hyperparameters", {"depth": 1, "loss": "log_loss", "fast": True}),
        ("training.hyperparameters", None),
        ("training.hyperparameters", {}),
        ("training.seed", 2**32 - 1),
        ("training.holdout", {"column": "d", "from": "2026-01-31"}),
        ("training.holdout", "random"),
        ("training.holdout", None),
        ("training.metric", "roc_auc"),
        ("training.search", {"space": {"a": [1, "b", None, True]}}),
        ("training.search", {"minutes": 1.5, "space": {"a": {"low": 0, "high": 0.5}}}),
        ("data.group", "studyName"),
        ("data.expect", None),
        ("data.expect", {"a b": {"min": -1.5, "max": 3, "missing": 0}}),
        ("data.expect", {"d": {"min": "2026-01-31T10:00Z", "max": "2026-01-31"}}),
        ("data.expect", {"v": {"values": ["a", 1, True], "unique": False}}),
        ("scoring.model_version", 1),
        ("scoring.error_threshold", -1),
        ("workspace.region", None),
        ("compute.name", ""),
        ("schedules", None),
        ("schedules.scoring", {"frequency": "Minute", "interval": 15}),
        (
            "schedules.scoring",
            {"frequency": "Week", "interval": 2, "week_days": ["Monday", "Friday"]},
        ),
        (
            "schedules.scoring",
            {"frequency": "Day", "interval": 1, "hours": [0, 23], "minutes": [59]},
        ),
    ],
)
def test_right_value_is_accepted(root: Path, key: str, value: Any) -> None:
    change_setting(root, key, value)
    open_project(root).settings()


@pytest.mark.parametrize(
    ("value", "arguments"),
    [
        pytest.param(None, {}, id="empty"),
        pytest.param("random", {"holdout_by": "random"}, id="random"),
        pytest.param(
            {"column": "d", "from": "2026-01-31"},
            {"holdout_column": "d", "holdout_from": "2026-01-31"},
            id="from a date on",
        ),
    ],
)
def test_only_the_word_random_turns_the_note_on_dates_off(
    root: Path, value: Any, arguments: dict[str, str]
) -> None:
    change_setting(root, "training.holdout", value)
    assert open_project(root).settings().training.holdout_arguments() == arguments


@pytest.mark.parametrize(
    ("schedule", "hours"),
    [
        ({"frequency": "Minute", "interval": 15}, 0.25),
        ({"frequency": "Day", "interval": 1}, 24),
        ({"frequency": "Day", "interval": 1, "hours": [6, 18, 20]}, 12),
        ({"frequency": "Day", "interval": 2, "hours": [6, 18]}, 36),
        ({"frequency": "Week", "interval": 1, "week_days": ["Monday", "Friday"]}, 96),
        ({"frequency": "Month", "interval": 1}, 31 * 24),
    ],
    ids=str,
)
def test_longest_pause_follows_from_the_schedule(
    root: Path, schedule: dict[str, Any], hours: float
) -> None:
    change_setting(root, "schedules.scoring", schedule)
    pause = open_project(root).settings().schedules["scoring"].longest_pause()
    assert pause.total_seconds() == hours * 3600


GPU = {"name": "gpu-cluster", "vm_size": "Standard_NC4as_T4_v3", "max_nodes": 1}


def test_step_runs_on_the_cluster_that_the_settings_name(root: Path) -> None:
    change_setting(root, "computes", {"gpu": GPU})
    change_setting(root, "steps", {"train": "gpu"})
    values = open_project(root).settings()
    clusters = [values.compute_of(step).name for step in ("prep", "train")]
    assert clusters == ["cpu-cluster", "gpu-cluster"]
    change_setting(root, "steps", {"train": "gpv"})
    assert "not a cluster in computes: write gpu." in read_refusal(
        open_project(root).settings
    )


def test_every_cluster_needs_a_name_on_azure(root: Path) -> None:
    change_setting(root, "computes", {"gpu": GPU | {"name": "", "vm_size": ""}})
    open_project(root).workspace_config()
    with pytest.raises(errors.SettingsError, match=r"computes\.gpu\.name is empty"):
        open_project(root).workspace_config(["compute.name"])


def test_schedules_and_clusters_in_comments_of_settings_yml_are_valid(
    root: Path,
) -> None:
    file = root / "settings.yml"
    lines = file.read_text(encoding="utf-8").splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("# schedules:"))
    shown = [line.removeprefix("# ") for line in lines[start:] if line.startswith("# ")]
    file.write_text("\n".join([*lines, *shown]), encoding="utf-8")
    values = open_project(root).settings()
    assert values.schedules["scoring"].week_days == ["Monday"]
    assert values.compute_of("train").name == "gpu-cluster"


def test_search_in_a_comment_of_settings_yml_is_valid(root: Path) -> None:
    file = root / "settings.yml"
    before, _, shown = file.read_text(encoding="utf-8").partition("  # search:")
    lines, _, after = shown.partition("\n\n")
    uncommented = f"  search:{lines}".replace("\n  #", "\n  ")
    file.write_text(f"{before}{uncommented}\n\n{after}", encoding="utf-8")
    training = open_project(root).settings().training
    search = json.loads(training.search_as_json())
    assert search["metric"] == "default"
    assert (search["tries"], search["minutes"]) == (50, 30)
    assert search["space"]["max_leaf_nodes"] == {"low": 4, "high": 64, "log": True}


def test_all_wrong_values_of_a_search_are_named_at_once(root: Path) -> None:
    change_setting(
        root, "training.search", {"tries": 0, "space": {"a": [], "b": {"low": 1}}}
    )
    message = read_refusal(open_project(root).settings)
    for key in ("training.search.tries", "space.a is an empty list", "space.b has no"):
        assert key in message


def test_expectations_in_a_comment_of_settings_yml_hold_for_the_sample(
    root: Path, tmp_path: Path
) -> None:
    file = root / "settings.yml"
    text = file.read_text(encoding="utf-8")
    start = text.index("  # expect:")
    end = text.index("  rows_per_part:")
    shown = re.sub("^  # ", "  ", text[start:end], flags=re.MULTILINE)
    file.write_text(text[:start] + shown + text[end:], encoding="utf-8")

    data = open_project(root).settings().data
    assert len(data.expect) == 4
    report = prepare(
        PROJECT / "data" / "sample" / "training",
        tmp_path / "prepared",
        target="Species",
        keys=data.keys,
        expectations=json.loads(data.expectations()),
    )
    assert report["violations"] == []
    assert len(report["broken_rows_by_rule"]) == 5


def test_start_of_a_schedule_needs_no_quotes(root: Path) -> None:
    with (root / "settings.yml").open("a") as file:
        file.write(
            "schedules: {scoring: {frequency: Day, interval: 1, "
            "start_time: 2027-01-31T06:00:00}}\n"
        )
    schedule = open_project(root).settings().schedules["scoring"]
    assert (schedule.start_time, schedule.time_zone) == ("2027-01-31T06:00:00", "UTC")


def test_all_problems_are_named_at_once(root: Path) -> None:
    change_setting(root, "task", "clustering")
    change_setting(root, "training.seed", -1)
    change_setting(root, "compute.name", "cpu-cluster-1")
    lines = read_refusal(open_project(root).settings).splitlines()
    assert [line.split()[1] for line in lines] == [
        "task",
        "training.seed",
        "compute.name",
    ]


@pytest.mark.parametrize(
    ("old", "new", "text"),
    [
        ("  target:", "  tagret:", "data.tagret is not a setting: write target."),
        ("compute:", "computer:", "computer is not a setting: write compute."),
    ],
)
def test_misspelt_name_is_named_once(root: Path, old: str, new: str, text: str) -> None:
    file = root / "settings.yml"
    file.write_text(file.read_text().replace(old, new))
    assert read_refusal(open_project(root).settings) == f"settings.yml: {text}"


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        (
            {"data.keys": ["Species"]},
            "data.keys names the target, Species: remove it",
        ),
        ({"data.ignore": ["Species"]}, "data.ignore names the target, Species"),
        ({"data.keys": ["a"], "data.ignore": ["a"]}, "data.ignore names a again"),
        ({"data.keys": ["a", "a"]}, "data.keys names a again"),
    ],
)
def test_column_with_two_roles_is_refused(
    root: Path, changes: dict[str, Any], text: str
) -> None:
    for key, value in changes.items():
        change_setting(root, key, value)
    assert text in read_refusal(open_project(root).settings)


#: A short text that stands for a billion values: each list has the list before it nine times.
BOMB = "a0: &a0 [x]\n" + "".join(
    f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 9)}]\n"
    for level in range(1, 10)
)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"name: [a\nb: c\n", "settings.yml is not YAML at line 2, column 2"),
        (b"name: a\n\tb: c\n", "has a tab at line 2, column 1: write spaces instead"),
        (b"", "settings.yml is empty"),
        (b" \n", "settings.yml is empty"),
        (b"just words", 'settings.yml is "just words", but must be a group'),
        (b"- a\n- b\n", "but must be a group of settings"),
        (b"name: [\x07]\n", "settings.yml cannot be read"),
        (b"name: \xff\n", "settings.yml cannot be read"),
        (b"name: &a [*a]\n", "settings.yml: name is "),
        (
            b"task: regression\nname: {{ x }}\n",
            "at line 2, column 8 (a name must be text; put a name with braces or brackets in quotes)",
        ),
        (b"? [a, b]\n: 1\n", "settings.yml is not YAML at line 1, column 3 (a name "),
        (b"name: !!bool maybe\n", "settings.yml cannot be read (a value does not fit "),
        (b"name: !!map [a]\n", "settings.yml cannot be read (a value does not fit "),
        (
            BOMB.encode(),
            "settings.yml cannot be read (it has more than 20 aliases, such as *name)",
        ),
    ],
)
def test_file_without_settings_is_refused(
    root: Path, content: bytes, text: str
) -> None:
    (root / "settings.yml").write_bytes(content)
    message = read_refusal(open_project(root).settings)
    assert text in message
    assert read_refusal(open_project(root).workspace_config) == message


def test_missing_settings_file_is_named(root: Path) -> None:
    (root / "settings.yml").unlink()
    assert read_refusal(open_project(root).settings).startswith(
        "settings.yml is missing: create it with"
    )


def build_config(**changes: Any) -> str:
    """Return the text of a right config.json with changes; `...` removes a value."""
    values: dict[str, Any] = {
        "subscription_id": ID,
        "resource_group": "rg",
        "workspace_name": "mlw",
        **changes,
    }
    return json.dumps({key: value for key, value in values.items() if value is not ...})


CONFIG = ".azureml/config.json"
BROKEN_CONFIG = [
    (None, f"{CONFIG} is missing: create it with the settings subscription_id, resource_group, workspace_name."),
    ("", f"{CONFIG} is empty: correct it, or restore it"),
    ("\n", f"{CONFIG} is empty: correct it"),
    ("{", f"{CONFIG} is not JSON at line 1, column 2"),
    ("{'subscription_id': ''}", f"{CONFIG} is not JSON at line 1, column 2"),
    (build_config() + "}", f"{CONFIG} is not JSON at line 1"),
    ("subscription_id: x", f"{CONFIG} is not JSON"),
    ("[]", f"{CONFIG} is [], but must be a group of settings: write its settings below it (subscription_id"),
    ("null", f"{CONFIG} is null, but must be a group of settings"),
    ('"text"', f'{CONFIG} is "text", but must be a group of settings'),
    (build_config(subscription_id=None), f"{CONFIG}: subscription_id is empty: write what"),
    (build_config(resource_group=None), f"{CONFIG}: resource_group is empty"),
    (build_config(workspace_name=7), f"{CONFIG}: workspace_name is 7"),
    (build_config(workspace_name=["mlw"]), f'{CONFIG}: workspace_name is ["mlw"]'),
    (build_config(workspace_name=...), f"{CONFIG}: workspace_name is missing: add it."),
    (build_config(workspace="mlw"), f"{CONFIG}: workspace is not a setting: delete it"),
    (
        build_config(workspace_name=..., workspacename="mlw"),
        f"{CONFIG}: workspacename is not a setting: write workspace_name.",
    ),
    (build_config(subscription_id="<id>"), f'{CONFIG}: subscription_id is "<id>", a placeholder: write'),
    (build_config(subscription_id=ZERO), f"{CONFIG}: subscription_id is \"{ZERO}\", a placeholder"),
    (build_config(resource_group="<rg>"), f'{CONFIG}: resource_group is "<rg>", a placeholder'),
    (build_config(workspace_name="mlw\n"), f'{CONFIG}: workspace_name is "mlw\\n", but must be 3 to 33'),
    (build_config(subscription_id=""), f"{CONFIG}: subscription_id is empty: write what `az account"),
    (build_config(resource_group=""), f"{CONFIG}: resource_group is empty: write a resource group"),
]  # fmt: skip


@pytest.mark.parametrize(("content", "text"), BROKEN_CONFIG)
def test_broken_config_is_refused_but_local_runs_do_not_need_it(
    root: Path, content: str | None, text: str
) -> None:
    file = root / CONFIG
    if content is None:
        file.unlink()
    else:
        file.write_text(content)
    message = read_refusal(open_project(root).workspace_config)
    assert message.startswith(text)
    assert len(message.splitlines()) == 1
    # A local run reads these settings only.
    open_project(root).settings()


def test_config_may_have_a_byte_order_mark(root: Path) -> None:
    (root / CONFIG).write_text("\ufeff" + build_config(), encoding="utf-8")
    assert open_project(root).workspace_config().resource_group == "rg"


def test_config_may_have_any_form_of_json_without_duplicate_keys(root: Path) -> None:
    text = json.dumps(json.loads(build_config()), indent="\t").replace(
        '"rg"', r'"\ud840\udc0b"'
    )
    (root / CONFIG).write_text(text)
    assert open_project(root).workspace_config().resource_group == "\U0002000b"
    (root / CONFIG).write_text('{"workspace_name": "mlw",\n\t"workspace_name": "mlw"}')
    assert read_refusal(open_project(root).workspace_config).startswith(
        f"{CONFIG}: workspace_name is written twice: delete one of the two."
    )


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("seed", "7", 7),
        ("node_count", "3", 3),
        ("test_fraction", "0.5", 0.5),
        ("target", "2027-01-31", "2027-01-31"),
        ("target", "2027-02-31", "2027-02-31"),
        ("learning_rate", "1e-3", "1e-3"),
    ],
)
def test_parameter_has_the_type_of_the_setting_with_its_name(
    root: Path, name: str, text: str, value: Any
) -> None:
    assert open_project(root).parse_parameter(name, text) == value


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("test_fraction", "1e-3", "write 0.001"),
        ("register", "allways", '--set: register is "allways", but must be one of'),
        (
            "node_count",
            "0",
            f"--set: node_count is 0, but must be {POSITIVE}: correct it.",
        ),
        ("target", "", 'target is "", but must be a column'),
    ],
)
def test_parameter_is_checked_like_the_setting_with_its_name(
    root: Path, name: str, text: str, message: str
) -> None:
    with pytest.raises(errors.SettingsError, match=re.escape(message)):
        open_project(root).parse_parameter(name, text)


def test_required_values_depend_on_the_command(root: Path) -> None:
    change_setting(root, "workspace.region", "")
    change_setting(root, "compute.name", "")
    (root / CONFIG).write_text(build_config(workspace_name=""))
    open_project(root).workspace_config(needed_keys=())
    for needs in (["region"], ["compute.name"], ["workspace_name"]):
        with pytest.raises(errors.SettingsError) as error:
            open_project(root).workspace_config(needed_keys=needs)
        assert [needs[0] in line for line in str(error.value).splitlines()] == [True]


# More workspaces

PROD = ".azureml/prod.json"
MAY_DIFFER = "data, workspace, compute, computes, steps, schedules, monitoring, scoring, register_outputs may differ"


@pytest.fixture
def three(root: Path) -> Path:
    """A project's folder with the workspaces of config.json, test.json and prod.json.

    Only prod has a settings file of its own.
    """
    for name in ("test", "prod"):
        (root / f".azureml/{name}.json").write_text(
            build_config(workspace_name=f"ml-{name}")
        )
    write_prod(root, "compute: {max_nodes: 8}")
    return root


def write_prod(root: Path, text: str) -> None:
    """Write the settings file of the workspace prod."""
    (root / "settings.prod.yml").write_text(text, encoding="utf-8")


def list_messages(project_of_workspace: Any) -> list[str]:
    """Return the messages about problems in the files of a project."""
    problems = project_of_workspace.find_problems()
    return [str(problem) for problem in problems if problem.file]


def test_settings_file_of_a_workspace_changes_only_the_values_it_has(
    three: Path,
) -> None:
    scheduled = {"frequency": "Day", "interval": 1, "hours": [6]}
    change_setting(three, "schedules.scoring", scheduled | {"frequency": "Week"})
    change_setting(three, "schedules.training", scheduled)
    write_prod(
        three,
        """
compute: {max_nodes: 8}
data: {keys: [studyName], training: data/sample/scoring}
scoring: {model_version: 3}
workspace: {region: northeurope}
schedules: {scoring: {frequency: Hour, interval: 2}, training: }
""",
    )
    usual = open_project(three)
    prod = usual.for_workspace("prod")
    projects = usual.for_all_workspaces()
    names = [of_workspace.files.name for of_workspace in projects]
    assert names == ["", "prod", "test"]
    assert list_messages(prod) == []

    usual_settings = usual.settings()
    prod_settings = prod.settings()
    assert (usual_settings.compute.max_nodes, prod_settings.compute.max_nodes) == (2, 8)
    assert usual_settings.compute.name == prod_settings.compute.name == "cpu-cluster"
    assert usual_settings.data.keys == ["studyName", "Individual ID"]
    assert prod_settings.data.keys == ["studyName"]
    assert usual_settings.data.target == prod_settings.data.target
    assert prod.list_data_paths()["data.training"] == "data/sample/scoring"
    assert prod_settings.scoring.model_version == 3
    # A schedule is replaced as a whole, so the one of prod has no hours.
    assert prod_settings.schedules["scoring"].hours is None
    assert prod_settings.schedules["training"] is None

    workspace = prod.workspace_config()
    assert (workspace.workspace_name, workspace.region) == ("ml-prod", "northeurope")
    assert usual.for_workspace("test").settings() == usual_settings
    assert usual.for_workspace("config").workspace_config().workspace_name == "mlw"
    write_prod(three, "schedules:")
    assert prod.settings().schedules == {}
    for key in ("schedules.scoring", "data.keys"):
        assert prod.file_of(key) == "settings.yml"


WRONG_FOR_PROD = [
    ("compute: {max_nodes: 0}", f"compute.max_nodes is 0, but must be {POSITIVE}: correct it."),
    ("compute: {max_node: 3}", "compute.max_node is not a setting: write max_nodes."),
    ("comput: {max_nodes: 3}", "comput is not a setting: write compute."),
    ("computes: {max_nodes: 3}", "computes.max_nodes is 3, but must be a group of settings: write its settings below it (name, vm_size, max_nodes, identity, subnet, public_ip)."),
    ("steps: {train: gpu}", "steps runs train on gpu, which is not a cluster in computes: add gpu to computes, as docs/azure.md shows."),
    ("compute: 3", "compute is 3, but must be a group of settings: write its settings below it (name, vm_size, max_nodes, identity, subnet, public_ip)."),
    ("workspace: {region: West Europe}", 'workspace.region is "West Europe", but must be the short name of a region, in lower-case letters and digits: write westeurope.'),
    ("data: {target: studyName}", "data.keys names the target, studyName: remove it."),
    ("data: {keys: studyName}", 'data.keys is "studyName", but must be a list: write [studyName].'),
    ("schedules: {scoring: {frequency: Day}}", "schedules.scoring.interval is missing: add it."),
    ("schedules: {scoring: {frequency: Hour, interval: 1, hours: [6]}}", "schedules.scoring.hours cannot be combined with frequency: Hour: delete it, or write frequency: Day."),
    ("name: other", f"name is the same in every workspace: write it in settings.yml ({MAY_DIFFER})."),
    ("training: {seed: -1}", f"training is the same in every workspace: write it in settings.yml ({MAY_DIFFER})."),
    ("keep_runs: 3", f"keep_runs is the same in every workspace: write it in settings.yml ({MAY_DIFFER})."),
]  # fmt: skip


@pytest.mark.parametrize(("content", "text"), WRONG_FOR_PROD)
def test_wrong_value_for_a_workspace_is_refused_only_there(
    three: Path, content: str, text: str
) -> None:
    write_prod(three, content)
    prod = open_project(three).for_workspace("prod")
    message = f"settings.prod.yml: {text}"
    assert read_refusal(prod.settings) == message
    assert read_refusal(prod.workspace_config) == message
    assert list_messages(prod) == [message]
    open_project(three).settings()
    open_project(three).for_workspace("test").workspace_config()


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("a: [", "settings.prod.yml is not YAML at line 1, column 5"),
        ("", "settings.prod.yml is empty: correct it"),
        ("# compute:", "settings.prod.yml is null, but must be a group of settings"),
    ],
)
def test_broken_settings_file_of_a_workspace_is_refused_only_there(
    three: Path, content: str, text: str
) -> None:
    write_prod(three, content)
    change_setting(three, "training.seed", -1)
    first, *rest = read_refusal(
        open_project(three).for_workspace("prod").settings
    ).splitlines()
    assert first.startswith(text)
    assert all(line.startswith("settings.yml: training.seed") for line in rest)
    assert read_refusal(open_project(three).settings).startswith(
        "settings.yml: training.seed"
    )


def test_all_problems_are_named_with_their_files(three: Path) -> None:
    change_setting(three, "training.seed", -1)
    change_setting(three, "data.ignore", ["Species"])
    change_setting(three, "data.encoding", "utf-8")
    change_setting(three, "compute.name", "")
    write_prod(three, "compute: {name: cpu-1, max_nodes: 2.5}\ndata: {decimal: ','}")
    (three / PROD).write_text(build_config(workspace_name="p", resource_group=""))
    lines = read_refusal(
        open_project(three).for_workspace("prod").workspace_config
    ).splitlines()
    assert [line.split(" is ")[0] for line in lines] == [
        f"{PROD}: resource_group",
        f"{PROD}: workspace_name",
        "settings.yml: data.ignore names the target, Species: remove it.",
        "settings.yml: training.seed",
        "settings.prod.yml: compute.name",
        "settings.prod.yml: compute.max_nodes",
    ]
    rows = checks.check_settings(*open_project(three).for_all_workspaces())
    wrong = [row.name for row in rows if row.status == checks.WRONG]
    assert wrong == [
        *("data.ignore", "training.seed"),
        *("settings.prod.yml: compute.name", "settings.prod.yml: compute.max_nodes"),
        f"{PROD}: workspace_name",
    ]
    right_files = [row.name for row in rows if row.status == checks.OK]
    assert right_files == [CONFIG, ".azureml/test.json"]


UNKNOWN_WORKSPACES = [
    ("prd", "is prd, but there is no .azureml/prd.json: write prod; or, to add this workspace, copy .azureml/config.json to .azureml/prd.json, and fill in the subscription, the resource group and the name of the workspace."),
    ("live", "is live, but there is no .azureml/live.json: write an existing workspace (config, prod, test); or, to add this workspace, copy .azureml/config.json to .azureml/live.json, and fill in the subscription, the resource group and the name of the workspace."),
    ("../prod", 'is "../prod", but must be 1 to 255 letters, digits, hyphens and underscores, a letter or digit first: write prod.'),
    ("", 'is "", but must be 1 to 255 letters, digits, hyphens and underscores, a letter or digit first: correct it.'),
]  # fmt: skip


@pytest.mark.parametrize(("name", "text"), UNKNOWN_WORKSPACES)
def test_unknown_workspace_is_refused_with_the_known_ones(
    three: Path, name: str, text: str
) -> None:
    assert (
        read_refusal(lambda: open_project(three).for_workspace(name))
        == f"--workspace {text}"
    )


def test_settings_file_without_its_workspace_is_refused(three: Path) -> None:
    (three / "settings.prd.yml").write_text("compute: {max_nodes: 8}")
    message = (
        "settings.prd.yml belongs to no workspace, as there is no .azureml/prd.json: "
        "rename it to settings.prod.yml; or copy .azureml/config.json to "
        ".azureml/prd.json, and fill in the subscription, the resource group and the name "
        "of the workspace."
    )
    assert read_refusal(lambda: open_project(three).for_workspace("prd")) == message
    projects = open_project(three).for_all_workspaces()
    messages = []
    for project_of_workspace in projects:
        messages += list_messages(project_of_workspace)
    assert messages == [message]


# Settings that a project adds


class Extra(settings_models.Section):  # type: ignore[misc]
    """A section that a project adds, with types and validators of pydantic alone."""

    depth: int = Field(gt=0)
    folder: str = "extra"
    layers: list[int] | None = None

    @field_validator("folder")
    @classmethod
    def _is_relative(cls, folder: str) -> str:
        if folder.startswith("/"):
            raise ValueError("write a relative path")
        return folder


class Pair(settings_models.Section):  # type: ignore[misc]
    """A section whose values are checked together."""

    low: int
    high: int

    @model_validator(mode="after")
    def _are_in_order(self) -> Pair:
        if self.low > self.high:
            raise ValueError("low is above high")
        return self


class MoreSettings(settings.Settings):  # type: ignore[misc]
    """The settings of a project that has added a section."""

    extra: Extra
    pair: Pair | None = None


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"depth": 0}, "extra.depth is 0, but should be greater than 0: correct it."),
        ({"depth": "3"}, 'extra.depth is "3", but should be a valid integer: correct it.'),
        (
            {"depth": 3, "folder": "/data"},
            'extra.folder is "/data" (write a relative path): correct it.',
        ),
        ({"depth": 3, "layers": 4}, "extra.layers is 4, but must be a list: write [4]."),
        ({"depth": 3, "layer": [4]}, "extra.layer is not a setting: write layers."),
        ({"folder": "data"}, "extra.depth is missing: add it."),
        (None, "extra is null, but must be a group of settings: write its settings below it (depth, folder, layers)."),
    ],
    ids=["limit", "type", "validator", "list", "misspelt", "missing", "nothing"],
)  # fmt: skip
def test_wrong_value_of_an_added_setting_is_explained(
    root: Path, values: Any, text: str
) -> None:
    change_setting(root, "extra", values)
    added = project.Project(root / "penguins", MoreSettings)
    assert read_refusal(added.settings) == f"settings.yml: {text}"


def test_contradicting_values_of_an_added_section_are_explained(root: Path) -> None:
    change_setting(root, "extra", {"depth": 3})
    change_setting(root, "pair", {"low": 2, "high": 1})
    added = project.Project(root / "penguins", MoreSettings)
    assert read_refusal(added.settings) == (
        "settings.yml: pair cannot be used (low is above high): correct it."
    )


def test_right_value_of_an_added_setting_is_accepted(root: Path) -> None:
    change_setting(root, "extra", {"depth": 3, "layers": [4, 5]})
    extra = project.Project(root / "penguins", MoreSettings).settings().extra
    assert (extra.depth, extra.folder, extra.layers) == (3, "extra", [4, 5])


def test_duplicate_name_is_refused_with_its_line(root: Path) -> None:
    file = root / "settings.yml"
    lines = file.read_text(encoding="utf-8").splitlines()
    file.write_text("\n".join([*lines, "task: regression"]), encoding="utf-8")
    assert read_refusal(open_project(root).settings) == (
        f"settings.yml: task is written twice, the second time in line {len(lines) + 1}: "
        "delete one of the two."
    )
