"""Explain why a service of Azure has refused a request, and what to do about it.

This module imports only the standard library, because the template's hook also uses it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol
from urllib.parse import urlsplit

from ..rules import CLOUDS
from .error_bodies import CodeAndMessage, parse_errors
from .login import log_in_command

#: At most this many characters of Azure's own sentence are shown.
LONGEST_SENTENCE = 300
#: Seconds to wait before a request is repeated, if the response names no time.
DEFAULT_WAIT = 5

Headers = Mapping[str, str]


class WorkspaceNames(Protocol):
    """The names of a workspace that explanations mention."""

    @property
    def subscription_id(self) -> str: ...
    @property
    def resource_group(self) -> str: ...
    @property
    def workspace_name(self) -> str: ...
    @property
    def cloud(self) -> str: ...


@dataclass(frozen=True)
class ServiceError:
    """An error response of a service of Azure.

    A field is empty if the response does not contain its value.
    """

    #: The HTTP status.
    status: int
    #: The host that has responded.
    host: str = ""
    #: The most specific error code, such as AuthorizationFailed.
    code: str = ""
    #: Azure's sentence about the error with this code.
    message: str = ""
    #: All error codes in the response, which may contain errors inside errors.
    codes: frozenset[str] = frozenset()
    #: The name of the policy that forbids the request.
    policy: str = ""
    #: The tenant that the user must log in to.
    tenant_id: str = ""
    #: The seconds that the service asks to wait. 0 if it names no time.
    wait_seconds: int = 0


@dataclass(frozen=True)
class Explanation:
    """Why a request was refused, what to do about it, and Azure's own words."""

    cause: str
    advice: str
    #: A sentence that quotes the error response.
    quotation: str

    def __str__(self) -> str:
        """Return all three, as whole sentences."""
        return f"{self.cause} {self.advice} {self.quotation}"


@dataclass(frozen=True)
class Refusal:
    """A kind of refusal, which is recognized by its code or by a pattern in its message.

    The cause and the advice may contain placeholders such as {workspace}, for which
    `_list_placeholder_values` has the values.
    """

    cause: str
    advice: str
    codes: tuple[str, ...] = ()
    pattern: str = ""

    def matches(self, error: ServiceError) -> bool:
        """Return whether an error has one of the codes, or a message with the pattern."""
        if not error.codes.isdisjoint(self.codes):
            return True
        if not self.pattern:
            return False
        return re.search(self.pattern, error.message, re.IGNORECASE) is not None


