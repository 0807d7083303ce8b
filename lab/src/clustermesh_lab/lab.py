"""A whole lab: bring it up, find it again, take it away.

`up` may be cut off anywhere, by a signal or a power cut. What it decided is recorded before it acts, so the next `up`
or `down` can take away the remains: the processes in the lab's control group, the mounts below its directories, its
namespaces, its one interface on the machine, and its files.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import build, calico, containerd, doctor, images, network
from .cgroups import Group, remove_root_if_empty
from .cluster import Context, LabCluster, LabNode
from .command import attempt
from .errors import LabError
from .fault import Faults
from .limits import raise_limits, restore_limits
from .machine import SshKeys
from .places import DISKS, RUN, lab_name
from .progress import say, step
from .rootfs import root_file_system
from .state import Record, Store, all_labs_locked, boot_id, free_index, labs

if TYPE_CHECKING:
    from .topology import Topology

GONE_S = 10


class Lab:
    """A running lab. Made by `Lab.up` or `Lab.attach`."""

    def __init__(self, store: Store, record: Record) -> None:
        self.name = store.name
        self.index = record.index
        self.topology = record.topology
        self.machines = record.machines
        self._store = store
        self._network = network.LabNetwork(store, record.index)
        keys = SshKeys(store.run / "ssh")
        self.keys = keys
        self.router = self._network.router
        self.fault = Faults(self)
        context = Context(store, record.index, self._network, keys, machines=record.machines)
        self.clusters = {c.name: LabCluster(context, c) for c in record.topology.clusters}

    @classmethod
    def up(cls, topology: Topology, *, machines: bool = False, name: str | None = None) -> Lab:
        """Bring a lab up, or what is missing of it; returns when every node is Ready and DNS answers."""
        store = Store(lab_name(name))
        with_calico = calico.is_used(topology.clusters)
        doctor.require(machines=machines, calico=with_calico)
        build.ensure((*build.EVERY_LAB, calico.COMPONENT) if with_calico else build.EVERY_LAB)
        containerd.template(images.base_images())
        if machines:
            root_file_system()
        with store.locked():
            record = _usable_record(store, topology, machines)
            fresh = record is None
            if record is None:
                record = _begin(store, topology, machines)
            lab = cls(store, record)
            with step(f"lab {store.name} is up: {len(lab.clusters)} clusters"):
                lab._start(fresh=fresh)
            store.write(replace(record, is_complete=True))
        return lab

    @classmethod
    def attach(cls, name: str | None = None) -> Lab:
        """The running lab of that name."""
        store = Store(lab_name(name))
        record = store.read()
        if record is None or not record.is_from_this_boot():
            raise LabError(f"there is no lab {store.name!r}", do="lab up", exit_code=4)
        return cls(store, record)

    def down(self) -> None:
        """Take everything away."""
        down(self.name)

    def cluster(self, name: str) -> LabCluster:
        """A cluster by name; LabError names those that exist."""
        if name not in self.clusters:
            known = ", ".join(self.clusters)
            raise LabError(f"lab {self.name} has no cluster {name!r}", do=f"there are {known}", exit_code=2)
        return self.clusters[name]

    def node(self, place: str) -> LabNode:
        """A node by CLUSTER/NODE."""
        cluster_name, _, node = place.partition("/")
        cluster = self.cluster(cluster_name)
        if node not in cluster.nodes:
            known = ", ".join(f"{cluster_name}/{n}" for n in cluster.nodes)
            raise LabError(f"{place!r} is no node", do=f"give CLUSTER/NODE: {known}", exit_code=2)
        return cluster.nodes[node]

    def load_image(self, archive: Path) -> None:
        """Import an image archive (images.write_image, `docker save`) on every node that is on."""
        for cluster in self.clusters.values():
            for node in cluster.nodes.values():
                if node.is_on():
                    node.load_image(archive)

    def status(self) -> dict[str, Any]:
        """What runs, as plain values."""
        return {
            "lab": self.name,
            "index": self.index,
            "machines": self.machines,
            "clusters": {c.name: _cluster_status(c) for c in self.clusters.values()},
        }

    def _start(self, *, fresh: bool) -> None:
        if self.machines:
            self.keys.create()
        if fresh:
            self._network.create_router(self.topology.clusters)
        with ThreadPoolExecutor(max_workers=len(self.clusters)) as pool:
            for started in [pool.submit(self._start_cluster, c) for c in self.clusters.values()]:
                started.result()
        for cluster in self.clusters.values():
            cluster.wait_ready()

    @staticmethod
    def _start_cluster(cluster: LabCluster) -> None:
        with step(f"control plane of {cluster.name} is ready"):
            cluster.start_control_plane()
        cluster.start_nodes()


def down(name: str | None = None) -> bool:
    """Take away a lab and whatever a crashed one left; whether there was anything."""
    store = Store(lab_name(name))
    if not store.exists():
        return False
    with store.locked(), step(f"lab {store.name} is gone"):
        _sweep(store)
        store.remove()
    _forget_last()
    return True


def _forget_last() -> None:
    """What all labs share goes with the last one."""
    with all_labs_locked():
        if not labs():
            restore_limits()
            remove_root_if_empty()
    for shared in (RUN, DISKS):
        with suppress(OSError):
            shared.rmdir()


def _usable_record(store: Store, topology: Topology, machines: bool) -> Record | None:
    """The record of a lab that `up` can complete; None when there is none (any more)."""
    record = store.read()
    if record and record.is_complete and record.is_from_this_boot():
        if record.topology != topology or record.machines < machines:
            raise LabError(f"lab {store.name!r} runs another topology", do="`lab down` first, or choose another --lab")
        return record
    if store.disks.exists() or record:
        say(f"taking away what a broken start of lab {store.name} left")
        _sweep(store)
        store.clear()
    return None


def _begin(store: Store, topology: Topology, machines: bool) -> Record:
    with all_labs_locked():
        raise_limits()
        index = free_index(network.indexes_in_use_by_routes())
        store.create()
        record = Record(index=index, topology=topology, machines=machines, boot=boot_id())
        store.write(record)
    return record


def _sweep(store: Store) -> None:
    """End, unmount and remove everything but the directories."""
    group = Group(f"clustermesh-lab/{store.name}")
    left = group.kill(GONE_S)
    if left:
        raise LabError(f"processes of lab {store.name} cannot be killed: {[p.pid for p in left]}")
    record = store.read()
    if record:
        for cluster in Lab(store, record).clusters.values() if record.machines else ():
            for node in cluster.nodes.values():
                node.machine.stop()
        network.LabNetwork(store, record.index).remove_all()
    _unmount_below(store.run, store.disks)
    if not group.remove(GONE_S):
        raise LabError(f"control groups of lab {store.name} could not be removed", do=f"see {group.path}")


def _unmount_below(*directories: Path) -> None:
    deadline = time.monotonic() + GONE_S
    while mounts := [m for m in _mount_points() if any(d in m.parents for d in directories)]:
        for mount in reversed(mounts):
            attempt("umount", "-l", mount)
        if time.monotonic() > deadline:
            raise LabError(f"{mounts[0]} could not be unmounted")


def _mount_points() -> list[Path]:
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return [Path(line.split()[4].encode().decode("unicode_escape")) for line in lines]


def _cluster_status(cluster: LabCluster) -> dict[str, Any]:
    is_ready = cluster.api.is_ready()
    return {
        "api": cluster.url,
        "ready": is_ready,
        "kubeconfig": str(cluster.kubeconfig),
        "audit_log": str(cluster.audit_log),
        "netns": cluster.netns,
        "pods": list(cluster.pod_cidrs),
        "services": list(cluster.service_cidrs),
        "nodes": {
            n.name: {
                "on": n.is_on(),
                "ready": is_ready and n.is_on() and n.is_ready(),
                "addresses": list(n.addresses),
                "pods": list(n.pod_cidrs) if is_ready else [],
                "netns": n.netns,
                "logs": str(n.logs),
            }
            for n in cluster.nodes.values()
        },
    }
