"""Check the answers by the rules of the generated project, before anything is written.

If an answer is wrong, or if files would be overwritten, the hook prints all problems and a
command with corrected answers, and exits with 1. cookiecutter then writes nothing.
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

# The questions and their default answers. A name that begins with an underscore is not a
# question.
DEFAULTS = json.loads((TEMPLATE / "cookiecutter.json").read_text(encoding="utf-8"))
QUESTIONS = {key: value for key, value in DEFAULTS.items() if not key.startswith("_")}

# The rules are a module of the generated package. It holds no Jinja, so the hook imports it
# from the template.
sys.dont_write_bytecode = True
sys.path[:0] = [GENERATION["package"], str(TEMPLATE / "hooks")]
import corrected_command
from runtime import rules
from runtime.azure.check_results import AzureNames
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
    # A list has the answers to choose from.
    if isinstance(default, list):
        RULES[question] = one_of(*default)

# Control characters except white space, and surrogates, which are the characters from
# U+D800 to U+DFFF. None of them can be written in TOML, YAML or UTF-8.
UNWRITABLE = r"(?!\s)[\x00-\x1f\x7f-\x9f\ud800-\udfff]"

# The result of an online check names the setting that is wrong. Its question has the same
# name, except for these two settings.
QUESTION_BY_SETTING = {
    "subscription_id": "azure_subscription_id",
    "region": "azure_region",
}
# With one of these options, cookiecutter does not overwrite files.
SKIP_OPTIONS = {"-s", "--skip-if-file-exists"}


@dataclass(frozen=True)
class Remark:
    """A sentence about an answer that is wrong, or only unusual."""

    question: str
    message: str
    #: The answer with which the project can be generated, or None if it is not known.
    correction: str | None = None
    #: Whether the answer is wrong, so that no project is generated.
    refuses_answer: bool = True


def check_answers() -> Iterator[Remark]:
    """Yield a remark on each answer that is wrong or unusual."""
    for question in QUESTIONS:
        answer = ANSWERS[question]
        if not isinstance(answer, str):
            yield make_non_text_remark(question, answer)
        elif question in RULES:
            yield from check_by_rule(question, answer)
        else:
            yield from check_characters(question, answer)


def make_non_text_remark(question: str, answer: object) -> Remark:
    """Return the remark that an answer is not text, but for example a number.

    An answer that is not text comes from a configuration file, a replay file or another
    program.
    """
    problem = f"{question} is {json.dumps(answer)}, but must be text"
    if isinstance(answer, (list, dict)):
        return Remark(question, f"{problem}: correct it.")

    text = "" if answer is None else str(answer)
    fix = f'write "{text}"'
    if isinstance(answer, bool):
        # An answer on the command line cannot replace a boolean in the configuration file.
        # So the user has to correct this file, where true without quotes is a boolean.
        fix += ", with the quotes, in your configuration file"
    return Remark(question, f"{problem}: {fix}.", correction=text)


def check_by_rule(question: str, answer: str) -> Iterator[Remark]:
    """Yield a remark if the answer breaks the rule of its question, or looks unusual."""
    rule = RULES[question]
    problem = rule.check(question, answer)
    # Names on Azure may stay empty, and be filled in later.
    if problem is None or problem.kind == "empty":
        return

    correction = rule.correct(answer.strip())
    yield Remark(
        question,
        message=str(problem),
        correction=correction if rule.fits(correction) else None,
        refuses_answer=problem.kind == "wrong",
    )


def check_characters(question: str, answer: str) -> Iterator[Remark]:
    """Yield a remark if a character of the answer cannot be written into the project.

    The remark is about the first such character, and its correction has none of them.
    """
    match = re.search(UNWRITABLE, answer)
    if match is None:
        return

    # Python reads a byte that is invalid in the terminal's encoding as a surrogate.
    is_surrogate = "\ud800" <= match[0] <= "\udfff"
    if is_surrogate:
        yield Remark(
            question,
            f"{question} is not text in this terminal's encoding: set LC_ALL=C.UTF-8, or "
            "write it in ASCII.",
        )
    else:
        yield Remark(
            question,
            f"{question} holds the character {match[0]!a}: remove it.",
            correction=re.sub(UNWRITABLE, "", answer),
        )


def check_folder() -> Iterator[Remark]:
    """Yield a remark if the project's folder has files that generation might overwrite."""
    files = set(os.listdir()) - {".git"}
    if not files:
        return
    skips_files = not SKIP_OPTIONS.isdisjoint(ARGUMENTS)
    if PROGRAM == "cookiecutter" and skips_files:
        return

    problem = f"{Path.cwd()} holds files, which would be overwritten"
    advice = "To update a project, see its README."
    if PROGRAM == "cruft":
        message = f"{problem}: choose another project_slug. {advice}"
        yield Remark("project_slug", message)
    else:
        message = (
            f"{problem}: add --skip-if-file-exists, which keeps them, or choose another "
            f"project_slug. {advice}"
        )
        # The corrected command has this option, so the slug can stay as it is.
        yield Remark("project_slug", message, correction=ANSWERS["project_slug"])


