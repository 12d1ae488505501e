"""Test the messages about refusals of Azure, with answers that its services have given."""

from __future__ import annotations

import json
from dataclasses import dataclass

import pytest
from azure_standin.refusals import REFUSALS, SOFT_DELETED_WORKSPACE
from azure_standin.wire import Reply
from template_package import refusals

STORAGE = "https://standinstorage.blob.core.windows.net/datastore/part.csv"
MANAGER = "https://management.azure.com/subscriptions/1"


@dataclass(frozen=True)
class Names:
    """The names of a workspace."""

    subscription_id: str = "33333333-3333-3333-3333-333333333333"
    resource_group: str = "group"
    workspace_name: str = "workspace"
    cloud: str = "AzureCloud"


def explain_reply(reply: Reply, address: str) -> str:
    """Return the message about an answer."""
    error = refusals.read_error(
        reply.status, reply.headers, reply.content().decode(), address
    )
    return str(refusals.explain(error, Names()))


#: Parts of the message about each refusal: its cause and its fix.
EXPECTED = {
    "storage firewall": (
        "The firewall of the storage account standinstorage keeps this machine out.",
        "network-rule add --account-name standinstorage",
    ),
    "keys switched off": (
        "The storage account standinstorage accepts no keys.",
        "--name workspace --resource-group group --system-datastores-auth-mode identity",
    ),
    "anonymous": ("was asked without a login or a key.", "`az login`"),
    "no role for data": (
        "The login has no role for the data of the storage account standinstorage.",
        '--role "Storage Blob Data Contributor"',
    ),
    "old key": (
        "does not accept the key or the SAS token.",
        "az ml workspace sync-keys --name workspace",
    ),
    "throttled storage": (
        "Azure is busy.",
        "in a few minutes: it continues where it stopped.",
    ),
    "missing role": (
        "The login has no permission to do this.",
        '--role "AzureML Compute Operator" --scope /subscriptions/33333333/resource',
    ),
    "policy": (
        "A policy of your company forbids this: Allowed locations.",
        "workspace.region or compute.vm_size",
    ),
    "private link": (
        "The workspace workspace can only be reached through its private endpoint.",
        "by VPN",
    ),
    "quota of 0": (
        "The subscription has no quota for nodes of this VM size.",
        "A smaller cluster cannot help.",
    ),
    "throttled manager": ("Azure is busy.", "in a few minutes"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_message_has_the_cause_the_fix_and_the_words_of_azure(name: str) -> None:
    refusal = REFUSALS[name]
    is_storage = isinstance(refusal.body, str)
    message = explain_reply(refusal.reply(), STORAGE if is_storage else MANAGER)
    for part in EXPECTED[name]:
        assert part in message
    host = "standinstorage.blob.core.windows.net" if is_storage else "management.azure"
    assert host in message
    assert f" answered {refusal.status} {refusal.code}: " in message
    # Details that only Microsoft's support can use are left out.
    assert "RequestId" not in message
    assert "policyAssignment" not in message
    assert message.endswith('".')


def test_message_explains_how_to_recover_or_purge_a_deleted_workspace() -> None:
    message = explain_reply(
        Reply({"status": "Failed", "error": SOFT_DELETED_WORKSPACE}), MANAGER
    )
    assert (
        "The name workspace belongs to a workspace that was deleted recently" in message
    )
    assert "choose Recently deleted" in message
    assert (
        'az rest --method delete --url "https://management.azure.com/subscriptions/'
        "33333333-3333-3333-3333-333333333333/resourceGroups/group/providers/Microsoft."
        'MachineLearningServices/workspaces/workspace?api-version=2024-04-01&forceToPurge=true"'
    ) in message
    assert 'answered BadRequest: "Soft-deleted workspace exists.' in message


def test_answer_that_the_resource_manager_passes_on_as_text_is_read() -> None:
    inner = json.dumps(REFUSALS["policy"].body)
    details = [{"code": "Forbidden", "message": inner}]
    outer = {"code": "DeploymentFailed", "message": "See details.", "details": details}
    message = explain_reply(Reply({"error": outer}, 400), MANAGER)
    assert "forbids this: Allowed locations." in message
    assert "400 RequestDisallowedByPolicy" in message


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"<html><p>Bad gateway", id="a page that is no XML"),
        pytest.param(b"[1]", id="a list"),
        pytest.param(b'{"error": "no"}', id="an error that is a text"),
        pytest.param(b'{"error": {"code": 7, "details": 7}}', id="numbers"),
        pytest.param(b'{"error":' * 200_000 + b"1" + b"}" * 200_000, id="too deep"),
        pytest.param(
            b'{"error": {"code": "a", "details": ['
            * 3000
            + b"]}}" * 3000,
            id="details in details",
        ),
        pytest.param(b"<a>" * 100_000, id="XML that is too deep"),
    ],
)  # fmt: skip
def test_answer_of_an_unknown_form_is_explained_by_its_status(body: bytes) -> None:
    assert explain_reply(Reply(body, 403), MANAGER).startswith(
        "The login has no permission to do this. Ask for a role on the workspace workspace, "
    )


def test_message_names_no_account_if_another_service_passes_on_a_refusal() -> None:
    body = {"error": {"code": "AuthorizationFailure", "message": "Not authorized."}}
    message = explain_reply(Reply(body, 403), MANAGER)
    assert "The firewall of the storage account of the workspace keeps" in message
    assert "--account-name ACCOUNT " in message


@pytest.mark.parametrize("status", [429, 503])
def test_message_names_the_wait_that_a_busy_service_asks_for(status: int) -> None:
    reply = Reply({}, status, {"Retry-After": "40"})
    message = explain_reply(reply, MANAGER)
    assert message.startswith("Azure is busy and asks you to wait 40 s. ")


def test_message_about_a_conflict_asks_for_patience() -> None:
    body = {"error": {"code": "Conflict", "message": "Another operation is going on."}}
    message = explain_reply(Reply(body, 409), MANAGER)
    assert "run the command again in a few minutes" in message


def test_message_proposes_the_login_of_another_tenant() -> None:
    tenant = "11111111-1111-1111-1111-111111111111"
    challenge = f'Bearer authorization_uri="https://login.windows.net/{tenant}"'
    message = explain_reply(Reply({}, 401, {"WWW-Authenticate": challenge}), MANAGER)
    assert f"Run `az login --tenant {tenant}`." in message


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [({}, 5), ({"Retry-After": "7"}, 7), ({"retry-after": "0"}, 1), ({"Retry-After": "soon"}, 5)],
    ids=["no header", "seconds", "none", "a word"],
)  # fmt: skip
def test_retry_after_is_read_in_seconds(headers: dict[str, str], seconds: int) -> None:
    assert refusals.seconds_to_wait(headers) == seconds
