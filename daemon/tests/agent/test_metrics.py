"""Metrics of the agent that take more than a sum."""

from __future__ import annotations

from clustermeshd.agent.metrics import Metrics


def test_dropped_packets_go_on_where_the_kernel_counts_anew():
    metrics = Metrics()
    for packets in (3, 5, 1, 1):  # the rules were written between 5 and 1
        metrics.count_dropped({"inner": packets, "arrived": 0})

    def value(chain: str) -> float | None:
        return metrics.registry.get_sample_value("clustermesh_agent_dropped_packets_total", {"chain": chain})

    assert (value("inner"), value("arrived")) == (6, 0)
