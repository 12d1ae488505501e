"""Test provision, submit and publish if Azure refuses, stalls or fails, with both SDKs.

The stand-in refuses with the words of the real services: azure_standin/refusals.py.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing

import pytest
from azure_standin import Fault, Standin
from azure_standin.refusals import REFUSALS, SOFT_DELETED_WORKSPACE
from azure_user import (
    ANSWERS,
    STEPS,
    Shell,
    User,
    assert_no_secret,
    assert_one_sentence,
)
from conftest import SDKS, Bake

#: A request fails after so many seconds without a byte, which is a minute for users.
SILENCE = "0.5"
#: Patterns of the requests that send the pipeline, the code of a step, and the data.
PIPELINE = {"azureml-sdk": "POST ml/.*WithGraph", "azure-ai-ml": "PUT arm.*/jobs/"}
CODE = "PUT blob/.*train.py"
DATA = "PUT blob/datastore/"


@pytest.fixture(scope="module", params=SDKS)
def user(
    request: pytest.FixtureRequest,
    bake: Bake,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[User]:
    """A project whose steps do nothing, in a workspace with a cluster."""
    folder = tmp_path_factory.mktemp("azure")
    with Standin.running(folder / "standin") as standin:
        standin.create_workspace("workspace", "group", "cpu-cluster")
        project = bake(**ANSWERS, azureml_sdk=request.param)
        standin.azure.python = project.interpreter
        user = User(project, standin, folder / "home")
        for step in STEPS:
            user.write(step, "print('done')")
        yield user


@pytest.fixture(scope="module")
def shell(user: User) -> Iterator[Shell]:
    """A shell that runs commands of the user's project."""
    with closing(Shell(user)) as shell:
        yield shell


@pytest.fixture(autouse=True)
def new_data_and_code(user: User) -> Iterator[None]:
    """Change the data and a step before each test, and remove its faults afterwards."""
    data = user.project.path / "data/sample/training/PAL0708.csv"
    data.write_bytes(data.read_bytes() + b"\n")
    user.write("train", f"print({time.time_ns()})")
    yield
    user.standin.faults.clear()


@pytest.mark.parametrize(
    ("pattern", "refusal", "cause", "advice"),
    [
        (
            DATA,
            "storage firewall",
            "The firewall of the storage account standinstorage keeps this machine out.",
            "az storage account network-rule add",
        ),
        (
            CODE,
            "storage firewall",
            "The firewall of the storage account standinstorage keeps this machine out.",
            "az storage account network-rule add",
        ),
        (
            DATA,
            "keys switched off",
            "accepts no keys.",
            "--system-datastores-auth-mode",
        ),
        (DATA, "anonymous", "asked without a login or a key.", "`az login`"),
        (DATA, "no role for data", "no role for the data", "Blob Data Contributor"),
        (
            "GET arm{scope}",
            "private link",
            "can only be reached through its private endpoint.",
            "by VPN",
        ),
        (
            "GET arm{scope}",
            "missing role",
            "The login has no permission to do this.",
            '--role "AzureML Compute Operator"',
        ),
    ],
    ids=lambda value: value if value in (*REFUSALS, DATA, CODE) else "",
)
def test_refusal_is_explained_with_the_words_of_azure(
    user: User, shell: Shell, pattern: str, refusal: str, cause: str, advice: str
) -> None:
    real = REFUSALS[refusal]
    fault = Fault(pattern, refusal=real, times=None)
    user.standin.faults.append(fault)
    failed = shell.run("submit training")
    assert fault.seen
    assert_one_sentence(failed)
    assert cause in failed.err
    assert advice in failed.err
    assert f" answered {real.status} {real.code}: " in failed.err


@pytest.mark.parametrize(
    ("refusal", "cause"),
    [
        ("policy", "A policy of your company forbids this: Allowed locations."),
        ("quota of 0", "The subscription has no quota for nodes of this VM size."),
        ("missing role", "The login has no permission to do this."),
    ],
)
def test_message_explains_why_azure_refuses_a_cluster(
    user: User, shell: Shell, refusal: str, cause: str
) -> None:
    user.project.set("compute", name="new-cluster")
    real = REFUSALS[refusal]
    user.standin.faults.append(Fault("PUT .*/computes/", refusal=real, times=None))
    failed = shell.run("provision")
    user.project.set("compute", name="cpu-cluster")
    assert_one_sentence(failed)
    assert cause in failed.err
    assert f" answered {real.status} {real.code}: " in failed.err


