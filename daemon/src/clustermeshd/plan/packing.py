"""Which endpoint goes into which slice, without memory of where it was.

Linear hashing (Litwin 1980): an endpoint's place follows from its address and the number of buckets, and one bucket
more splits one old bucket. So an endpoint that comes, changes or goes rewrites its own slice, and at most the two that
a split concerns, however many there are; and a controller that starts anew finds everything where it was.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

from clustermeshd.kube import objects

SLICE_SIZE = 100
"""Endpoints of a slice at most: what the built-in EndpointSlice controller writes."""

_MEAN = 40  # of a bucket; one that is still to be split holds twice as many


def packed(endpoints: Sequence[objects.Endpoint]) -> Iterator[tuple[int, tuple[objects.Endpoint, ...]]]:
    """Endpoints by the number of their slice; none for no endpoint, and number 0 alone for up to 100."""
    if len(endpoints) <= SLICE_SIZE:
        if endpoints:
            yield 0, tuple(endpoints)
        return
    count = -(-len(endpoints) // _MEAN)
    buckets: list[list[objects.Endpoint]] = [[] for _ in range(count)]
    for endpoint in endpoints:
        buckets[_bucket(endpoint, count)].append(endpoint)
    spill: list[objects.Endpoint] = []
    for number, bucket in enumerate(buckets):
        spill += bucket[SLICE_SIZE:]
        if bucket:
            yield number, tuple(bucket[:SLICE_SIZE])
    for number, start in enumerate(range(0, len(spill), SLICE_SIZE), start=count):
        yield number, tuple(spill[start : start + SLICE_SIZE])


def _bucket(endpoint: objects.Endpoint, count: int) -> int:
    address = endpoint.addresses[0] if endpoint.addresses else ""
    digest = int.from_bytes(hashlib.blake2b(address.encode(errors="replace"), digest_size=8).digest(), "big")
    round_size = 1 << (count.bit_length() - 1)  # buckets at the beginning of this round of splits
    place = digest % round_size
    return digest % (2 * round_size) if place < count - round_size else place
