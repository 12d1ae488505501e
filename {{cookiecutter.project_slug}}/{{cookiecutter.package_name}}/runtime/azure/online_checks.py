"""The checks of `check --online`, which compare the settings with what is on Azure.

They ask Azure's resource manager (its REST API) with the login that `login.py` finds. They
only read, never prompt, and end within LIMIT seconds.

This module imports only the standard library and requests, and takes plain values, because
the template's hook also asks Azure, before a project is written.
"""

from __future__ import annotations

import difflib
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from ..harmless_text import make_harmless
from . import login, request_guard
from .check_answers import (
    EMPTY,
    IN_WORKSPACE,
    ML,
    OK,
    UNASKED,
    UNUSUAL,
    WRONG,
    Answer,
    AzureNames,
    CheckFailed,
    Facts,
    Row,
)
from .identity_checks import (
    check_cluster_identity,
    check_cluster_roles,
    check_default_datastore,
    check_login_roles,
    check_registry,
    check_storage,
)
from .resource_manager import ML_VERSION, ResourceManager
from .roles import find_principal, read_claims

# Seconds that all checks together may take.
LIMIT = 60.0

# The checks. Each asks the resource manager, and may add to the facts for later checks.


def check_subscription(azure: ResourceManager, facts: Facts) -> Answer:
    """Check that the login can use the subscription."""
    subscription = azure.get(facts.subscription, "api-version=2022-12-01")
    if subscription is None:
        answer = Answer(
            WRONG,
            f"the login sees no subscription {facts.subscription_id}",
            "write one that `az account list --output table` shows",
            setting="subscription_id",
        )
        raise CheckFailed(answer, stops_all=True)

    tenant = subscription["tenantId"]
    managing_tenants = subscription.get("managedByTenants") or []
    tenants = [tenant, *(managing["tenantId"] for managing in managing_tenants)]
    if facts.tenant_id and facts.tenant_id not in tenants:
        text = f"it is of tenant {tenant}, the login of {facts.tenant_id}"
        return Answer(WRONG, text, login.log_in_command(facts.cloud, tenant))

    if subscription["state"] in ("Disabled", "Deleted"):
        text = f"it is {subscription['state']}"
        return Answer(WRONG, text, "have its owner enable it")
    return Answer(OK, subscription.get("displayName", ""))


def check_provider(azure: ResourceManager, facts: Facts) -> Answer:
    """Check that Azure ML is registered in the subscription."""
    path = f"{facts.subscription}/providers/{ML}"
    state = azure.get(path, "api-version=2021-04-01")["registrationState"]
    text = f"Azure ML is {state} in the subscription"
    if state in ("Registered", "Registering"):
        return Answer(OK, text)
    return Answer(WRONG, text, facts.az(f"provider register --namespace {ML}"))


def check_resource_group(azure: ResourceManager, facts: Facts) -> Answer:
    """Check that the resource group exists."""
    path = f"{facts.subscription}/resourcegroups/{facts.resource_group}"
    if azure.get(path, "api-version=2021-04-01") is not None:
        return Answer(OK, facts.resource_group)
    return Answer(
        WRONG,
        f"there is no resource group {facts.resource_group}",
        facts.az("group create --name {resource_group} --location {region}"),
    )


def check_workspace(azure: ResourceManager, facts: Facts) -> Answer:
    """Check that the workspace exists, in the region of the settings."""
    name = facts.workspace_name
    path = facts.workspace_path
    workspace = azure.get(path, ML_VERSION, status_if_forbidden=WRONG)
    if workspace is None:
        create = facts.az(
            "ml workspace create --name {workspace_name} "
            "--resource-group {resource_group} --location {region}"
        )
        return Answer(
            WRONG,
            f"there is no workspace {name} in the resource group",
            f"{facts.provision_command}, or {create}",
        )

    region = workspace["location"].replace(" ", "").lower()
    new_facts = {
        "workspace": path,
        "storage_account": workspace["properties"].get("storageAccount") or "",
        "container_registry": workspace["properties"].get("containerRegistry") or "",
        "region": region,
    }
    if facts.region not in ("", region):
        return Answer(
            WRONG,
            f"the workspace is in {region}, not in {facts.region}",
            f"write {region}",
            setting="region",
            facts=new_facts,
        )
    kind = workspace.get("kind") or "Default"
    if kind != "Default":
        return Answer(
            UNUSUAL,
            f"{name}, in {region}, is of the kind {kind}",
            "use a workspace of the kind Default, as pipelines belong there",
            facts=new_facts,
        )
    return Answer(OK, f"{name}, in {region}", facts=new_facts)