def test_message_explains_why_azure_does_not_show_a_cluster(
    user: User, shell: Shell
) -> None:
    """azureml-sdk keeps only a text of this answer, in which quotes are escaped."""
    user.project.set("compute", name="hidden-cluster")
    real = REFUSALS["missing role"]
    pattern = "GET .*/computes/hidden-cluster$"
    user.standin.faults.append(Fault(pattern, refusal=real, times=None))
    failed = shell.run("provision")
    user.project.set("compute", name="cpu-cluster")
    assert_one_sentence(failed)
    assert "Ask the owner for the role AzureML Compute Operator" in failed.err
    assert f" answered 403 {real.code}: " in failed.err


def test_message_explains_that_a_name_belongs_to_a_deleted_workspace(
    user: User, shell: Shell
) -> None:
    config = user.project.path / ".azureml/config.json"
    text = config.read_text(encoding="utf-8")
    config.write_text(text.replace('"workspace"', '"deleted"'), encoding="utf-8")
    user.standin.azure.failing_deployments["deleted"] = SOFT_DELETED_WORKSPACE
    failed = shell.run("provision --create-workspace")
    config.write_text(text, encoding="utf-8")
    assert_one_sentence(failed)
    assert (
        "The name deleted belongs to a workspace that was deleted recently"
        in failed.err
    )
    assert "/workspaces/deleted?api-version=2024-04-01&forceToPurge=true" in failed.err
    assert 'BadRequest: "Soft-deleted workspace exists.' in failed.err


def test_message_explains_why_azure_does_not_show_a_resource_group(
    user: User, shell: Shell
) -> None:
    """The refusal is shown, and not the answer that there is no such workspace yet."""
    config = user.project.path / ".azureml/config.json"
    text = config.read_text(encoding="utf-8")
    config.write_text(text.replace('"workspace"', '"another"'), encoding="utf-8")
    pattern = "(?i)GET arm/subscriptions/[^/]+/resourcegroups/[^/]+$"
    refusal = REFUSALS["missing role"]
    user.standin.faults.append(Fault(pattern, refusal=refusal, times=None))
    failed = shell.run("provision --create-workspace")
    config.write_text(text, encoding="utf-8")
    assert_one_sentence(failed)
    assert f" answered 403 {refusal.code}: " in failed.err


@pytest.mark.parametrize("pattern", [DATA, CODE], ids=["data", "code"])
def test_throttled_upload_is_continued(user: User, shell: Shell, pattern: str) -> None:
    fault = Fault(pattern, refusal=REFUSALS["throttled storage"], times=2)
    user.standin.faults.append(fault)
    done = shell.run("submit training")
    assert (done.code, done.err) == (0, "")
    assert fault.seen > 2


def test_message_explains_that_uploads_stay_throttled(user: User, shell: Shell) -> None:
    refusal = REFUSALS["throttled storage"]
    user.standin.faults.append(Fault(DATA, refusal=refusal, times=None))
    failed = shell.run("submit training")
    assert_one_sentence(failed)
    assert "Azure is busy. Run the command again in a few minutes" in failed.err
    assert '429 ServerBusy: "Ingress is over the account limit".' in failed.err


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        (
            Fault("GET arm{scope}", 401),
            "Azure does not accept the login. Run `az login`.",
        ),
        (
            Fault("POST login/.*/token", 500),
            "There is no token. login.microsoftonline.com answered 500 invalid_request",
        ),
        (
            Fault("GET login/.*/openid-configuration", 403),
            "There is no token. login.microsoftonline.com answered 403 invalid_request",
        ),
        (
            Fault("GET arm{scope}", 404),
            "There is no workspace workspace in the resource",
        ),
        (
            Fault("GET arm{scope}", 429, retry_after=7),
            "Azure is busy and asks you to wait 7 s. Run the command again",
        ),
        (
            Fault("GET arm{scope}", 429, retry_after=3600),
            "Azure is busy and asks you to wait 3600 s. Run the command again",
        ),
        (
            Fault("GET arm{scope}", cut=True),
            "The host management.azure.com cannot be reached",
        ),
        (Fault("PIPELINE", 400), "The stand-in was told to fail here"),
        (
            Fault("PIPELINE", 403),
            "Ask the owner for the role AzureML Data Scientist",
        ),
        (Fault(CODE, 500), "Azure has an internal error. Run the command again later."),
    ],
    ids=lambda value: (
        f"{value.pattern} {value.retry_after or value.status}"
        if isinstance(value, Fault)
        else ""
    ),
)
def test_message_explains_each_fault_in_a_sentence(
    user: User, shell: Shell, fault: Fault, sentence: str
) -> None:
    pattern = (
        PIPELINE[user.project.sdk] if fault.pattern == "PIPELINE" else fault.pattern
    )
    new_fault = Fault(
        pattern,
        status=fault.status,
        retry_after=fault.retry_after,
        cut=fault.cut,
        times=None,
    )
    user.standin.faults.append(new_fault)
    started = time.monotonic()
    failed = shell.run("submit training")
    assert time.monotonic() - started < 60
    assert new_fault.seen
    assert_one_sentence(failed)
    assert sentence in failed.err


