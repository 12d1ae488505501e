"""Generation with the cookiecutter command, and its messages about wrong answers."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import TEMPLATE, TEMPLATE_PARTS

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


def refusal(done: subprocess.CompletedProcess[str]) -> list[str]:
    """Return the lines that the hook printed, with the command to continue as the last."""
    assert done.returncode == 1
    assert "Traceback" not in done.stdout + done.stderr
    *lines, last = [line for line in done.stderr.splitlines() if line]
    assert last == "What cookiecutter prints below says no more than this."
    return lines


def paste(line: str, folder: Path, **answers: str) -> subprocess.CompletedProcess[str]:
    """Run the command as a person does who pastes it into bash and fills in its gaps."""
    assert line.startswith("cookiecutter --no-input ")
    for question, answer in answers.items():
        gap = f"'{question}=<{question}>'"
        assert gap in line
        line = line.replace(gap, f"{question}={shlex.quote(answer)}")
    bash = shutil.which("bash")
    assert bash
    command = line.replace("cookiecutter", f"{sys.executable} -m cookiecutter", 1)
    return run([bash, "-c", command], folder)


def call_cookiecutter(
    folder: Path, **arguments: object
) -> subprocess.CompletedProcess[str]:
    """Generate by a program that calls cookiecutter's function, with its home in `folder`."""
    code = "import json, sys; from cookiecutter.main import cookiecutter; "
    code += "cookiecutter(sys.argv[1], no_input=True, **json.loads(sys.argv[2]))"
    config = folder / "config.yml"
    config.write_text(f"replay_dir: {folder / 'replay'}", encoding="utf-8")
    arguments["config_file"] = str(config)
    done = run(
        [sys.executable, "-c", code, str(TEMPLATE), json.dumps(arguments)], folder
    )
    config.unlink()
    return done


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
    *lines, nothing, command = refusal(done)
    expected = {
        "azure_subscription_id": ["a placeholder", "az account show"],
        "azure_resource_group": ["my group.", "write my-group."],
        "azure_region": ["West Europe", "write westeurope."],
        "compute_name": ["cpu-cluster-1", "write cpu-cluster-a."],
        "max_nodes": ["0", "1 or more"],
    }
    assert [line.split()[0] for line in lines] == list(expected)
    for line, words in zip(lines, expected.values(), strict=True):
        assert all(word in line for word in words)
    assert nothing.startswith("Nothing was generated, and no file was changed.")
    assert "<azure_subscription_id> and <max_nodes>" in nothing
    for answer in ("my-group", "westeurope", "cpu-cluster-a"):
        assert f"={answer} " in command

    again = paste(command, tmp_path, azure_subscription_id="", max_nodes="3")
    assert again.returncode == 0, again.stderr
    (project,) = tmp_path.iterdir()
    readable = (project / ".azureml" / "config.json").read_text(encoding="utf-8")
    assert json.loads(readable)["workspace_name"] == "mlw"
    assert "max_nodes: 3" in (project / "settings.yml").read_text(encoding="utf-8")


def test_refuse_the_gaps_of_the_pasted_command(tmp_path: Path) -> None:
    command = refusal(generate(tmp_path, max_nodes="0"))[-1]
    line, _, same_command = refusal(paste(command, tmp_path))
    assert line.startswith('max_nodes is "<max_nodes>", a placeholder')
    assert same_command == command


