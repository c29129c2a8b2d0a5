"""Recorded ACLs on their way: read from the archive, asked of the target beforehand, and set there at the end."""

from __future__ import annotations

from collections.abc import Sequence

from kbackupd.archive.snapshots import snapshot_at
from kbackupd.format.cluster_snapshot import CLUSTER_FORMAT
from kbackupd.kafka.connection import KafkaConnection
from kbackupd.kafka.errors import code_name
from kbackupd.kafka.types import KafkaErrorCode
from kbackupd.kafka.wire_cluster import CreateAclsRequest, DescribeAclsRequest, DescribeClusterRequest
from kbackupd.model.errors import KbackupError, RefusedError
from kbackupd.model.segment import Identity
from kbackupd.model.settings import RestoreOptions
from kbackupd.model.snapshots import NEVER_MS, Acl
from kbackupd.restore.acls import AclLeft, AclSelection, AclsOutcome, by_batches, select_acls
from kbackupd.restore.permissions import NOT_ALLOWED, Problem
from kbackupd.restore.plan import RestorePlan
from kbackupd.store.protocol import ObjectStore

_ACLS_PER_REQUEST = 500


async def recorded_acls(
    store: ObjectStore, identity: Identity, plan: RestorePlan, options: RestoreOptions
) -> AclSelection:
    """Those of the archive that concern what `plan` restores: the newest, or as they were at the instant of `as_of`.

    Args:
        store: scoped to the archive.

    Raises:
        RefusedError: the archive does not know any ACLs, not even that there are none.
        KbackupError: the store could not say for certain what is there.
    """
    found = (await snapshot_at(store, CLUSTER_FORMAT, options.scope.as_of_ms, identity)).snapshot
    part = found.content.acls_part if found is not None else None
    if found is None or part is None or part.answered_ms == NEVER_MS:
        why = part.cause if part is not None and part.cause else "no snapshot of the cluster was captured by then"
        raise RefusedError(
            f"{store.location}: the ACLs of the source are not in the archive: {why}",
            hint="leave options.acls out, and set them by hand; to have them recorded, grant the backup's principal"
            " Describe on the cluster",
        )
    groups = options.consumer_groups
    return select_acls(
        found.content.acls,
        known_ms=part.answered_ms,
        topics={topic.source: topic.target for topic in plan.topics},
        groups=groups.include if groups.restore else None,
    )


async def acl_problems(connection: KafkaConnection) -> list[Problem]:
    """Why the target would take no ACLs: found before the first record, not after the last."""
    told = await connection.send_any(DescribeAclsRequest())
    if told.error_code == KafkaErrorCode.SECURITY_DISABLED:
        return [
            Problem(
                what="acls are to be restored, and the target has no authorizer that could keep them",
                remedy="configure authorizer.class.name of the target's brokers, or leave options.acls out",
            )
        ]
    access = await connection.send_any(DescribeClusterRequest())
    if told.error_code in NOT_ALLOWED or not (access.error_code or access.may_alter):
        return [
            Problem(
                what="acls are to be restored, and this principal lacks Alter on the cluster",
                remedy="grant Alter and Describe on the cluster, or leave options.acls out",
                denied=True,
            )
        ]
    return []


async def apply_acls(connection: KafkaConnection, selection: AclSelection) -> AclsOutcome:
    """Set them; equal ones that are there stay as they are, and none is taken away.

    On return the controller has what counts as applied; each broker follows within moments. Cancelled, some are set.
    What the target refuses, or does not answer to, is told and never raised.
    """
    applied = 0
    refused: list[AclLeft] = []
    for some in by_batches(selection.apply, _ACLS_PER_REQUEST):
        reasons = await _create(connection, some)
        refused += [AclLeft(acl=acl, reason=reason) for acl, reason in zip(some, reasons, strict=True) if reason]
        applied += reasons.count("")
    return AclsOutcome(selection=selection, applied=applied, refused=tuple(refused))


async def _create(connection: KafkaConnection, acls: Sequence[Acl]) -> list[str]:
    """Why each was not set; "" where it was."""
    try:
        answers = await connection.send_any(CreateAclsRequest(acls=acls))
    except KbackupError as error:
        return [error.message] * len(acls)
    if len(answers) != len(acls):
        return ["the broker's answer does not fit the request"] * len(acls)
    return [
        f"{code_name(answer.error_code)} ({answer.error_code})" + (f": {answer.detail}" if answer.detail else "")
        if answer.error_code
        else ""
        for answer in answers
    ]
