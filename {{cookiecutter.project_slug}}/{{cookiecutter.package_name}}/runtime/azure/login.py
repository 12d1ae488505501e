"""The login to Azure, without a prompt, and what refusals mean.

It needs nothing but the standard library, and azure-identity once a token is asked for:
the template's hook uses it too.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping
from typing import Any

from ..rules import CLOUDS

TIMEOUT = 10.0  # seconds for one request
WRONG, UNASKED = "wrong", "could not ask"
CONNECTION_FIX = "check the network, HTTPS_PROXY and REQUESTS_CA_BUNDLE"

Headers = Mapping[str, str]


def log_in_command(cloud: str, tenant: str = "") -> str:
    """How a person logs in."""
    switch = "" if cloud == "AzureCloud" else f"az cloud set --name {cloud} && "
    return f"{switch}az login" + (f" --tenant {tenant}" if tenant else "")


def explain(code: int, headers: Headers, what: str, cloud: str) -> tuple[str, str]:
    """What an error of Azure's means, for a request about `what`, and how to mend it."""
    named, wait = headers.get("WWW-Authenticate", ""), seconds_to_wait(headers)
    tenant = re.search(r'https://[^/"]+/([0-9a-f-]{36})', named)
    log_in = log_in_command(cloud, tenant[1] if tenant else "")
    role = f"ask for a role on {what}, such as AzureML Data Scientist"
    later = "try again later"
    return {
        401: ("Azure does not accept the login", log_in),
        403: ("the login has no right to it", role),
        429: (f"Azure is busy, and asks to wait {wait} s", later),
    }.get(code, (f"Azure answers with error {code}", later))


def seconds_to_wait(headers: Headers) -> int:
    after = headers.get("Retry-After", "")
    return max(1, int(after)) if after.isdecimal() else 5


def credential(login: str) -> Any:
    """Whoever is logged in, asked without a prompt; needs azure-identity."""
    from azure.identity import DefaultAzureCredential

    logging.getLogger("azure").setLevel(logging.CRITICAL)  # explain_login says it all
    os.environ.setdefault("AZURE_AUTHORITY_HOST", login)  # federated tokens need it
    others = ("shared_token_cache", "powershell", "developer_cli")
    excluded = {f"exclude_{name}_credential": True for name in others}
    patience = {"connection_timeout": 5, "read_timeout": TIMEOUT, "retry_total": 1}
    patience["process_timeout"] = int(2 * TIMEOUT)
    return DefaultAzureCredential(authority=login, **patience, **excluded)


def explain_login(answer: str, cloud: str) -> tuple[str, str, str]:
    """What it means that no token was given, from the text of an error about it."""
    code, log_in = re.search(r"AADSTS(\d+)", answer), log_in_command(cloud)
    variables = "AZURE_TENANT_ID, AZURE_CLIENT_ID and AZURE_CLIENT_SECRET"
    if code:
        why = f"https://{CLOUDS[cloud][0]}/error?code={code[1]} tells why"
        fix = f"{log_in}, or correct {variables} ({why})"
        return WRONG, f"Azure refuses it with {code[0]}", fix
    text = "there is no login, or no answer to it"
    return UNASKED, text, f"{log_in}, or set {variables}"
