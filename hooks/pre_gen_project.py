"""Check the answers before anything is written, by the rules of the generated project.

If an answer is wrong, or if files would be overwritten, the hook prints all problems and a
command to continue with, and exits with 1. cookiecutter then writes nothing.
"""

import json
import os
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

# JSON puts a backslash before each quote of an answer, so no answer can end this string.
ANSWERS = json.loads(r"""{{ cookiecutter|tojson }}""")
# The template's extension offers this function, which describes the command that generates.
GENERATION = json.loads(r"""{{ describe_generation()|tojson }}""")
PROGRAM = GENERATION["program"]
ARGUMENTS = GENERATION["arguments"]
TEMPLATE = Path(GENERATION["template"])

# The questions and their default answers. Names that begin with an underscore are never
# asked.
DEFAULTS = json.loads((TEMPLATE / "cookiecutter.json").read_text(encoding="utf-8"))
QUESTIONS = {key: value for key, value in DEFAULTS.items() if not key.startswith("_")}

# The rules are a module of the generated package. It holds no Jinja, so the hook imports it
# from the template.
sys.dont_write_bytecode = True
sys.path[:0] = [GENERATION["package"], str(TEMPLATE / "hooks")]
import corrected_command
from runtime import rules
from runtime.harmless_text import make_harmless
from runtime.rule import Rule, one_of

RULES = {
    "project_slug": rules.SLUG,
    "package_name": rules.NEW_PACKAGE,
    "azure_subscription_id": rules.SUBSCRIPTION,
    "azure_resource_group": rules.RESOURCE_GROUP,
    "azure_workspace_name": rules.WORKSPACE,
    "azure_region": rules.REGION,
    "compute_name": rules.CLUSTER,
    "vm_size": rules.VM_SIZE,
    # An empty answer stands for the default number of nodes.
    "max_nodes": Rule("a whole number, 1 or more", "([1-9][0-9]*)?"),
}
for question, default in QUESTIONS.items():
    if isinstance(default, list):
        RULES[question] = one_of(*default)


@dataclass(frozen=True)
class Remark:
    """A sentence about an answer that is wrong, or only unusual."""

    question: str
    message: str
    #: The right answer, if it is known.
    correction: str | None = None
    is_wrong: bool = True


def check_answers() -> Iterator[Remark]:
    """Yield a remark on each answer that is wrong or unusual."""
    for question in QUESTIONS:
        answer = ANSWERS[question]
        if not isinstance(answer, str):
            yield refuse_value(question, answer)
        elif question in RULES:
            yield from check_by_rule(question, answer)
        else:
            yield from find_control_characters(question, answer)


def refuse_value(question: str, answer: object) -> Remark:
    """Return the remark on an answer that is not text.

    Such an answer comes from a configuration file, a replay file or another program.
    """
    problem = f"{question} is {json.dumps(answer)}, but must be text"
    if isinstance(answer, (list, dict)):
        return Remark(question, f"{problem}: correct it.")

    text = "" if answer is None else str(answer)
    fix = f'write "{text}"'
    if isinstance(answer, bool):
        # cookiecutter does not let an answer of the command line replace a boolean of the
        # configuration file.
        fix += ", with the quotes, in your configuration file"
    return Remark(question, f"{problem}: {fix}.", correction=text)


def check_by_rule(question: str, answer: str) -> Iterator[Remark]:
    """Yield a remark if the answer breaks its rule or looks unusual."""
    rule = RULES[question]
    problem = rule.check(question, answer)
    # Only the names on Azure may be empty. They can be filled in later.
    if problem is None or problem.kind == "empty":
        return

    correction = rule.correct(answer.strip())
    if not rule.fits(correction):
        correction = None
    is_wrong = problem.kind == "wrong"
    yield Remark(question, str(problem), correction, is_wrong)


def find_control_characters(question: str, answer: str) -> Iterator[Remark]:
    """Yield a remark if a character of the answer cannot be written to TOML, YAML or UTF-8."""
    control_characters = r"(?!\s)[\x00-\x1f\x7f-\x9f\ud800-\udfff]"
    character = re.search(control_characters, answer)
    if character is None:
        return

    # Where a byte is invalid in the terminal's encoding, Python reads a surrogate, which is
    # a character from U+D800 to U+DFFF.
    is_surrogate = character[0] >= "\ud800"
    if is_surrogate:
        yield Remark(
            question,
            f"{question} is not text in this terminal's encoding: set LC_ALL=C.UTF-8, or "
            "write it in ASCII.",
        )
    else:
        yield Remark(
            question,
            f"{question} holds the character {character[0]!a}: take it out.",
            correction=re.sub(control_characters, "", answer),
        )


