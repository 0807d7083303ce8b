"""Metrics of the agent that take more than a sum."""

from __future__ import annotations

import errno

import pytest
from clustermeshd.agent.metrics import Metrics
from clustermeshd.kernel.netlink import NetlinkError, RepliesLost
from clustermeshd.kernel.state import Failure

CLASSES = {
    errno.EADDRINUSE: "busy",
    errno.EEXIST: "exists",
    errno.ENODEV: "missing",
    errno.EINVAL: "invalid",
    errno.EOPNOTSUPP: "unsupported",
    errno.ENOBUFS: "resources",
    errno.EPERM: "permission",
    0: "other",
    199: "other",
}


@pytest.mark.parametrize(("code", "name"), CLASSES.items())
def test_errors_are_counted_by_what_failed_and_how_under_labels_that_are_there_from_the_start(code: int, name: str):
    metrics = Metrics()

    def values() -> dict[tuple[str, str], float]:
        (family,) = metrics.errors.collect()
        samples = [sample for sample in family.samples if sample.name.endswith("_total")]
        return {(sample.labels["kind"], sample.labels["error"]): sample.value for sample in samples}

    before = values()
    metrics.count_failures((Failure("routes", "a route", "why", code),))
    metrics.count_blindness(NetlinkError(code, "why") if code else RepliesLost("why"))
    metrics.count_blindness(OSError(code, "why"))
    assert values().keys() == before.keys()
    counted = {key: value for key, value in values().items() if value}
    assert counted == {("routes", name): 1, ("observe", name): 2}


def test_dropped_packets_go_on_where_the_kernel_counts_anew():
    metrics = Metrics()
    for packets in (3, 5, 1, 1):  # the rules were written between 5 and 1
        metrics.count_dropped({"inner": packets, "arrived": 0})

    def value(chain: str) -> float | None:
        return metrics.registry.get_sample_value("clustermesh_agent_dropped_packets_total", {"chain": chain})

    assert (value("inner"), value("arrived")) == (6, 0)