#: The refusals for which there is better advice than for their HTTP status. The first
#: refusal that matches an error is used.
REFUSALS = [
    Refusal(
        pattern="private link configuration|private endpoint|public network access",
        cause="The workspace {workspace} can only be reached through its private endpoint.",
        advice=(
            "Connect to its network by VPN, or run the command on a machine in that "
            "network: a jump host or a compute instance of the workspace."
        ),
    ),
    Refusal(
        codes=("AuthorizationFailure", "AuthorizationSourceIPMismatch"),
        cause="The firewall of the {storage} keeps this machine out.",
        advice=(
            "Run the command in a network that the firewall allows, or let the owner add "
            "your address: `az storage account network-rule add --account-name {account} "
            "--ip-address ADDRESS`."
        ),
    ),
    Refusal(
        codes=("KeyBasedAuthenticationNotPermitted",),
        cause="The {storage} accepts no keys.",
        advice=(
            "Let the workspace reach its datastores by identity: `az ml workspace update "
            "{workspace_options} --system-datastores-auth-mode identity`. You and the "
            "cluster then need roles on the storage account, which docs/azure.md lists."
        ),
    ),
    Refusal(
        codes=("PublicAccessNotPermitted", "NoAuthenticationInformation"),
        cause="The {storage} was asked without a login or a key.",
        advice=(
            "Log in with `{log_in}`, and make sure that you have the role Storage Blob "
            "Data Contributor on the storage account."
        ),
    ),
    Refusal(
        codes=("AuthorizationPermissionMismatch",),
        cause="The login has no role for the data of the {storage}.",
        advice=(
            "Ask the owner for the role: `az role assignment create --assignee PRINCIPAL_ID "
            '--role "Storage Blob Data Contributor" --scope $(az storage account show --name '
            "{account} --query id --output tsv)`. A new role takes effect after a few "
            "minutes."
        ),
    ),
    Refusal(
        codes=("AuthenticationFailed",),
        cause="The {storage} does not accept the key or the SAS token.",
        advice=(
            "Check the clock of this machine. If the keys were renewed, run `az ml "
            "workspace sync-keys {workspace_options}`."
        ),
    ),
    Refusal(
        codes=("AuthorizationFailed", "LinkedAuthorizationFailed"),
        pattern="does not have authorization to perform action",
        cause="The login has no permission to do this.",
        advice=(
            "Ask the owner for the role {role}: `az role assignment create --assignee "
            '{principal} --role "{role}" --scope {scope}`. A new role takes effect after a '
            "few minutes."
        ),
    ),
    Refusal(
        codes=("RequestDisallowedByPolicy",),
        pattern="was disallowed by policy",
        cause="A policy of your company forbids this{policy}.",
        advice=(
            "Change the setting that the policy forbids, such as workspace.region or "
            "compute.vm_size in settings.yml, or ask for an exemption. `az policy assignment "
            "list` shows all policies."
        ),
    ),
    Refusal(
        pattern="soft[- ]?deleted workspace",
        cause="The name {workspace} belongs to a workspace that was deleted recently.",
        advice=(
            "To recover it, open Azure Machine Learning in the Azure portal and choose "
            "Recently deleted. To delete it for good: `az rest --method delete --url "
            '"{workspace_address}?api-version=2024-04-01&forceToPurge=true"`. Or write '
            "another name in .azureml/config.json."
        ),
    ),
    Refusal(
        pattern=r"quota of 0\b",
        cause="The subscription has no quota for nodes of this VM size.",
        advice=(
            "Ask for quota in the Studio, under Quota, or write another family of VM sizes "
            "as compute.vm_size. A smaller cluster cannot help."
        ),
    ),
    Refusal(
        codes=(
            "ClusterCoreQuotaReached",
            "ClusterMinNodesExceedCoreQuota",
            "OutOfQuota",
            "QuotaExceeded",
        ),
        pattern=r"vCPU quota of \d+",
        cause="The quota of the subscription is too small.",
        advice=(
            "Write fewer nodes as compute.max_nodes or a smaller compute.vm_size in "
            "settings.yml, or ask for more quota in the Studio, under Quota."
        ),
    ),
    Refusal(
        codes=("MissingSubscriptionRegistration",),
        cause="Azure ML is not registered in the subscription.",
        advice=(
            "Run `az provider register --namespace Microsoft.MachineLearningServices "
            "--subscription {subscription}`."
        ),
    ),
    Refusal(
        codes=("ScopeLocked",),
        cause="A lock forbids the change.",
        advice="Ask the owner to remove the lock. `az lock list` shows all locks.",
    ),
]

#: The role to ask for, by the start of the name of the action that it permits. The first
#: start that fits is used, so the longer ones come first.
ROLES = {
    "Microsoft.MachineLearningServices/workspaces/computes/": (
        "AzureML Compute Operator"
    ),
    "Microsoft.MachineLearningServices/workspaces/write": "Contributor",
    "Microsoft.MachineLearningServices/workspaces/": "AzureML Data Scientist",
    "Microsoft.Authorization/": "Role Based Access Control Administrator",
}


def read_error(
    status: int, headers: Headers, body: str, address: str = ""
) -> ServiceError:
    """Parse an error response from any Azure service.

    `address` is the URL of the request. If the body has no known format, the result has no
    message, and its code is taken from the header x-ms-error-code, if there is one.
    """
    errors = parse_errors(body)
    header_code = _get_header(headers, "x-ms-error-code")
    if header_code:
        # The header has the code of the innermost error, which is the last one in the body.
        # It is added for responses whose body cannot be parsed, such as those without body.
        message = errors[-1].message if errors else ""
        errors.append(CodeAndMessage(header_code, message))

    most_specific = _choose_most_specific(errors)
    return ServiceError(
        status=status,
        host=urlsplit(address).hostname or "",
        code=most_specific.code,
        message=shorten(most_specific.message),
        codes=frozenset(error.code for error in errors),
        policy=_find_policy(body),
        tenant_id=_find_tenant(_get_header(headers, "WWW-Authenticate")),
        wait_seconds=_read_retry_after(headers),
    )


