"""Test the command `cookiecutter`: what it prints, and how it refuses answers.

Each test runs the real command in a folder of its own. A refusal must leave the folder as
it was, and the command that it offers must work when it is pasted into bash.
"""

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

QUESTIONS = json.loads(
    (TEMPLATE / "cookiecutter.json").read_text(encoding="utf-8")
).keys()

needs_bash = pytest.mark.skipif(
    os.name == "nt", reason="the command is pasted into bash"
)


def generate(
    folder: Path, *options: str, **answers: str
) -> subprocess.CompletedProcess[str]:
    """Run cookiecutter with this template in a folder, without questions."""
    # cookiecutter ignores answers to questions that it does not know.
    assert answers.keys() <= QUESTIONS
    command = [sys.executable, "-m", "cookiecutter", str(TEMPLATE), "--no-input"]
    command += [*options, *(f"{key}={answer}" for key, answer in answers.items())]
    return run(command, folder)


def run(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a command in a folder, without a terminal to read from."""
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


def read_refusal(generation: subprocess.CompletedProcess[str]) -> list[str]:
    """Return the lines that the hook printed, without empty ones.

    The last two are the sentence that nothing was generated, and the command to continue
    with.
    """
    assert generation.returncode == 1
    assert "Traceback" not in generation.stdout + generation.stderr
    *lines, last = [line for line in generation.stderr.splitlines() if line]
    assert last == "You can ignore the error that cookiecutter prints below."
    return lines


def run_pasted_command(
    command: str, folder: Path, **answers: str
) -> subprocess.CompletedProcess[str]:
    """Run a command as a person does who pastes it into bash and fills in placeholders."""
    assert command.startswith("cookiecutter --no-input ")
    for question, answer in answers.items():
        placeholder = f"'{question}=<{question}>'"
        assert placeholder in command
        command = command.replace(placeholder, f"{question}={shlex.quote(answer)}")

    # The environment of the tests may not be on the PATH of bash.
    cookiecutter = f"{sys.executable} -m cookiecutter"
    command = command.replace("cookiecutter", cookiecutter, 1)
    bash = shutil.which("bash")
    assert bash
    return run([bash, "-c", command], folder)


def read_files(folder: Path) -> dict[Path, bytes]:
    """Return the contents of all files in a folder and its subfolders."""
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def call_cookiecutter(
    folder: Path, **arguments: object
) -> subprocess.CompletedProcess[str]:
    """Generate with a program that calls cookiecutter's function in a folder.

    cookiecutter keeps the answers of earlier generations in `folder`, not in the home.
    """
    code = (
        "import json, sys; from cookiecutter.main import cookiecutter; "
        "cookiecutter(sys.argv[1], no_input=True, **json.loads(sys.argv[2]))"
    )
    config = folder / "config.yml"
    config.write_text(f"replay_dir: {folder / 'replay'}", encoding="utf-8")
    arguments["config_file"] = str(config)
    generation = run(
        [sys.executable, "-c", code, str(TEMPLATE), json.dumps(arguments)], folder
    )
    config.unlink()
    return generation


FIVE_WRONG_ANSWERS = {
    "azure_subscription_id": "00000000-0000-0000-0000-000000000000",
    "azure_resource_group": "my group.",
    "azure_region": "West Europe",
    "compute_name": "cpu-cluster-1",
    "max_nodes": "0",
}


# What is printed after a generation


def test_default_answers_give_a_project_and_the_next_commands(tmp_path: Path) -> None:
    generation = generate(tmp_path)

    assert generation.returncode == 0, generation.stderr
    assert generation.stderr == ""
    assert generation.stdout.isascii()
    lines = [line.strip() for line in generation.stdout.splitlines()]
    heading = lines.index("The project has been generated. Next steps:")
    commands = lines[heading + 2 :]
    assert commands[:3] == [
        f"cd {tmp_path / 'penguins'}",
        "git init",
        "git add --all",
    ]
    assert "python -m penguins run training" in commands
    assert "workspace_name in .azureml/config.json" in lines
    assert "workspace.region in settings.yml" in lines
    assert not list((tmp_path / "penguins").rglob("__pycache__"))


def test_all_azure_answers_may_be_empty(tmp_path: Path) -> None:
    azure_questions = [
        question
        for question in QUESTIONS
        if question.startswith(("azure_", "compute_", "vm_"))
    ]
    generation = generate(tmp_path, **dict.fromkeys(azure_questions, ""), max_nodes="")

    assert generation.returncode == 0, generation.stderr
    assert "compute.name in settings.yml" in generation.stdout
    assert "compute.vm_size in settings.yml" in generation.stdout


def test_unusual_answers_are_accepted_with_a_remark(tmp_path: Path) -> None:
    generation = generate(tmp_path, azure_region="marsnorth", vm_size="Huge_1")

    assert generation.returncode == 0, generation.stderr
    lines = [line for line in generation.stderr.splitlines() if line]
    heading, region, vm_size = lines
    assert heading == "Please check these answers. They are unusual, but allowed:"
    assert region.startswith('    azure_region is "marsnorth": no region of this name')
    assert vm_size.startswith(
        '    vm_size is "Huge_1": sizes look like Standard_D4ds_v4'
    )


@pytest.mark.skipif(os.name == "nt", reason="a closed pipe is another error there")
@pytest.mark.parametrize("output", ["closed pipe", "full disk"])
def test_generation_succeeds_if_its_output_cannot_be_written(
    tmp_path: Path, output: str
) -> None:
    if output == "closed pipe":
        read_end, write_end = os.pipe()
        os.close(read_end)
    else:
        write_end = os.open("/dev/full", os.O_WRONLY)
    command = [sys.executable, "-m", "cookiecutter", str(TEMPLATE), "--no-input"]
    generation = subprocess.run(
        command, cwd=tmp_path, stdout=write_end, check=False, timeout=120
    )
    os.close(write_end)

    assert generation.returncode == 0
    assert (tmp_path / "penguins" / "settings.yml").exists()


# Any text is a good name for a project

PROJECT_NAMES = {
    "one letter": "a",
    "one digit": "7",
    "digit first": "9 lives",
    "60 letters": "x" * 60,
    "300 letters": "a" * 300,
    "60th letter with an accent": "a" * 59 + "é",
    "100 words": "ab " * 100,
    "accents": "Ünïcödé Größe",
    "Chinese": "企鵝",
    "apostrophe": "it's",
    "quotes": 'say "hi"',
    "backslash": "back\\slash",
    "slash": "a/b",
    "parent folder": "../up",
    "this folder": ".",
    "Jinja expression": "{{ 7 }}",
    "Jinja tag": "{% raw %}",
    "markup of rich": "[bold]",
    "two lines": "a\nb",
    "comment": "#",
    "spaces around": "  spaces  ",
    "option": "-v",
    "percent": "100% sure",
    "HTML tag": "<tag>",
    "HTML entity": "&amp;",
    "emoji and reversed direction": "\U0001f427\u202e",
}


@pytest.mark.parametrize("name", PROJECT_NAMES.values(), ids=PROJECT_NAMES)
def test_any_project_name_gives_a_project(tmp_path: Path, name: str) -> None:
    generation = generate(
        tmp_path, project_name=name, description=name, author_name=name
    )

    assert generation.returncode == 0, generation.stderr
    (project,) = tmp_path.iterdir()
    (package,) = (path.parent.name for path in project.glob("*/settings.py"))
    assert package.isidentifier()


@pytest.mark.parametrize("name", ["class", "json", "Azureml", "Train", "Imp", "Con"])
def test_project_name_whose_package_would_hide_a_module_is_refused(
    tmp_path: Path, name: str
) -> None:
    lines = read_refusal(generate(tmp_path, project_name=name))

    package = name.lower()
    (line,) = (line for line in lines if line.startswith("package_name "))
    assert line.startswith(f'package_name is "{package}", but must be')
    assert line.endswith(f"write {package}_project.")
    assert list(tmp_path.iterdir()) == []


# Wrong answers


@needs_bash
def test_five_wrong_answers_are_reported_at_once(tmp_path: Path) -> None:
    name = 'Pingüinos d\'Or "x" \\ $HOME `y`'
    right_answers = {
        "project_name": name,
        "azure_workspace_name": "mlw",
        "description": "a\nb",
    }
    generation = generate(tmp_path, **FIVE_WRONG_ANSWERS, **right_answers)

    *lines, explanation, command = read_refusal(generation)
    assert list(tmp_path.iterdir()) == []
    texts_by_question = {
        "azure_subscription_id": ["a placeholder", "az account show"],
        "azure_resource_group": ["my group.", "write my-group."],
        "azure_region": ["West Europe", "write westeurope."],
        "compute_name": ["cpu-cluster-1", "write cpu-cluster-a."],
        "max_nodes": ["0", "1 or more"],
    }
    assert [line.split()[0] for line in lines] == list(texts_by_question)
    for line, texts in zip(lines, texts_by_question.values(), strict=True):
        assert all(text in line for text in texts)
    assert explanation.startswith("Nothing was generated, and no file was changed.")
    assert "<azure_subscription_id> and <max_nodes>" in explanation
    for correction in ("my-group", "westeurope", "cpu-cluster-a"):
        assert f"={correction} " in command

    second = run_pasted_command(
        command, tmp_path, azure_subscription_id="", max_nodes="3"
    )
    assert second.returncode == 0, second.stderr
    (project,) = tmp_path.iterdir()
    config = (project / ".azureml" / "config.json").read_text(encoding="utf-8")
    assert json.loads(config)["workspace_name"] == "mlw"
    assert "max_nodes: 3" in (project / "settings.yml").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("question", "answer", "fix"),
    [
        ("project_slug", "my project", "write my-project."),
        ("project_slug", "pingüinos", "write pinguinos."),
        ("project_slug", "v1.2", "write v1-2."),
        ("project_slug", "a" * 101, f"write {'a' * 100}."),
        ("project_slug", "AzureML-demo", "write azureml-demo."),
        ("project_slug", "CON", "write CON-project."),
        ("package_name", "my-package", "write my_package."),
        ("package_name", "9lives", "write p9lives."),
        ("package_name", "lambda", "write lambda_project."),
        ("package_name", "train", "write train_project."),
        ("package_name", "a" * 41, f"write {'a' * 40}."),
        ("package_name", "MyPenguins", "write mypenguins."),
        ("max_nodes", "two", "correct it."),
        ("max_nodes", "'", "correct it."),
        ("max_nodes", "1.5", "correct it."),
        ("compute_name", 'a"b', "write a-b."),
        ("azure_resource_group", "rg\n", "write rg."),
        ("azure_workspace_name", "\\", "lists the workspaces)."),
        ("azure_workspace_name", '"""', "lists the workspaces)."),
    ],
)
def test_wrong_answer_is_refused_with_its_fix(
    tmp_path: Path, question: str, answer: str, fix: str
) -> None:
    answers = {"package_name": "penguins", question: answer}
    line, *_ = read_refusal(generate(tmp_path, **answers))

    assert line.startswith(f"{question} is ")
    assert line.endswith(fix)
    assert list(tmp_path.iterdir()) == []