def check_folder() -> Iterator[Remark]:
    """Yield a remark if generation would overwrite files in the project's folder."""
    files = set(os.listdir()) - {".git"}
    skips_files = "-s" in ARGUMENTS or "--skip-if-file-exists" in ARGUMENTS
    if not files or (PROGRAM == "cookiecutter" and skips_files):
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


def check_online() -> Iterator[Remark]:
    """Yield a remark on each answer that Azure contradicts or cannot confirm."""
    # Imported only here, because nothing for Azure is needed without online checks.
    from runtime.azure import online_checks

    # An empty answer stands for the default number of nodes, here as in settings.yml.
    max_nodes = ANSWERS["max_nodes"] or DEFAULTS["max_nodes"]

    names = online_checks.AzureNames(
        subscription_id=ANSWERS["azure_subscription_id"],
        resource_group=ANSWERS["azure_resource_group"],
        workspace_name=ANSWERS["azure_workspace_name"],
        region=ANSWERS["azure_region"],
        compute_name=ANSWERS["compute_name"],
        vm_size=ANSWERS["vm_size"],
        max_nodes=int(max_nodes),
        environment_name=f"{ANSWERS['project_slug']}-steps",
        provision_command=f"python -m {ANSWERS['package_name']} provision",
    )
    # The questions that have another name than the setting that they fill in.
    renamed_questions = {
        "subscription_id": "azure_subscription_id",
        "region": "azure_region",
    }
    for check in online_checks.ask_azure(names):
        result = check.result
        if not result.fix:
            continue

        if result.setting:
            question = renamed_questions.get(result.setting, result.setting)
            is_wrong = result.status == online_checks.WRONG
        else:
            # No other answer would solve this problem, so it does not stop generation. The
            # message begins with the name of the check, such as "storage".
            question = check.name
            is_wrong = False
        yield Remark(question, f"{question}: {result}", is_wrong=is_wrong)


def explain_refusal(wrong: list[Remark]) -> str:
    """Return all problems, and the command that generates the project with right answers."""
    answers = {question: ANSWERS[question] for question in QUESTIONS}
    placeholders = []
    for remark in wrong:
        if remark.correction is None:
            placeholder = f"<{remark.question}>"
            placeholders.append(placeholder)
            answers[remark.question] = placeholder
        else:
            answers[remark.question] = remark.correction

    next_step = "run this command, with the corrections made"
    if placeholders:
        next_step = (
            f"put your answers in place of {' and '.join(placeholders)} in this command, "
            "and run it"
        )
    lines = [
        *(make_harmless(remark.message) for remark in wrong),
        f"\nNothing was generated, and no file was changed. To continue, {next_step}:\n",
        make_command(answers),
        "\nYou can ignore the error that cookiecutter prints below.",
    ]
    return "\n".join(lines)


def make_command(answers: dict[str, str]) -> str:
    """Return the command that generates the project with these answers."""
    if PROGRAM == "cruft":
        return corrected_command.command_for_cruft(ARGUMENTS, answers)
    # Another program that calls cookiecutter has no arguments that could be repeated.
    arguments = ARGUMENTS if PROGRAM else [ANSWERS["_template"]]
    folder_holds_files = bool(os.listdir())
    return corrected_command.command_for_cookiecutter(
        arguments, answers, folder_holds_files
    )


def main() -> None:
    """Exit with all problems, or print remarks on answers that are only unusual."""
    if PROGRAM == "cruft" and ARGUMENTS[:1] != ["create"]:
        # `cruft update` and `cruft diff` repeat answers that were checked before.
        return

    remarks = [*check_folder(), *check_answers()]
    if ANSWERS["check_azure"] == "online" and not any(
        remark.is_wrong for remark in remarks
    ):
        remarks += check_online()

    wrong = [remark for remark in remarks if remark.is_wrong]
    if wrong:
        sys.exit(explain_refusal(wrong))
    if remarks:
        print(
            "\nPlease check these answers. They are unusual, but allowed:\n",
            file=sys.stderr,
        )
        for remark in remarks:
            print(f"    {make_harmless(remark.message)}", file=sys.stderr)


# cookiecutter runs this file as a script.
main()
