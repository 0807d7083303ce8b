"""The agent as a process: from a RemoteNode in a real API server to packets, through all that goes wrong."""

from __future__ import annotations

import json
import signal
import sys
import time
from ipaddress import ip_address

import msgspec
import pytest
from agent_process import until
from agent_site import Site
from kernel_traffic import Echo, ask


def test_remote_node_becomes_a_path_for_pods_and_a_status(site: Site) -> None:
    site.write_remote(site.nodes.b.as_remote())
    agent = site.start()
    agent.until_notified("READY=1")
    until(lambda: site.routes() == 2, 5, lambda: agent.log)
    with Echo(site.nodes.pod_b, "10.92.1.5"):
        assert ask(site.nodes.pod_a, "10.92.1.5") == "10.91.1.5"
    with Echo(site.nodes.pod_b, "fd92:1::5"):
        assert ask(site.nodes.pod_a, "fd92:1::5") == "fd91:1::5"
    until(lambda: bool(site.mesh_node().get("status")), 5, lambda: agent.log)
    status = site.mesh_node()["status"]
    assert [device["name"] for device in status["devices"]] == ["clustermesh0", "clustermesh0v6"]
    assert [device["tunnelAddress"] for device in status["devices"]] == ["10.91.1.0", "fd91:1::"]
    (peer,) = status["peers"]
    counts = {key: value for key, value in peer.items() if isinstance(value, int)}
    routes = {"wantedRoutes": 2, "programmedRoutes": 2}
    assert counts == {"wantedNodes": 1, "programmedNodes": 1, "failedNodes": 0} | routes
    assert status["conditions"][0]["status"] == "True"
    assert site.mesh_node()["metadata"]["ownerReferences"][0]["kind"] == "Node"
    agent.until_notified("WATCHDOG=1")
    assert agent.http("/readyz")[0] == agent.http("/healthz")[0] == 200
    assert agent.metric('clustermesh_agent_objects{kind="routes"}') == 2


def test_events_reach_the_kernel_and_a_deleted_peer_leaves_it(site: Site) -> None:
    agent = site.start()
    agent.until_notified("READY=1")
    assert site.routes() == 0
    remote = site.nodes.b.as_remote()
    site.write_remote(remote)
    until(lambda: site.routes() == 2, 2, lambda: agent.log)
    site.delete_remote(remote)
    until(lambda: not site.nodes.a.observe().marked.devices, 2, lambda: agent.log)


def test_hand_made_damage_is_repaired_within_a_second(site: Site) -> None:
    site.write_remote(site.nodes.b.as_remote())
    agent = site.start()
    agent.until_notified("READY=1")
    space = site.nodes.a.space
    for damage in (
        "ip route del 10.92.1.0/24 table 4097",
        "ip nexthop flush",
        "ip rule del pref 98",
        "ip link del clustermesh0",
        "ip link set clustermesh0v6 down",
        "nft flush chain inet clustermesh exempt",
        "bridge fdb del MAC dev clustermesh0 dst 10.90.2.2 self",
    ):
        whole = space.dump()
        space.run(*damage.replace("MAC", site.nodes.b.as_remote().spec.vtep_mac).split())
        until(lambda whole=whole: _same(space.dump(), whole), 1.5, lambda damage=damage: f"{damage}: {agent.log}")
    assert agent.metric("clustermesh_agent_repairs_total") > 6


def test_damage_after_a_change_that_was_carried_over_is_told_as_a_repair(site: Site) -> None:
    remote = site.nodes.b.as_remote()
    site.write_remote(remote)
    agent = site.start()
    agent.until_notified("READY=1")
    spec = msgspec.structs.replace(remote.spec, pod_cidrs=(*remote.spec.pod_cidrs, "10.92.7.0/24"))
    site.write_remote(msgspec.structs.replace(remote, spec=spec))
    until(lambda: site.routes() == 3, 5, lambda: agent.log)
    assert "repaired" not in agent.log
    site.nodes.a.space.ip("route", "del", "10.92.7.0/24", "table", "4097")
    until(lambda: site.routes() == 3, 5, lambda: agent.log)
    until(lambda: agent.metric("clustermesh_agent_repairs_total") > 0, 5, lambda: agent.log)  # told, then counted
    assert "repaired route 10.92.7.0/24" in agent.log
    assert agent.metric("clustermesh_agent_repairs_total") == 1


def _same(now: dict[str, str], whole: dict[str, str]) -> bool:
    """Equal but for the index and order of devices, which change when one is made anew."""
    kinds = ("routes4", "routes6", "rules4", "rules6", "nexthops", "nft", "fdb")
    return all(sorted(now[kind].splitlines()) == sorted(whole[kind].splitlines()) for kind in kinds)


def test_termination_leaves_the_data_plane_and_a_restart_changes_nothing(site: Site) -> None:
    site.write_remote(site.nodes.b.as_remote())
    agent = site.start()
    agent.until_notified("READY=1")
    whole = site.nodes.a.space.dump()
    assert agent.stop() == 0
    agent.close()
    assert site.nodes.a.space.dump() == whole
    successor = site.start()
    successor.until_notified("READY=1")
    assert site.nodes.a.space.dump() == whole
    assert "wrote" not in successor.log
    assert "repaired" not in successor.log


