"""Build the command that repeats a refused generation with corrected answers.

The new command is the one that the user ran, with all answers as arguments. It can be pasted
into bash, or into the command prompt of Windows. pre_gen_project.py imports this module;
cookiecutter itself does not use it.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys

# Options of cookiecutter and cruft that supply answers. The new command leaves them out,
# together with their values.
DROPPED_OPTIONS_WITH_VALUE = (
    "--replay-file",
    "--extra-context",
    "--extra-context-file",
    "-E",
)
# Options without a value that decide whether the questions are asked. The new command leaves
# them out, because it always has --no-input.
DROPPED_FLAGS = ("--no-input", "-y", "--replay")


def make_cookiecutter_command(
    arguments: list[str], answers: dict[str, str], folder_holds_files: bool
) -> str:
    """Return the cookiecutter command that generates the project with corrected answers.

    `arguments` are the arguments of the command that was refused. If the project's folder
    contains files already, the new command does not overwrite them.
    """
    options = drop_answers(arguments, list(answers))
    if folder_holds_files and "--skip-if-file-exists" not in options:
        options.append("--skip-if-file-exists")
    assignments = [
        f"{question}={protect_braces(answer)}" for question, answer in answers.items()
    ]
    return quote_all(["cookiecutter", "--no-input", *options, *assignments])


def make_cruft_command(arguments: list[str], answers: dict[str, str]) -> str:
    """Return the cruft command that generates the project with corrected answers.

    `arguments` are the arguments of the command that was refused. cruft takes answers as
    JSON.
    """
    protected_answers = {
        question: protect_braces(answer) for question, answer in answers.items()
    }
    context = json.dumps(protected_answers, ensure_ascii=False)
    options = drop_answers(arguments, list(answers))
    return quote_all(["cruft", *options, "--no-input", "--extra-context", context])


def drop_answers(arguments: list[str], questions: list[str]) -> list[str]:
    """Return the arguments of a command without answers, and without options about answers.

    With the question `task`, `["-f", "--replay-file", "a.json", "task=regression"]` gives
    `["-f"]`.
    """
    kept_arguments = []
    remaining = iter(arguments)
    for argument in remaining:
        name, equals, _ = argument.partition("=")
        is_answer = equals != "" and name in questions
        if is_answer or name in DROPPED_FLAGS:
            continue
        if name in DROPPED_OPTIONS_WITH_VALUE:
            value_is_next_argument = equals == ""
            if value_is_next_argument:
                # Drop the value as well.
                next(remaining, None)
            continue
        kept_arguments.append(argument)
    return kept_arguments


def protect_braces(answer: str) -> str:
    """Return an answer in a form that cookiecutter does not change.

    cookiecutter renders each answer with Jinja. So an answer with braces is written as a
    Jinja expression: a string in double braces, which renders to the answer.
    """
    if "{" not in answer:
        return answer
    string = json.dumps(answer, ensure_ascii=False)
    return "{{ " + string + " }}"


def quote_all(words: list[str]) -> str:
    """Return a program and its arguments as a command line for the shell of this system."""
    if os.name == "nt":
        return " ".join(quote_for_windows(word) for word in words)
    return " ".join(quote_for_bash(word) for word in words)


def quote_for_windows(word: str) -> str:
    """Quote an argument for the command prompt of Windows, `cmd`."""
    # list2cmdline puts an argument in quotes only if it is empty or holds a space or a tab.
    quoted = subprocess.list2cmdline([word])
    has_quotes = quoted.startswith('"')
    # Outside quotes, `cmd` reads these characters as redirections and operators.
    has_operators = re.search("[<>&|^]", quoted) is not None
    if has_operators and not has_quotes:
        return f'"{quoted}"'
    return quoted


def quote_for_bash(word: str) -> str:
    """Quote an argument for bash, with escapes if the terminal cannot show all characters."""
    if can_show(word):
        return shlex.quote(word)
    return quote_as_escapes(word)


def can_show(word: str) -> bool:
    """Return whether the terminal can show each character of a word."""
    try:
        word.encode(sys.stderr.encoding)
    except UnicodeEncodeError:
        return False
    return word.isprintable()


def quote_as_escapes(word: str) -> str:
    """Quote an argument for bash in ASCII: `Größe` becomes `$'Gr\\xc3\\xb6\\xc3\\x9fe'`."""
    # Python reads a byte that is not valid UTF-8 as a surrogate character. Here it becomes
    # the same byte again.
    utf8_bytes = word.encode("utf-8", "surrogateescape")
    # Latin-1 has one character for each byte, so Python writes one escape for each byte.
    escaped = utf8_bytes.decode("latin-1").encode("unicode_escape").decode()
    escaped_quotes = escaped.replace("'", "\\'")
    return f"$'{escaped_quotes}'"
