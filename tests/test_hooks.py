"""Generation through the cookiecutter command, with answers good and bad."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

TEMPLATE = Path(__file__).parents[1]
KEYS = json.loads((TEMPLATE / "cookiecutter.json").read_text(encoding="utf-8")).keys()


def generate(
    folder: Path, *options: str, **answers: str
) -> subprocess.CompletedProcess[str]:
    assert answers.keys() <= KEYS  # cookiecutter ignores those that it does not know
    command = [sys.executable, "-m", "cookiecutter", str(TEMPLATE), "--no-input"]
    command += [*options, *(f"{key}={answer}" for key, answer in answers.items())]
    return run(command, folder)


def run(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, "PWD": str(folder)},
        stdin=subprocess.DEVNULL,
        text=True,
        capture_output=True,
        timeout=120,
        check=False,
    )


def ours(done: subprocess.CompletedProcess[str]) -> list[str]:
    """What the hook wrote, but its last line, which speaks of cookiecutter's below it."""
    assert done.stderr.isascii()
    said = re.split(r"(?m)^(?:ERROR|Traceback)", done.stderr)
    *lines, last = [line for line in said[0].splitlines() if line]
    assert last == "What cookiecutter adds below says no more than this."
    return lines


def paste(line: str, folder: Path, **answers: str) -> subprocess.CompletedProcess[str]:
    """Run the command as a person would who pastes it into bash, and answers."""
    assert line.startswith("cookiecutter ")
    bash = shutil.which("bash")
    assert bash
    command = line.replace("cookiecutter", f"{sys.executable} -m cookiecutter", 1)
    command += " --no-input" + "".join(f" {key}={answers[key]}" for key in answers)
    return run([bash, "-c", command], folder)


FIVE = {
    "azure_subscription_id": "00000000-0000-0000-0000-000000000000",
    "azure_resource_group": "my group.",
    "azure_region": "West Europe",
    "compute_name": "cpu-cluster-1",
    "max_nodes": "0",
}


@pytest.mark.skipif(os.name == "nt", reason="the command is pasted into bash")
def test_five_wrong_answers_at_once(tmp_path: Path) -> None:
    name = 'Pingüinos d\'Or "x" \\ $HOME `y`'
    good = {"project_name": name, "azure_workspace_name": "mlw", "description": "a\nb"}
    done = generate(tmp_path, **FIVE, **good)
    assert done.returncode != 0
    assert list(tmp_path.iterdir()) == []
    *lines, nothing, command = ours(done)
    expected = {
        "azure_region": ["West Europe", "write westeurope."],
        "compute_name": ["cpu-cluster-1", "write cpu-cluster-a."],
        "max_nodes": ["0", "1 or more"],
        "azure_subscription_id": ["a placeholder", "az account show"],
        "azure_resource_group": ["my group.", "write my-group."],
    }
    assert [line.split()[0] for line in lines] == list(expected)
    for line, words in zip(lines, expected.values(), strict=True):
        assert all(word in line for word in words)
    assert "Nothing was generated" in nothing
    assert not any(f"{key}=" in command for key in FIVE)

    again = paste(command, tmp_path)
    assert again.returncode == 0, again.stderr
    (project,) = tmp_path.iterdir()
    readable = (project / ".azureml" / "config.json").read_text(encoding="utf-8")
    assert json.loads(readable)["workspace_name"] == "mlw"


@pytest.mark.skipif(os.name == "nt", reason="the command is pasted into bash")
def test_pasted_command_asks_for_the_wrong_answers(tmp_path: Path) -> None:
    command = ours(generate(tmp_path, azure_region="West Europe", max_nodes="7"))[-1]
    done = paste(command, tmp_path, azure_region="westeurope")
    assert done.returncode == 0, done.stderr
    settings = (tmp_path / "penguins" / "settings.yml").read_text(encoding="utf-8")
    assert 'region: "westeurope"' in settings
    assert "max_nodes: 7" in settings


