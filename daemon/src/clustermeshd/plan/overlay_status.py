"""What an agent says of its node: MeshNode.status from desired, actual and failures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import msgspec

from clustermeshd.kernel.state import KINDS, Failure, Marked, address_text, mac_text
from clustermeshd.kube.objects import (
    Condition,
    MeshNodeDevice,
    MeshNodePath,
    MeshNodePaths,
    MeshNodePeer,
    MeshNodeProblem,
    MeshNodeStatus,
)
from clustermeshd.plan.overlay import Desired
from clustermeshd.plan.overlay_claims import Problem
from clustermeshd.plan.paths import PathSummary

HEARTBEAT_S = 300.0  # as kubelets do with the status of an unchanged Node
SILENT_S = 3 * HEARTBEAT_S
"""An agent that was not heard for so long does not run."""
_MOST_PROBLEMS = 20  # as the CRD allows


class Summary(NamedTuple):
    """What one round of the agent amounts to: small, and free of anything that changes later."""

    devices: tuple[MeshNodeDevice, ...]
    peers: tuple[MeshNodePeer, ...]
    problems: tuple[Problem, ...]
    objects: Mapping[str, int]  # programmed ones, by kind


def summary(wanted: Desired, actual: Marked, failures: Sequence[Failure] = ()) -> Summary:
    """``actual`` may be ``wanted.marked`` itself, where everything wanted is known to be there."""
    objects = {kind: len(getattr(actual, kind)) for kind in KINDS}
    return Summary(_devices(wanted, actual), _peers(wanted, actual, failures), wanted.problems, objects)


def status(
    found: Summary,
    failures: Sequence[Failure],
    paths: PathSummary | None,
    *,
    version: str,
    previous: MeshNodeStatus,
    now: str,
) -> MeshNodeStatus:
    """The new status; equal to ``previous`` in every field where nothing has changed, times included.

    The time of the last heartbeat is for the caller to set, who knows when it is due.
    """
    problems = [MeshNodeProblem(problem.reason, problem.object, problem.message) for problem in found.problems]
    problems += [MeshNodeProblem("NotProgrammed", failure.object, failure.reason) for failure in failures]
    made = MeshNodeStatus(
        agent_version=version,
        devices=found.devices,
        peers=found.peers,
        problems=tuple(problems[:_MOST_PROBLEMS]),
        paths=None if paths is None else _paths(paths, previous, now),
        conditions=(_ready(found.problems, failures, previous, now),),
        last_change_time=previous.last_change_time,
        last_heartbeat_time=previous.last_heartbeat_time,
    )
    return previous if made == previous else msgspec.structs.replace(made, last_change_time=now)


def _paths(found: PathSummary, previous: MeshNodeStatus, now: str) -> MeshNodePaths:
    """Counts, and problems with the time since when each is so."""
    counts = {state.replace("-", "_"): count for state, count in found.counts}
    known = previous.paths.problems if previous.paths is not None else ()
    since = {(path.cluster, path.node, path.family, path.state): path.since for path in known}
    problems = (
        MeshNodePath(
            *problem[:5],
            mtu=problem.mtu or 0,
            since=since.get((problem.cluster, problem.node, problem.family, problem.state), now),
        )
        for problem in found.problems
    )
    return MeshNodePaths(**counts, problems=tuple(problems))


def _devices(wanted: Desired, actual: Marked) -> tuple[MeshNodeDevice, ...]:
    return tuple(
        MeshNodeDevice(
            name=device.name,
            vni=device.vni,
            port=device.port,
            mtu=device.mtu,
            underlay_interface=device.lower,
            underlay_address=address_text(device.local),
            tunnel_address=address_text(base.source) if base and base.source else "",
            mac=mac_text(device.mac),
            underlay_reason=base.reason if base else "",
        )
        for device in sorted(actual.devices.values(), key=lambda device: device.name)
        for base in [wanted.bases.get(device.name)]
    )


def _peers(wanted: Desired, actual: Marked, failures: Sequence[Failure]) -> tuple[MeshNodePeer, ...]:
    """Per remote cluster, what should be and what is; a node is programmed when all that leads to it is."""
    marked = wanted.marked
    missing_nodes: Counter[str] = Counter()
    missing_routes: Counter[str] = Counter()
    if actual is not marked:
        routes = [route for key, route in marked.routes.items() if actual.routes.get(key) != route]
        missing = {route.nexthop for route in routes} | _cut_off(marked, actual)
        missing_routes = Counter(wanted.owners[route.nexthop] for route in routes)
        gateways = _gateways(marked).items()  # a node of two families has two nexthops and one MAC
        nodes = {(wanted.owners[n], marked.neighbours[place].mac) for place, n in gateways if n in missing}
        missing_nodes = Counter(cluster for cluster, _ in nodes)
    reasons = _reasons(wanted, failures)
    return tuple(
        MeshNodePeer(
            name=name,
            overlay_routing_mode=peer.overlay_routing_mode,
            wanted_nodes=peer.nodes,
            programmed_nodes=peer.reached - missing_nodes[name],
            failed_nodes=(failed := peer.nodes - peer.reached + missing_nodes[name]),
            failed_reason=(reasons.get(name) or reasons.get("", "")) if failed else "",
            wanted_routes=peer.routes,
            programmed_routes=peer.routes - missing_routes[name],
        )
        for name, peer in sorted(wanted.peers.items())
    )


def _cut_off(marked: Marked, actual: Marked) -> set[int]:
    """Nexthop ids of nodes that lack their nexthop, their neighbour or their FDB entry."""
    missing = {found.id for key, found in marked.nexthops.items() if actual.nexthops.get(key) != found}
    macs = {(entry.device, entry.mac) for key, entry in marked.fdb.items() if actual.fdb.get(key) != entry}
    neighbours = [
        entry
        for key, entry in marked.neighbours.items()
        if actual.neighbours.get(key) != entry or (entry.device, entry.mac) in macs
    ]
    ids = _gateways(marked) if neighbours else {}
    return missing | {ids[entry.key] for entry in neighbours if entry.key in ids}


def _gateways(marked: Marked) -> dict[tuple[str, bytes], int]:
    """Nexthop id by device and gateway, with nexthop objects and without."""
    ids = {(route.device, route.gateway): route.nexthop for route in marked.routes.values() if route.gateway}
    return ids | {(nexthop.device, nexthop.gateway): nexthop.id for nexthop in marked.nexthops.values()}


def _reasons(wanted: Desired, failures: Sequence[Failure]) -> dict[str, str]:
    """Why a cluster's nodes are not programmed, by its name; by "" why any is not of which nothing else is known.

    Where a device fails, all on it does: then the device is the reason.
    """
    reasons: dict[str, str] = {}
    device = next((failure for failure in failures if failure.kind == "devices"), None)
    clusters = _clusters(wanted) if failures else {}
    for failure in failures:
        cluster = clusters.get(failure.value, "")
        told = device if device is not None and cluster else failure
        reasons.setdefault(cluster, f"{told.object}: {told.reason}")
    for problem in wanted.problems:
        reasons.setdefault(problem.cluster, f"{problem.object}: {problem.message}")
    return reasons


def _clusters(wanted: Desired) -> dict[object, str]:
    """The remote cluster of each object that leads to one of its nodes."""
    marked, ids = wanted.marked, _gateways(wanted.marked)
    owners: dict[object, int] = {route: route.nexthop for route in marked.routes.values()}
    owners |= {nexthop: nexthop.id for nexthop in marked.nexthops.values()}
    owners |= {entry: ids[entry.key] for entry in marked.neighbours.values() if entry.key in ids}
    macs = {(entry.device, entry.mac): owners[entry] for entry in marked.neighbours.values() if entry in owners}
    owners |= {entry: macs[entry.key] for entry in marked.fdb.values() if entry.key in macs}
    return {value: wanted.owners[number] for value, number in owners.items()}


def _ready(problems: Iterable[Problem], failures: Sequence[Failure], previous: MeshNodeStatus, now: str) -> Condition:
    blocking = list(problems)
    if failures:
        made = (
            "False",
            "NotProgrammed",
            f"{len(failures)} objects failed; first: {failures[0].object}: {failures[0].reason}",
        )
    elif blocking:
        made = ("False", blocking[0].reason, f"{blocking[0].object}: {blocking[0].message}")
    else:
        made = ("True", "Programmed", "everything wanted is programmed")
    before = next((entry for entry in previous.conditions or () if entry.type == "Ready"), None)
    since = before.last_transition_time if before is not None and before.status == made[0] else now
    return Condition("Ready", *made, last_transition_time=since)
