"""Log in to Azure without ever asking the user for anything, and explain why it failed.

The template's hook also uses this module, in the environment of cookiecutter. So it imports
only the standard library, and uses azure-identity only if this is installed.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from ..rules import CLOUDS

#: Seconds that a request may take. `az` is slow, and may take twice as long.
TIMEOUT = 10.0
#: Seconds that azure-identity may take to connect to the login host.
CONNECTION_TIMEOUT = 5
CONNECTION_ADVICE = "Check the network, HTTPS_PROXY and REQUESTS_CA_BUNDLE."
VARIABLES = "AZURE_TENANT_ID, AZURE_CLIENT_ID and AZURE_CLIENT_SECRET"
INSTALL_AZ = (
    "install the Azure CLI (https://learn.microsoft.com/cli/azure/install-azure-cli) and "
    "its extension for Azure ML (`az extension add --name ml`)"
)

#: Error codes of Microsoft Entra ID which mean that the user must log in again: the session
#: or the refresh token is too old, the password has changed, or a second factor is needed.
_EXPIRED_CODES = frozenset(
    [
        "50076",
        "50078",
        "50079",
        "50089",
        "50132",
        "50133",
        "50173",
        "70008",
        "70043",
        "700081",
        "700082",
        "700084",
    ]
)
#: Texts in the errors of requests, msal and azure-identity if the host for the login cannot
#: be reached.
_CONNECTION_ERRORS = re.compile(
    "Max retries exceeded|Failed to establish|Connection(Error| aborted| refused)"
    "|ConnectTimeout|ReadTimeout|CERTIFICATE_VERIFY_FAILED|SSLError|ProxyError"
    "|Failed to resolve|Temporary failure in name resolution"
)


@dataclass(frozen=True)
class LoginProblem:
    """Why the login has failed and there is no token, in whole sentences."""

    #: What is wrong, and the first thing to try.
    message: str
    #: What else may help.
    advice: str
    #: True if Azure has refused a login, and False if there was none to refuse.
    is_refused: bool = False


class LoginError(Exception):
    """There is no token. The text is the error of azure-identity, Azure or `az`."""


def log_in_command(cloud: str, tenant: str = "") -> str:
    """Return the shell command with which a user logs in to a cloud.

    `tenant` is the id of the tenant to log in to, or empty for the user's own.
    """
    command = f"az login --tenant {tenant}" if tenant else "az login"
    if cloud == "AzureCloud":
        return command
    return f"az cloud set --name {cloud} && {command}"


def get_token(cloud: str) -> str:
    """Return a token for the resource manager of a cloud.

    The token is from azure-identity if this is installed, otherwise from `az`. Raises
    LoginError if there is no token.
    """
    hosts = CLOUDS[cloud]
    scope = f"https://{hosts.resource_manager}/.default"
    try:
        if has_azure_identity():
            return str(credential(hosts.login).get_token(scope).token)
        return _ask_az_for_token(scope)
    except LoginError:
        raise
    except Exception as error:  # azure-identity and msal raise errors of many kinds.
        raise LoginError(f"{type(error).__name__}: {error}") from error


def has_azure_identity() -> bool:
    """Return whether the package azure-identity is installed.

    It is often missing from the environment of cookiecutter, in which the template's hook
    runs.
    """
    # `find_spec("azure.identity")` raises an error without a package azure.
    return bool(find_spec("azure") and find_spec("azure.identity"))


def credential(login_host: str) -> Any:
    """Return azure-identity's credential for the current login.

    The credential tries several kinds of logins in turn, such as environment variables and
    `az`, and never asks the user for anything. `login_host` is the host to log in at, such as
    login.microsoftonline.com.
    """
    from azure.identity import DefaultAzureCredential

    # azure-identity logs each kind of login that it tries. `explain_login` tells the user
    # enough, so these messages are hidden, unless the debug log of the SDK has set a level.
    logger = logging.getLogger("azure.identity")
    if logger.level == logging.NOTSET:
        logger.setLevel(logging.CRITICAL)
    # A federated token, such as that of a workload in Kubernetes, needs this variable.
    os.environ.setdefault("AZURE_AUTHORITY_HOST", login_host)
    return DefaultAzureCredential(
        authority=login_host,
        connection_timeout=CONNECTION_TIMEOUT,
        read_timeout=TIMEOUT,
        retry_total=1,
        process_timeout=int(2 * TIMEOUT),
        # Each kind of login that is tried takes time. These are rarely used.
        exclude_shared_token_cache_credential=True,
        exclude_powershell_credential=True,
        exclude_developer_cli_credential=True,
    )


def _ask_az_for_token(scope: str) -> str:
    """Return a token from the user's login to `az`.

    `scope` is the address of the service that the token is for, followed by `.default`.
    Raises LoginError if `az` is missing or returns no token.
    """
    az = shutil.which("az")
    if az is None:
        raise LoginError("The Azure CLI is not on the PATH.")

    resource = scope.removesuffix(".default")
    command = [az, "account", "get-access-token", "--resource", resource]
    completed = subprocess.run(
        [*command, "--output", "json"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=2 * TIMEOUT,
        check=False,
    )
    # Without a login, `az` prints an error message instead of JSON.
    try:
        return str(json.loads(completed.stdout)["accessToken"])
    except (ValueError, LookupError, TypeError):
        error_text = completed.stdout or completed.stderr
        raise LoginError(error_text) from None


def explain_login(error: str, cloud: str, quotation: str = "") -> LoginProblem:
    """Explain to the user why there is no token.

    `error` is the text of a LoginError, or of an error of azure-identity or msal. `quotation`
    is a sentence that quotes the last error response of the login host, or empty.
    """
    # Microsoft Entra ID refuses a login with a code such as AADSTS700082.
    code = re.search(r"AADSTS\d+", error)
    if code:
        return _explain_refused_login(code[0], error, cloud)
    if quotation:
        return LoginProblem(
            message=f"There is no token. {quotation}",
            advice=f"Run the command again later. If that does not help: {CONNECTION_ADVICE}",
        )
    if _CONNECTION_ERRORS.search(error):
        return LoginProblem(
            message=f"The host {CLOUDS[cloud].login} cannot be reached.",
            advice=CONNECTION_ADVICE,
        )
    if re.search("Failed to invoke the Azure CLI|TimeoutExpired", error):
        return LoginProblem(
            message=f"`az` did not answer within {2 * TIMEOUT:.0f} s.",
            advice=(
                "Run `az account get-access-token` to see why. "
                f"{_advise_environment_variables()}"
            ),
        )
    return _explain_missing_login(cloud)


def _explain_refused_login(code: str, error: str, cloud: str) -> LoginProblem:
    """Explain why Microsoft Entra ID refuses a login.

    `error` is the text of the error, and `code` is the code in it, such as AADSTS700082.
    """
    log_in = log_in_command(cloud)
    number = code.removeprefix("AADSTS")
    if number in _EXPIRED_CODES:
        return LoginProblem(
            message=f"Your login has expired ({code}). Run `{log_in}`.",
            # The environment variables describe a service principal, which does not have to
            # log in again and again like a person.
            advice=_advise_environment_variables(),
            is_refused=True,
        )
    # The refused login is either that of `az` or that in the environment variables.
    page = f"https://{CLOUDS[cloud].login}/error?code={number}"
    return LoginProblem(
        message=(
            f"Azure refuses the login ({code}){_quote_reason(code, error)}. {page} "
            "explains why."
        ),
        advice=f"Run `{log_in}`, or correct the variables {VARIABLES}.",
        is_refused=True,
    )


def _explain_missing_login(cloud: str) -> LoginProblem:
    """Explain how to log in. If `az` is missing, this includes how to install it."""
    log_in = log_in_command(cloud)
    if shutil.which("az") is None:
        return LoginProblem(
            message="You are not logged in, and the Azure CLI (`az`) was not found.",
            advice=(
                f"To log in, {INSTALL_AZ}, and run `{log_in}`. "
                f"{_advise_environment_variables()}"
            ),
        )
    return LoginProblem(
        message=f"You are not logged in. Run `{log_in}`.",
        advice=(
            f"{_advise_environment_variables()} Commands that begin with `az ml` also need "
            "the extension: `az extension add --name ml`."
        ),
    )


def _advise_environment_variables() -> str:
    """Return a sentence on how to log in by environment variables instead of `az`."""
    if has_azure_identity():
        return f"You can also set {VARIABLES}."
    return f"You can also install azure-identity and set {VARIABLES}."


def _quote_reason(code: str, error: str) -> str:
    """Return the sentence after a code in an error, in quotes after a colon, or "".

    In "AADSTS7000215: Invalid client secret. Trace ID: 1", this is `: "Invalid client
    secret"`.
    """
    sentence = re.search(rf"{code}: *(.+?)\.?(?: Trace ID:|[\r\n]|$)", error)
    return f': "{sentence[1]}"' if sentence else ""