def test_kill_and_restart_lose_no_packet(site: Site) -> None:
    site.write_remote(site.nodes.b.as_remote())
    agent = site.start()
    agent.until_notified("READY=1")
    with Echo(site.nodes.pod_b, "10.92.1.5"):
        sent = answered = 0
        for _ in range(3):
            agent.stop(signal.SIGKILL)
            agent.close()
            agent = site.start()
            deadline = time.monotonic() + 0.7
            while time.monotonic() < deadline:
                sent += 1
                answered += ask(site.nodes.pod_a, "10.92.1.5", timeout_s=1) == "10.91.1.5"
            agent.until_notified("READY=1")
    assert sent > 100
    assert answered == sent


def test_agent_without_its_api_server_touches_nothing_and_catches_up(site: Site) -> None:
    remote = site.nodes.b.as_remote()
    site.write_remote(remote)
    first = site.start()
    first.until_notified("READY=1")
    first.stop()
    first.close()
    site.relay.cut()
    site.nodes.a.space.ip("route", "del", "10.92.1.0/24", "table", "4097")
    found = site.nodes.a.space.dump()
    agent = site.start()
    until(lambda: "remotenodes: GET" in agent.log or "nodes: GET" in agent.log or "nodes: WATCH" in agent.log, 10)
    time.sleep(0.5)
    assert site.nodes.a.space.dump() == found
    assert agent.http("/readyz")[0] == 503
    site.relay.join()
    agent.until_notified("READY=1")
    assert site.routes() == 2


def test_lost_api_server_keeps_the_mesh_and_its_repair(site: Site) -> None:
    site.write_remote(site.nodes.b.as_remote())
    agent = site.start()
    agent.until_notified("READY=1")
    site.relay.cut()
    site.nodes.a.space.ip("route", "del", "10.92.1.0/24", "table", "4097")
    until(lambda: site.routes() == 2, 2, lambda: agent.log)
    assert agent.process.poll() is None


def test_prefixes_that_were_told_stay_when_the_mesh_node_is_deleted_until_others_are_told(site: Site) -> None:
    """Node.spec.podCIDRs, which is all there is then, is no prefix of the pods here."""
    site.write_remote(site.nodes.b.as_remote())
    agent = site.start()
    agent.until_notified("READY=1")

    def local() -> set[str]:
        elements = site.nodes.a.observe().marked.nft.elements["local_pods4"]
        return {f"{ip_address(element[:4])}-{ip_address(element[4:])}" for element in elements}

    def tell(*cidrs: str) -> None:
        head = {"apiVersion": "clustermesh.io/v1alpha1", "kind": "MeshNode", "metadata": {"name": "node1"}}
        document = json.dumps({**head, "spec": {"podCIDRs": cidrs}})
        site.kubectl(site.api, "apply", "--server-side", "--field-manager=controller", "-f", "-", stdin=document)

    assert local() == {"10.91.1.0-10.91.1.255"}
    until(lambda: bool(site.mesh_node().get("status")), 5, lambda: agent.log)
    tell("10.91.1.0/26")
    until(lambda: local() == {"10.91.1.0-10.91.1.63"}, 5, lambda: agent.log)
    table = ("route", "show", "table", "4097")
    for moved, step in (
        ("10.92.2.0/24", lambda: site.kubectl(site.api, "delete", "meshnodes", "--all")),
        ("10.92.3.0/24", tell),  # made anew, by us or by the agent itself
        ("10.92.4.0/24", lambda: site.kubectl(site.api, "label", "meshnode", "node1", "seen=true")),
    ):
        step()
        time.sleep(0.5)
        site.nodes.b.pod_cidrs[0] = moved  # which the agent follows, as ever
        site.write_remote(site.nodes.b.as_remote())
        until(lambda moved=moved: moved in site.nodes.a.space.ip(*table), 5, lambda: agent.log)
        assert local() == {"10.91.1.0-10.91.1.63"}
    tell("10.91.1.64/26")
    until(lambda: local() == {"10.91.1.64-10.91.1.127"}, 5, lambda: agent.log)
    tell()
    until(lambda: local() == {"10.91.1.0-10.91.1.255"}, 5, lambda: agent.log)


@pytest.mark.slow
def test_input_age_tells_a_lost_api_server_from_one_that_has_nothing_to_say(site: Site) -> None:
    agent = site.start()
    agent.until_notified("READY=1")
    time.sleep(22)  # its watches are silent, and every ten seconds it asks
    assert agent.metric("clustermesh_agent_input_age_seconds") < 15
    site.relay.cut()
    until(lambda: agent.metric("clustermesh_agent_input_age_seconds") > 15, 25)


