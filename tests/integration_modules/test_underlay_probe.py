"""Probes of the underlay with real packets, in a network namespace of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.integration_modules.runner import ROOT, ansible_tree

# two nodes at once, as ansible runs them, and an address where nobody listens
BOTH = r"""
for pair in "2 3" "3 2"; do
  set -- $pair
  options="{\"address\": \"127.0.0.$1\", \"targets\": [\"127.0.0.$2\", \"127.0.0.9\"], \"duration\": 3}"
  echo "{\"ANSIBLE_MODULE_ARGS\": $options}" | "$PYTHON" "$MODULE" > "$OUT.$1" &
done
wait
"""
# the rule that the agent's guard comes down to when no pair uses the overlay
GUARD = """
nft add table inet guard
nft 'add chain inet guard pre { type filter hook prerouting priority -300; }'
nft add rule inet guard pre udp dport 4790 fib daddr type != unicast counter drop
"""


def probe(directory: Path, before: str = "") -> list[dict]:
    environment = {
        **os.environ,
        "PYTHONPATH": str(ansible_tree(directory)),
        "PYTHON": sys.executable,
        "MODULE": str(ROOT / "plugins" / "modules" / "underlay_probe_info.py"),
        "OUT": str(directory / "out"),
    }
    subprocess.run(["unshare", "-n", "sh", "-ec", f"ip link set lo up\n{before}{BOTH}"], env=environment, check=True)
    return [json.loads((directory / f"out.{number}").read_text()) for number in (2, 3)]


def test_nodes_that_answer_are_not_silent_and_others_are(tmp_path: Path):
    answers = probe(tmp_path)
    assert [answer["busy"] for answer in answers] == ["", ""]
    assert [answer["silent"] for answer in answers] == [["127.0.0.9"], ["127.0.0.9"]]


def test_a_port_that_the_node_itself_guards_is_busy_and_says_nothing_about_others(tmp_path: Path):
    answers = probe(tmp_path, GUARD)
    assert all("drops what comes to this port" in answer["busy"] for answer in answers)
    assert [answer["silent"] for answer in answers] == [[], []]