@pytest.mark.parametrize(
    ("encoding", "shown"),
    [
        ("utf-8", "'description=Größe'"),
        ("ascii", r"$'description=Gr\xc3\xb6\xc3\x9fe'"),
    ],
)
def test_command_is_readable_where_the_terminal_shows_umlauts(
    tmp_path: Path, encoding: str, shown: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONIOENCODING", encoding)
    command = refusal(generate(tmp_path, description="Größe", vm_size="a b"))[-1]
    assert f" {shown} " in command
    assert paste(command, tmp_path).returncode == 0
    readme = (tmp_path / "penguins" / "README.md").read_text(encoding="utf-8")
    assert "Größe" in readme


@pytest.mark.skipif(os.name == "nt", reason="the command is pasted into bash")
def test_pasted_command_generates_where_the_first_would_have(tmp_path: Path) -> None:
    (tmp_path / "my projects").mkdir()
    options = ("--output-dir", "my projects")
    command = refusal(generate(tmp_path, *options, compute_name="c_d_e"))[-1]
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
    lines = [line.strip() for line in done.stdout.splitlines()]
    commands = lines[lines.index("The project is generated. What is next:") + 2 :]
    assert commands[:3] == [
        f"cd {tmp_path / 'penguins'}",
        "git init",
        "git add --all",
    ]
    assert "python -m penguins run training" in commands
    for place in (
        "workspace_name in .azureml/config.json",
        "workspace.region in settings.yml",
    ):
        assert place in lines
    assert not list((tmp_path / "penguins").rglob("__pycache__"))


def test_all_azure_answers_empty(tmp_path: Path) -> None:
    azure = [key for key in KEYS if key.startswith(("azure_", "compute_", "vm_"))]
    done = generate(tmp_path, **dict.fromkeys(azure, ""), max_nodes="")
    assert done.returncode == 0, done.stderr
    assert "compute.name in settings.yml" in done.stdout
    assert "compute.vm_size in settings.yml" in done.stdout


def test_doubts_are_shown(tmp_path: Path) -> None:
    done = generate(tmp_path, azure_region="marsnorth", vm_size="Huge_1")
    assert done.returncode == 0, done.stderr
    heading, region, size = [line for line in done.stderr.splitlines() if line]
    assert heading == "Worth a look, before anything is written:"
    assert region.startswith('    azure_region is "marsnorth": no region of this name')
    assert size.startswith('    vm_size is "Huge_1": sizes look like Standard_D4ds_v4')


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
    package = name.lower()
    (line,) = (line for line in refusal(done) if line.startswith("package_name "))
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
        line, *_ = refusal(done)
        assert line.startswith(f'package_name is "{name.upper()}", but must be')
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("package_name", "a/b"),
        ("package_name", "../a"),
        ("package_name", "a\\b"),
        ("package_name", "a\nb"),
        ("package_name", "con"),
        ("package_name", ""),
        ("package_name", ".."),
        ("package_name", "/tmp"),
        ("package_name", "a" * 201),
        ("project_slug", "a\nb"),
        ("project_slug", "LPT1.txt"),
    ],
)
def test_name_that_is_refused_with_all_other_answers(
    tmp_path: Path, key: str, value: str
) -> None:
    (tmp_path / "here").mkdir()
    answers = {"package_name": "penguins", key: value, "max_nodes": "0"}
    line, other, _, command = refusal(generate(tmp_path / "here", **answers))
    assert line.startswith(f"{key} is {json.dumps(value)}, but must be 1 to ")
    assert other.startswith("max_nodes is ")
    assert command.startswith("cookiecutter ")
    assert f"{key}={value} " not in command
    assert [path.name for path in tmp_path.rglob("*")] == ["here"]


@pytest.mark.parametrize(
    "slug",
    ["a/b", "../a", "/tmp/a", "a\\b", "a" * 256, "ü" * 128],
    ids=["a/b", "../a", "/tmp/a", "backslash", "256 bytes", "128 umlauts"],
)
@pytest.mark.parametrize("options", [[], ["-f"]], ids=["new", "overwrite"])
def test_slug_that_cannot_name_one_folder(
    tmp_path: Path, slug: str, options: list[str]
) -> None:
    (tmp_path / "here").mkdir()
    done = generate(tmp_path / "here", *options, project_slug=slug)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    shown = json.dumps(slug, ensure_ascii=False)
    assert line.startswith(f"project_slug is {shown}, but must be 1 to 100 ")
    assert [path.name for path in tmp_path.rglob("*")] == ["here"]


