"""The login to Azure, which never prompts, and what it means if there is none.

The template's hook asks Azure by this module in the environment of cookiecutter. Only the
standard library is imported there; azure-identity is used if it is installed.
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

TIMEOUT = 10.0  # Seconds for one request. `az` is slow, and gets twice as much.
CONNECTION_ADVICE = "Check the network, HTTPS_PROXY and REQUESTS_CA_BUNDLE."
VARIABLES = "AZURE_TENANT_ID, AZURE_CLIENT_ID and AZURE_CLIENT_SECRET"
INSTALL_AZ = (
    "install the Azure CLI (https://learn.microsoft.com/cli/azure/install-azure-cli) and "
    "its extension for Azure ML (`az extension add --name ml`)"
)

# Error codes of Microsoft Entra ID by which a login that was good must be renewed: the
# session or the refresh token is too old, the password has changed, or a second factor is
# asked for again.
_EXPIRED_CODES = """
50076 50078 50079 50089 50132 50133 50173 70008 70043 700081 700082 700084
"""
# What requests, msal and azure-identity say if the host of the login cannot be reached.
_CONNECTION_ERRORS = re.compile(
    "Max retries exceeded|Failed to establish|Connection(Error| aborted| refused)"
    "|ConnectTimeout|ReadTimeout|CERTIFICATE_VERIFY_FAILED|SSLError|ProxyError"
    "|Failed to resolve|Temporary failure in name resolution"
)


@dataclass(frozen=True)
class LoginProblem:
    """Why there is no token, and what else may help, both in whole sentences."""

    message: str
    advice: str
    is_refused: bool = False  # Azure refuses the login, rather than that there is none.


class LoginError(Exception):
    """There is no token. The text is what azure-identity, Azure or `az` says about it."""


def log_in_command(cloud: str, tenant: str = "") -> str:
    """Return the command by which a person logs in to a cloud, and to a tenant if given."""
    command = f"az login --tenant {tenant}" if tenant else "az login"
    if cloud == "AzureCloud":
        return command
    return f"az cloud set --name {cloud} && {command}"


def get_token(cloud: str) -> str:
    """Return a token for the resource manager of a cloud, or raise LoginError.

    azure-identity is asked if it is installed, and otherwise `az`.
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
    """Return whether azure-identity is installed; beside cookiecutter it often is not."""
    return bool(find_spec("azure") and find_spec("azure.identity"))


def credential(login: str) -> Any:
    """Return azure-identity's credential of whoever is logged in, which never prompts."""
    from azure.identity import DefaultAzureCredential

    # explain_login says what the user needs to know. A log of the SDK that has set a level
    # wants to have these messages all the same.
    logger = logging.getLogger("azure.identity")
    if logger.level == logging.NOTSET:
        logger.setLevel(logging.CRITICAL)
    os.environ.setdefault("AZURE_AUTHORITY_HOST", login)  # Federated tokens need it.
    return DefaultAzureCredential(
        authority=login,
        connection_timeout=5,
        read_timeout=TIMEOUT,
        retry_total=1,
        process_timeout=int(2 * TIMEOUT),
        exclude_shared_token_cache_credential=True,
        exclude_powershell_credential=True,
        exclude_developer_cli_credential=True,
    )


def _ask_az_for_token(scope: str) -> str:
    """Return the token of whoever is logged in to `az`, or raise LoginError."""
    az = shutil.which("az")
    if az is None:
        raise LoginError("Azure CLI not found on path")

    resource = scope.removesuffix(".default")
    command = [az, "account", "get-access-token", "--resource", resource]
    done = subprocess.run(
        [*command, "--output", "json"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=2 * TIMEOUT,
        check=False,
    )
    try:
        return str(json.loads(done.stdout)["accessToken"])
    except (ValueError, LookupError, TypeError):
        raise LoginError(done.stdout or done.stderr) from None


def explain_login(error: str, cloud: str) -> LoginProblem:
    """Return why there is no token, from the text of the error about it."""
    log_in = log_in_command(cloud)
    use_variables = f"You can also set {VARIABLES}."
    if not has_azure_identity():
        use_variables = f"You can also install azure-identity and set {VARIABLES}."

    code = re.search(r"AADSTS(\d+)", error)
    if code and code[1] in _EXPIRED_CODES.split():
        return LoginProblem(
            message=f"Your login has expired ({code[0]}). Run `{log_in}`.",
            advice=use_variables,
            is_refused=True,
        )
    if code:
        page = f"https://{CLOUDS[cloud].login}/error?code={code[1]}"
        return LoginProblem(
            message=f"Azure refuses the login ({code[0]}). {page} explains why.",
            advice=f"Run `{log_in}`, or correct {VARIABLES}.",
            is_refused=True,
        )
    if _CONNECTION_ERRORS.search(error):
        return LoginProblem(
            message=f"{CLOUDS[cloud].login} cannot be reached.",
            advice=CONNECTION_ADVICE,
        )
    if re.search("Failed to invoke the Azure CLI|TimeoutExpired", error):
        return LoginProblem(
            message=f"`az` did not answer within {2 * TIMEOUT:.0f} s.",
            advice=f"Run `az account get-access-token` to see why. {use_variables}",
        )
    if shutil.which("az") is None:
        return LoginProblem(
            message=f"You are not logged in. Run `{log_in}`.",
            advice=f"`az` was not found: {INSTALL_AZ} first. {use_variables}",
        )
    return LoginProblem(
        message=f"You are not logged in. Run `{log_in}`.",
        advice=(
            f"{use_variables} Commands that begin with `az ml` also need the extension: "
            "`az extension add --name ml`."
        ),
    )
