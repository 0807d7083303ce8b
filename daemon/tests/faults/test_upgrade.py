"""F17: what an earlier release wrote is taken over as it is; ``release_*`` holds what such a release left behind."""

from __future__ import annotations

from ipaddress import ip_address
from pathlib import Path

import pytest
from clustermeshd.agent.engine import Outcome
from clustermeshd.kernel.state import Changes, Delta, HostAddress
from fault_mesh import Drive, Stream
from kernel_topology import Topology

pytestmark = pytest.mark.faults
RELEASES = sorted(path.name for path in Path(__file__).parent.glob("release_*"))


def leave_behind(mesh: Topology, release: str) -> None:
    """Node a as that release programmed it, for node b."""
    space, directory = mesh.a.space, Path(__file__).parent / release
    tunnel = HostAddress(ip_address("fd91:1::").packed)  # ip knows no address protocol before release 6.3
    mesh.a.kernel.apply(Changes(addresses=Delta(put=(tunnel,))))
    space.batch((directory / "ip.batch").read_text())
    for device, outer in (("clustermesh0", "10.90.2.2"), ("clustermesh0v6", "fd90:2::2")):
        mac = mesh.b.as_remote().spec.vtep_mac
        space.run("bridge", "fdb", "add", mac, "dev", device, "dst", outer, "self", "permanent")
    space.run("nft", "-f", str(directory / "ruleset.nft"))


@pytest.mark.parametrize("release", RELEASES)
def test_F17_state_of_an_earlier_release_is_adopted_not_rebuilt(nodes: Topology, drive: Drive, release: str) -> None:
    leave_behind(nodes, release)
    nodes.b.reconcile()
    devices = {link["ifname"]: link["ifindex"] for link in nodes.a.space.ip_json("link")}
    pods, host = (nodes.pod_a, nodes.pod_b, "10.92.1.5"), (nodes.a.space, nodes.pod_b, "fd92:1::5")
    with Stream(*pods) as stream, Stream(*host) as answers:
        driver = drive(nodes.a)
        outcome = driver.round(nodes.a.remotes)
        assert isinstance(outcome, Outcome)
        assert not outcome.failures
        assert outcome.summary.problems == ()
        for changes in outcome.written:
            for kind, delta in changes.deltas():
                assert not delta, f"{kind}: {delta}"
            assert changes.nft is None or not changes.nft.is_new  # replaced in one transaction at most
        driver.settle(nodes.a.remotes)
        stream.until_resumed(1)
        assert stream.lost() == answers.lost() == 0
    assert devices == {link["ifname"]: link["ifindex"] for link in nodes.a.space.ip_json("link")}


@pytest.mark.parametrize("release", RELEASES)
def test_F17_state_of_an_earlier_release_is_removed_by_uninstall(nodes: Topology, drive: Drive, release: str) -> None:
    before = nodes.a.space.dump()
    leave_behind(nodes, release)
    drive(nodes.a).uninstall()
    assert nodes.a.space.dump() == before