def check_online() -> Iterator[Remark]:
    """Yield a remark on each answer that Azure contradicts or cannot confirm."""
    # Only the online checks need this module and the packages that it imports.
    from runtime.azure import online_checks

    for check in online_checks.ask_azure(collect_names()):
        result = check.result
        if not result.fix:
            # The user does not have to do anything about this result.
            continue

        if result.setting:
            question = QUESTION_BY_SETTING.get(result.setting, result.setting)
            refuses_answer = result.status == online_checks.WRONG
        else:
            # The problem is not about an answer, so it does not stop generation. The message
            # begins with the name of the check, such as "storage".
            question = check.name
            refuses_answer = False
        yield Remark(question, f"{question}: {result}", refuses_answer=refuses_answer)


def collect_names() -> AzureNames:
    """Return the names of the Azure resources in the answers, for the online checks."""
    # An empty answer stands for the default number of nodes, here as in settings.yml.
    max_nodes = ANSWERS["max_nodes"] or DEFAULTS["max_nodes"]
    return AzureNames(
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


def explain_refusal(problems: list[Remark]) -> str:
    """Return a message with all problems, and a command with corrected answers."""
    answers = correct_answers(problems)
    placeholders = [
        answer for question, answer in answers.items() if answer == f"<{question}>"
    ]
    next_step = "run this command, with the corrections made"
    if placeholders:
        next_step = (
            f"put your answers in place of {' and '.join(placeholders)} in this command, "
            "and run it"
        )
    lines = [
        *(make_harmless(remark.message) for remark in problems),
        f"\nNothing was generated, and no file was changed. To continue, {next_step}:\n",
        make_command(answers),
        "\nYou can ignore the error that cookiecutter prints below.",
    ]
    return "\n".join(lines)


def correct_answers(problems: list[Remark]) -> dict[str, str]:
    """Return the answers to all questions, with the wrong answers corrected.

    If no correction is known, the answer is a placeholder such as `<max_nodes>`.
    """
    answers = {question: ANSWERS[question] for question in QUESTIONS}
    for remark in problems:
        if remark.correction is None:
            answers[remark.question] = f"<{remark.question}>"
        else:
            answers[remark.question] = remark.correction
    return answers


def make_command(answers: dict[str, str]) -> str:
    """Return the command that generates the project with these answers."""
    if PROGRAM == "cruft":
        return corrected_command.make_cruft_command(ARGUMENTS, answers)
    # If another program has called cookiecutter, its arguments are not cookiecutter's.
    arguments = ARGUMENTS if PROGRAM == "cookiecutter" else [ANSWERS["_template"]]
    folder_holds_files = bool(os.listdir())
    return corrected_command.make_cookiecutter_command(
        arguments, answers, folder_holds_files
    )


def print_remarks(remarks: list[Remark]) -> None:
    """Print remarks on answers that are unusual, but allowed."""
    print(
        "\nPlease check these answers. They are unusual, but allowed:\n",
        file=sys.stderr,
    )
    for remark in remarks:
        print(f"    {make_harmless(remark.message)}", file=sys.stderr)


def main() -> None:
    """Check all answers. Exit with a message if an answer is wrong, or else print advice."""
    if PROGRAM == "cruft" and ARGUMENTS[:1] != ["create"]:
        # `cruft update` and `cruft diff` repeat answers that were checked before.
        return

    remarks = [*check_folder(), *check_answers()]
    problems = select_problems(remarks)
    if ANSWERS["check_azure"] == "online" and not problems:
        remarks += check_online()
        problems = select_problems(remarks)

    if problems:
        sys.exit(explain_refusal(problems))
    if remarks:
        print_remarks(remarks)


def select_problems(remarks: list[Remark]) -> list[Remark]:
    """Return only the remarks on wrong answers, and not the remarks on unusual answers."""
    return [remark for remark in remarks if remark.refuses_answer]


# cookiecutter runs this file as a script.
main()