def explain(error: ServiceError, names: WorkspaceNames) -> Explanation:
    """Explain why a service refuses a request, and what to do about it."""
    placeholder_values = _list_placeholder_values(error, names)
    for refusal in REFUSALS:
        if refusal.matches(error):
            return Explanation(
                cause=refusal.cause.format_map(placeholder_values),
                advice=refusal.advice.format_map(placeholder_values),
                quotation=quote(error),
            )
    return _explain_status(error, names)


def _explain_status(error: ServiceError, names: WorkspaceNames) -> Explanation:
    """Explain a refusal that is not in REFUSALS by its HTTP status."""
    quotation = quote(error)
    if error.status == 401:
        log_in = log_in_command(names.cloud, error.tenant_id)
        return Explanation(
            "Azure does not accept the login.", f"Run `{log_in}`.", quotation
        )
    if error.status == 403:
        return Explanation(
            "The login has no permission to do this.",
            f"Ask for a role on the workspace {names.workspace_name}, such as AzureML "
            "Data Scientist.",
            quotation,
        )
    if error.status == 409:
        return Explanation(
            "The request conflicts with the current state on Azure.",
            "If a change is still in progress there, run the command again in a few "
            "minutes. Otherwise, correct what Azure's message points out.",
            quotation,
        )
    # A busy service responds with 429, or with 503 and the time to wait. A busy storage
    # account responds with 503 and the code ServerBusy, often without a time.
    is_busy = (
        error.status == 429
        or error.code == "ServerBusy"
        or (error.status == 503 and error.wait_seconds > 0)
    )
    if is_busy and error.wait_seconds:
        return Explanation(
            f"Azure is busy and asks you to wait {error.wait_seconds} s.",
            "Run the command again after this time: it continues where it stopped.",
            quotation,
        )
    if is_busy:
        return Explanation(
            "Azure is busy.",
            "Run the command again in a few minutes: it continues where it stopped.",
            quotation,
        )
    if error.status >= 500:
        return Explanation(
            "Azure has an internal error.", "Run the command again later.", quotation
        )
    return Explanation(
        "Azure refuses the request.",
        "Correct what Azure's message points out.",
        quotation,
    )


def seconds_to_wait(headers: Headers) -> int:
    """Return how many seconds a response asks to wait, by default DEFAULT_WAIT."""
    return _read_retry_after(headers) or DEFAULT_WAIT


def _read_retry_after(headers: Headers) -> int:
    """Return the seconds in the header Retry-After, at least 1.

    Without this header, or with a date in it, the result is 0.
    """
    seconds = _get_header(headers, "Retry-After")
    return max(1, int(seconds)) if seconds.isdecimal() else 0


def _list_placeholder_values(
    error: ServiceError, names: WorkspaceNames
) -> dict[str, str]:
    """Return the values of the placeholders in REFUSALS, by the names of the placeholders.

    The error may not contain a value. In a command, a word in capitals then tells the user
    what to insert (ACCOUNT, PRINCIPAL_ID), or a general value is used (the whole workspace
    as the scope of a role). In a sentence, the value is left out or described.
    """
    workspace_path = (
        f"/subscriptions/{names.subscription_id}/resourceGroups/{names.resource_group}"
        f"/providers/Microsoft.MachineLearningServices/workspaces/{names.workspace_name}"
    )
    # The sentence about a missing role: "The client 'a' with object id 'b' does not have
    # authorization to perform action 'c' over scope 'd'".
    action = _find_quoted("action", error.message)
    principal = _find_quoted("object id", error.message)
    scope = _find_quoted("over scope", error.message)
    account = _find_storage_account(error.host)
    return {
        "storage": f"storage account {account or 'of the workspace'}",
        "account": account or "ACCOUNT",
        "workspace": names.workspace_name,
        "subscription": names.subscription_id,
        "workspace_options": (
            f"--name {names.workspace_name} --resource-group {names.resource_group}"
        ),
        "workspace_address": (
            f"https://{CLOUDS[names.cloud].resource_manager}{workspace_path}"
        ),
        "log_in": log_in_command(names.cloud),
        "policy": f": {error.policy}" if error.policy else "",
        "role": _choose_role(action),
        "principal": principal or "PRINCIPAL_ID",
        "scope": scope or workspace_path,
    }