def test_package_name_of_a_folder_or_file_of_the_project_is_refused(
    tmp_path: Path,
) -> None:
    project = TEMPLATE / "{{cookiecutter.project_slug}}"
    names = {path.name for path in project.iterdir()} - {"__pycache__"}
    assert "steps" in names
    # The names with braces are those of the package, and of files of one platform.
    for name in (name.upper() for name in names if "{" not in name):
        line, *_ = read_refusal(generate(tmp_path, package_name=name))
        assert line.startswith(f'package_name is "{name}", but must be')
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("question", "answer"),
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
def test_name_that_no_folder_can_have_is_refused_with_all_other_answers(
    tmp_path: Path, question: str, answer: str
) -> None:
    folder = tmp_path / "here"
    folder.mkdir()
    answers = {"package_name": "penguins", question: answer, "max_nodes": "0"}
    line, other_line, _, command = read_refusal(generate(folder, **answers))

    assert line.startswith(f"{question} is {json.dumps(answer)}, but must be 1 to ")
    assert other_line.startswith("max_nodes is ")
    assert command.startswith("cookiecutter ")
    assert f"{question}={answer} " not in command
    assert list(tmp_path.rglob("*")) == [folder]


@pytest.mark.parametrize(
    "slug",
    ["a/b", "../a", "/tmp/a", "a\\b", "a" * 256, "ü" * 128],
    ids=["a/b", "../a", "/tmp/a", "backslash", "256 bytes", "128 umlauts"],
)
@pytest.mark.parametrize("options", [[], ["-f"]], ids=["new", "overwrite"])
def test_slug_that_cannot_name_one_folder_is_refused_before_the_folder_is_made(
    tmp_path: Path, slug: str, options: list[str]
) -> None:
    folder = tmp_path / "here"
    folder.mkdir()
    generation = generate(folder, *options, project_slug=slug)

    assert generation.returncode == 1
    (line,) = generation.stderr.splitlines()
    shown_slug = json.dumps(slug, ensure_ascii=False)
    assert line.startswith(f"project_slug is {shown_slug}, but must be 1 to 100 ")
    assert list(tmp_path.rglob("*")) == [folder]


