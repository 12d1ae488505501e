"""The checks of `check --online` on identities and roles, which take the place of keys."""

from __future__ import annotations

from collections.abc import Sequence

from .check_results import NOT_CHECKED, OK, UNUSUAL, WRONG, CheckResult, Facts
from .resource_manager import ML_VERSION, ResourceManager
from .roles import (
    CLUSTER_ROLES,
    LOGIN_ROLES,
    REGISTRY_ROLES,
    NeededRoles,
    Role,
    has_admin_account,
    list_missing_roles,
    make_assign_command,
)

STORAGE_VERSION = "api-version=2022-05-01"

NOT_NEEDED = CheckResult(OK, "not needed, because the account's key is used")
NO_STORAGE = CheckResult(
    NOT_CHECKED, "not checked: the workspace names no storage account"
)


def check_storage(azure: ResourceManager, facts: Facts) -> CheckResult:
    """Check whether the storage account of the workspace accepts keys.

    If it does not, the login and the clusters need an identity with roles on the account.
    """
    account_name = facts.storage_account.rpartition("/")[2]
    # Azure responds with 403 or 404 to a login that has no role on the account.
    account = azure.get(facts.storage_account, STORAGE_VERSION, none_if=(403, 404))
    if account is None:
        return CheckResult(
            NOT_CHECKED,
            f"the login has no permission to see whether {account_name} accepts keys",
        )

    # Accounts without this property accept keys.
    accepts_keys = account["properties"].get("allowSharedKeyAccess") is not False
    if accepts_keys:
        return CheckResult(OK, f"{account_name} accepts keys")

    new_facts = {"needs_identity": True}
    if facts.identity:
        return CheckResult(OK, f"{account_name} accepts no keys", new_facts=new_facts)
    return CheckResult(
        UNUSUAL,
        f"{account_name} accepts no keys, so steps need an identity that has roles on "
        "the account",
        f"write compute.identity: system, then run {facts.provision_command}",
        new_facts=new_facts,
    )


def check_default_datastore(azure: ResourceManager, facts: Facts) -> CheckResult:
    """Check that the workspace has a default datastore that can be accessed.

    A datastore is accessed either with a key, which its storage account must accept, or with
    the identity of the user or the cluster.
    """
    default_datastores = azure.list_items(
        f"{facts.workspace_path}/datastores", f"{ML_VERSION}&isDefault=true"
    )
    datastore = next(default_datastores, None)
    if datastore is None:
        list_command = facts.az_in_workspace("ml datastore list")
        return CheckResult(
            WRONG,
            "the workspace has no default datastore",
            "choose a default datastore in the Studio. This command lists all datastores: "
            f"{list_command}",
        )

    name = datastore["name"]
    credentials = datastore["properties"].get("credentials") or {}
    # A datastore without stored credentials is accessed with an identity.
    uses_identity = credentials.get("credentialsType", "None") == "None"
    if uses_identity:
        return CheckResult(
            OK, f"{name}, by identity", new_facts={"needs_identity": True}
        )
    if not facts.needs_identity:
        return CheckResult(OK, f"{name}, by key")
    return CheckResult(
        WRONG,
        f"{name} uses a key, which its storage account does not accept",
        facts.az(
            "ml workspace update --name {workspace_name} --resource-group "
            "{resource_group} --system-datastores-auth-mode identity"
        ),
    )


def check_registry(azure: ResourceManager, facts: Facts) -> CheckResult:
    """Check whether nodes need a role to download images from the workspace's registry.

    If the container registry has an admin account, nodes use its password and need no role.
    """
    if not facts.container_registry:
        return CheckResult(OK, "none yet: Azure ML creates one for the first image")
    name = facts.container_registry.rpartition("/")[2]
    has_account = has_admin_account(azure, facts.container_registry)
    if has_account is None:
        return CheckResult(
            NOT_CHECKED,
            f"the login has no permission to see whether {name} has an admin account",
        )
    if has_account:
        return CheckResult(OK, f"{name} has an admin account")

    new_facts = {"needs_pull_role": True}
    if facts.identity:
        return CheckResult(OK, f"{name} has no admin account", new_facts=new_facts)
    return CheckResult(
        UNUSUAL,
        f"{name} has no admin account, so clusters need an identity to download images",
        f"write compute.identity: system, then run {facts.provision_command}",
        new_facts=new_facts,
    )


