"""Refusals as the real services word them, each with the place that it was read at.

A test lets the stand-in answer with one of them: `Fault(pattern, refusal=REFUSALS[name])`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from .wire import REGION, Reply


@dataclass(frozen=True)
class Refusal:
    """An answer of a real service: its status, and its body as JSON or as XML."""

    status: int
    code: str
    body: Any

    def reply(self) -> Reply:
        """Return the answer; the storage service repeats its code in a header."""
        if isinstance(self.body, str):
            headers = {"x-ms-error-code": self.code, "Content-Type": "application/xml"}
            return Reply(self.body.encode(), self.status, headers)
        return Reply(self.body, self.status)


def _storage_refusal(status: int, code: str, sentence: str) -> Refusal:
    """Return an answer of the storage service, which adds two lines to its sentence."""
    request_id = "RequestId:176c3808-201a-004f-5842-557d35000000"
    time = "Time:2026-11-14T08:41:01.5009594Z"
    message = f"{sentence}\n{request_id}\n{time}"
    return Refusal(
        status,
        code,
        '\ufeff<?xml version="1.0" encoding="utf-8"?>'
        f"<Error><Code>{code}</Code><Message>{message}</Message></Error>",
    )


def _arm_refusal(status: int, code: str, message: str, **more: Any) -> Refusal:
    """Return an answer of the resource manager."""
    return Refusal(status, code, {"error": {"code": code, "message": message, **more}})


def _additional_info(inner_code: str) -> list[dict[str, Any]]:
    """Return what Azure ML's front adds to its errors, as recorded."""
    return [
        {"type": "ComponentName", "info": {"value": "managementfrontend"}},
        {"type": "Environment", "info": {"value": REGION}},
        {"type": "InnerError", "info": {"value": {"code": inner_code}}},
    ]


_POLICY_IDENTIFIERS = json.dumps(
    [
        {
            "policyAssignment": {
                "name": "Allowed locations",
                "id": "/subscriptions/33333333/providers/Microsoft.Authorization"
                "/policyAssignments/1RYdDsXlROaC",
            },
            "policyDefinition": {
                "name": "Allowed locations",
                "id": "/providers/Microsoft.Authorization/policyDefinitions"
                "/e56962a6-4747-49cd-b67b-bf8b01975c4c",
            },
        }
    ],
    separators=(",", ":"),
)

REFUSALS = {
    # Storage: Microsoft's page "Troubleshoot 403 errors", and reports of issues on GitHub
    # that quote the whole answer.
    "storage firewall": _storage_refusal(
        403,
        "AuthorizationFailure",
        "This request is not authorized to perform this operation.",
    ),
    "keys switched off": _storage_refusal(
        403,
        "KeyBasedAuthenticationNotPermitted",
        "Key based authentication is not permitted on this storage account.",
    ),
    "anonymous": _storage_refusal(
        409,
        "PublicAccessNotPermitted",
        "Public access is not permitted on this storage account.",
    ),
    "no role for data": _storage_refusal(
        403,
        "AuthorizationPermissionMismatch",
        "This request is not authorized to perform this operation using this permission.",
    ),
    "old key": _storage_refusal(
        403,
        "AuthenticationFailed",
        "Server failed to authenticate the request. Make sure the value of Authorization "
        "header is formed correctly including the signature.",
    ),
    # Microsoft's page "Common REST API error codes". The status 429 in place of 503 is
    # known from reports.
    "throttled storage": _storage_refusal(
        429, "ServerBusy", "Ingress is over the account limit."
    ),
    # Microsoft's pages on service connections and on metrics quote this answer.
    "missing role": _arm_refusal(
        403,
        "AuthorizationFailed",
        "The client '22222222-2222-2222-2222-222222222222' with object id "
        "'22222222-2222-2222-2222-222222222222' does not have authorization to perform "
        "action 'Microsoft.MachineLearningServices/workspaces/computes/write' over scope "
        "'/subscriptions/33333333/resourceGroups/group' or the scope is invalid. If access "
        "was recently granted, please refresh your credentials.",
    ),
    # Microsoft's page on Azure Automation has this answer in full.
    "policy": _arm_refusal(
        403,
        "RequestDisallowedByPolicy",
        "Resource 'cpu-cluster' was disallowed by policy. Policy identifiers: "
        f"'{_POLICY_IDENTIFIERS}'.",
        target="cpu-cluster",
        additionalInfo=[
            {
                "type": "PolicyViolation",
                "info": {"policyDefinitionDisplayName": "Allowed locations"},
            }
        ],
    ),
    # An issue of Azure/azure-docs (90426) quotes this answer, there behind a status 502.
    "private link": _arm_refusal(
        403,
        "UserError",
        "Access to workspace was denied based on workspace private link configuration.",
        details=[],
        additionalInfo=_additional_info("AuthorizationError"),
    ),
    # Quoted in issues on GitHub (ansible-collections/azure 2209, Azure/mlops-v2 81).
    "quota of 0": _arm_refusal(
        400,
        "ClusterMinNodesExceedCoreQuota",
        "The specified subscription has a Standard DSv2 family vCPU quota of 0 and cannot "
        "accomodate for at least 1 requested managed compute nodes which maps to 4 vCPUs.",
    ),
    "throttled manager": _arm_refusal(
        429,
        "TooManyRequests",
        "The request is being throttled as the limit has been reached for operation type "
        "- Read_ObservationWindow_00:05:00. For more information, see - "
        "https://aka.ms/srpthrottlinglimits",
    ),
}

#: How a deployment fails whose workspace was deleted recently: the reason is the innermost of
#: the details. Quoted in full in an issue of Azure/ResourceModules (3596).
SOFT_DELETED_WORKSPACE = {
    "code": "DeploymentFailed",
    "message": "At least one resource deployment operation failed. Please list deployment "
    "operations for details. Please see https://aka.ms/arm-deployment-operations for usage "
    "details.",
    "details": [
        {
            "code": "ResourceDeploymentFailure",
            "message": "The resource write operation failed to complete successfully, "
            "because it reached terminal provisioning state 'Failed'.",
            "details": [
                {
                    "code": "BadRequest",
                    "message": "Soft-deleted workspace exists. Please purge or recover it. "
                    "https://aka.ms/wsoftdelete",
                }
            ],
        }
    ],
}