@pytest.mark.parametrize("description", ["bell \a", "\x7f", "\x9b0m"], ids=ascii)
def test_control_character_is_refused(tmp_path: Path, description: str) -> None:
    line, *_ = read_refusal(generate(tmp_path, description=description))

    assert line.startswith("description holds the character '\\x")
    assert list(tmp_path.iterdir()) == []


def test_byte_that_is_no_text_is_refused(tmp_path: Path) -> None:
    description = os.fsdecode(b"\xff")
    line, *_ = read_refusal(generate(tmp_path, description=description))

    assert line.startswith(
        "description is not text in this terminal's encoding: set LC_ALL=C.UTF-8"
    )
    assert list(tmp_path.iterdir()) == []


def test_without_hooks_the_projects_check_reports_wrong_answers(tmp_path: Path) -> None:
    options = ("--accept-hooks", "no")
    generation = generate(
        tmp_path, *options, **FIVE_WRONG_ANSWERS, package_name="class"
    )
    assert generation.returncode == 0, generation.stderr

    command = [sys.executable, "-m", "class", "check", "--json"]
    check = run(command, tmp_path / "penguins")
    assert check.returncode == 1
    rows = json.loads(check.stdout)["checks"]
    fixes = {row["key"]: row["fix"] for row in rows if row["status"] == "wrong"}
    assert fixes["compute.name"] == "write cpu-cluster-a"
    assert fixes["workspace.region"] == "write westeurope"
    assert fixes["resource_group"] == "write my-group"
    assert fixes["package_name"] == "write class_project"
    assert {"subscription_id", "compute.max_nodes"} <= fixes.keys()
    (workspace_name,) = (row for row in rows if row["key"] == "workspace_name")
    assert workspace_name["status"] == "to fill in"