def check_environment(azure: ResourceManager, facts: Facts) -> Answer:
    """Check that the environment of the steps is registered."""
    name = facts.environment_name
    if azure.get(f"{facts.workspace}/environments/{name}", ML_VERSION):
        return Answer(OK, name)
    text = f"{name} is not in the workspace yet"
    return Answer(EMPTY, text, facts.provision_command)


def check_compute(azure: ResourceManager, facts: Facts) -> Answer:
    """Check that the compute is a cluster like the one in the settings."""
    name = facts.compute_name
    compute = azure.get(f"{facts.workspace}/computes/{name}", ML_VERSION)
    if not compute:
        create = facts.az(
            "ml compute create --name {compute_name} --type AmlCompute "
            "--size {vm_size} --max-instances {max_nodes} " + IN_WORKSPACE
        )
        fix = f"{facts.provision_command}, or {create}"
        return Answer(WRONG, f"there is no compute {name}", fix)

    properties = compute["properties"]
    kind = properties["computeType"]
    if kind != "AmlCompute":
        text = f"{name} is a {kind}, not a compute cluster (AmlCompute)"
        return Answer(WRONG, text, "write another's name", setting="compute_name")
    state = properties["provisioningState"]
    if state in ("Failed", "Canceled", "Deleting"):
        show = facts.az("ml compute show --name {compute_name} " + IN_WORKSPACE)
        return Answer(WRONG, f"{name} is {state}", show)
    answer = _check_cluster(properties["properties"], facts)
    principal = find_principal(compute, facts.identity)
    return replace(
        answer, facts={"compute_exists": True, "cluster_principal": principal}
    )


def _check_cluster(cluster: Mapping[str, Any], facts: Facts) -> Answer:
    """Compare a compute cluster, as Azure describes it, with the settings."""
    name = facts.compute_name
    size = cluster["vmSize"]
    if facts.vm_size and size.lower() != facts.vm_size.lower():
        text = f"the nodes of {name} are {size}, not {facts.vm_size}"
        return Answer(WRONG, text, f"write {size}", setting="vm_size")

    max_nodes = cluster["scaleSettings"]["maxNodeCount"]
    if max_nodes < facts.max_nodes:
        update = facts.az(
            "ml compute update --name {compute_name} --max-instances {max_nodes} "
            + IN_WORKSPACE
        )
        return Answer(
            WRONG,
            f"{name} has {max_nodes} nodes at most, not {facts.max_nodes}",
            f"write {max_nodes}, or {update}",
            setting="max_nodes",
        )
    return Answer(OK, f"{name}, up to {max_nodes} nodes")


def check_vm_size(azure: ResourceManager, facts: Facts) -> Answer:
    """Check that clusters in this region can have nodes of the VM size."""
    sizes = {
        size["name"].lower(): size
        for size in azure.list_items(f"{facts.location}/vmSizes")
    }
    sizes_of_clusters = [
        name
        for name, size in sizes.items()
        if "AmlCompute" in size["supportedComputeTypes"]
    ]

    wanted = facts.vm_size.lower()
    if wanted in sizes_of_clusters:
        size = sizes[wanted]
        text = f"{facts.vm_size}, {size['vCPUs']} vCPUs"
        return Answer(OK, text, facts={"size_in_region": size})

    purpose = " for clusters" if wanted in sizes else ""
    text = f"Azure ML has no {facts.vm_size}{purpose} in {facts.region}"
    similar = difflib.get_close_matches(wanted, sizes_of_clusters, n=3)
    choices = ", ".join(sizes[name]["name"] for name in similar) or "another"
    return Answer(WRONG, text, f"write {choices}", setting="vm_size")


def check_quota(azure: ResourceManager, facts: Facts) -> Answer:
    """Check that the quota is large enough for all nodes of the cluster."""
    size = facts.size_in_region or {}
    cores = size["vCPUs"]
    family = size["family"]
    quotas = list(_list_quotas(azure, facts.location, family))
    if not quotas:
        return Answer(UNASKED, f"Azure names no quota of {family}")

    needed_cores = facts.max_nodes * cores
    need = f"{facts.max_nodes} nodes need {needed_cores} vCPUs"
    limited_quotas = [quota for quota in quotas if quota["limit"] >= 0]
    if not limited_quotas:
        return Answer(OK, f"{need}, without a limit")

    smallest = min(limited_quotas, key=lambda quota: quota["limit"])
    limit = smallest["limit"]
    in_use = smallest["currentValue"]
    quota_name = smallest["name"]["localizedValue"]
    text = f"{need}, of {limit} allowed, {in_use} in use ({quota_name})"
    if needed_cores > limit:
        return _describe_small_quota(text, limit, cores)

    answer = _check_quota_of_all_clusters(limited_quotas, needed_cores, facts)
    if answer is None:
        answer = Answer(OK, text)
    cores_of_family = facts.cores.get(family, 0) + needed_cores
    return replace(answer, facts={"cores": {**facts.cores, family: cores_of_family}})