def test_once_dry_run_and_uninstall(site: Site) -> None:
    virgin = site.nodes.a.space.dump()
    site.write_remote(site.nodes.b.as_remote())
    dry = site.start("--once", "--dry-run", "--output", "json")
    assert dry.wait() == 0, dry.log
    dry.close()
    kinds = {change["kind"] for change in json.loads(dry.output)["changes"]}
    assert kinds == {"devices", "addresses", "nexthops", "fdb", "neighbours", "routes", "rules", "nftables"}
    table = site.start("--once", "--dry-run")
    assert table.wait() == 0, table.log
    table.close()
    rows = [line.split(maxsplit=2) for line in table.output.splitlines()]
    assert {(verb, kind) for verb, kind, _ in rows} == {("write", kind) for kind in kinds}
    assert rows[0][:2] == ["write", "devices"]
    assert rows[0][2].startswith("device clustermesh0 vni 4097 port 4790 dev eth0 local 10.90.1.2 ")
    assert site.nodes.a.space.dump() == virgin
    once = site.start("--once")
    assert once.wait() == 0, once.log
    once.close()
    assert site.routes() == 2
    again = site.start("--once", "--dry-run")
    assert again.wait() == 0, again.log
    again.close()
    assert again.output == "nothing to change\n"
    removal = site.start("--uninstall")
    assert removal.wait() == 0, removal.log
    assert site.nodes.a.space.dump() == virgin


def test_uninstall_beside_an_agent_that_still_runs_says_so_and_removes_all_once_it_has_ended(site: Site) -> None:
    virgin = site.nodes.a.space.dump()
    site.write_remote(site.nodes.b.as_remote())
    agent = site.start()
    agent.until_notified("READY=1")
    command = [sys.executable, "-m", "clustermeshd.cli.daemon", "agent", "--uninstall"]
    early = site.nodes.a.space.try_run(*command)
    assert early.returncode == 1
    assert "an agent seems to run here: stop it and uninstall again" in early.stderr
    until(lambda: site.routes() == 2, 5, lambda: agent.log)
    agent.stop()
    done = site.nodes.a.space.try_run(*command)
    assert (done.returncode, site.nodes.a.space.dump()) == (0, virgin), done.stderr


IMPATIENT = """
import sys
from clustermeshd.agent import main
from clustermeshd.cli import daemon
main._ONCE_TIMEOUT_S = 2.0
sys.exit(daemon.main())
"""


@pytest.mark.parametrize("is_dry", [False, True], ids=["once", "dry run"])
def test_once_that_cannot_begin_says_why_and_touches_nothing(site: Site, is_dry: bool) -> None:
    virgin = site.nodes.a.space.dump()
    site.write_remote(site.nodes.b.as_remote())
    arguments = ["--once", "--dry-run"] if is_dry else ["--once"]
    stranger = site.start(*arguments, "--node-name", "node9")
    assert stranger.wait() == 1
    assert "there is no Node node9; set --node-name" in stranger.log
    assert "Traceback" not in stranger.log
    site.relay.cut()
    command = [sys.executable, "-c", IMPATIENT, "agent", "--node-name", "node1", *arguments]
    done = site.nodes.a.space.try_run(*command, "--kubeconfig", str(site.api.kubeconfig))
    assert done.returncode == 1
    assert done.stderr.count("the API server did not answer within 2 s; nothing was written") == 1
    assert "Traceback" not in done.stderr
    assert site.nodes.a.space.dump() == virgin


def test_net_admin_is_the_only_capability_it_needs_and_the_one_it_asks_for(site: Site) -> None:
    virgin = site.nodes.a.space.dump()
    site.nodes.a.remotes = [site.nodes.b.as_remote()]
    site.nodes.a.reconcile()
    command = [sys.executable, "-m", "clustermeshd.cli.daemon", "agent", "--uninstall"]
    limit = "setpriv --inh-caps=-all{0} --bounding-set=-all{0}"
    done = site.nodes.a.space.try_run(*limit.format("").split(), *command)
    assert done.returncode == 1
    assert "CAP_NET_ADMIN is missing" in done.stderr
    done = site.nodes.a.space.try_run(*limit.format(",+net_admin").split(), *command)
    assert done.returncode == 0, done.stderr
    assert site.nodes.a.space.dump() == virgin


def test_refused_remote_node_is_told_in_status_and_logged_once(site: Site) -> None:
    site.write_remote(site.nodes.b.as_remote())
    agent = site.start()
    agent.until_notified("READY=1")
    site.nodes.b.cluster, site.nodes.b.pod_cidrs = "cluster-3", ["10.91.1.128/25"]
    site.write_remote(site.nodes.b.as_remote())
    until(lambda: bool(site.mesh_node().get("status", {}).get("problems")), 5, lambda: agent.log)
    problems = site.mesh_node()["status"]["problems"]
    assert [problem["reason"] for problem in problems] == ["OverlapsLocal"]
    site.nodes.a.space.ip("route", "del", "10.92.1.0/24", "table", "4097")
    until(lambda: site.routes() == 2, 2, lambda: agent.log)
    assert agent.log.count("OverlapsLocal") == 1