# Answers from files and from other programs


@needs_bash
@pytest.mark.parametrize(
    "question", ["azure_region", "author_name", "description", "max_nodes"]
)
def test_empty_answer_in_the_configuration_file_is_refused(
    tmp_path: Path, question: str
) -> None:
    config = tmp_path / "config.yml"
    config.write_text(f"default_context:\n  {question}:\n", encoding="utf-8")
    generation = generate(tmp_path, "--config-file", str(config))

    line, _, command = read_refusal(generation)
    assert line == f'{question} is null, but must be text: write "".'
    assert list(tmp_path.iterdir()) == [config]
    assert run_pasted_command(command, tmp_path).returncode == 0


@needs_bash
def test_truth_value_in_the_configuration_file_is_refused(tmp_path: Path) -> None:
    config = tmp_path / "config.yml"
    config.write_text("default_context: {author_name: yes}", encoding="utf-8")
    generation = generate(tmp_path, "--config-file", str(config))

    line, _, command = read_refusal(generation)
    assert line.endswith('write "True", with the quotes, in your configuration file.')
    config.write_text('default_context: {author_name: "yes"}', encoding="utf-8")
    assert run_pasted_command(command, tmp_path).returncode == 0


def test_null_character_in_the_configuration_file_is_refused(tmp_path: Path) -> None:
    config = tmp_path / "config.yml"
    config.write_text('default_context: {description: "a\\0b"}', encoding="utf-8")
    generation = generate(tmp_path, "--config-file", str(config))

    line, *_ = read_refusal(generation)
    assert line.startswith("description holds the character '\\x00'")
    assert list(tmp_path.iterdir()) == [config]


