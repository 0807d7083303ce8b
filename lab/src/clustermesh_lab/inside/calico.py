"""Start-up of Calico on a node, in the order of its container's own script.

The pool of the node's pod CIDR (where the topology wants pools that follow Node.spec.podCIDRs), start-up, tunnel
address, then Felix and the others by the supervisor, and the CNI configuration once Felix has found out the MTU. After
that it is Calico's watch over the node's addresses, as the container has it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from ..cni import PLUGINS
from ..errors import LabError
from ..kubeapi import UNREACHABLE, Api, ApiError

CONFLIST = Path("/etc/cni/net.d/10-calico.conflist")
MTU = Path("/var/lib/calico/mtu")
POLL_S = 0.1
CONFLICT = 409


def pod_cidr(api: Api, node: str) -> str:
    """The node's first pod CIDR, once it has registered and was given one."""
    while True:
        try:
            cidrs = api.get(f"/api/v1/nodes/{node}")["spec"].get("podCIDRs")
            if cidrs:
                return str(cidrs[0])
        except (ApiError, *UNREACHABLE) as error:
            print(f"asking again: {error}", flush=True)
        time.sleep(POLL_S)


def create_pool(api: Api, pool: dict[str, Any]) -> None:
    """Create the pool; one that is there stays as it is."""
    try:
        api.raw("POST", "/apis/crd.projectcalico.org/v1/ippools", json.dumps(pool))
    except ApiError as error:
        if error.status != CONFLICT:
            raise


def main() -> None:
    """Start Calico, then become its watch over the node's addresses."""
    spec = json.loads(Path(sys.argv[1]).read_text())
    api = Api(spec["url"], Path(spec["ca"]), Path(spec["certificate"]), Path(spec["key"]))
    cidr = pod_cidr(api, spec["node"])
    if spec["pool"]:
        create_pool(api, spec["pool"] | {"spec": spec["pool"]["spec"] | {"cidr": cidr}})
    calico_node = spec["calico_node"]
    for arguments in (("-startup",), ("-allocate-tunnel-addrs", "-allocate-tunnel-addrs-run-once")):
        subprocess.run([*calico_node, *arguments], check=True)
    Path(spec["started"]).touch()
    while not MTU.exists():
        time.sleep(POLL_S)
    beside = CONFLIST.with_suffix(".new")
    beside.write_text(json.dumps(PLUGINS["calico"].conflist([cidr], 0), indent=1))
    beside.replace(CONFLIST)
    os.execv(calico_node[0], [*calico_node, "-monitor-addresses"])  # noqa: S606


if __name__ == "__main__":
    try:
        main()
    except (*UNREACHABLE, LabError, subprocess.CalledProcessError) as error:
        sys.exit(f"starting again: {error}")
