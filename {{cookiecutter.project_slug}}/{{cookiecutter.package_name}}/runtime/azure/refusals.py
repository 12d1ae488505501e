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

# At most this many characters of Azure's own sentence are shown.
LONGEST_SENTENCE = 300
# Seconds to wait if a reply does not say how long.
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
    """A reply in which a service refuses a request.

    `code` is the most specific code of the reply, `message` is the sentence that belongs to
    it, and `codes` are all codes of the reply.
    """

    status: int
    host: str = ""
    code: str = ""
    message: str = ""
    codes: frozenset[str] = frozenset()
    #: The name of the policy that forbids the request.
    policy: str = ""
    #: The tenant that the user must log in to.
    tenant_id: str = ""
    #: Seconds to wait before the request is repeated.
    wait: int = DEFAULT_WAIT


@dataclass(frozen=True)
class Explanation:
    """Why a request was refused, what to do about it, and a quotation of Azure's reply."""

    cause: str
    advice: str
    answer: str

    def __str__(self) -> str:
        """Return all three."""
        return f"{self.cause} {self.advice} {self.answer}"


@dataclass(frozen=True)
class Refusal:
    """A kind of refusal, which is recognized by a code or by a pattern in Azure's message.

    The cause and the advice may contain {names} of the values that `_list_facts` returns.
    """

    cause: str
    advice: str
    codes: tuple[str, ...] = ()
    pattern: str = ""

    def matches(self, error: ServiceError) -> bool:
        """Return whether an error is a refusal of this kind."""
        if not error.codes.isdisjoint(self.codes):
            return True
        if not self.pattern:
            return False
        return re.search(self.pattern, error.message, re.IGNORECASE) is not None


#: The refusals that need advice of their own. The first that matches an error is used.
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
            "{in_workspace} --system-datastores-auth-mode identity`. You and the cluster "
            "then need roles on the storage account, which docs/azure.md lists."
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
            "Ask the owner for it: `az role assignment create --assignee YOU --role "
            '"Storage Blob Data Contributor" --scope $(az storage account show --name '
            "{account} --query id --output tsv)`. It takes some minutes to work."
        ),
    ),
    Refusal(
        codes=("AuthenticationFailed",),
        cause="The {storage} does not accept the key or the signature.",
        advice=(
            "Check the clock of this machine. If the keys were renewed, run `az ml "
            "workspace sync-keys {in_workspace}`."
        ),
    ),
    Refusal(
        codes=("AuthorizationFailed", "LinkedAuthorizationFailed"),
        pattern="does not have authorization to perform action",
        cause="The login has no right to do this.",
        advice=(
            "Ask the owner for the role {role}: `az role assignment create --assignee "
            '{principal} --role "{role}" --scope {scope}`. It takes some minutes to work.'
        ),
    ),
    Refusal(
        codes=("RequestDisallowedByPolicy",),
        pattern="was disallowed by policy",
        cause="A policy of your company forbids this{policy}.",
        advice=(
            "Change what it forbids, such as workspace.region or compute.vm_size in "
            "settings.yml, or ask for an exemption. `az policy assignment list` shows all "
            "policies."
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
        advice="Ask the owner to remove it. `az lock list` shows all locks.",
    ),
]

#: Roles that include an action of the resource manager, by the start of the action's name.
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
    """Parse an error reply of any service of Azure.

    If the body has no known form, the error has no code and no message.
    """
    errors = parse_errors(body)
    code = _get_header(headers, "x-ms-error-code")
    if code:
        message = errors[-1].message if errors else ""
        errors.append(CodeAndMessage(code, message))

    codes = frozenset(error.code for error in errors)
    most_specific = _choose_error(errors)
    return ServiceError(
        status=status,
        host=urlsplit(address).hostname or "",
        code=most_specific.code,
        message=shorten(most_specific.message),
        codes=codes,
        policy=_find_policy(body),
        tenant_id=_find_tenant(_get_header(headers, "WWW-Authenticate")),
        wait=seconds_to_wait(headers),
    )


