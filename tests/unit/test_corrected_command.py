"""Test the command that a refusal offers: bash must read each argument as it was."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import corrected_command
import pytest

ARGUMENTS = {
    "plain": "penguins",
    "empty": "",
    "spaces and quotes": """a 'b' "c" d""",
    "what bash expands": "$HOME `id` $(id) ~ * ! {a,b}",
    "backslashes": r"C:\new \\host\x41",
    "umlauts": "Größe",
    "beyond Latin-1": "企鵝 \U0001f427",
    "control characters": "a\tb\nc\x1b[0m\x7f",
    "reversed direction": "a\u202eb",
    "a byte that is no UTF-8": os.fsdecode(b"a\xffb"),
}


@pytest.mark.skipif(os.name == "nt", reason="the command is pasted into bash")
@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_bash_reads_each_argument_back(
    encoding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Terminal:
        """Standard error of a terminal with an encoding."""

        def __init__(self) -> None:
            self.encoding = encoding

    monkeypatch.setattr(sys, "stderr", Terminal())
    command = corrected_command.quote_all(["printf", r"%s\0", *ARGUMENTS.values()])
    monkeypatch.undo()

    assert command.isprintable()
    assert encoding == "utf-8" or command.isascii()
    bash = shutil.which("bash")
    assert bash
    printed = subprocess.run(
        [bash, "-c", command], capture_output=True, check=True, timeout=60
    ).stdout
    arguments = [os.fsdecode(argument) for argument in printed.split(b"\0")[:-1]]
    assert dict(zip(ARGUMENTS, arguments, strict=True)) == ARGUMENTS


@pytest.mark.parametrize(
    ("argument", "quoted"),
    [
        ("name=a", "name=a"),
        ("name=a b", '"name=a b"'),
        ("name=a&b", '"name=a&b"'),
        ("name=<name>", '"name=<name>"'),
        ('name="a"', r"name=\"a\""),
        ("", '""'),
    ],
)
def test_arguments_are_quoted_for_the_command_prompt_of_windows(
    argument: str, quoted: str
) -> None:
    assert corrected_command.quote_for_windows(argument) == quoted


@pytest.mark.parametrize(
    ("arguments", "others"),
    [
        (["--no-input", "gh:a/b", "task=regression"], ["gh:a/b"]),
        (["-fo", "out", "--replay", "gh:a/b"], ["-fo", "out", "gh:a/b"]),
        (["--replay-file", "a.json", "gh:a/b"], ["gh:a/b"]),
        (["--replay-file=a.json", "gh:a/b"], ["gh:a/b"]),
        (["create", "-y", "gh:a/b", "-E", "extra.json"], ["create", "gh:a/b"]),
        (["gh:a/b", "unknown=1"], ["gh:a/b", "unknown=1"]),
        (["-o", "task", "gh:a/b", "task=regression"], ["-o", "task", "gh:a/b"]),
    ],
    ids=lambda arguments: " ".join(arguments),
)
def test_options_are_repeated_without_answers(
    arguments: list[str], others: list[str]
) -> None:
    assert corrected_command.drop_answers(arguments, ["task"]) == others