def _describe_small_quota(text: str, limit: int, cores_of_node: int) -> Answer:
    """Return how to change the settings if the quota is too small for the cluster."""
    ask_for_quota = "ask for more quota in the Studio"
    if limit == 0:
        fix = "write a size of another family, as a smaller one cannot help"
        return Answer(WRONG, text, f"{fix}, or {ask_for_quota}", setting="vm_size")
    if limit >= cores_of_node:
        fix = f"write {limit // cores_of_node}, or {ask_for_quota}"
        return Answer(WRONG, text, fix, setting="max_nodes")
    fix = f"write a smaller one, or {ask_for_quota}"
    return Answer(WRONG, text, fix, setting="vm_size")


def _check_quota_of_all_clusters(
    quotas: list[dict[str, Any]], needed_cores: int, facts: Facts
) -> Answer | None:
    """Check that this cluster and those before it can use all their nodes at once.

    Returns None if a quota is large enough for all of them.
    """
    family = (facts.size_in_region or {})["family"]
    for quota in quotas:
        cores = facts.cores.get(family, 0)
        if _is_total(quota):
            cores = sum(facts.cores.values())
        if cores and needed_cores + cores > quota["limit"]:
            return Answer(
                UNUSUAL,
                f"{facts.max_nodes} nodes need {needed_cores} vCPUs, and the clusters above "
                f"{cores}, of {quota['limit']} allowed ({quota['name']['localizedValue']})",
                "write fewer nodes, or ask for more quota in the Studio, if the clusters "
                "are to work at the same time",
                setting="max_nodes",
            )
    return None


def _list_quotas(
    azure: ResourceManager, location: str, family: str
) -> Iterator[dict[str, Any]]:
    """Yield the quotas of dedicated cores: that of all VM sizes, and that of a family."""
    for usage in azure.list_items(f"{location}/usages"):
        is_of_family = (
            usage["type"] == f"{ML}/vmFamily/dedicatedCores/usages"
            and usage["name"]["value"].lower() == family.lower()
        )
        if _is_total(usage) or is_of_family:
            yield usage


def _is_total(usage: Mapping[str, Any]) -> bool:
    """Return whether a quota is that of the dedicated cores of all VM sizes together."""
    return bool(usage["type"] == f"{ML}/totalDedicatedCores/usages")


@dataclass(frozen=True)
class Check:
    """A check of one subject on Azure."""

    name: str
    run: Callable[[ResourceManager, Facts], Answer]
    #: The fields of Facts that the check needs. If one is empty, the check is skipped.
    needs: tuple[str, ...]
    #: Whether the check is repeated for each cluster of the settings.
    is_of_cluster: bool = False


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
    Check("storage", check_storage, needs=("workspace", "storage_account")),
    Check("default datastore", check_default_datastore, needs=("workspace",)),
    Check("container registry", check_registry, needs=("workspace",)),
    Check("environment", check_environment, needs=("workspace",)),
    Check(
        "compute",
        check_compute,
        needs=("workspace", "compute_name"),
        is_of_cluster=True,
    ),
    Check(
        "cluster's identity",
        check_cluster_identity,
        needs=("workspace", "compute_name", "compute_exists"),
        is_of_cluster=True,
    ),
    Check("your roles", check_login_roles, needs=("workspace", "login_id")),
    Check(
        "cluster's roles",
        check_cluster_roles,
        needs=("workspace", "compute_exists"),
        is_of_cluster=True,
    ),
    Check(
        "VM size",
        check_vm_size,
        needs=("subscription_id", "region", "vm_size"),
        is_of_cluster=True,
    ),
    Check("quota", check_quota, needs=("size_in_region",), is_of_cluster=True),
]
CLUSTER_CHECKS = [check for check in CHECKS if check.is_of_cluster]
#: How messages call a need, if not by the name of its field.
_NAMES_OF_NEEDS = {
    "vm_size": "VM size",
    "size_in_region": "a VM size that Azure knows",
    "compute_exists": "a compute cluster",
    "login_id": "a token that names its owner",
}


