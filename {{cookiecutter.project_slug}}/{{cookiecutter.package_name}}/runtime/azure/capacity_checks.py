"""The checks of `check --online` on VM sizes and quotas: does Azure have enough nodes?"""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from dataclasses import dataclass, replace

from .check_results import ML, NOT_CHECKED, OK, UNUSUAL, WRONG, CheckResult, Facts
from .resource_manager import ResourceManager

# The types by which Azure tells quotas apart.
TOTAL_QUOTA = f"{ML}/totalDedicatedCores/usages"
FAMILY_QUOTA = f"{ML}/vmFamily/dedicatedCores/usages"


@dataclass(frozen=True)
class Quota:
    """A quota of vCPUs, for all VM sizes together or for one family of them."""

    #: The name in Azure's words, such as "Standard DDSv4 Family Cluster Dedicated vCPUs".
    name: str
    limit: int
    in_use: int
    is_total: bool


def check_vm_size(azure: ResourceManager, facts: Facts) -> CheckResult:
    """Check that Azure ML offers the VM size for clusters in this region.

    The new facts are the family of the VM size and the vCPUs of a node.
    """
    size_by_lower_name = {
        size["name"].lower(): size
        for size in azure.list_items(f"{facts.region_path}/vmSizes")
    }
    names_for_clusters = [
        name
        for name, size in size_by_lower_name.items()
        if "AmlCompute" in size["supportedComputeTypes"]
    ]

    lower_name = facts.vm_size.lower()
    if lower_name in names_for_clusters:
        size = size_by_lower_name[lower_name]
        return CheckResult(
            OK,
            f"{facts.vm_size}, {size['vCPUs']} vCPUs",
            new_facts={"vm_family": size["family"], "cores_per_node": size["vCPUs"]},
        )

    text = f"Azure ML has no {facts.vm_size} in {facts.region}"
    if lower_name in size_by_lower_name:
        text = f"Azure ML has no {facts.vm_size} for clusters in {facts.region}"
    similar_names = difflib.get_close_matches(lower_name, names_for_clusters, n=3)
    choices = [size_by_lower_name[name]["name"] for name in similar_names]
    fix = f"write {' or '.join(choices)}" if choices else "write another VM size"
    return CheckResult(WRONG, text, fix, setting="vm_size")


def check_quota(azure: ResourceManager, facts: Facts) -> CheckResult:
    """Check that the quota is large enough for all nodes of the cluster.

    The clusters that were checked before count, too. The new fact is how many vCPUs all of
    them need.
    """
    quotas = list(_list_quotas(azure, facts))
    if not quotas:
        return CheckResult(NOT_CHECKED, f"Azure lists no quota for {facts.vm_family}")

    needed_cores = facts.max_nodes * facts.cores_per_node
    need = f"{facts.max_nodes} nodes need {needed_cores} vCPUs"
    # A negative limit means that there is none.
    limited_quotas = [quota for quota in quotas if quota.limit >= 0]
    if not limited_quotas:
        return CheckResult(OK, f"{need}, without a limit")

    smallest = min(limited_quotas, key=lambda quota: quota.limit)
    text = (
        f"{need}, of {smallest.limit} allowed, {smallest.in_use} in use "
        f"({smallest.name})"
    )
    if needed_cores > smallest.limit:
        return _explain_small_quota(text, smallest.limit, facts.cores_per_node)

    result = _compare_with_all_clusters(limited_quotas, needed_cores, facts)
    if result is None:
        result = CheckResult(OK, text)
    # The clusters that are checked later share the quota with this one.
    cores_of_family = facts.cores_by_family.get(facts.vm_family, 0) + needed_cores
    cores_by_family = {**facts.cores_by_family, facts.vm_family: cores_of_family}
    return replace(result, new_facts={"cores_by_family": cores_by_family})


def _explain_small_quota(text: str, limit: int, cores_per_node: int) -> CheckResult:
    """Return the result for a quota that is too small, with the setting to change.

    `text` describes the quota, and `limit` is the number of vCPUs that it allows.
    """
    if limit == 0:
        return CheckResult(
            WRONG,
            text,
            "write a size of another family, as a smaller size of this family cannot help, "
            "or ask for more quota in the Studio",
            setting="vm_size",
        )
    possible_nodes = limit // cores_per_node
    if possible_nodes == 0:
        return CheckResult(
            WRONG,
            text,
            "write a smaller VM size, or ask for more quota in the Studio",
            setting="vm_size",
        )
    return CheckResult(
        WRONG,
        text,
        f"write {possible_nodes}, or ask for more quota in the Studio",
        setting="max_nodes",
    )


def _compare_with_all_clusters(
    quotas: list[Quota], needed_cores: int, facts: Facts
) -> CheckResult | None:
    """Compare quotas with what this cluster and the clusters checked before it need.

    `needed_cores` are the vCPUs of this cluster with all its nodes. Returns None if every
    quota is large enough for all these clusters at the same time.
    """
    for quota in quotas:
        if quota.is_total:
            cores_of_earlier_clusters = sum(facts.cores_by_family.values())
        else:
            cores_of_earlier_clusters = facts.cores_by_family.get(facts.vm_family, 0)
        if cores_of_earlier_clusters == 0:
            continue
        if needed_cores + cores_of_earlier_clusters > quota.limit:
            return CheckResult(
                UNUSUAL,
                f"{facts.max_nodes} nodes need {needed_cores} vCPUs, and the clusters "
                f"above need {cores_of_earlier_clusters} more, but {quota.limit} are "
                f"allowed ({quota.name})",
                "if the clusters are to run at the same time, write fewer nodes, or ask "
                "for more quota in the Studio",
                setting="max_nodes",
            )
    return None


def _list_quotas(azure: ResourceManager, facts: Facts) -> Iterator[Quota]:
    """Yield the quotas of dedicated vCPUs: for all VM sizes, and for the family in use."""
    for usage in azure.list_items(f"{facts.region_path}/usages"):
        is_total = usage["type"] == TOTAL_QUOTA
        is_of_family = (
            usage["type"] == FAMILY_QUOTA
            and usage["name"]["value"].lower() == facts.vm_family.lower()
        )
        if is_total or is_of_family:
            yield Quota(
                name=usage["name"]["localizedValue"],
                limit=usage["limit"],
                in_use=usage["currentValue"],
                is_total=is_total,
            )
