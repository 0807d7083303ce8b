"""Peers without overlay are probed too: by the path of the underlay, with packets of the size that it takes."""

from __future__ import annotations

from agent_process import until
from agent_site import Site
from test_prober import Running, targets


def test_path_to_a_peer_without_overlay_is_probed_with_full_packets_of_the_underlay(site: Site) -> None:
    nodes, router = site.nodes, site.nodes.router
    nodes.b.remotes = [nodes.a.as_remote("Disabled")]
    nodes.b.reconcile()
    router.batch("""
        route add 10.91.1.0/24 via 10.90.1.2
        route add 10.92.1.0/24 via 10.90.2.2
        -6 route add fd91:1::/64 via fd90:1::2
        -6 route add fd92:1::/64 via fd90:2::2""")
    site.write_remote(nodes.b.as_remote("Disabled"))
    other_end = Running(nodes.b, targets("b", {4: 1500, 6: 1500}, mode="Disabled"))
    try:
        agent = site.start("--probe-interval", "0.2", "--probe-timeout", "0.1")
        agent.until_notified("READY=1")
        assert "clustermesh0" not in nodes.a.space.ip("link")

        def paths() -> dict:
            return site.mesh_node().get("status", {}).get("paths", {})

        until(lambda: paths().get("reachable") == 2, 30, lambda: f"{paths()}: {agent.log}")
        for n in (1, 2):  # whatever is of full size goes nowhere any more, and nobody is told
            router.ip("route", "replace", f"10.9{n}.1.0/24", "via", f"10.90.{n}.2", "mtu", "lock", "1400")
        silence = "table inet hole { chain out { type filter hook output priority 0; icmp type 3 drop; }\n }"
        router.run("nft", silence)
        until(lambda: paths().get("blackHoled") == 1, 40, lambda: f"{paths()}: {agent.log}")
        (problem,) = paths()["problems"]
        assert (problem["cluster"], problem["node"], problem["family"]) == ("cluster-2", "node1", 4)
        assert 1380 <= problem["mtu"] <= 1400
    finally:
        other_end.close()
