"""`check --online`: run the checks that compare the settings with what is on Azure.

The checks ask Azure's resource manager (its REST API) with the login that `login.py` finds.
They only read, never prompt, and end within LIMIT_SECONDS.

This module needs only the standard library and requests, because the template's hook also
runs the checks, before a project is written.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace

from ..harmless_text import make_harmless
from . import login, request_guard
from .capacity_checks import check_quota, check_vm_size
from .check_results import (
    NOT_CHECKED,
    OK,
    WRONG,
    AzureNames,
    CheckFailed,
    CheckResult,
    Facts,
    NamedResult,
)
from .identity_checks import (
    check_cluster_identity,
    check_cluster_roles,
    check_default_datastore,
    check_login_roles,
    check_registry,
    check_storage,
)
from .resource_checks import (
    check_compute,
    check_environment,
    check_provider,
    check_resource_group,
    check_subscription,
    check_workspace,
)
from .resource_manager import ResourceManager
from .roles import read_claims

#: Seconds that all checks together may take.
LIMIT_SECONDS = 60.0


@dataclass(frozen=True)
class Check:
    """A check of `check --online`, and when it runs."""

    #: The name in the table of results, such as "quota".
    name: str
    run: Callable[[ResourceManager, Facts], CheckResult]
    #: The fields of Facts that the check needs. If one is empty, the check is skipped.
    needs: tuple[str, ...]
    #: Whether the check is repeated for each cluster of the settings.
    concerns_cluster: bool = False


#: The checks that follow the login, in their order.
CHECKS = [
    Check("subscription", check_subscription, needs=("subscription_id",)),
    Check("provider", check_provider, needs=("subscription_id",)),
    Check(
        "resource group",
        check_resource_group,
        needs=("subscription_id", "resource_group"),
    ),
    Check(
        "workspace",
        check_workspace,
        needs=("subscription_id", "resource_group", "workspace_name"),
    ),
    Check("storage", check_storage, needs=("workspace_exists", "storage_account")),
    Check("default datastore", check_default_datastore, needs=("workspace_exists",)),
    Check("container registry", check_registry, needs=("workspace_exists",)),
    Check("environment", check_environment, needs=("workspace_exists",)),
    Check(
        "compute",
        check_compute,
        needs=("workspace_exists", "compute_name"),
        concerns_cluster=True,
    ),
    Check(
        "cluster's identity",
        check_cluster_identity,
        needs=("workspace_exists", "compute_name", "compute_exists"),
        concerns_cluster=True,
    ),
    Check("your roles", check_login_roles, needs=("workspace_exists", "login_id")),
    Check(
        "cluster's roles",
        check_cluster_roles,
        needs=("workspace_exists", "compute_exists"),
        concerns_cluster=True,
    ),
    Check(
        "VM size",
        check_vm_size,
        needs=("subscription_id", "region", "vm_size"),
        concerns_cluster=True,
    ),
    Check("quota", check_quota, needs=("vm_family",), concerns_cluster=True),
]
#: Why a check is skipped, by the field of Facts that it needs and that is empty.
REASON_BY_NEED = {
    "subscription_id": "subscription_id is empty",
    "resource_group": "resource_group is empty",
    "workspace_name": "workspace_name is empty",
    "workspace_exists": "there is no workspace that the login can read",
    "storage_account": "the workspace names no storage account",
    "compute_name": "the compute has no name",
    "compute_exists": "the cluster was not found",
    "login_id": "the login's token does not contain its id",
    "region": "the region is empty",
    "vm_size": "the VM size is empty",
    "vm_family": "there is no valid VM size",
}


def ask_azure(*names_of_clusters: AzureNames) -> list[NamedResult]:
    """Run all checks, and return their results, with a line on what was not checked.

    `names_of_clusters` are the settings for Azure, once for each cluster. They differ only in
    the fields that describe the cluster. There is at least one.
    """
    results: list[NamedResult] = []

    def collect_results() -> None:
        """Add the result of each check as soon as the check has ended."""
        # The results are appended one by one, so that those of the completed checks are kept
        # if a later check hangs. `extend` does not promise this.
        for result in _run_checks(names_of_clusters):
            results.append(result)  # noqa: PERF402

    # The time-out of a request does not cover the DNS look-up, which can hang. So the checks
    # run in a thread, which is abandoned after LIMIT_SECONDS.
    thread = threading.Thread(target=collect_results, daemon=True)
    with request_guard.guard_requests():
        thread.start()
        thread.join(LIMIT_SECONDS)
    if not thread.is_alive():
        return results

    timeout = CheckResult(
        NOT_CHECKED,
        f"the checks did not end within {LIMIT_SECONDS:.0f} s",
        "try again later",
    )
    return [*results, NamedResult("Azure", timeout)]


def _run_checks(names_of_clusters: Sequence[AzureNames]) -> Iterator[NamedResult]:
    """Log in, run all checks in turn, and yield the result of each.

    Every check runs for the first cluster. For each further cluster, only the checks that
    concern the cluster are repeated.
    """
    first_names, *further_names = names_of_clusters
    deadline = time.monotonic() + LIMIT_SECONDS
    try:
        token = login.get_token(first_names.cloud)
    except login.LoginError as error:
        cause = _explain_missing_login(str(error), first_names.cloud)
        yield NamedResult("login", cause)
        yield _report_skipped("there is no login", [check.name for check in CHECKS])
        return

    facts = _make_first_facts(first_names, token)
    tenant = f" to the tenant {facts.tenant_id}" if facts.tenant_id else ""
    yield NamedResult("login", CheckResult(OK, f"you are logged in{tenant}"))

    runner = _CheckRunner(ResourceManager(first_names, token, deadline), facts)
    yield from runner.run_all(CHECKS)

    cluster_checks = [check for check in CHECKS if check.concerns_cluster]
    for cluster_names in further_names:
        runner.switch_to_cluster(cluster_names)
        prefix = f"{cluster_names.compute_key}: "
        yield from runner.run_all(cluster_checks, prefix)

    for reason, check_names in runner.skipped_by_reason.items():
        yield _report_skipped(reason, check_names)


def _make_first_facts(names: AzureNames, token: str) -> Facts:
    """Return what is known before the first check: the settings, and who is logged in."""
    claims = read_claims(token)
    return Facts(
        **asdict(names),
        tenant_id=str(claims.get("tid", "")),
        login_id=str(claims.get("oid", "")),
    )


@dataclass
class _CheckRunner:
    """Runs checks one after another. Each gets the facts that earlier ones have learned."""

    azure: ResourceManager
    facts: Facts
    #: The names of skipped checks, by the reason why they were skipped.
    skipped_by_reason: dict[str, list[str]] = field(default_factory=dict)
    #: Why all further checks are skipped. Empty if they are not.
    stop_reason: str = ""

    def switch_to_cluster(self, names: AzureNames) -> None:
        """Let the next checks concern another cluster, which `names` describes."""
        self.facts = self.facts.with_cluster(names)

    def run_all(
        self, checks: Sequence[Check], prefix: str = ""
    ) -> Iterator[NamedResult]:
        """Run checks in turn, and yield the results of those that are not skipped.

        The name of each result is that of its check after the prefix, such as
        "computes.gpu: quota".
        """
        for check in checks:
            result = self.run(check, f"{prefix}{check.name}")
            if result is not None:
                yield result

    def run(self, check: Check, name: str) -> NamedResult | None:
        """Run a check, and return its result under a name.

        Returns None if the check must be skipped. The reason is kept in `skipped_by_reason`.
        """
        reason = self.stop_reason or _find_reason_to_skip(check, self.facts)
        if reason:
            self.skipped_by_reason.setdefault(reason, []).append(name)
            return None

        try:
            result = check.run(self.azure, self.facts)
        except CheckFailed as failed:
            result = failed.result
            if failed.stops_all:
                self.stop_reason = make_harmless(result.text)
        except (AttributeError, LookupError, TypeError, ValueError):
            # A check raises these errors if a response lacks what the check reads from it.
            result = CheckResult(
                NOT_CHECKED, "Azure's response does not have the documented format"
            )

        self.facts = replace(self.facts, **result.new_facts)
        # The text may quote Azure, and so may contain characters that control a terminal.
        harmless_result = replace(
            result, text=make_harmless(result.text), fix=make_harmless(result.fix)
        )
        return NamedResult(name, harmless_result, self.facts.compute_key)


def _explain_missing_login(error_text: str, cloud: str) -> CheckResult:
    """Return the result that explains why there is no token for a cloud.

    `error_text` is the text of a LoginError.
    """
    quotation = request_guard.quote_login_refusal()
    problem = login.explain_login(error_text, cloud, quotation)
    status = WRONG if problem.is_refused else NOT_CHECKED
    return CheckResult(status, problem.message, problem.advice)


def _report_skipped(reason: str, check_names: list[str]) -> NamedResult:
    """Return one result for all checks that were skipped for the same reason.

    Its text is, for example, "compute, quota: there is no login".
    """
    if len(check_names) == 1:
        result = CheckResult(NOT_CHECKED, f"not checked: {reason}")
        return NamedResult(check_names[0], result)
    result = CheckResult(NOT_CHECKED, f"{', '.join(check_names)}: {reason}")
    return NamedResult("not checked", result)


def _find_reason_to_skip(check: Check, facts: Facts) -> str:
    """Return why a check cannot run, such as "the region is empty", or "" if it can."""
    for need in check.needs:
        is_missing = not getattr(facts, need)
        if is_missing:
            return REASON_BY_NEED[need]
    return ""