def ask_azure(names: AzureNames, *further_clusters: AzureNames) -> list[Row]:
    """Run all checks, and return a row for each, and for checks that were skipped.

    `further_clusters` differ from `names` only in their clusters.
    """
    rows: list[Row] = []
    clusters = [names, *further_clusters]

    def collect_rows() -> None:
        """Add the row of each check as soon as the check has ended."""
        for row in _run_checks(clusters):
            # `extend` need not add a row before the next check has ended.
            rows.append(row)  # noqa: PERF402

    # The time-outs of requests do not include the look-up of a host's address. So the checks
    # run in a thread, which is abandoned after LIMIT seconds.
    thread = threading.Thread(target=collect_rows, daemon=True)
    with request_guard.guard_requests():
        thread.start()
        thread.join(LIMIT)
    if not thread.is_alive():
        return rows
    late = Row("Azure", UNASKED, f"no answer within {LIMIT:.0f} s", "try again later")
    return [*rows, late]


def _run_checks(clusters: Sequence[AzureNames]) -> Iterator[Row]:
    """Log in, run all checks in turn, and yield the row of each.

    Every check runs for the first cluster. For each other cluster, only the checks of a
    cluster are repeated.
    """
    names = clusters[0]
    deadline = time.monotonic() + LIMIT
    try:
        token = login.get_token(names.cloud)
    except login.LoginError as error:
        yield _describe_missing_login(str(error), names.cloud)
        yield _describe_skipped("without a login", [check.name for check in CHECKS])
        return

    claims = read_claims(token)
    tenant_id = str(claims.get("tid", ""))
    login_id = str(claims.get("oid", ""))
    text = f"of tenant {tenant_id}" if tenant_id else "you are logged in"
    yield Row("login", OK, text)

    azure = ResourceManager(names, token, deadline)
    facts = Facts(**asdict(names), tenant_id=tenant_id, login_id=login_id)
    checker = _Checker(azure, facts)
    for check in CHECKS:
        yield from checker.run(check, check.name)
    for cluster in clusters[1:]:
        checker.facts = checker.facts.with_cluster(cluster)
        for check in CLUSTER_CHECKS:
            yield from checker.run(check, f"{cluster.compute_key}: {check.name}")
    for reason, skipped in checker.skipped_by_reason.items():
        yield _describe_skipped(reason, skipped)


@dataclass
class _Checker:
    """Runs checks one after another. Each gets the facts that earlier ones have found."""

    azure: ResourceManager
    facts: Facts
    #: The names of the rows of skipped checks, by the reason why they were skipped.
    skipped_by_reason: dict[str, list[str]] = field(default_factory=dict)
    #: Why all further checks are skipped. Empty if they are not.
    stop_reason: str = ""

    def run(self, check: Check, row_name: str) -> Iterator[Row]:
        """Run a check and yield its row, or yield nothing and note why it is skipped."""
        reason = self.stop_reason or _find_missing_need(check, self.facts)
        if reason:
            self.skipped_by_reason.setdefault(reason, []).append(row_name)
            return

        try:
            answer = check.run(self.azure, self.facts)
        except CheckFailed as failed:
            answer = failed.answer
            if failed.stops_all:
                self.stop_reason = f"as {answer.text}"
        except (AttributeError, LookupError, TypeError, ValueError):
            answer = Answer(UNASKED, "Azure's answer is not of the documented form")

        self.facts = replace(self.facts, **answer.facts)
        yield Row(
            name=row_name,
            status=answer.status,
            text=make_harmless(answer.text),
            fix=make_harmless(answer.fix),
            setting=answer.setting,
            compute_key=self.facts.compute_key,
        )


def _describe_missing_login(error: str, cloud: str) -> Row:
    """Return the row that explains why there is no token."""
    answer = request_guard.quote_login_refusal()
    problem = login.explain_login(error, cloud, answer)
    status = WRONG if problem.is_refused else UNASKED
    return Row("login", status, problem.message, problem.advice)


def _describe_skipped(reason: str, skipped: list[str]) -> Row:
    """Return one row for all checks that were skipped for the same reason."""
    if len(skipped) == 1:
        return Row(skipped[0], UNASKED, f"not asked, {reason}")
    return Row("not asked", UNASKED, f"{', '.join(skipped)}: {reason}")


def _find_missing_need(check: Check, facts: Facts) -> str:
    """Return why a check must be skipped, such as "without workspace name", or ""."""
    for need in check.needs:
        if not getattr(facts, need):
            name = _NAMES_OF_NEEDS.get(need, need.replace("_", " "))
            return f"without {name}"
    return ""
