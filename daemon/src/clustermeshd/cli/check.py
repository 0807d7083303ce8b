"""``clustermesh check``: every step of troubleshooting as one line: ok, warn or FAIL, and what to do.

Steps: the troubleshooting chapters of Calico Enterprise's federation pages, and what users of other meshes had to find
out by hand. Peers are asked at once, each with the credential that the controller uses for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from clustermeshd.cli import check_mesh, session
from clustermeshd.cli.check_peer import Check, Probe, identity, probe
from clustermeshd.cli.fixes import fix
from clustermeshd.cli.output import Document
from clustermeshd.kube import objects, resources
from clustermeshd.kube.client import Client
from clustermeshd.kube.errors import Forbidden, NotFound
from clustermeshd.model import names
from clustermeshd.model.errors import MeshError
from clustermeshd.plan.peerstatus import ONE_WAY
from clustermeshd.runtime.logs import escape

T = TypeVar("T", bound=objects.Object)

_JOIN = "create it there (mesh.yml does both), or accept no overlay"


class Summary(Document, frozen=True):
    ok: int
    warn: int
    fail: int


class Report(Document, frozen=True):
    """The whole answer; ``well`` where nothing FAILed."""

    well: bool
    checks: tuple[Check, ...]
    summary: Summary


@dataclass(frozen=True, slots=True)
class OtherSide:
    """A peer as its own people see it: what its API server says with a kubeconfig of theirs."""

    cluster_id: str
    peers: Sequence[objects.RemoteClusterConfiguration]
    leads_to: dict[str, str]  # name of each -> id of the cluster that its Secret leads to; "" where not known
    mesh_nodes: Sequence[objects.MeshNode]


async def check(
    client: Client,
    *,
    only: Sequence[str],
    others: Sequence[tuple[Path, str | None]],
    timeout_s: float,
) -> Report:
    """Checks this cluster and its peers, all or ``only`` those named; ``others`` are kubeconfigs of peers' people."""
    peers = await session.peers(client)
    known = {peer.metadata.name for peer in peers}
    unknown = sorted(set(only) - known)
    if unknown:
        raise NotFound(f"no RemoteClusterConfiguration {', '.join(unknown)}; there are: {', '.join(sorted(known))}")
    local = await _local(client)
    checks = list(check_mesh.local_checks(local, peers))
    sides, probes = await asyncio.gather(
        _other_sides(others, timeout_s, checks),
        asyncio.gather(*(probe(client, peer, timeout_s) for peer in peers)),
    )
    _unmatched(sides, probes, checks)
    check_mesh.addresses(local, probes)
    for found in probes:
        identity(found, local.cluster_id, probes)
        check_mesh.overlay_mode(local, found)
        check_mesh.node_names(local, found)
        _direction(local, found, sides)
        if not only or found.name in only:
            checks += found.checks
    counts = [sum(1 for made in checks if made.result == result) for result in ("ok", "warn", "FAIL")]
    return Report(counts[2] == 0, tuple(checks), Summary(*counts))


async def _local(client: Client) -> check_mesh.Local:
    return check_mesh.Local(
        server=client.server,
        version=await client.server_version(),
        cluster_id=(await client.get(resources.NAMESPACES, "kube-system")).metadata.uid,
        lease=await _lease(client),
        nodes=(await client.list(resources.NODES))[0],
        mesh_nodes=(await client.list(resources.MESH_NODES))[0],
        remote_nodes=(await client.list(resources.REMOTE_NODES))[0],
        service_cidrs=await _served(client, resources.SERVICE_CIDRS),
        services=await _served(client, resources.SERVICES),
        pools=[pool for kind in resources.IP_POOLS for pool in await _served(client, kind)],
    )


async def _lease(client: Client) -> objects.Lease | None:
    try:
        return await client.get(resources.LEASES, names.CONTROLLER_LEASE, names.NAMESPACE)
    except (NotFound, Forbidden):
        return None


async def _served(client: Client, kind: resources.Resource[T]) -> list[T]:
    """All of a kind, where it is served and may be read."""
    try:
        return (await client.list(kind))[0]
    except (NotFound, Forbidden):
        return []


# ---- the other direction


async def _other_sides(
    others: Sequence[tuple[Path, str | None]], timeout_s: float, checks: list[Check]
) -> list[OtherSide]:
    """Each peer that a kubeconfig was given for; one that cannot be asked is a failed check of its own."""

    async def one(path: Path, context: str | None) -> OtherSide | None:
        try:
            access = await session.local(path, context)
            async with session.bounded(access.server, 2 * timeout_s), session.client(access, timeout_s) as client:
                return await _other_side(client, timeout_s)
        except MeshError as error:
            checks.append(Check("local", "peer kubeconfig", "FAIL", str(error), "correct --peer-kubeconfig"))
            return None

    return [side for side in await asyncio.gather(*(one(*other) for other in others)) if side is not None]