def test_text_of_azure_is_harmless_for_terminals_and_build_agents(
    user: User, shell: Shell
) -> None:
    evil = "\x1b[31mred ##vso[task.setvariable variable=a]b"
    body = {"error": {"code": "BadRequest", "message": evil}}
    pattern = PIPELINE[user.project.sdk]
    user.standin.faults.append(Fault(pattern, 400, body=body, times=None))
    failed = shell.run("submit training")
    assert failed.code == 1
    assert "\\x1b[31mred # #vso[task.setvariable variable=a]b" in failed.err
    assert "\x1b" not in failed.out + failed.err


def test_answer_that_is_nested_too_deeply_causes_no_traceback(
    user: User, shell: Shell
) -> None:
    body = b'{"a":' * 100_000 + b"1" + b"}" * 100_000
    user.standin.faults.append(Fault("GET arm{scope}", 200, body=body, times=None))
    assert_one_sentence(shell.run("submit training"))
    assert "Traceback" not in shell.run("check --online").err


def test_redirected_login_sends_no_secret(user: User, shell: Shell) -> None:
    headers = {"Location": "https://elsewhere.example/token"}
    fault = Fault("POST login/.*/token", 307, body=b"", headers=headers, times=None)
    user.standin.faults.append(fault)
    failed = shell.run("submit training")
    assert_one_sentence(failed)
    assert user.standin.refused_hosts == []


@pytest.mark.parametrize(
    ("pattern", "trickle"),
    [
        pytest.param("POST login/.*/token", False, id="login"),
        pytest.param("GET arm{scope}", True, id="workspace trickles in"),
        pytest.param("PIPELINE", False, id="pipeline"),
        pytest.param(DATA, True, id="answer to data trickles in"),
        pytest.param(CODE, False, id="code"),
    ],
)
def test_command_ends_if_a_server_never_answers(
    user: User, pattern: str, trickle: bool
) -> None:
    route = PIPELINE[user.project.sdk] if pattern == "PIPELINE" else pattern
    stall = None if trickle else 60
    user.standin.faults.append(Fault(route, stall=stall, trickle=trickle, times=None))
    with closing(Shell(user, LONGEST_SILENCE=SILENCE)) as shell:
        shell.run("submit --help")  # The start of Python is not what is measured.
        started = time.monotonic()
        failed = shell.run("submit training")
        seconds = time.monotonic() - started
    user.standin.faults.clear()
    # Ten times the time of a silence is what ten minutes are to a minute.
    assert seconds < 10 * float(SILENCE) + 10
    assert_one_sentence(failed)


def test_log_has_what_the_sdk_prints_without_secrets(user: User, shell: Shell) -> None:
    log = user.project.path / "runs/azure.log"
    log.unlink(missing_ok=True)
    pattern = PIPELINE[user.project.sdk]
    user.standin.faults.append(Fault(pattern, 400, times=None))
    failed = shell.run("submit training")
    assert_one_sentence(failed)
    assert failed.err.endswith(" Details are in runs/azure.log.\n")
    text = log.read_text(encoding="utf-8")
    assert "Traceback (most recent call last):" in text
    assert "sdk_workspace.py" in text
    assert_no_secret(user, text)


def test_debug_shows_what_the_sdk_prints_on_the_screen(
    user: User, shell: Shell
) -> None:
    pattern = PIPELINE[user.project.sdk]
    user.standin.faults.append(Fault(pattern, 400, times=None))
    failed = shell.run("submit training --debug")
    user.standin.faults.clear()
    assert failed.code == 1
    assert "Traceback (most recent call last):" in failed.err
    assert "Details are in" not in failed.err
    assert_no_secret(user, failed.err)

    checked = shell.run("check --online --debug")
    assert "DEBUG" in checked.err
    assert_no_secret(user, checked.err + checked.out)
