"""Faults made for real: a program that ends or hangs, a broken or slow link, lost packets, a node without power.

Each is undone by its counterpart, and doing either twice changes nothing. Processes are found by what their supervisor
recorded when it started them; network faults sit in the router, where an operator's broken switch would.
"""

from __future__ import annotations

import json
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from .cgroups import Group
from .command import run
from .errors import LabError
from .network import ip
from .process import ProcessId, end, reap, spawn_detached

if TYPE_CHECKING:
    from .cluster import LabCluster, LabNode
    from .lab import Lab

TERM_GRACE_S = 3
RESTART_S = 30
TABLE = "lab_fault"
RELAY_READY_S = 10


class Faults:
    """The faults of one lab. Places are named CLUSTER/NODE, or CLUSTER for its control plane."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab

    # Processes -------------------------------------------------------------------------------------------------------

    def kill(self, place: str, component: str) -> None:
        """SIGKILL a program; its supervisor starts it again."""
        self._running(place, component).send(signal.SIGKILL)

    def pause(self, place: str, component: str) -> None:
        """SIGSTOP a program: connections stay open and nobody answers."""
        self._running(place, component).send(signal.SIGSTOP)

    def stop(self, place: str, component: str) -> None:
        """End a program and hold it down until `resume`."""
        (self._control(place, component) / f"{component}.hold").touch()
        found = self._find(place, component)
        end([found] if found else [], grace_s=TERM_GRACE_S)

    def resume(self, place: str, component: str) -> None:
        """Undo `pause` and `stop`; returns when the program runs."""
        (self._control(place, component) / f"{component}.hold").unlink(missing_ok=True)
        deadline = time.monotonic() + RESTART_S
        while not (found := self._find(place, component)):
            if time.monotonic() > deadline:
                raise LabError(f"{component} of {place} did not start again", do=f"lab logs {place} {component}")
            time.sleep(0.05)
        found.send(signal.SIGCONT)

    # Network ---------------------------------------------------------------------------------------------------------

    def cut(self, place: str) -> None:
        """Take the link of a node or control plane down."""
        ip(self._lab.router, f"link set {self._place(place).place.port} down")

    def mend(self, place: str) -> None:
        """Undo `cut` and `delay`."""
        self._end_delay(place)
        ip(self._lab.router, f"link set {self._place(place).place.port} up")

    def delay(self, place: str, milliseconds: float, loss_percent: float = 0) -> None:
        """Hold back every packet of a place's link for that long, in each direction, and lose some."""
        target = self._place(place)
        self._end_delay(place)
        cluster = self._lab.clusters[place.partition("/")[0]]
        ready = self._relay_file(place).with_suffix(".ready")
        ready.unlink(missing_ok=True)
        told = {
            "port": target.place.port,
            "tap": target.place.port + "d",
            "bridge": f"c{cluster.spec.index}",
            "peer_netns": str(target.netns_path),
            "delay_s": milliseconds / 1000,
            "loss": loss_percent / 100,
            "ready": str(ready),
        }
        line = [sys.executable, "-m", "clustermesh_lab.inside.relay", json.dumps(told)]
        log = self._relay_file(place).with_suffix(".log")
        group = self._relay_group(place).create()
        relay = spawn_detached(line, log=log, netns=self._lab.router, cgroup_files=group)
        relay.write(self._relay_file(place))
        deadline = time.monotonic() + RELAY_READY_S
        while not ready.exists():
            if not relay.is_alive() or time.monotonic() > deadline:
                raise LabError(f"the relay of {place} did not start", do=f"see {log}")
            time.sleep(0.02)

    def drop(self, cluster: str, other: str) -> None:
        """Lose every packet between two clusters."""
        pair = sorted((self._bridge(cluster), self._bridge(other)))
        if pair not in self.dropped():
            self._write_drops([*self.dropped(), pair])

    def allow(self, cluster: str, other: str) -> None:
        """Undo `drop`."""
        pair = sorted((self._bridge(cluster), self._bridge(other)))
        if pair in self.dropped():
            self._write_drops([p for p in self.dropped() if p != pair])

    def dropped(self) -> list[list[str]]:
        """Pairs of cluster bridges between which packets are lost."""
        listed = json.loads(run("nft", "-j", "list", "ruleset", netns=self._lab.router))["nftables"]
        for entry in listed:
            if entry.get("set", {}).get("table") == TABLE:
                pairs = {tuple(sorted(e["concat"])) for e in entry["set"].get("elem", ())}
                return sorted(list(p) for p in pairs)
        return []

    # Power -----------------------------------------------------------------------------------------------------------

    def off(self, node: str) -> None:
        """Cut a node's power."""
        self._end_delay(node)
        self._lab.node(node).power_off()

    def on(self, node: str) -> None:
        """Power a node on; it comes back with its disks."""
        self._lab.node(node).power_on()

    def clear(self) -> None:
        """Undo every fault of the lab."""
        self._write_drops([])
        for cluster in self._lab.clusters.values():
            self.mend(cluster.name)
            for node in cluster.nodes.values():
                label = f"{cluster.name}/{node.name}"
                node.power_on()
                self.mend(label)
            for place in (cluster.name, *(f"{cluster.name}/{n}" for n in cluster.nodes)):
                for record in self._place(place).control.glob("*.hold"):
                    self.resume(place, record.stem)
                for component in self._components(place):
                    found = self._find(place, component)
                    if found:
                        found.send(signal.SIGCONT)

    def _place(self, place: str) -> LabNode | LabCluster:
        return self._lab.node(place) if "/" in place else self._lab.cluster(place)

    def _bridge(self, cluster: str) -> str:
        return f"c{self._lab.cluster(cluster).spec.index}"

    def _control(self, place: str, component: str) -> Path:
        control = self._place(place).control
        known = self._components(place)
        if component not in known:
            raise LabError(f"{place} has no component {component!r}", do=f"there are {', '.join(known)}")
        return control

    def _components(self, place: str) -> list[str]:
        return sorted({f.stem for f in self._place(place).logs.glob("*.log")} - {"audit"})

    def _running(self, place: str, component: str) -> ProcessId:
        found = self._find(place, component)
        if found is None:
            raise LabError(f"{component} of {place} does not run", do=f"lab fault resume {place} {component}")
        return found

    def _find(self, place: str, component: str) -> ProcessId | None:
        """The recorded process, by the id it has outside the node."""
        file = self._control(place, component) / f"{component}.pid"
        if "/" not in place:
            return ProcessId.read(file)
        try:
            inner, started = map(int, file.read_text().split())
        except (OSError, ValueError):
            return None
        return _outside(self._place(place).group, inner, started)

    def _relay_file(self, place: str) -> Path:
        return self._place(place).control.parent / f"{place.replace('/', '.')}.relay"

    def _relay_group(self, place: str) -> Group:
        return Group(f"clustermesh-lab/{self._lab.name}/{place.replace('/', '.')}.relay")

    def _end_delay(self, place: str) -> None:
        file = self._relay_file(place)
        found = ProcessId.read(file)
        end([found] if found else [])
        reap()
        for left in (file, file.with_suffix(".ready")):
            left.unlink(missing_ok=True)
        if found:
            self._relay_group(place).remove()
            ip(
                self._lab.router,
                f"link set {self._place(place).place.port} master {self._bridge(place.partition('/')[0])}",
            )

    def _write_drops(self, pairs: list[list[str]]) -> None:
        script = f"table inet {TABLE}\ndelete table inet {TABLE}\n"
        if pairs:
            both = ", ".join(f'"{a}" . "{b}", "{b}" . "{a}"' for a, b in pairs)
            script += (
                f"table inet {TABLE} {{ set pairs {{ type ifname . ifname; elements = {{ {both} }}; }};\n"
                "chain forward { type filter hook forward priority 0; iifname . oifname @pairs drop; }; }\n"
            )
        run("nft", "-f", "-", netns=self._lab.router, stdin=script)


def _outside(group: Group, inner: int, started: int) -> ProcessId | None:
    """The process that is `inner` in its innermost pid namespace and started then."""
    for process in group.processes():
        if process.started != started:
            continue
        try:
            status = Path(f"/proc/{process.pid}/status").read_text()
        except OSError:
            continue
        ids = next(line for line in status.splitlines() if line.startswith("NSpid:")).split()[1:]
        if int(ids[-1]) == inner and len(ids) > 1:
            return process
    return None
