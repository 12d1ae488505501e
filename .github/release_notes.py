"""Print the section of CHANGELOG.md on a version, for its release on GitHub."""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
PROJECT = ROOT / "{{cookiecutter.project_slug}}"
RUNTIME = PROJECT / "{{cookiecutter.package_name}}" / "runtime"


def read_version() -> str:
    """Return the version that generated projects print."""
    text = (RUNTIME / "__init__.py").read_text(encoding="utf-8")
    version = re.search(r'(?m)^VERSION = "(.*)"$', text)
    if version is None:
        sys.exit("runtime/__init__.py has no line with VERSION.")
    return version[1]


def find_section(changelog: str, version: str) -> str:
    """Return the text below the heading of a version, empty if there is none."""
    heading = rf"^## {re.escape(version)} \(.*\)\n(.*?)(?=^## |\Z)"
    section = re.search(heading, changelog, re.MULTILINE | re.DOTALL)
    return section[1].strip() if section else ""


def main() -> None:
    """Print the section; exit with a sentence if the tag is not the version's."""
    tag = sys.argv[1]
    if tag != read_version():
        sys.exit(f"The tag is {tag}, but runtime/__init__.py has {read_version()}.")
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    section = find_section(changelog, tag)
    if not section:
        sys.exit(f"CHANGELOG.md has no section on {tag}.")
    print(section)


if __name__ == "__main__":
    main()
