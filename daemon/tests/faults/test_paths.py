"""F34 and F38: the path has a smaller MTU than anybody says; it loses, repeats and delays; it is cut one way."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from agent_process import until
from fault_mesh import Stream
from fault_relay import Relay
from kernel_topology import Namespace, Topology
from kernel_traffic import Inbox, Sink, send_tcp, send_udp

pytestmark = pytest.mark.faults
PODS = {4: ("10.91.1.5", "10.92.1.5"), 6: ("fd91:1::5", "fd92:1::5")}
families = pytest.mark.parametrize("family", [4, 6])


def black_hole(mesh: Topology, mtu: int = 1400) -> None:
    """What the router forwards must be smaller, and it tells nobody."""
    for n in (1, 2):
        mesh.router.ip("route", "replace", f"10.90.{n}.0/24", "dev", f"to{n}", "mtu", "lock", str(mtu))
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


def test_F38_tunnel_works_through_loss_repetition_and_disorder_and_has_nothing_to_recover(mesh: Topology) -> None:
    before = mesh.a.space.dump()
    with Relay(mesh.router, loss=0.05, repeat=0.05, delay_s=0.01) as relay:
        with Sink(mesh.pod_b, PODS[4][1]):
            answer, _ = send_tcp(mesh.pod_a, PODS[4][1], 200_000)
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
