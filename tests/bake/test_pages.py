"""Test the pages of the template and of its projects: links, pictures, and names in them."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import xml.etree.ElementTree
from pathlib import Path
from urllib.parse import unquote

import pytest
import yaml
from conftest import SDKS, TEMPLATE, Bake

LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
LARGEST_PICTURE = 200_000  # bytes


def list_anchors(page: Path) -> set[str]:
    """Return the anchors that GitHub gives the headings of a page."""
    headings = re.findall(r"(?m)^#+ (.*)$", page.read_text(encoding="utf-8"))
    return {re.sub(r"[^\w -]", "", text).lower().replace(" ", "-") for text in headings}


def find_broken_links(pages: list[Path]) -> list[str]:
    """Return the links of some pages that lead to no file or heading, with their page."""
    broken = []
    for page in pages:
        for link in LINK.findall(page.read_text(encoding="utf-8")):
            if re.match("https?:", link):
                continue
            path, _, anchor = unquote(link).partition("#")
            target = page.parent / path if path else page
            if not target.exists() or (anchor and anchor not in list_anchors(target)):
                broken.append(f"{page.name}: {link}")
    return broken


@pytest.mark.parametrize("platform", ["none", "github", "azure-devops"])
@pytest.mark.parametrize("sdk", SDKS)
def test_links_of_a_project_lead_somewhere(bake: Bake, sdk: str, platform: str) -> None:
    project = bake(azureml_sdk=sdk, ci_platform=platform)
    pages = list(project.path.rglob("*.md"))
    assert len(pages) > 10
    assert find_broken_links(pages) == []


def test_links_of_the_template_lead_somewhere() -> None:
    assert (
        find_broken_links([*TEMPLATE.glob("*.md"), *TEMPLATE.glob("benchmarks/*.md")])
        == []
    )


def test_every_page_of_a_project_is_linked_from_its_readme(bake: Bake) -> None:
    project = bake()
    readme = (project.path / "README.md").read_text(encoding="utf-8")
    for page in project.path.glob("docs/*.md"):
        assert f"(docs/{page.name}" in readme


@pytest.mark.parametrize("name", ["report.png", "terminal.svg"])
def test_pictures_are_small_and_name_no_folder_of_a_machine(name: str) -> None:
    assert f"docs/pictures/{name}" in (TEMPLATE / "README.md").read_text()
    content = (TEMPLATE / "docs" / "pictures" / name).read_bytes()
    assert len(content) < LARGEST_PICTURE
    if name.endswith(".svg"):
        shown = "".join(xml.etree.ElementTree.fromstring(content).itertext())
        paths = re.findall(r"(?<!\S)/\S+", shown)
        assert paths
        assert all(path.startswith("/home/ann/penguins") for path in paths)


@pytest.mark.parametrize("name", ["bug", "idea"])
def test_issue_forms_ask_for_something(name: str) -> None:
    """GitHub shows no form that lacks one of these keys."""
    file = TEMPLATE / ".github" / "ISSUE_TEMPLATE" / f"{name}.yml"
    issue_form = yaml.safe_load(file.read_text(encoding="utf-8"))
    assert issue_form.keys() >= {"name", "description", "body"}
    for field in issue_form["body"]:
        assert field["attributes"]["label"]
        assert field["type"] in {"textarea", "input", "dropdown", "markdown"}


def write_release_notes(tag: str) -> subprocess.CompletedProcess[str]:
    """Run the script by which the workflow `release` gets the text for a tag."""
    script = TEMPLATE / ".github" / "release_notes.py"
    return subprocess.run(
        [sys.executable, script, tag],
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
    )


def test_a_release_has_the_newest_section_of_the_changelog() -> None:
    changelog = (TEMPLATE / "CHANGELOG.md").read_text(encoding="utf-8")
    newest, older, *_ = re.findall(r"(?m)^## (\S+) ", changelog)
    notes = write_release_notes(newest)
    assert notes.returncode == 0, notes.stderr
    assert "an update asks of you" in notes.stdout.lower()
    assert f"## {older}" not in notes.stdout
    refused = write_release_notes(older)
    assert refused.returncode == 1
    assert refused.stderr == (
        f"The tag is {older}, but runtime/__init__.py has {newest}.\n"
    )


def test_actions_of_the_template_are_pinned_by_commit() -> None:
    for workflow in TEMPLATE.glob(".github/workflows/*.yml"):
        used = re.findall(r"uses: (\S+)", workflow.read_text(encoding="utf-8"))
        assert used
        for action in used:
            assert re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}", action), action


def list_texts_in_code(project: Path) -> list[str]:
    """Return all texts in the project's Python files, those in f-strings too."""
    texts = []
    for file in project.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                texts.append(node.value)
    return texts


@pytest.mark.parametrize("sdk", SDKS)
def test_messages_of_the_troubleshooting_page_are_in_the_code(
    bake: Bake, sdk: str
) -> None:
    project = bake(azureml_sdk=sdk).path
    page = (project / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    first_cells = re.findall(r"(?m)^\| `([^`]+)`", page)
    assert len(first_cells) > 100
    code = list_texts_in_code(project)
    missing = [
        part
        for message in first_cells
        for part in re.split(r"\s*'?…'?\s*", message)  # a name may be in quotes
        if len(part) > 5 and not any(part in text for text in code)
    ]
    assert missing == []


def test_the_short_command_of_the_readme_is_installed(bake: Bake) -> None:
    project = bake()
    readme = (project.path / "README.md").read_text(encoding="utf-8")
    (command,) = re.findall(r"`(\S+)` is a short form of `python -m penguins`", readme)
    scripts = (project.path / "pyproject.toml").read_text(encoding="utf-8")
    assert f'\n"{command}" = "penguins.__main__:run_command"\n' in scripts