@pytest.mark.skipif(os.name == "nt", reason="the command is pasted into bash")
def test_pasted_command_generates_where_the_first_would_have(tmp_path: Path) -> None:
    (tmp_path / "my projects").mkdir()
    options = ("--output-dir", "my projects")
    command = ours(generate(tmp_path, *options, compute_name="ab"))[-1]
    assert paste(command, tmp_path).returncode == 0
    assert (tmp_path / "my projects" / "penguins" / "settings.yml").exists()


def test_without_hooks_check_still_says_what_is_wrong(tmp_path: Path) -> None:
    done = generate(tmp_path, "--accept-hooks", "no", **FIVE, package_name="class")
    assert done.returncode == 0, done.stderr
    check = run(
        [sys.executable, "-m", "class", "check", "--json"], tmp_path / "penguins"
    )
    assert check.returncode == 1
    rows = json.loads(check.stdout)["checks"]
    wrong = {row["key"]: row["fix"] for row in rows if row["status"] == "wrong"}
    assert wrong["compute.name"] == "write cpu-cluster-a"
    assert wrong["workspace.region"] == "write westeurope"
    assert wrong["resource_group"] == "write my-group"
    assert wrong["package_name"] == "write class_project"
    assert {"subscription_id", "compute.max_nodes"} <= wrong.keys()
    assert {row["status"] for row in rows if row["key"] == "workspace_name"} == {
        "to fill in"
    }


def test_default_answers(tmp_path: Path) -> None:
    done = generate(tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert done.stdout.isascii()
    for said in (
        "cd penguins",
        "subscription_id, resource_group, workspace_name in .azureml/config.json",
        "workspace.region in settings.yml",
    ):
        assert said in done.stdout
    assert not list((tmp_path / "penguins").rglob("__pycache__"))


def test_all_azure_answers_empty(tmp_path: Path) -> None:
    azure = [key for key in KEYS if key.startswith(("azure_", "compute_", "vm_"))]
    done = generate(tmp_path, **dict.fromkeys(azure, ""), max_nodes="")
    assert done.returncode == 0, done.stderr
    assert "compute.name, compute.vm_size in settings.yml" in done.stdout


def test_unknown_region_and_size_warn(tmp_path: Path) -> None:
    done = generate(tmp_path, azure_region="marsnorth", vm_size="Huge_1")
    assert done.returncode == 0, done.stderr
    assert '"marsnorth"' in done.stdout
    assert '"Huge_1"' in done.stdout


@pytest.mark.parametrize(
    "name",
    [
        *("a", "7", "9 lives", "x" * 60, "Ünïcödé Größe", "企鵝", "it's", 'say "hi"'),
        *(
            "back\\slash",
            "a/b",
            "../up",
            "{{ 7 }}",
            "{% raw %}",
            "[bold]",
            "a\nb",
            "#",
            ".",
        ),
        *(
            "  spaces  ",
            "-v",
            "100% sure",
            "<tag>",
            "&amp;",
            "\U0001f427\u202e",
            "a" * 300,
            "ab " * 100,
            "a" * 59 + "é",
        ),
    ],
)
def test_any_project_name_gives_a_project(tmp_path: Path, name: str) -> None:
    done = generate(tmp_path, project_name=name, description=name, author_name=name)
    assert done.returncode == 0, done.stderr
    (project,) = tmp_path.iterdir()
    (package,) = (path.parent.name for path in project.glob("*/settings.py"))
    assert package.isidentifier()


@pytest.mark.parametrize("name", ["class", "json", "Azureml", "Train", "Imp", "Con"])
def test_project_name_that_python_or_the_project_uses(
    tmp_path: Path, name: str
) -> None:
    done = generate(tmp_path, project_name=name)
    assert done.returncode != 0
    assert list(tmp_path.iterdir()) == []
    line, *_ = ours(done)
    package = name.lower()
    assert line.startswith(f'package_name is "{package}", but must be')
    assert line.endswith(f"write {package}_project.")


def test_package_name_of_a_folder_or_file_of_the_project(tmp_path: Path) -> None:
    inside = "{{cookiecutter.project_slug}}"
    names = {path.name for path in (TEMPLATE / inside).iterdir()}
    assert "steps" in names
    for name in names - {"__pycache__"}:
        if "{" in name:  # the package itself, and files of one platform
            continue
        done = generate(tmp_path, package_name=name.upper())
        assert done.returncode != 0
        line, *_ = ours(done)
        assert line.startswith(f'package_name is "{name.upper()}", but must be')
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *((key, "a/b") for key in ("project_slug", "package_name")),
        *((key, "../a") for key in ("project_slug", "package_name")),
        *((key, "a\\b") for key in ("project_slug", "package_name")),
        *((key, "a\nb") for key in ("project_slug", "package_name")),
        ("project_slug", "LPT1.txt"),
        ("package_name", "con"),
        ("package_name", ""),
        ("package_name", ".."),
        ("package_name", "/tmp"),
        ("package_name", "a" * 201),
    ],
)
def test_what_cannot_name_a_folder(tmp_path: Path, key: str, value: str) -> None:
    (tmp_path / "here").mkdir()
    answers = {"package_name": "penguins", key: value, "max_nodes": "0"}
    done = generate(tmp_path / "here", **answers)
    assert done.returncode != 0
    line, other, _, command = ours(done)
    assert line.startswith(f"{key} is {json.dumps(value)}, but must be 1 to ")
    assert other.startswith("max_nodes is ")
    assert command.startswith("cookiecutter ")
    assert f"{key}=" not in command
    assert [path.name for path in tmp_path.rglob("*")] == ["here"]


