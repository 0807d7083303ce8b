"""Metrics of the agent; label sets are fixed."""

from __future__ import annotations

import errno
from collections.abc import Mapping
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from clustermeshd.kernel.state import KINDS, Changes, Failure
from clustermeshd.plan.overlay_status import Summary

_ROUND_TRIPS = (0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
_LATENCIES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
_CLASSES: Final = {  # of errors, by errno
    "busy": (errno.EBUSY, errno.EADDRINUSE, errno.EAGAIN, errno.EINTR),
    "exists": (errno.EEXIST,),
    "missing": (
        *(errno.ENOENT, errno.ESRCH, errno.ENODEV, errno.ENXIO, errno.EADDRNOTAVAIL),
        *(errno.ENETDOWN, errno.ENETUNREACH, errno.EHOSTUNREACH),
    ),
    "invalid": (errno.EINVAL, errno.ERANGE, errno.E2BIG, errno.EMSGSIZE, errno.ENAMETOOLONG),
    "unsupported": (errno.EOPNOTSUPP, errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT, errno.ENOSYS),
    "resources": (errno.ENOMEM, errno.ENOBUFS, errno.ENOSPC, errno.EMFILE, errno.ENFILE),
    "permission": (errno.EPERM, errno.EACCES),
}
_CLASS_OF: Final = {code: name for name, codes in _CLASSES.items() for code in codes}
_OTHER: Final = "other"


class Metrics:
    """Collectors in a registry of their own."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.reconcile = Histogram("clustermesh_agent_reconcile_seconds", "Time of a reconcile", registry=registry)
        self.event_to_kernel = Histogram(
            "clustermesh_agent_event_to_kernel_seconds",
            "Time from an event of the API server until the kernel is as it says",
            buckets=_LATENCIES,
            registry=registry,
        )
        self.errors = Counter(
            "clustermesh_agent_errors_total", "Failed writes and reads", ["kind", "error"], registry=registry
        )
        self.objects = Gauge("clustermesh_agent_objects", "Kernel objects of ours", ["kind"], registry=registry)
        self.written = Counter("clustermesh_agent_written_total", "Objects written", ["kind"], registry=registry)
        self.removed = Counter("clustermesh_agent_removed_total", "Objects removed", ["kind"], registry=registry)
        self.repairs = Counter(
            "clustermesh_agent_repairs_total", "Changes although no input had changed", registry=registry
        )
        self.dropped = Counter(
            "clustermesh_agent_dropped_packets_total", "Packets that our rules dropped", ["chain"], registry=registry
        )
        self._dropped: dict[str, int] = {}
        self.problems = Gauge("clustermesh_agent_problems", "Problems now", ["reason"], registry=registry)
        self.probes = Counter(
            "clustermesh_agent_probes_total", "Probes of paths to remote nodes", ["result"], registry=registry
        )
        self.paths = Gauge("clustermesh_agent_paths", "Paths to remote nodes by state", ["state"], registry=registry)
        self.path_rtt = Histogram(
            "clustermesh_agent_path_rtt_seconds",
            "Round trip to remote nodes over the path of pods",
            buckets=_ROUND_TRIPS,
            registry=registry,
        )
        self.input_age = Gauge(
            "clustermesh_agent_input_age_seconds", "Seconds since the API server last said anything", registry=registry
        )
        for kind in KINDS:
            self.written.labels(kind)
            self.removed.labels(kind)
        for kind in (*KINDS, "nftables", "observe"):
            for name in (*_CLASSES, _OTHER):
                self.errors.labels(kind, name)

    def count_changes(self, changes: Changes, *, is_repair: bool) -> None:
        total = 0
        for kind, delta in changes.deltas():
            self.written.labels(kind).inc(len(delta.put))
            self.removed.labels(kind).inc(len(delta.delete))
            total += len(delta.put) + len(delta.delete)
        if is_repair:
            self.repairs.inc(total + (changes.nft is not None))

    def count_failures(self, failures: tuple[Failure, ...]) -> None:
        for failure in failures:
            self.errors.labels(failure.kind, _CLASS_OF.get(failure.code, _OTHER)).inc()

    def count_blindness(self, error: Exception) -> None:
        """The kernel could not be read, or lost a reply."""
        code = getattr(error, "code", None) or getattr(error, "errno", None)
        self.errors.labels("observe", _CLASS_OF.get(code or 0, _OTHER)).inc()

    def count_dropped(self, dropped: Mapping[str, int]) -> None:
        """``dropped``: packets by chain since its rules were written last."""
        for chain, packets in dropped.items():
            before = self._dropped.get(chain, 0)
            self.dropped.labels(chain).inc(packets - before if packets >= before else packets)
            self._dropped[chain] = packets

    def show(self, found: Summary) -> None:
        for kind, count in found.objects.items():
            self.objects.labels(kind).set(count)
