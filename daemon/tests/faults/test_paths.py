"""F34 and F38: the path has a smaller MTU than anybody says; it loses, repeats and delays; it is cut one way.

Where somebody does say, by "fragmentation needed" or "packet too big", it is heard.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Iterator

import pytest
from agent_process import until
from clustermeshd.agent.engine import Inputs
from fault_mesh import Driver, Stream
from fault_relay import Relay
from kernel_topology import Namespace, Topology
from kernel_traffic import Inbox, Sink, family_of, send_tcp, send_udp

pytestmark = pytest.mark.faults
PODS = {4: ("10.91.1.5", "10.92.1.5"), 6: ("fd91:1::5", "fd92:1::5")}
families = pytest.mark.parametrize("family", [4, 6])
HEADERS = {4: 28, 6: 48}  # IP and UDP
PATH_MTU = {  # level, option of discovery, option that tells it; linux/in.h, linux/in6.h
    4: (socket.IPPROTO_IP, 10, 14),
    6: (socket.IPPROTO_IPV6, 23, 24),
}
_DO_DISCOVER = 2  # IP_PMTUDISC_DO: never fragmented by the sender, DF set


def narrow(mesh: Topology, mtu: int = 1400) -> None:
    """What the router forwards must be smaller."""
    for n in (1, 2):
        for family, underlay, metric in (("-4", f"10.90.{n}.0/24", "0"), ("-6", f"fd90:{n}::/64", "256")):
            if mesh.router.ip(family, "route", "show", underlay):
                route = (underlay, "dev", f"to{n}", "metric", metric, "mtu", "lock", str(mtu))
                mesh.router.ip(family, "route", "replace", *route)


def black_hole(mesh: Topology, mtu: int = 1400) -> None:
    """What the router forwards must be smaller, and it tells nobody."""
    narrow(mesh, mtu)
    mesh.router.run(
        "nft",
        """table inet hole { chain out { type filter hook output priority 0;
        icmp type destination-unreachable drop; }
        }""",
    )


@pytest.fixture
def mesh_v4(spaces: Callable[[str], Namespace]) -> Iterator[Topology]:
    """Dual-stack pods on an IPv4 underlay, whose routers may fragment tunnel packets."""
    made = Topology(spaces, "v4")
    made.a.reconcile()
    made.b.reconcile()
    yield made
    made.close()


@pytest.mark.parametrize("is_reversed", [False, True], ids=["there", "back"])
@families
def test_F34_a_megabyte_crosses_a_router_of_a_smaller_mtu_that_drops_icmp(
    mesh_v4: Topology, family: int, is_reversed: bool
) -> None:
    black_hole(mesh_v4)
    pods, addresses = [mesh_v4.pod_a, mesh_v4.pod_b], list(PODS[family])
    if is_reversed:
        pods.reverse()
        addresses.reverse()
    with Sink(pods[1], addresses[1]):
        answer, _ = send_tcp(pods[0], addresses[1], 1_000_000)
    assert answer == f"1000000 {addresses[0]}"


@families
def test_F34_largest_udp_packet_that_a_pod_may_send_crosses_it_too(mesh_v4: Topology, family: int) -> None:
    black_hole(mesh_v4)
    payload = b"x" * (1450 - (28 if family == 4 else 48))
    with Inbox(mesh_v4.pod_b, PODS[family][1]) as inbox:
        send_udp(mesh_v4.pod_a, PODS[family][1], 7000, payload)
        assert inbox.take(1) == (payload, PODS[family][0])


class Undivided:
    """A UDP sender whose packets may not be fragmented."""

    def __init__(self, space: Namespace, address: str) -> None:
        self._family = 6 if ":" in address else 4
        level, discover, _ = PATH_MTU[self._family]
        self._socket = space.call(lambda: socket.socket(family_of(address), socket.SOCK_DGRAM))
        self._socket.setsockopt(level, discover, _DO_DISCOVER)
        self._socket.connect((address, 7000))

    def __enter__(self) -> Undivided:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def send(self, packet_bytes: int) -> bytes:
        """Send a packet of that size, headers included; its payload."""
        self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)  # what was said of an earlier one
        payload = b"x" * (packet_bytes - HEADERS[self._family])
        self._socket.send(payload)
        return payload

    @property
    def path_mtu(self) -> int:
        level, _, told = PATH_MTU[self._family]
        return self._socket.getsockopt(level, told)


@pytest.mark.parametrize("is_reversed", [False, True], ids=["there", "back"])
@families
def test_F34_pod_is_told_the_mtu_of_the_tunnel_by_its_node(mesh: Topology, family: int, is_reversed: bool) -> None:
    pods, addresses = [mesh.pod_a, mesh.pod_b], list(PODS[family])
    if is_reversed:
        pods.reverse()
        addresses.reverse()
    tunnel = {4: 1450, 6: 1430}[family]
    with Inbox(pods[1], addresses[1]) as inbox, Undivided(pods[0], addresses[1]) as sender:
        assert sender.path_mtu == 1500
        sender.send(1500)
        until(lambda: sender.path_mtu == tunnel, 2, lambda: f"path MTU {sender.path_mtu}")
        with pytest.raises(OSError, match="Message too long"):
            sender.send(tunnel + 1)
        payload = sender.send(tunnel)
        assert inbox.take(1) == (payload, addresses[0])


def silence_clamps(mesh: Topology) -> None:
    for node in (mesh.a, mesh.b):
        node.space.run("nft", "flush", "chain", "inet", "clustermesh", "clamp")


@families
def test_F34_a_megabyte_crosses_without_clamp_since_the_pod_is_told(mesh: Topology, family: int) -> None:
    silence_clamps(mesh)
    with Sink(mesh.pod_b, PODS[family][1]):
        answer, segment = send_tcp(mesh.pod_a, PODS[family][1], 1_000_000)
    assert answer == f"1000000 {PODS[family][0]}"
    assert segment > {4: 1450 - 40, 6: 1430 - 60}[family] - 12, "something clamped it"


@families
def test_F34_pod_is_told_the_mtu_of_a_path_that_takes_less_than_the_tunnel(mesh: Topology, family: int) -> None:
    """As the prober finds it: the route to that one node has a smaller MTU than the device."""
    remote = mesh.b.as_remote()
    mtus = {(remote.spec.cluster_name, remote.spec.node_name, family): 1300}
    with contextlib.closing(Driver(mesh.a)) as driver:
        outcome = mesh.a.space.call(lambda: driver.engine.whole(Inputs(mesh.a.local, (remote,), 1, mtus)))
    assert not outcome.failures
    with Inbox(mesh.pod_b, PODS[family][1]) as inbox, Undivided(mesh.pod_a, PODS[family][1]) as sender:
        sender.send(1301)
        until(lambda: sender.path_mtu == 1300, 2, lambda: f"path MTU {sender.path_mtu}")
        assert inbox.take(0.1) is None
        payload = sender.send(1300)
        assert inbox.take(1) == (payload, PODS[family][0])


@families
def test_F34_router_of_the_underlay_divides_tunnel_packets_that_are_too_big_for_it(
    mesh_v4: Topology, family: int
) -> None:
    """It may: tunnel packets over IPv4 do not forbid it. Nobody is told, and nobody need be."""
    narrow(mesh_v4)
    silence_clamps(mesh_v4)
    with Inbox(mesh_v4.pod_b, PODS[family][1]) as inbox, Undivided(mesh_v4.pod_a, PODS[family][1]) as sender:
        payload = sender.send(1450)
        assert inbox.take(1) == (payload, PODS[family][0])
        assert sender.path_mtu == 1500
    with Sink(mesh_v4.pod_b, PODS[family][1]):
        answer, _ = send_tcp(mesh_v4.pod_a, PODS[family][1], 1_000_000)
    assert answer == f"1000000 {PODS[family][0]}"


def test_F34_what_a_router_of_an_ipv6_underlay_says_reaches_the_pod(spaces: Callable[[str], Namespace]) -> None:
    """Of IPv4 pods over IPv6 the kernel passes nothing on; there the prober finds it out (test_prober)."""
    mesh = Topology(spaces, "v6")
    mesh.a.reconcile()
    mesh.b.reconcile()
    narrow(mesh)
    silence_clamps(mesh)
    with Inbox(mesh.pod_b, PODS[6][1]) as inbox, Undivided(mesh.pod_a, PODS[6][1]) as sender:

        def is_told() -> bool:
            with contextlib.suppress(OSError):
                sender.send(1430)
            return sender.path_mtu == 1400 - 70

        until(is_told, 2, lambda: f"path MTU {sender.path_mtu}")
        assert inbox.take(0.1) is None
        payload = sender.send(1330)
        assert inbox.take(1) == (payload, PODS[6][0])
    with Sink(mesh.pod_b, PODS[6][1]):
        answer, _ = send_tcp(mesh.pod_a, PODS[6][1], 1_000_000)
    assert answer == f"1000000 {PODS[6][0]}"
    mesh.close()


def test_F38_tunnel_works_through_loss_repetition_and_disorder_and_has_nothing_to_recover(mesh: Topology) -> None:
    before = mesh.a.space.dump()
    with Relay(mesh.router, loss=0.05, repeat=0.05, delay_s=0.01) as relay:
        with Sink(mesh.pod_b, PODS[4][1]):
            answer, _ = send_tcp(mesh.pod_a, PODS[4][1], 200_000, timeout_s=60)  # each loss in a row doubles its wait
        assert answer == f"200000 {PODS[4][0]}"
        with Stream(mesh.pod_a, mesh.pod_b, PODS[4][1]) as stream:
            while stream.sent < 300:
                stream.until_resumed(1)
            share = stream.lost() / stream.sent
        assert relay.lost > 10
        assert relay.repeated > 10
        assert share < 0.3  # 0.0975 both ways is what the relay takes
    with Stream(mesh.pod_a, mesh.pod_b, PODS[4][1]) as stream:
        while stream.sent < 100:
            stream.until_resumed(1)
        assert stream.lost() == 0
    assert mesh.a.space.dump() == before


@pytest.mark.parametrize("silent", ["to1", "to2"])
def test_F38_path_that_was_cut_one_way_works_again_by_itself(mesh: Topology, silent: str) -> None:
    before = mesh.a.space.dump()
    cut = f"table inet cut {{ chain f {{ type filter hook forward priority 0; iifname {silent} drop; }}\n }}"
    with Stream(mesh.pod_a, mesh.pod_b, PODS[4][1]) as stream:
        mesh.router.run("nft", cut)
        sent = stream.sent
        until(lambda: stream.sent > sent + 200, 5)
        assert not any(number > sent + 20 for number in stream.answered)
        mesh.router.run("nft", "delete", "table", "inet", "cut")
        assert stream.until_resumed(1) < 0.5
    assert mesh.a.space.dump() == before