def check_cluster_identity(azure: ResourceManager, facts: Facts) -> CheckResult:
    """Check that the cluster has the identity that `compute.identity` names.

    Without this setting, the cluster may have any identity, or none if keys are used.
    `facts.cluster_principal` is the principal id of the identity that was found on the
    cluster, or empty.
    """
    is_needed = facts.needs_identity or facts.needs_pull_role
    is_in_settings = bool(facts.identity)
    if not is_needed and not is_in_settings:
        return NOT_NEEDED

    identity = _describe_identity(facts.identity)
    if facts.cluster_principal:
        return CheckResult(OK, f"{facts.compute_name} has {identity}")

    # The method fills in the name of the compute.
    update_command = facts.az_in_workspace("ml compute update --name {compute_name}")
    return CheckResult(
        WRONG,
        f"{facts.compute_name} does not have {identity}",
        f"{update_command} {_make_identity_options(facts.identity)}",
    )


def _describe_identity(identity: str) -> str:
    """Return how messages name an identity, such as "the identity my-identity".

    `identity` is the setting `compute.identity`: "system", the resource id of a user-assigned
    identity, or empty for any identity.
    """
    if not identity:
        return "an identity"
    if identity == "system":
        return "the system-assigned identity"
    # The last part of a user-assigned identity's resource id is its name.
    name = identity.rpartition("/")[2]
    return f"the identity {name}"


def _make_identity_options(identity: str) -> str:
    """Return the options of `az ml compute update` that give a cluster an identity.

    `identity` is the setting `compute.identity`. An empty one stands for "system".
    """
    if identity in ("", "system"):
        return "--identity-type SystemAssigned"
    return f"--identity-type UserAssigned --user-assigned-identities {identity}"


def check_login_roles(azure: ResourceManager, facts: Facts) -> CheckResult:
    """Check that the login has the roles to upload data without a key."""
    if not facts.needs_identity:
        return NOT_NEEDED
    if not facts.storage_account:
        return NO_STORAGE
    needed_roles = [NeededRoles(facts.storage_account, LOGIN_ROLES)]
    return _check_roles(azure, "the login", facts.login_id, needed_roles)


def check_cluster_roles(azure: ResourceManager, facts: Facts) -> CheckResult:
    """Check that the cluster has the roles to access data and images by its identity.

    Without keys, the nodes of the cluster need these roles to read and write data in the
    storage account, and to download images from the container registry.
    """
    needed_roles = []
    if facts.needs_identity:
        if not facts.storage_account:
            return NO_STORAGE
        needed_roles.append(NeededRoles(facts.storage_account, CLUSTER_ROLES))
    if facts.needs_pull_role:
        needed_roles.append(NeededRoles(facts.container_registry, REGISTRY_ROLES))
    if not needed_roles:
        return NOT_NEEDED
    if not facts.cluster_principal:
        return CheckResult(NOT_CHECKED, "not checked: the cluster has no identity")
    return _check_roles(
        azure, facts.compute_name, facts.cluster_principal, needed_roles
    )


def _check_roles(
    azure: ResourceManager,
    owner: str,
    principal_id: str,
    needed_roles: list[NeededRoles],
) -> CheckResult:
    """Check that the login or a cluster has all the roles in `needed_roles`.

    `owner` is "the login" or the name of the cluster, for messages. `principal_id` is the id
    of the login or of the cluster's identity on Azure.
    """
    missing_texts = []
    present_texts = []
    commands = []
    for needed in needed_roles:
        missing_roles = list_missing_roles(azure, principal_id, needed)
        if missing_roles:
            missing_texts.append(_describe_roles(missing_roles, needed.resource_name))
        else:
            present_texts.append(_describe_roles(needed.roles, needed.resource_name))
        for role in missing_roles:
            commands.append(make_assign_command(principal_id, needed.scope, role))

    if missing_texts:
        text = f"{owner} lacks {'; '.join(missing_texts)}"
        return CheckResult(WRONG, text, " && ".join(commands))
    return CheckResult(OK, f"{owner} has {'; '.join(present_texts)}")


def _describe_roles(roles: Sequence[Role], resource_name: str) -> str:
    """Return a text such as "AcrPull, Reader on myregistry"."""
    role_names = ", ".join(role.name for role in roles)
    return f"{role_names} on {resource_name}"