@pytest.mark.parametrize(
    ("key", "value", "fix"),
    [
        ("project_slug", "my project", "write my-project."),
        ("project_slug", "pingüinos", "write pinguinos."),
        ("project_slug", "v1.2", "write v1-2."),
        ("package_name", "my-package", "write my_package."),
        ("package_name", "9lives", "write p9lives."),
        ("package_name", "lambda", "write lambda_project."),
        ("package_name", "train", "write train_project."),
        ("package_name", "a" * 81, "correct it."),
        ("max_nodes", "two", "correct it."),
        ("max_nodes", "'", "correct it."),
        ("max_nodes", "1.5", "correct it."),
        ("compute_name", 'a"b', "write a-b."),
        ("azure_resource_group", "rg\n", "write rg."),
        ("azure_workspace_name", "\\", "shows those there are)."),
        ("azure_workspace_name", '"""', "shows those there are)."),
    ],
)
def test_bad_answer(tmp_path: Path, key: str, value: str, fix: str) -> None:
    done = generate(tmp_path, **{"package_name": "penguins", key: value})
    assert done.returncode != 0
    line, *_ = ours(done)
    assert line.startswith(f"{key} is ")
    assert line.endswith(fix)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.name == "nt", reason="the command is pasted into bash")
def test_wrong_answer_over_a_project_leaves_it_as_it_was(tmp_path: Path) -> None:
    assert generate(tmp_path).returncode == 0
    settings = tmp_path / "penguins" / "settings.yml"
    settings.write_text("mine", encoding="utf-8")
    for options in (["-f"], ["-f", "-s"]):  # the pasted command keeps files, either way
        before = contents(tmp_path)
        done = generate(tmp_path, *options, max_nodes="two")
        assert done.returncode != 0
        assert contents(tmp_path) == before
        again = paste(ours(done)[-1], tmp_path)
        assert again.returncode == 0, again.stderr
        assert settings.read_text(encoding="utf-8") == "mine"


@pytest.mark.skipif(os.name == "nt", reason="the command is pasted into bash")
def test_files_that_are_there_are_kept_or_nothing_is_generated(tmp_path: Path) -> None:
    folder = tmp_path / "penguins"
    (folder / ".git").mkdir(parents=True)  # as of a new repository: nothing to be lost
    assert generate(tmp_path, "-f").returncode == 0
    (folder / "settings.yml").write_text("mine", encoding="utf-8")
    (folder / "README.md").unlink()
    before = contents(tmp_path)
    done = generate(tmp_path, "-f")
    assert done.returncode != 0
    assert contents(tmp_path) == before
    line, _, command = ours(done)
    assert line.startswith(
        f"{folder} holds files, which would be overwritten: add --skip"
    )
    assert paste(command, tmp_path).returncode == 0
    after = contents(tmp_path)
    assert after.keys() - before.keys() == {folder / "README.md"}
    assert all(after[path] == before[path] for path in before)


