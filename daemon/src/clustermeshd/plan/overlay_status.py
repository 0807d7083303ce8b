"""What an agent says of its node: MeshNode.status from desired, actual and failures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from clustermeshd.kernel.state import Failure, Marked, Packed, address_text, mac_text
from clustermeshd.kube.objects import Condition, MeshNodeDevice, MeshNodePeer, MeshNodeProblem, MeshNodeStatus
from clustermeshd.plan.overlay import Desired
from clustermeshd.plan.overlay_claims import Problem

_MOST_PROBLEMS = 20  # as the CRD allows


def status(
    wanted: Desired, actual: Marked, failures: Sequence[Failure], *, version: str, previous: MeshNodeStatus, now: str
) -> MeshNodeStatus:
    """The new status; equal to ``previous`` in every field where nothing has changed, times included."""
    problems = [MeshNodeProblem(problem.reason, problem.object, problem.message) for problem in wanted.problems]
    problems += [MeshNodeProblem("NotProgrammed", failure.object, failure.reason) for failure in failures]
    made = MeshNodeStatus(
        agent_version=version,
        devices=_devices(wanted, actual),
        peers=_peers(wanted, actual),
        problems=tuple(problems[:_MOST_PROBLEMS]),
        conditions=(_ready(wanted.problems, failures, previous, now),),
        last_change_time=previous.last_change_time,
    )
    if made == previous:
        return previous
    return MeshNodeStatus(
        made.agent_version, made.devices, made.peers, made.problems, made.conditions, last_change_time=now
    )


def _devices(wanted: Desired, actual: Marked) -> tuple[MeshNodeDevice, ...]:
    return tuple(
        MeshNodeDevice(
            name=device.name,
            vni=device.vni,
            port=device.port,
            mtu=device.mtu,
            underlay_interface=device.lower,
            underlay_address=address_text(device.local),
            tunnel_address=address_text(source) if (source := _source(wanted.marked, device.name)) else "",
            mac=mac_text(device.mac),
        )
        for device in sorted(actual.devices.values(), key=lambda device: device.name)
    )


def _source(marked: Marked, device: str) -> Packed | None:
    """Tunnel address that the routes of a device carry."""
    for route in marked.routes.values():
        if (nexthop := marked.nexthops.get(route.nexthop)) and nexthop.device == device:
            return route.source
    return None


def _peers(wanted: Desired, actual: Marked) -> tuple[MeshNodePeer, ...]:
    """Per remote cluster, what should be and what is; a node is programmed when all its nexthops are."""
    nexthops = wanted.marked.nexthops.items()
    missing = {wanted.owners[nexthop.id] for key, nexthop in nexthops if actual.nexthops.get(key) != nexthop}
    nodes = Counter(cluster for cluster, _ in set(wanted.owners.values()) - missing)
    routes = Counter(
        wanted.owners[route.nexthop][0]
        for key, route in wanted.marked.routes.items()
        if actual.routes.get(key) == route
    )
    return tuple(
        MeshNodePeer(
            name=name,
            overlay_routing_mode=peer.overlay_routing_mode,
            wanted_nodes=peer.nodes,
            programmed_nodes=nodes[name],
            wanted_routes=peer.routes,
            programmed_routes=routes[name],
        )
        for name, peer in sorted(wanted.peers.items())
    )


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