def _find_quoted(label: str, message: str) -> str:
    """Return the text in single quotes that follows a label in a message, or "".

    With the label "over scope" and the message "No access over scope '/a'", this is "/a".
    """
    quoted = re.search(rf"{label} '([^']+)'", message)
    return quoted[1] if quoted else ""


def _find_storage_account(host: str) -> str:
    """Return the storage account that a host belongs to, or an empty string.

    For the host data.blob.core.windows.net, this is "data". The result is empty if another
    service has passed on the error of a storage account, because the host is then that of the
    other service.
    """
    account, _, domain = host.partition(".")
    is_storage = domain.startswith(("blob.", "dfs.", "file.", "queue.", "table."))
    return account if is_storage else ""


def _choose_role(action: str) -> str:
    """Return a role that includes an action such as `Microsoft.Storage/…/write`.

    An empty action stands for an unknown one.
    """
    for start, role in ROLES.items():
        if action.startswith(start):
            return role
    return "Contributor" if action else "AzureML Data Scientist"


def quote(error: ServiceError) -> str:
    """Return a sentence that quotes Azure: the host, the code and the message.

    For example: management.azure.com answered 403 AuthorizationFailed: "You may not".
    """
    host = error.host or "Azure"
    code = error.code
    # A long-running operation can fail in a response with the status 200. This number would
    # confuse the reader.
    if error.status >= 400:
        code = f"{error.status} {code}".rstrip()
    if not error.message:
        return f"{host} answered {code}."
    return f'{host} answered {code}: "{error.message}".'


def _choose_most_specific(errors: list[CodeAndMessage]) -> CodeAndMessage:
    """Return the error to show to the user.

    It is the innermost of the errors that REFUSALS explains, or else the innermost of all.
    The list has the outer errors first. For an empty list, the code and the message of the
    result are empty.
    """
    for error in reversed(errors):
        candidate = ServiceError(
            status=0, message=error.message, codes=frozenset([error.code])
        )
        if any(refusal.matches(candidate) for refusal in REFUSALS):
            return error
    return errors[-1] if errors else CodeAndMessage("", "")


def shorten(message: str) -> str:
    """Return Azure's message on one line, without ids that only Microsoft's support needs."""
    # The storage service adds lines with the id of the request and the time.
    sentence = " ".join(message.partition("\nRequestId:")[0].split()).rstrip(".")
    # A policy's sentence ends in JSON with the ids of all policies.
    sentence = sentence.partition(". Policy identifiers:")[0]
    if len(sentence) > LONGEST_SENTENCE:
        return f"{sentence[:LONGEST_SENTENCE]}…"
    return sentence


def _find_policy(body: str) -> str:
    """Return the display name of the policy that an error response mentions, or ""."""
    # JSON inside a JSON string has escaped quotes: \"name\". Without the backslashes, the
    # patterns below also find names there.
    plain_body = body.replace("\\", "")
    # Azure writes the name in one of two places.
    for pattern in (
        r'"policyDefinitionDisplayName"\s*:\s*"([^"]+)"',
        r'"policyDefinition"\s*:\s*\{\s*"name"\s*:\s*"([^"]+)"',
    ):
        name = re.search(pattern, plain_body)
        if name:
            return name[1]
    return ""


def _find_tenant(challenge: str) -> str:
    """Return the id of the tenant in a header WWW-Authenticate, or an empty string.

    The header contains an address such as https://login.windows.net/TENANT-ID.
    """
    tenant = re.search(r'https://[^/"]+/([0-9a-f-]{36})', challenge)
    return tenant[1] if tenant else ""


def _get_header(headers: Headers, name: str) -> str:
    """Return the header of this name, in upper or lower case, or an empty string."""
    for key, value in headers.items():
        if key.lower() == name.lower():
            return str(value)
    return ""