async def _other_side(client: Client, timeout_s: float) -> OtherSide:
    async def which(remote: Client, _: objects.RemoteClusterConfiguration) -> str:
        return (await remote.get(resources.NAMESPACES, "kube-system")).metadata.uid

    peers = await session.peers(client)
    system = await client.get(resources.NAMESPACES, "kube-system")
    answers = await session.ask(client, peers, which, timeout_s=timeout_s)
    mesh_nodes, _ = await client.list(resources.MESH_NODES)
    leads_to = {
        peer.metadata.name: answer.value or peer.status.cluster_id for peer, answer in zip(peers, answers, strict=True)
    }
    return OtherSide(system.metadata.uid, peers, leads_to, mesh_nodes)


def _unmatched(sides: Sequence[OtherSide], probes: Sequence[Probe], checks: list[Check]) -> None:
    """A kubeconfig of a cluster that is no peer tells nothing."""
    reached = {found.cluster_id for found in probes}
    for side in sides:
        if side.cluster_id not in reached:
            told = f"it leads to cluster {side.cluster_id}, which none of the peers that could be asked is"
            checks.append(Check("local", "peer kubeconfig", "FAIL", told, "correct --peer-kubeconfig"))


def _direction(local: check_mesh.Local, found: Probe, sides: Sequence[OtherSide]) -> None:
    """Whether the peer reads this cluster too; a kubeconfig of its people tells more than a peer's."""
    side = next((s for s in sides if s.cluster_id and s.cluster_id == found.cluster_id), None)
    if side is not None:
        _compare(local, found, side)
    elif found.configuration.spec.sync_options.overlay_routing_mode == "Enabled" and check_mesh.is_answered(local):
        found.tell("other direction", "ok", "every probe of the agents is answered, so its nodes know this cluster's")
    elif found.theirs is None:
        told = "not checked: the credential may not read RemoteClusterConfigurations there, or there are none such"
        how = "apply the role mesh_access there, or name a kubeconfig of that cluster with --peer-kubeconfig"
        found.tell("other direction", "warn", told, how)
    else:
        _look_back(local, found, found.theirs)


def _look_back(local: check_mesh.Local, found: Probe, theirs: Sequence[objects.RemoteClusterConfiguration]) -> None:
    back = next((c.metadata.name for c in theirs if c.status.cluster_id == local.cluster_id), None)
    unknown = ", ".join(c.metadata.name for c in theirs if not c.status.cluster_id)
    if back is not None:
        found.tell("other direction", "ok", f"{back} there leads to this cluster")
    elif unknown:
        told = f"not known: {unknown} there has not reached its cluster yet"
        found.tell("other direction", "warn", told, "there: clustermesh check")
    else:
        found.tell("other direction", "FAIL", ONE_WAY, _JOIN)


def _compare(local: check_mesh.Local, found: Probe, side: OtherSide) -> None:
    back = next((peer for peer in side.peers if side.leads_to[peer.metadata.name] == local.cluster_id), None)
    if back is None:
        found.tell("other direction", "FAIL", ONE_WAY, _JOIN)
        return
    state = next((c for c in back.status.conditions or () if c.type == "Synced"), None)
    if state is not None and state.status == "True":
        found.tell("other direction", "ok", f"{back.metadata.name} there leads to this cluster and is in sync")
    else:
        reason = state.reason if state is not None else "NeverSeen"
        told = f"{back.metadata.name} there is not in sync: {reason}"
        found.tell("other direction", "FAIL", told, f"there: {fix(reason) or 'clustermesh check'}")
    modes = [peer.spec.sync_options.overlay_routing_mode for peer in (found.configuration, back)]
    if modes[0] == modes[1]:
        found.tell("overlay alignment", "ok", f"overlayRoutingMode is {modes[0]} on both sides")
    else:
        told = f"overlayRoutingMode is {modes[0]} here and {modes[1]} there"
        found.tell("overlay alignment", "FAIL", told, "set both alike")
    ours, theirs = _numbers(local.mesh_nodes), _numbers(side.mesh_nodes)
    if ours and theirs and ours != theirs:
        told = f"VNI/port differ: {', '.join(sorted(ours))} here, {', '.join(sorted(theirs))} there"
        found.tell("VXLAN alignment", "FAIL", told, "set the same mesh_daemon vni and port in both clusters")
    elif ours and theirs:
        found.tell("VXLAN alignment", "ok", f"VNI/port {', '.join(sorted(ours))} on both sides")


def _numbers(nodes: Sequence[objects.MeshNode]) -> set[str]:
    return {f"{device.vni}/{device.port}" for node in nodes for device in node.status.devices or ()}


# ---- table


def text(report: Report) -> str:
    """One line per check; a FAIL and most warnings end with what to do."""
    widths = [
        max(len(w) for w in column) for column in ([c.scope for c in report.checks], [c.check for c in report.checks])
    ]
    lines = [
        f"{c.result:<4}   {escape(c.scope):<{widths[0]}}   {escape(c.check):<{widths[1]}}   {escape(c.message)}"
        + (f"; fix: {escape(c.fix)}" if c.fix else "")
        for c in report.checks
    ]
    summary = report.summary
    return "\n".join([*lines, "", f"{summary.ok} ok, {summary.warn} warn, {summary.fail} FAIL"])
