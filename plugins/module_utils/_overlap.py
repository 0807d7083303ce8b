# Copyright: the Clustermesh authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""Overlapping address ranges of many clusters: one sort and one pass. Pure functions.

Two prefixes overlap only when one contains the other. In the order of their first addresses, containing ones first, the
prefixes that contain the current one are exactly the open ones, so the cost is that of the sort plus what is found.
"""

from __future__ import annotations

import ipaddress

# whose ranges must not meet those of another cluster
CLASHES = {
    "pods": ("pods", "services", "nodes"),
    "services": ("pods",),
    "nodes": ("pods", "nodes"),
}


def overlaps(ranges):
    """Every clash of two clusters, once: ((cluster, kind, network), (cluster, kind, network)), the containing one first.

    ``ranges`` are (cluster, kind, text), kind one of pods, services, nodes.
    """
    entries = [(cluster, kind, ipaddress.ip_network(text, strict=False)) for cluster, kind, text in ranges]
    entries.sort(key=lambda e: (e[2].version, int(e[2].network_address), e[2].prefixlen, e[0], e[1]))
    open_ones = {kind: [] for kind in CLASHES}
    for entry in entries:
        cluster, kind, network = entry
        for other_kind in CLASHES:
            stack = open_ones[other_kind]
            while stack and not _holds(stack[-1][2], network):
                stack.pop()
            if other_kind in CLASHES[kind]:
                yield from ((other, entry) for other in stack if other[0] != cluster)
        open_ones[kind].append(entry)


def _holds(outer, inner):
    return outer.version == inner.version and int(inner.network_address) <= int(outer.broadcast_address)