@pytest.mark.parametrize("question", ["project_name", "project_slug", "package_name"])
@pytest.mark.parametrize("answer", [None, True], ids=json.dumps)
def test_answer_of_a_program_that_is_no_text_is_refused(
    tmp_path: Path, question: str, answer: object
) -> None:
    generation = call_cookiecutter(tmp_path, extra_context={question: answer})

    assert generation.returncode == 1
    message = f"{question} is {json.dumps(answer)}, but must be text"
    assert message in generation.stderr
    assert not (tmp_path / "penguins").exists()


def test_list_of_a_program_is_read_as_choices(tmp_path: Path) -> None:
    """cookiecutter takes the first of the choices."""
    answers = {"project_name": ["Gulls", "Terns"]}
    generation = call_cookiecutter(tmp_path, extra_context=answers)

    assert generation.returncode == 0, generation.stderr
    assert (tmp_path / "gulls" / "settings.yml").exists()


@needs_bash
def test_answers_of_a_replay_file_that_are_no_text_are_refused(tmp_path: Path) -> None:
    assert call_cookiecutter(tmp_path).returncode == 0
    shutil.rmtree(tmp_path / "penguins")
    (replay,) = (tmp_path / "replay").iterdir()
    context = json.loads(replay.read_text(encoding="utf-8"))
    context["cookiecutter"] |= {
        "azure_region": None,
        "max_nodes": 4,
        "vm_size": ["a"],
        "task": "guess",
    }
    replay.write_text(json.dumps(context), encoding="utf-8")
    command = [sys.executable, "-m", "cookiecutter", str(TEMPLATE)]
    generation = run([*command, "--replay-file", str(replay)], tmp_path)

    *lines, _, corrected_command = read_refusal(generation)
    assert sorted(lines) == [
        'azure_region is null, but must be text: write "".',
        'max_nodes is 4, but must be text: write "4".',
        'task is "guess", but must be one of classification, regression: correct it.',
        'vm_size is ["a"], but must be text: correct it.',
    ]
    assert not (tmp_path / "penguins").exists()
    second = run_pasted_command(
        corrected_command, tmp_path, task="regression", vm_size=""
    )
    assert second.returncode == 0, second.stderr


# The command that a refusal offers


@needs_bash
def test_placeholders_that_were_not_replaced_are_refused(tmp_path: Path) -> None:
    command = read_refusal(generate(tmp_path, max_nodes="0"))[-1]
    second = run_pasted_command(command, tmp_path)

    line, _, same_command = read_refusal(second)
    assert line.startswith('max_nodes is "<max_nodes>", a placeholder')
    assert same_command == command


