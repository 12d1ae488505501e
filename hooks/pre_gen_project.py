"""Check the answers by the rules of the generated project, before anything is written.

Exits with 1 if an answer is wrong or files would be overwritten. cookiecutter then writes
nothing, and leaves a project that exists as it was.
"""

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

# In JSON the quotes and backslashes of an answer are escaped, so no answer ends the string.
ANSWERS = json.loads(r"""{{ cookiecutter|tojson }}""")
GENERATION = json.loads(r"""{{ describe_generation()|tojson }}""")
PROGRAM = GENERATION["program"]
ARGUMENTS = GENERATION["arguments"]
TEMPLATE = Path(GENERATION["template"])
QUESTIONS = {
    question: default
    for question, default in json.loads(
        (TEMPLATE / "cookiecutter.json").read_text(encoding="utf-8")
    ).items()
    if question[0] != "_"
}

# The runtime of the generated package holds no Jinja, so it can be imported from here.
sys.dont_write_bytecode = True
sys.path.insert(0, GENERATION["package"])
from runtime import rules

RULES = {
    "project_slug": rules.SLUG,
    "package_name": rules.NEW_PACKAGE,
    "azure_subscription_id": rules.SUBSCRIPTION,
    "azure_resource_group": rules.RESOURCE_GROUP,
    "azure_workspace_name": rules.WORKSPACE,
    "azure_region": rules.REGION,
    "compute_name": rules.CLUSTER,
    "vm_size": rules.VM_SIZE,
    "max_nodes": rules.Rule("a whole number, 1 or more", "|[1-9][0-9]*"),
}
for question, default in QUESTIONS.items():
    if isinstance(default, list):
        RULES[question] = rules.one_of(*default)


@dataclass(frozen=True)
class Remark:
    """What is wrong with an answer, or worth a look, and the right answer if it is known."""

    question: str
    message: str
    correction: str | None = None
    is_wrong: bool = True


def check_answers() -> Iterator[Remark]:
    """Yield a remark on each answer that is wrong or worth a look."""
    for question in QUESTIONS:
        answer = ANSWERS[question]
        if not isinstance(answer, str):
            yield refuse_other_types(question, answer)
        elif question in RULES:
            yield from apply_rule(question, answer)
        else:
            yield from find_control_characters(question, answer)


def refuse_other_types(question: str, answer: object) -> Remark:
    """Return the remark on an answer of a replay file or a program that is not text."""
    problem = f"{question} is {json.dumps(answer)}, but must be text"
    if isinstance(answer, (list, dict)):
        return Remark(question, f"{problem}: correct it.")

    text = "" if answer is None else str(answer)
    fix = f'write "{text}"'
    if isinstance(answer, bool):  # cookiecutter takes no text in place of a truth value
        fix += ", with the quotes, in your configuration file"
    return Remark(question, f"{problem}: {fix}.", correction=text)


def apply_rule(question: str, answer: str) -> Iterator[Remark]:
    """Yield a remark if the answer does not fit its rule, or fits and is unusual."""
    rule = RULES[question]
    problem = rule.check("", question, answer)
    if not problem or problem.kind == "empty":  # what is empty can be filled in later
        return

    corrected = rule.mend(answer.strip())
    yield Remark(
        question,
        message=str(problem),
        correction=corrected if rule.fits(corrected) else None,
        is_wrong=problem.kind == "wrong",
    )


def find_control_characters(question: str, answer: str) -> Iterator[Remark]:
    """Yield a remark if the answer holds a character that TOML, YAML or UTF-8 cannot hold."""
    unprintable = r"(?!\s)[\x00-\x1f\x7f-\x9f\ud800-\udfff]"
    character = re.search(unprintable, answer)
    if not character:
        return

    # Python makes such a surrogate of a byte that is not text in the encoding.
    if character[0] >= "\ud800":
        yield Remark(
            question,
            f"{question} is not text in this terminal's encoding: set LC_ALL=C.UTF-8, or "
            "write it in ASCII.",
        )
    else:
        yield Remark(
            question,
            f"{question} holds the character {character[0]!a}: take it out.",
            correction=re.sub(unprintable, "", answer),
        )


def check_folder() -> Iterator[Remark]:
    """Yield a remark if the project's folder holds files, and the command does not keep them."""
    is_empty = not {*os.listdir()} - {".git"}
    keeps_files = {"-s", "--skip-if-file-exists"} & {*ARGUMENTS}
    if is_empty or (PROGRAM == "cookiecutter" and keeps_files):
        return

    fix = "choose another project_slug"
    if PROGRAM != "cruft":
        fix = f"add --skip-if-file-exists, which keeps them, or {fix}"
    yield Remark(
        "project_slug",
        f"{Path.cwd()} holds files, which would be overwritten: {fix} (its README says "
        "how a project is updated).",
        correction=None if PROGRAM == "cruft" else ANSWERS["project_slug"],
    )