@pytest.mark.parametrize(
    "question",
    ["azure_region", "author_name", "description", "max_nodes"],
)
def test_empty_line_in_the_config_file(tmp_path: Path, question: str) -> None:
    config = tmp_path / "config.yml"
    config.write_text(f"default_context:\n  {question}:\n", encoding="utf-8")
    line, _, command = refusal(generate(tmp_path, "--config-file", str(config)))
    assert line == f'{question} is null, but must be text: write "".'
    assert list(tmp_path.iterdir()) == [config]
    assert paste(command, tmp_path).returncode == 0


def test_truth_value_in_the_config_file(tmp_path: Path) -> None:
    config = tmp_path / "config.yml"
    config.write_text("default_context: {author_name: yes}", encoding="utf-8")
    line, _, command = refusal(generate(tmp_path, "--config-file", str(config)))
    assert line.endswith('write "True", with the quotes, in your configuration file.')
    config.write_text('default_context: {author_name: "yes"}', encoding="utf-8")
    assert paste(command, tmp_path).returncode == 0


@pytest.mark.parametrize("question", ["project_name", "project_slug", "package_name"])
@pytest.mark.parametrize("value", [None, True, ["a", "b"]], ids=json.dumps)
def test_name_from_a_program_that_is_no_text(
    tmp_path: Path, question: str, value: object
) -> None:
    done = call_cookiecutter(tmp_path, extra_context={question: value})
    if isinstance(
        value, list
    ):  # cookiecutter takes it for choices, and the first of them
        assert done.returncode == 0
    else:
        assert done.returncode == 1
        assert f"{question} is {json.dumps(value)}, but must be text" in done.stderr
        assert not (tmp_path / "penguins").exists()


def test_answers_of_a_replay_file_that_are_no_text(tmp_path: Path) -> None:
    assert call_cookiecutter(tmp_path).returncode == 0
    shutil.rmtree(tmp_path / "penguins")
    (replay,) = (tmp_path / "replay").iterdir()
    context = json.loads(replay.read_text(encoding="utf-8"))
    wrong = {"azure_region": None, "max_nodes": 4, "vm_size": ["a"], "task": "guess"}
    context["cookiecutter"].update(wrong)
    replay.write_text(json.dumps(context), encoding="utf-8")
    lines = refusal(
        run(
            [sys.executable, "-m", "cookiecutter", str(TEMPLATE)]
            + ["--replay-file", str(replay)],
            tmp_path,
        )
    )
    assert sorted(lines[:4]) == [
        'azure_region is null, but must be text: write "".',
        'max_nodes is 4, but must be text: write "4".',
        'task is "guess", but must be one of classification, regression: correct it.',
        'vm_size is ["a"], but must be text: correct it.',
    ]
    assert not (tmp_path / "penguins").exists()
    done = paste(lines[-1], tmp_path, task="regression", vm_size="")
    assert done.returncode == 0, done.stderr


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
        ("package_name", "a" * 41, f"write {'a' * 40}."),
        ("package_name", "MyPenguins", "write mypenguins."),
        ("project_slug", "a" * 101, f"write {'a' * 100}."),
        ("project_slug", "AzureML-demo", "write azureml-demo."),
        ("project_slug", "CON", "write CON-project."),
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
    line, *_ = refusal(done)
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
        done = generate(tmp_path, *options, azure_region="West Europe")
        assert done.returncode != 0
        assert contents(tmp_path) == before
        again = paste(refusal(done)[-1], tmp_path)
        assert again.returncode == 0, again.stderr
        assert settings.read_text(encoding="utf-8") == "mine"


@pytest.mark.skipif(os.name == "nt", reason="the command is pasted into bash")
def test_files_that_are_there_are_kept_or_nothing_is_generated(tmp_path: Path) -> None:
    folder = tmp_path / "penguins"
    (folder / ".git").mkdir(parents=True)  # as of a new repository: nothing to be lost
    first = generate(tmp_path, "-f")
    assert first.returncode == 0
    assert "git init" not in first.stdout
    (folder / "settings.yml").write_text("mine", encoding="utf-8")
    (folder / "README.md").unlink()
    before = contents(tmp_path)
    done = generate(tmp_path, "-f")
    assert done.returncode != 0
    assert contents(tmp_path) == before
    line, _, command = refusal(done)
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
    done = call_cookiecutter(tmp_path, overwrite_if_exists=True)
    assert done.returncode != 0
    assert "holds files, which would be overwritten: add" in done.stderr
    assert [path.name for path in (tmp_path / "penguins").iterdir()] == ["README.md"]


