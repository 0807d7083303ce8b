"""Probes of pods with real packets, in a network namespace of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.integration_modules.runner import ROOT, ansible_tree

# .1 answers all, .2 nothing, .3 no ICMP but refuses TCP, .4 no ICMP but takes TCP, .5 neither
SITE = """
ip link set lo up
ip address add fd00:77::1/128 dev lo
nft add table inet walls
nft 'add chain inet walls in { type filter hook input priority 0; }'
nft add rule inet walls in ip daddr 127.0.0.2 drop
nft add rule inet walls in ip daddr { 127.0.0.3, 127.0.0.4 } icmp type echo-request drop
"$PYTHON" -c 'import socket, time; s = socket.create_server(("127.0.0.4", 8080)); time.sleep(30)' & server=$!
while ! ss -Hltn sport = 8080 | grep -q .; do sleep 0.05; done
echo "$OPTIONS" | "$PYTHON" "$MODULE" > "$OUT" || true
kill $server
"""


def probe(directory: Path, pods: dict[str, list[dict]]) -> dict:
    environment = {
        **os.environ,
        "PYTHONPATH": str(ansible_tree(directory)),
        "PYTHON": sys.executable,
        "MODULE": str(ROOT / "plugins" / "modules" / "pod_probe_info.py"),
        "OPTIONS": json.dumps({"ANSIBLE_MODULE_ARGS": {"pods": pods, "duration": 1}}),
        "OUT": str(directory / "out"),
    }
    subprocess.run(["unshare", "-n", "sh", "-ec", SITE], env=environment, check=True)
    return json.loads((directory / "out").read_text())


def test_a_pod_that_answers_in_any_way_is_reached(tmp_path: Path):
    wanted = ["127.0.0.1", "127.0.0.3", "127.0.0.4", "fd00:77::1"]
    unreached = ["127.0.0.2", "192.0.2.1", "fd00:77::2"]  # the last two have no route
    pods = [{"address": address, "port": 8080} for address in wanted + unreached]
    found = probe(tmp_path, {"oslo": pods})
    assert (found["answered"], found["silent"], found["cut"]) == (wanted, unreached, [])


def test_a_cluster_of_which_no_pod_answers_is_cut(tmp_path: Path):
    some, none = ("127.0.0.2", "127.0.0.1"), ("127.0.0.2", "192.0.2.1")
    clusters = {"oslo": some, "paris": none, "rome": ()}
    found = probe(tmp_path, {name: [{"address": one} for one in addresses] for name, addresses in clusters.items()})
    assert found["cut"] == ["paris"]


def test_without_a_port_only_echoes_count(tmp_path: Path):
    found = probe(tmp_path, {"oslo": [{"address": "127.0.0.1"}, {"address": "127.0.0.4"}]})
    assert (found["answered"], found["silent"]) == (["127.0.0.1"], ["127.0.0.4"])


def test_what_is_no_address_is_named(tmp_path: Path):
    found = probe(tmp_path, {"oslo": [{"address": "coredns"}]})
    assert found["failed"] is True
    assert "'coredns' does not appear to be an IPv4 or IPv6 address" in found["msg"]
