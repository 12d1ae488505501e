"""The checks of `check --online` on identities and roles, which take the place of keys."""

from __future__ import annotations

from .check_answers import IN_WORKSPACE, OK, UNASKED, UNUSUAL, WRONG, Answer, Facts
from .resource_manager import ML_VERSION, ResourceManager
from .roles import (
    CLUSTER_ROLES,
    LOGIN_ROLES,
    REGISTRY_ROLES,
    NeededRoles,
    command_to_assign,
    has_admin_account,
    list_missing_roles,
)

NOT_NEEDED = Answer(OK, "not needed, as steps and uploads use the account's key")
NO_STORAGE = Answer(UNASKED, "not asked, as the workspace names no storage account")


def check_storage(azure: ResourceManager, facts: Facts) -> Answer:
    """Check whether the storage account of the workspace accepts keys."""
    name = facts.storage_account.rpartition("/")[2]
    path = facts.storage_account
    storage = azure.get(path, "api-version=2022-05-01", none_if=(403, 404))
    if storage is None:
        text = f"the login has no permission to see whether {name} accepts keys"
        return Answer(UNASKED, text)
    if storage["properties"].get("allowSharedKeyAccess") is not False:
        return Answer(OK, f"{name} accepts keys")
    needs_identity = {"needs_identity": True}
    if facts.identity:
        return Answer(OK, f"{name} accepts no keys", facts=needs_identity)
    return Answer(
        UNUSUAL,
        f"{name} accepts no keys, so steps need an identity and roles on it",
        f"write compute.identity: system, then run {facts.provision_command}",
        facts=needs_identity,
    )


def check_default_datastore(azure: ResourceManager, facts: Facts) -> Answer:
    """Check that there is a default datastore, and that it can be reached."""
    query = f"{ML_VERSION}&isDefault=true"
    for datastore in azure.list_items(f"{facts.workspace}/datastores", query):
        name = datastore["name"]
        credentials = datastore["properties"].get("credentials") or {}
        uses_keys = credentials.get("credentialsType", "None") != "None"
        if not uses_keys:
            return Answer(OK, f"{name}, by identity", facts={"needs_identity": True})
        if not facts.needs_identity:
            return Answer(OK, name)
        update = facts.az(
            "ml workspace update --name {workspace_name} --resource-group "
            "{resource_group} --system-datastores-auth-mode identity"
        )
        return Answer(
            WRONG,
            f"{name} uses a key, which its storage account does not accept",
            update,
        )

    show = facts.az("ml datastore list " + IN_WORKSPACE)
    return Answer(
        WRONG,
        "the workspace has no default datastore",
        f"make one the default in the Studio, of those that this shows: {show}",
    )


def check_registry(azure: ResourceManager, facts: Facts) -> Answer:
    """Check whether nodes need a role to download images from the workspace's registry."""
    registry = facts.container_registry
    if not registry:
        return Answer(OK, "none yet: Azure ML creates one for the first image")
    name = registry.rpartition("/")[2]
    has_account = has_admin_account(azure, registry)
    if has_account is None:
        text = f"the login has no permission to see whether {name} has an admin account"
        return Answer(UNASKED, text)
    if has_account:
        return Answer(OK, f"{name} has an admin account")
    needs_pull_role = {"needs_pull_role": True}
    if facts.identity:
        return Answer(OK, f"{name} has no admin account", facts=needs_pull_role)
    return Answer(
        UNUSUAL,
        f"{name} has no admin account, so clusters need an identity to download images",
        f"write compute.identity: system, then run {facts.provision_command}",
        facts=needs_pull_role,
    )


def check_cluster_identity(azure: ResourceManager, facts: Facts) -> Answer:
    """Check that the cluster has the identity that `compute.identity` names.

    Without this setting, any identity of the cluster will do. `facts.cluster_principal` is
    the principal id of this identity, and is empty if the cluster does not have it.
    """
    is_needed = facts.needs_identity or facts.needs_pull_role or facts.identity
    if not is_needed:
        return NOT_NEEDED
    if facts.cluster_principal:
        # The last part of a user-assigned identity's resource id is its name.
        identity = facts.identity.rpartition("/")[2] or "an identity"
        return Answer(OK, f"{facts.compute_name} has {identity}")

    if facts.identity in ("", "system"):
        identity_options = "--identity-type SystemAssigned"
    else:
        identity_options = (
            "--identity-type UserAssigned"
            f" --user-assigned-identities {facts.identity}"
        )
    update = facts.az("ml compute update --name {compute_name} " + IN_WORKSPACE)
    missing = f"the identity {facts.identity}" if facts.identity else "an identity"
    return Answer(
        WRONG,
        f"{facts.compute_name} does not have {missing}",
        f"{update} {identity_options}",
    )


def check_login_roles(azure: ResourceManager, facts: Facts) -> Answer:
    """Check that the login may upload data without a key."""
    if not facts.needs_identity:
        return NOT_NEEDED
    if not facts.storage_account:
        return NO_STORAGE
    needs = [NeededRoles(facts.storage_account, LOGIN_ROLES)]
    return _check_roles(azure, "the login", facts.login_id, needs)


def check_cluster_roles(azure: ResourceManager, facts: Facts) -> Answer:
    """Check that nodes may read and write data, and download images, without keys."""
    needs = []
    if facts.needs_identity:
        if not facts.storage_account:
            return NO_STORAGE
        needs.append(NeededRoles(facts.storage_account, CLUSTER_ROLES))
    if facts.needs_pull_role:
        needs.append(NeededRoles(facts.container_registry, REGISTRY_ROLES))
    if not needs:
        return NOT_NEEDED
    if not facts.cluster_principal:
        return Answer(UNASKED, "not asked, as the cluster has no identity")
    return _check_roles(azure, facts.compute_name, facts.cluster_principal, needs)


def _check_roles(
    azure: ResourceManager, owner: str, principal: str, needs: list[NeededRoles]
) -> Answer:
    """Check that a person or an identity has all roles that it needs."""
    present = []
    lacking = []
    commands = []
    for needed in needs:
        missing = list_missing_roles(azure, principal, needed)
        names = ", ".join(role.name for role in missing or needed.roles)
        roles = f"{names} on {needed.resource_name}"
        if missing:
            lacking.append(roles)
        else:
            present.append(roles)
        commands += [
            command_to_assign(principal, needed.scope, role) for role in missing
        ]
    if lacking:
        text = f"{owner} lacks {'; '.join(lacking)}"
        return Answer(WRONG, text, " && ".join(commands))
    return Answer(OK, f"{owner} has {'; '.join(present)}")
