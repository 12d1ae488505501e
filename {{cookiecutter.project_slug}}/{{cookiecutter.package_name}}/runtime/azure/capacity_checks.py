"""The checks of `check --online` on VM sizes and quotas: does Azure have enough nodes?"""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from dataclasses import dataclass, replace

from .check_results import ML, NOT_CHECKED, OK, UNUSUAL, WRONG, CheckResult, Facts
from .resource_manager import ResourceManager

# The types of quotas in Azure's list: for all VM sizes together, and for one family of them.
TOTAL_QUOTA = f"{ML}/totalDedicatedCores/usages"
FAMILY_QUOTA = f"{ML}/vmFamily/dedicatedCores/usages"


@dataclass(frozen=True)
class Quota:
    """A quota of vCPUs, for all VM sizes together or for one family of them."""

    #: The name that Azure shows, such as "Standard DDSv4 Family Cluster Dedicated vCPUs".
    name: str
    #: The number of vCPUs that it allows. A negative number means that there is no limit.
    limit: int
    #: The number of vCPUs that are in use now, perhaps by nodes of this same cluster.
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
    """Check that the quotas are large enough for all nodes of the cluster.

    The clusters that were checked earlier share the quotas, so they count too. If the quotas
    are large enough for this cluster alone, the new fact `cores_by_family` also contains the
    vCPUs that this cluster needs.
    """
    quotas = list(_list_quotas(azure, facts))
    if not quotas:
        return CheckResult(NOT_CHECKED, f"Azure lists no quota for {facts.vm_family}")

    needed_cores = facts.max_nodes * facts.cores_per_node
    need = f"{facts.max_nodes} nodes need {needed_cores} vCPUs"
    limited_quotas = [quota for quota in quotas if quota.limit >= 0]
    if not limited_quotas:
        # Without a limit, the number of vCPUs of all clusters does not matter, so this
        # cluster is not added to `cores_by_family`.
        return CheckResult(OK, f"{need}, without a limit")

    # The vCPUs in use are shown, but not subtracted: they may be those of this cluster.
    smallest = min(limited_quotas, key=lambda quota: quota.limit)
    text = (
        f"{need}, of {smallest.limit} allowed, {smallest.in_use} in use "
        f"({smallest.name})"
    )
    if needed_cores > smallest.limit:
        return _explain_small_quota(text, smallest.limit, facts.cores_per_node)

    result = _compare_with_earlier_clusters(limited_quotas, needed_cores, facts)
    if result is None:
        result = CheckResult(OK, text)
    cores_by_family = _add_to_family(facts, needed_cores)
    return replace(result, new_facts={"cores_by_family": cores_by_family})


def _add_to_family(facts: Facts, needed_cores: int) -> dict[str, int]:
    """Return `facts.cores_by_family` with the vCPUs of one more cluster."""
    cores_by_family = dict(facts.cores_by_family)
    cores_of_family = cores_by_family.get(facts.vm_family, 0)
    cores_by_family[facts.vm_family] = cores_of_family + needed_cores
    return cores_by_family


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


def _compare_with_earlier_clusters(
    quotas: list[Quota], needed_cores: int, facts: Facts
) -> CheckResult | None:
    """Check the quotas for this cluster and those checked earlier together.

    `needed_cores` are the vCPUs of this cluster with all its nodes. Returns None if the
    quotas allow all these clusters to run at the same time.
    """
    for quota in quotas:
        if quota.is_total:
            earlier_cores = sum(facts.cores_by_family.values())
        else:
            earlier_cores = facts.cores_by_family.get(facts.vm_family, 0)
        if earlier_cores == 0:
            # No earlier cluster uses this quota, and the caller has compared the quota with
            # this cluster alone.
            continue
        if needed_cores + earlier_cores > quota.limit:
            return CheckResult(
                UNUSUAL,
                f"{facts.max_nodes} nodes need {needed_cores} vCPUs, and the clusters "
                f"above need {earlier_cores} more, but {quota.limit} are allowed "
                f"({quota.name})",
                "if the clusters are to run at the same time, lower the number of nodes, "
                "or ask for more quota in the Studio",
                setting="max_nodes",
            )
    return None


def _list_quotas(azure: ResourceManager, facts: Facts) -> Iterator[Quota]:
    """Yield the quotas of dedicated vCPUs that limit a cluster.

    These are the quota for all VM sizes together, and the one for the cluster's family.
    """
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