def test_a_program_that_calls_cookiecutter_overwrites_nothing(tmp_path: Path) -> None:
    (tmp_path / "penguins").mkdir()
    (tmp_path / "penguins" / "README.md").write_text("mine", encoding="utf-8")
    code = "from cookiecutter.main import cookiecutter as c; import sys; "
    code += "c(sys.argv[1], no_input=True, overwrite_if_exists=True)"
    done = run([sys.executable, "-c", code, str(TEMPLATE)], tmp_path)
    assert done.returncode != 0
    assert "holds files, which would be overwritten: add" in done.stderr
    assert [path.name for path in (tmp_path / "penguins").iterdir()] == ["README.md"]


@pytest.mark.skipif(os.name == "nt", reason="the command is pasted into bash")
def test_pasted_command_keeps_the_options(tmp_path: Path) -> None:
    folder = tmp_path / "of templates"
    parts = ("cookiecutter.json", "hooks", "templates", "{{cookiecutter.project_slug}}")
    for part in parts:
        source, copy = TEMPLATE / part, folder / "this one" / part
        copy.parent.mkdir(parents=True, exist_ok=True)
        (shutil.copytree if source.is_dir() else shutil.copy)(source, copy)
    (tmp_path / "config.yml").write_text("default_context: {author_name: Zoë}")
    done = run(
        [
            *(sys.executable, "-m", "cookiecutter", "--no-input", "-fo", "out"),
            *("--config-file=config.yml", "--directory", "this one", str(folder)),
            *("task=regression", "vm_size=a b"),
        ],
        tmp_path,
    )
    command = ours(done)[-1]
    assert command.startswith("cookiecutter ")
    for kept in (
        "--overwrite-if-exists",
        "--output-dir out",
        "--config-file config.yml",
        "--directory 'this one'",
        "task=regression",
    ):
        assert f" {kept} " in f"{command} "
    assert "vm_size=" not in command
    done = paste(command, tmp_path, description="b")
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "out/penguins/pyproject.toml").read_text(encoding="utf-8")
    assert "Zoë" in text
    assert "task: regression" in (tmp_path / "out/penguins/settings.yml").read_text()


def test_answers_that_look_like_jinja_survive_the_pasted_command(
    tmp_path: Path,
) -> None:
    literal = '{{ x }} {% raw %} {# "c" \\ 🐧'
    jinja = f"{{{{ {json.dumps(literal, ensure_ascii=False)} }}}}"
    command = ours(generate(tmp_path, description=jinja, max_nodes="0"))[-1]
    assert paste(command, tmp_path).returncode == 0
    text = (tmp_path / "penguins" / "README.md").read_text(encoding="utf-8")
    assert literal in text


@pytest.mark.skipif(os.name == "nt", reason="a pipe without reader is another error")
def test_nobody_reads_what_is_next(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "cookiecutter", str(TEMPLATE), "--no-input"]
    ends = os.pipe()
    os.close(ends[0])
    for number, output in enumerate((ends[1], os.open("/dev/full", os.O_WRONLY))):
        folder = tmp_path / str(number)
        folder.mkdir()
        done = subprocess.run(command, cwd=folder, stdout=output, check=False)
        os.close(output)
        assert done.returncode == 0
        assert (folder / "penguins" / "settings.yml").exists()


@pytest.mark.parametrize("text", ["a\0b", "bell \a", "\x7f", "\x9b0m", b"\xff"])
def test_text_that_no_file_can_hold(tmp_path: Path, text: str | bytes) -> None:
    if b"\0" in os.fsencode(text):  # no argument can hold it, but a file can
        (tmp_path / "c.yml").write_text('default_context: {description: "a\\0b"}')
        done = generate(tmp_path, "--config-file", "c.yml")
        (tmp_path / "c.yml").unlink()
    else:
        done = generate(tmp_path, description=os.fsdecode(text))
    assert done.returncode != 0
    line, *_ = ours(done)
    bytes_ = "is not text in this terminal's encoding: set LC_ALL=C.UTF-8"
    said = bytes_ if isinstance(text, bytes) else "holds the character '\\x"
    assert line.startswith(f"description {said}")
    assert list(tmp_path.iterdir()) == []


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
