"""Refuses what cannot name a folder, before anything is written under such a name.

All other rules stand in the generated project's settings: see post_gen_project.py.
"""

import json
import os
import re
import sys

# JSON, in which no answer can end the string: the quotes and backslashes are escaped.
ANSWERS = json.loads(r"""{{ cookiecutter|tojson }}""")
OUTPUT = ANSWERS.get("_output_dir")  # which cruft does not set
# The project's own, in whose place cookiecutter would fail and leave half a project.
OURS = "data docs environment notebooks steps tests"
OURS += " readme.md pyproject.toml settings.yml"
FOLDER = r"(?!\.+$)(?!(?i:con|prn|aux|nul|com\d|lpt\d)(\.|$))[^/\\\x00-\x1f]{1,200}"
if os.name == "nt":
    FOLDER = r"(?!.*[. ]$)(?!.*[<>:\"|?*])" + FOLDER


def again(wrong: set[str]) -> str:
    """The command that asks again, with the good answers as defaults, in ASCII."""
    import shlex
    import subprocess

    def quote(word: str) -> str:
        if os.name == "nt":
            return subprocess.list2cmdline([word])
        if word.isascii() and word.isprintable():
            return shlex.quote(word)
        plain = set(range(32, 127)) - set(b"'\\")  # all others by their number
        octal = (chr(b) if b in plain else f"\\{b:03o}" for b in word.encode())
        return f"$'{''.join(octal)}'"

    words = ["cookiecutter", ANSWERS["_template"]]
    if ANSWERS.get("_checkout"):
        words += ["--checkout", ANSWERS["_checkout"]]
    if OUTPUT not in (None, os.environ.get("PWD")):
        words += ["--output-dir", OUTPUT]
    for key, answer in ANSWERS.items():
        if key[0] != "_" and key not in wrong and (os.name != "nt" or answer.isascii()):
            words.append(f"{key}={answer}")
    return " ".join(map(quote, words))


def main() -> None:
    wrong = {
        key: "must be the name of one folder, without slashes: "
        "write letters, digits, hyphens and underscores"
        for key in ("project_slug", "package_name")
        if not re.fullmatch(FOLDER, ANSWERS[key])
    }
    package = ANSWERS["package_name"]
    if package.lower() in OURS.split() or re.match(r"\.\w", package):
        word = re.sub(r"\W+", "_", package.strip("."))
        wrong["package_name"] = f"is taken by the project itself: write {word}_project"
    if not wrong:
        return
    from contextlib import suppress
    from pathlib import Path

    parts = Path(ANSWERS["project_slug"]).parts
    if OUTPUT and len(parts) > 1:  # cookiecutter removes a/b, but leaves a
        os.chdir(OUTPUT)
        for end in range(len(parts), 0, -1):
            with suppress(OSError):
                Path(*parts[:end]).rmdir()
    lines = [
        f"{key} is {json.dumps(ANSWERS[key])}, but {text}."
        for key, text in wrong.items()
    ]
    lines += [
        "",
        "Nothing was generated. To go on with the good answers:",
        again({*wrong}),
    ]
    sys.exit("\n".join(lines))


main()