@needs_bash
@pytest.mark.parametrize(
    ("encoding", "shown_answer"),
    [
        ("utf-8", "'description=Größe'"),
        ("ascii", r"$'description=Gr\xc3\xb6\xc3\x9fe'"),
    ],
)
def test_pasted_command_keeps_umlauts_in_any_terminal(
    tmp_path: Path, encoding: str, shown_answer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONIOENCODING", encoding)
    generation = generate(tmp_path, description="Größe", vm_size="a b")

    command = read_refusal(generation)[-1]
    assert f" {shown_answer} " in command
    assert run_pasted_command(command, tmp_path).returncode == 0
    readme = (tmp_path / "penguins" / "README.md").read_text(encoding="utf-8")
    assert "Größe" in readme


@needs_bash
def test_pasted_command_generates_where_the_first_would_have(tmp_path: Path) -> None:
    (tmp_path / "my projects").mkdir()
    options = ("--output-dir", "my projects")
    command = read_refusal(generate(tmp_path, *options, compute_name="c_d_e"))[-1]

    assert run_pasted_command(command, tmp_path).returncode == 0
    assert (tmp_path / "my projects" / "penguins" / "settings.yml").exists()


@needs_bash
def test_pasted_command_keeps_the_options(tmp_path: Path) -> None:
    templates = tmp_path / "of templates"
    template = templates / "this one"
    template.mkdir(parents=True)
    for part in TEMPLATE_PARTS:
        copy = shutil.copytree if (TEMPLATE / part).is_dir() else shutil.copy
        copy(TEMPLATE / part, template / part)
    config = tmp_path / "config.yml"
    config.write_text("default_context: {author_name: Zoë}", encoding="utf-8")
    options = ["--no-input", "-fo", "out", "--config-file=config.yml"]
    options += ["--directory", "this one"]
    answers = ["task=regression", "vm_size=a b", "description=a"]
    generation = run(
        [sys.executable, "-m", "cookiecutter", *options, str(templates), *answers],
        tmp_path,
    )

    command = read_refusal(generation)[-1]
    assert command.startswith(f"cookiecutter {shlex.join(options)} ")
    assert " task=regression " in command
    assert " vm_size=a_b " in command
    assert command.count("vm_size=") == command.count("description=") == 1
    second = run_pasted_command(command, tmp_path)
    assert second.returncode == 0, second.stderr
    project = tmp_path / "out" / "penguins"
    assert "Zoë" in (project / "pyproject.toml").read_text(encoding="utf-8")
    assert "task: regression" in (project / "settings.yml").read_text(encoding="utf-8")


@needs_bash
def test_pasted_command_keeps_answers_that_look_like_jinja(tmp_path: Path) -> None:
    description = '{{ x }} {% raw %} {# "c" \\ 🐧'
    # cookiecutter renders each answer, so the description is written as an expression.
    answer = f"{{{{ {json.dumps(description, ensure_ascii=False)} }}}}"
    command = read_refusal(generate(tmp_path, description=answer, vm_size="a b"))[-1]

    assert run_pasted_command(command, tmp_path).returncode == 0
    readme = (tmp_path / "penguins" / "README.md").read_text(encoding="utf-8")
    assert description in readme


# Folders that hold files already


@needs_bash
@pytest.mark.parametrize("options", [["-f"], ["-f", "-s"]], ids=" ".join)
def test_wrong_answer_over_a_project_changes_no_file(
    tmp_path: Path, options: list[str]
) -> None:
    assert generate(tmp_path).returncode == 0
    settings = tmp_path / "penguins" / "settings.yml"
    settings.write_text("edited", encoding="utf-8")
    files_before = read_files(tmp_path)
    generation = generate(tmp_path, *options, azure_region="West Europe")

    command = read_refusal(generation)[-1]
    assert read_files(tmp_path) == files_before
    second = run_pasted_command(command, tmp_path)
    assert second.returncode == 0, second.stderr
    assert settings.read_text(encoding="utf-8") == "edited"


def test_folder_of_a_new_git_repository_is_not_refused(tmp_path: Path) -> None:
    (tmp_path / "penguins" / ".git").mkdir(parents=True)
    generation = generate(tmp_path, "-f")

    assert generation.returncode == 0, generation.stderr
    assert "git init" not in generation.stdout


@needs_bash
def test_files_of_the_user_are_never_overwritten(tmp_path: Path) -> None:
    assert generate(tmp_path).returncode == 0
    project = tmp_path / "penguins"
    (project / "settings.yml").write_text("edited", encoding="utf-8")
    (project / "README.md").unlink()
    files_before = read_files(tmp_path)
    generation = generate(tmp_path, "-f")

    line, _, command = read_refusal(generation)
    assert read_files(tmp_path) == files_before
    problem = "holds files, which would be overwritten: add --skip"
    assert line.startswith(f"{project} {problem}")

    assert run_pasted_command(command, tmp_path).returncode == 0
    files_after = read_files(tmp_path)
    assert files_after.keys() - files_before.keys() == {project / "README.md"}
    assert files_after.items() >= files_before.items()


def test_a_program_that_calls_cookiecutter_overwrites_nothing(tmp_path: Path) -> None:
    readme = tmp_path / "penguins" / "README.md"
    readme.parent.mkdir()
    readme.write_text("edited", encoding="utf-8")
    generation = call_cookiecutter(tmp_path, overwrite_if_exists=True)

    assert generation.returncode != 0
    assert "holds files, which would be overwritten: add" in generation.stderr
    assert read_files(tmp_path / "penguins") == {readme: b"edited"}


# Versions of cookiecutter

MESSAGES_OF_OLD_VERSIONS = {
    "1.7.3": "Unable to load extension: No module named "
    "'this_template_needs_cookiecutter_2_2_3_or_newer'",
    "2.1.1": "This template needs cookiecutter 2.2.3 or newer, and this is 2.1.1: install "
    "a newer one, for example with `pipx install cookiecutter`.",
}


def run_other_cookiecutter(
    version: str, environment: Path, folder: Path
) -> subprocess.CompletedProcess[str]:
    """Generate in a folder with another version, which is installed into `environment`."""
    uv = TEMPLATE / "build" / "tools" / "bin" / "uv"
    if not uv.exists():
        pytest.skip("`make test` installs uv into build/tools")
    create = [str(uv), "venv", "-q", "--python", sys.executable, str(environment)]
    subprocess.run(create, check=True, timeout=300)

    python = environment / ("Scripts" if os.name == "nt" else "bin") / "python"
    install = [str(uv), "pip", "install", "-q", "--python", str(python)]
    subprocess.run([*install, f"cookiecutter=={version}"], check=True, timeout=300)
    command = [str(python), "-m", "cookiecutter", str(TEMPLATE), "--no-input"]
    return run(command, folder)


@pytest.mark.parametrize("version", MESSAGES_OF_OLD_VERSIONS)
def test_old_cookiecutter_is_refused(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, version: str
) -> None:
    environment = tmp_path_factory.mktemp("environment") / ".venv"
    generation = run_other_cookiecutter(version, environment, tmp_path)

    assert generation.returncode == 1
    (line,) = (generation.stdout + generation.stderr).splitlines()
    assert line == MESSAGES_OF_OLD_VERSIONS[version]
    assert list(tmp_path.iterdir()) == []


def test_oldest_supported_cookiecutter_generates(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    environment = tmp_path_factory.mktemp("environment") / ".venv"
    generation = run_other_cookiecutter("2.2.3", environment, tmp_path)

    assert generation.returncode == 0, generation.stderr
    assert (tmp_path / "penguins" / "settings.yml").exists()