def explain(error: ServiceError, names: WorkspaceNames) -> Explanation:
    """Return why a service refuses a request, and what to do about it."""
    facts = _list_facts(error, names)
    answer = quote(error)
    for refusal in REFUSALS:
        if refusal.matches(error):
            cause = refusal.cause.format_map(facts)
            return Explanation(cause, refusal.advice.format_map(facts), answer)

    if error.status == 401:
        log_in = log_in_command(names.cloud, error.tenant_id)
        return Explanation(
            "Azure does not accept the login.", f"Run `{log_in}`.", answer
        )
    if error.status == 403:
        return Explanation(
            "The login has no right to do this.",
            f"Ask for a role on the workspace {names.workspace_name}, such as AzureML "
            "Data Scientist.",
            answer,
        )
    if error.status == 429 or error.code == "ServerBusy":
        return Explanation(
            f"Azure is busy, and asks to wait {error.wait} s.",
            "Run the command again later: it goes on with what is left to do.",
            answer,
        )
    if error.status >= 500:
        return Explanation("Azure has a fault.", "Run the command again later.", answer)
    if error.status == 409:
        return Explanation(
            "The request does not fit what is on Azure at the moment.",
            "If something is still being changed there, run the command again in some "
            "minutes, or else correct what Azure names.",
            answer,
        )
    return Explanation("Azure refuses the request.", "Correct what it names.", answer)


def seconds_to_wait(headers: Headers) -> int:
    """Return how many seconds a reply asks to wait, or DEFAULT_WAIT if it does not say."""
    seconds = _get_header(headers, "Retry-After")
    return max(1, int(seconds)) if seconds.isdecimal() else DEFAULT_WAIT


def _list_facts(error: ServiceError, names: WorkspaceNames) -> dict[str, str]:
    """Return the values for the {names} in REFUSALS."""
    workspace_path = (
        f"/subscriptions/{names.subscription_id}/resourceGroups/{names.resource_group}"
        f"/providers/Microsoft.MachineLearningServices/workspaces/{names.workspace_name}"
    )
    action = re.search(r"action '([^']+)'", error.message)
    principal = re.search(r"object id '([^']+)'", error.message)
    scope = re.search(r"over scope '([^']+)'", error.message)
    account = _find_storage_account(error.host)
    return {
        "storage": f"storage account {account or 'of the workspace'}",
        "account": account or "ACCOUNT",
        "workspace": names.workspace_name,
        "subscription": names.subscription_id,
        "in_workspace": (
            f"--name {names.workspace_name} --resource-group {names.resource_group}"
        ),
        "workspace_address": (
            f"https://{CLOUDS[names.cloud].resource_manager}{workspace_path}"
        ),
        "log_in": log_in_command(names.cloud),
        "policy": f": {error.policy}" if error.policy else "",
        "role": _choose_role(action[1] if action else ""),
        "principal": principal[1] if principal else "YOU",
        "scope": scope[1] if scope else workspace_path,
    }


def _find_storage_account(host: str) -> str:
    """Return the storage account that a host belongs to, or an empty text.

    Other services pass on what storage has answered them. Their hosts name no account.
    """
    account, _, domain = host.partition(".")
    is_storage = domain.startswith(("blob.", "dfs.", "file.", "queue.", "table."))
    return account if is_storage else ""


def _choose_role(action: str) -> str:
    """Return a role that includes an action such as `Microsoft.Storage/…/write`."""
    for start, role in ROLES.items():
        if action.startswith(start):
            return role
    return "Contributor" if action else "AzureML Data Scientist"


def quote(error: ServiceError) -> str:
    """Return a sentence that quotes Azure: the host, the code and the message."""
    host = error.host or "Azure"
    code = error.code
    if error.status >= 400:  # A long operation fails in an answer with the status 200.
        code = f"{error.status} {code}".rstrip()
    if not error.message:
        return f"{host} answered {code}."
    return f'{host} answered {code}: "{error.message}".'


# Reading replies ------------------------------------------------------------------------


def _choose_error(errors: list[CodeAndMessage]) -> CodeAndMessage:
    """Return the most specific error: one that REFUSALS explains, or else the innermost."""
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
    """Return the displayed name of the policy that an answer names, or an empty text."""
    # Parts of an answer can be JSON in a text of JSON, where quotes have backslashes.
    plain_body = body.replace("\\", "")
    for pattern in (
        r'"policyDefinitionDisplayName"\s*:\s*"([^"]+)"',
        r'"policyDefinition"\s*:\s*\{\s*"name"\s*:\s*"([^"]+)"',
    ):
        name = re.search(pattern, plain_body)
        if name:
            return name[1]
    return ""


def _find_tenant(challenge: str) -> str:
    """Return the tenant that a header WWW-Authenticate names, or an empty text."""
    tenant = re.search(r'https://[^/"]+/([0-9a-f-]{36})', challenge)
    return tenant[1] if tenant else ""


def _get_header(headers: Headers, name: str) -> str:
    """Return a header, whatever the case of its name, or an empty text."""
    for key, value in headers.items():
        if key.lower() == name.lower():
            return str(value)
    return ""