def ask_azure() -> Iterator[Remark]:
    """Yield a remark on each answer that Azure contradicts, and on what it could not tell."""
    from runtime.azure import online_checks

    names = online_checks.AzureNames(
        subscription_id=ANSWERS["azure_subscription_id"],
        resource_group=ANSWERS["azure_resource_group"],
        workspace_name=ANSWERS["azure_workspace_name"],
        region=ANSWERS["azure_region"],
        compute_name=ANSWERS["compute_name"],
        vm_size=ANSWERS["vm_size"],
        max_nodes=int(ANSWERS["max_nodes"] or 2),
        environment_name=f"{ANSWERS['project_slug']}-steps",
        provision_command=f"python -m {ANSWERS['package_name']} provision",
    )
    questions = {
        "subscription_id": "azure_subscription_id",
        "region": "azure_region",
    }
    for row in online_checks.ask_azure(names):
        is_wrong = row.status == online_checks.WRONG and row.setting != ""
        question = questions.get(row.setting, row.setting) or row.name
        if row.fix:
            yield Remark(question, f"{question}: {row}", is_wrong=is_wrong)


def explain_refusal(wrong: list[Remark]) -> str:
    """Return all that is wrong, and the command that generates with the right answers."""
    answers = {question: ANSWERS[question] for question in QUESTIONS}
    answers |= {remark.question: remark.correction for remark in wrong}
    to_fill_in = [question for question, answer in answers.items() if answer is None]
    answers |= {question: f"<{question}>" for question in to_fill_in}

    step = "run this command, with the corrections made"
    if to_fill_in:
        places = " and ".join(f"<{question}>" for question in to_fill_in)
        step = f"put your answers in place of {places} in this command, and run it"
    lines = [
        *(escape(remark.message) for remark in wrong),
        f"\nNothing was generated, and no file was changed. To continue, {step}:\n",
        " ".join(quote(word) for word in build_command(answers)),
        "\nWhat cookiecutter prints below says no more than this.",
    ]
    return "\n".join(lines)


def build_command(answers: dict[str, str]) -> list[str]:
    """Return the words of the command that generates the same project with `answers`."""
    for question, answer in answers.items():
        if "{" in answer:  # In double braces, cookiecutter takes it for this very text.
            text = json.dumps(answer, ensure_ascii=False)
            answers[question] = "{" * 2 + f" {text} " + "}" * 2

    options = keep_options(ARGUMENTS) if PROGRAM else [ANSWERS["_template"]]
    if PROGRAM == "cruft":
        answers_as_json = json.dumps(answers, ensure_ascii=False)
        return ["cruft", *options, "--no-input", "--extra-context", answers_as_json]

    if os.listdir() and "--skip-if-file-exists" not in options:
        options.append("--skip-if-file-exists")
    pairs = [f"{question}={answer}" for question, answer in answers.items()]
    return ["cookiecutter", "--no-input", *options, *pairs]


def keep_options(arguments: list[str]) -> list[str]:
    """Return the arguments of the command without answers and without sources of answers."""
    flags = ("--no-input", "-y", "--replay")
    with_value = ("--replay-file", "--extra-context", "--extra-context-file", "-E")
    kept = []
    remaining = iter(arguments)
    for argument in remaining:
        name, equals, _ = argument.partition("=")
        if name in with_value and not equals:
            next(remaining, None)
        elif name not in (*flags, *with_value, *QUESTIONS):
            kept.append(argument)
    return kept


def escape(text: str) -> str:
    """Return the text with escapes for what would move the cursor or hide other text."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def quote(word: str) -> str:
    """Return a word as it is written in a command line of this system."""
    if os.name == "nt":
        quoted = subprocess.list2cmdline([word])
        is_open = not quoted.startswith('"') and re.search("[<>&|^]", quoted)
        return f'"{quoted}"' if is_open else quoted
    if can_show(word):
        return shlex.quote(word)

    octets = word.encode("utf-8", "surrogateescape").decode("latin-1")
    escaped = octets.encode("unicode_escape").decode().replace("'", "\\'")
    return f"$'{escaped}'"


def can_show(word: str) -> bool:
    """Return whether the terminal shows a word as it is."""
    try:
        word.encode(sys.stderr.encoding)
    except UnicodeEncodeError:
        return False
    return word.isprintable()


def main() -> None:
    """Exit with all that is wrong; otherwise print what is worth a look."""
    if PROGRAM == "cruft" and ARGUMENTS[:1] != ["create"]:
        return  # `cruft update` and `cruft diff` repeat answers that were checked before.

    remarks = [*check_folder(), *check_answers()]
    if ANSWERS["check_azure"] == "online" and not any(r.is_wrong for r in remarks):
        remarks += ask_azure()

    wrong = [remark for remark in remarks if remark.is_wrong]
    if wrong:
        sys.exit(explain_refusal(wrong))
    if remarks:
        print("\nWorth a look, before anything is written:\n", file=sys.stderr)
        for remark in remarks:
            print(f"    {escape(remark.message)}", file=sys.stderr)


main()
