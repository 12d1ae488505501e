"""Test the messages about a missing login to Azure, with the errors that cause them."""

from __future__ import annotations

import pytest
from template_package import login

AZ = "/usr/bin/az"
#: Errors of azure-identity and `az`, shortened, and the message about each.
ERRORS = {
    "not logged in": (
        "Please run 'az login' to set up an account",
        "You are not logged in. Run `az login`.",
    ),
    "expired": (
        "AADSTS700082: The refresh token has expired due to inactivity.",
        "Your login has expired (AADSTS700082). Run `az login`.",
    ),
    "wrong secret": (
        "AADSTS7000215: Invalid client secret provided.",
        (
            'Azure refuses the login (AADSTS7000215): "Invalid client secret provided". '
            "https://login.microsoftonline.com/error?code=7000215 explains why."
        ),
    ),
    "no network": (
        "HTTPSConnectionPool: Max retries exceeded with url",
        "The host login.microsoftonline.com cannot be reached.",
    ),
    "az hangs": (
        "AzureCliCredential: Failed to invoke the Azure CLI",
        "`az` did not answer within 20 s.",
    ),
}


@pytest.mark.parametrize(("error", "message"), ERRORS.values(), ids=ERRORS.keys())
def test_message_names_the_cause_of_each_error(
    monkeypatch: pytest.MonkeyPatch, error: str, message: str
) -> None:
    monkeypatch.setattr(login.shutil, "which", lambda _: AZ)
    problem = login.explain_login(error, "AzureCloud")
    assert problem.message == message
    assert problem.is_refused == ("AADSTS" in error)
    assert problem.advice.endswith(".")


def test_advice_explains_how_to_install_az_if_it_is_missing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(login.shutil, "which", lambda _: None)
    problem = login.explain_login("The Azure CLI is not on the PATH.", "AzureCloud")
    assert problem.message.endswith("the Azure CLI (`az`) was not found.")
    assert "and run `az login`." in problem.advice
    assert "https://learn.microsoft.com/cli/azure/install-azure-cli" in problem.advice
    assert "`az extension add --name ml`" in problem.advice


@pytest.mark.parametrize(
    ("is_installed", "advice"),
    [
        (True, "You can also set AZURE_TENANT_ID, "),
        (False, "You can also install azure-identity and set AZURE_TENANT_ID, "),
    ],
    ids=["azure-identity", "az alone"],
)
def test_advice_names_azure_identity_only_if_it_is_not_installed(
    monkeypatch: pytest.MonkeyPatch, is_installed: bool, advice: str
) -> None:
    monkeypatch.setattr(login, "has_azure_identity", lambda: is_installed)
    assert advice in login.explain_login("", "AzureCloud").advice


def test_command_sets_another_cloud_before_the_login(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(login.shutil, "which", lambda _: AZ)
    message = login.explain_login("", "AzureChinaCloud").message
    assert "Run `az cloud set --name AzureChinaCloud && az login`." in message


def test_message_has_the_answer_of_the_login_host() -> None:
    answer = 'login.microsoftonline.com answered 503: "Try later".'
    problem = login.explain_login("No token.", "AzureCloud", answer)
    assert problem.message == f"There is no token. {answer}"
    assert "HTTPS_PROXY" in problem.advice


def test_missing_az_raises_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(login, "has_azure_identity", lambda: False)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(login.LoginError, match="not on the PATH"):
        login.get_token("AzureCloud")