@pytest.mark.skipif(os.name == "nt", reason="the command is pasted into bash")
def test_pasted_command_keeps_the_options(tmp_path: Path) -> None:
    folder = tmp_path / "of templates"
    (folder / "this one").mkdir(parents=True)
    for part in TEMPLATE_PARTS:
        source, copy = TEMPLATE / part, folder / "this one" / part
        (shutil.copytree if source.is_dir() else shutil.copy)(source, copy)
    (tmp_path / "config.yml").write_text("default_context: {author_name: Zoë}")
    done = run(
        [
            *(sys.executable, "-m", "cookiecutter", "--no-input", "-fo", "out"),
            *("--config-file=config.yml", "--directory", "this one", str(folder)),
            *("task=regression", "vm_size=a b", "description=a"),
        ],
        tmp_path,
    )
    command = refusal(done)[-1]
    assert command.startswith("cookiecutter ")
    for kept in (
        "--no-input -fo out --config-file=config.yml --directory 'this one'",
        "task=regression",
        "vm_size=a_b",
    ):
        assert f" {kept} " in command
    assert command.count("vm_size=") == command.count("description=") == 1
    done = paste(command, tmp_path)
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "out/penguins/pyproject.toml").read_text(encoding="utf-8")
    assert "Zoë" in text
    assert "task: regression" in (tmp_path / "out/penguins/settings.yml").read_text()


def test_answers_that_look_like_jinja_survive_the_pasted_command(
    tmp_path: Path,
) -> None:
    literal = '{{ x }} {% raw %} {# "c" \\ 🐧'
    jinja = f"{{{{ {json.dumps(literal, ensure_ascii=False)} }}}}"
    command = refusal(generate(tmp_path, description=jinja, vm_size="a b"))[-1]
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
    line, *_ = refusal(done)
    bytes_ = "is not text in this terminal's encoding: set LC_ALL=C.UTF-8"
    said = bytes_ if isinstance(text, bytes) else "holds the character '\\x"
    assert line.startswith(f"description {said}")
    assert list(tmp_path.iterdir()) == []


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


OLD = {
    "1.7.3": "Unable to load extension: No module named "
    "'this_template_needs_cookiecutter_2_2_3_or_newer'",
    "2.1.1": "This template needs cookiecutter 2.2.3 or newer, and this is 2.1.1: install "
    "a newer one, for example with `pipx install cookiecutter`.",
}


@pytest.mark.parametrize("version", [*OLD, "2.2.3"])
def test_cookiecutter_of_another_version(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, version: str
) -> None:
    uv = TEMPLATE / "build" / "tools" / "bin" / "uv"
    if not uv.exists():
        pytest.skip("`make test` installs uv into build/tools")
    environment = tmp_path_factory.mktemp("environment") / ".venv"
    python = environment / ("Scripts" if os.name == "nt" else "bin") / "python"
    subprocess.run(
        [uv, "venv", "-q", "--python", sys.executable, str(environment)], check=True
    )
    install = [str(uv), "pip", "install", "-q", "--python", str(python)]
    subprocess.run([*install, f"cookiecutter=={version}"], check=True)

    done = run(
        [str(python), "-m", "cookiecutter", str(TEMPLATE), "--no-input"], tmp_path
    )
    if version in OLD:
        assert done.returncode == 1
        (line,) = (done.stdout + done.stderr).splitlines()
        assert line == OLD[version]
        assert list(tmp_path.iterdir()) == []
    else:
        assert done.returncode == 0, done.stderr
        assert (tmp_path / "penguins" / "settings.yml").exists()
