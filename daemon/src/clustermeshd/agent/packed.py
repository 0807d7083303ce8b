"""RemoteNodes in half the memory: an agent holds tens of thousands of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from sys import intern

import msgspec

from clustermeshd.kube.objects import Metadata, Object, RemoteNode, RemoteNodeSpec


class PackedRemoteNode(Object, frozen=True):
    """What a data plane must know of one."""

    name: str = ""
    packed: bytes = b""  # MessagePack: the values of the spec, creationTimestamp

    @property
    def key(self) -> str:
        return self.name

    def unpack(self) -> RemoteNode:
        """The RemoteNode without the rest of its metadata; texts that many have are one in memory."""
        cluster_id, cluster_name, *values, created = _PACKED.decode(self.packed)
        spec = RemoteNodeSpec(intern(cluster_id), intern(cluster_name), *values)
        return RemoteNode(metadata=Metadata(name=self.name, creation_timestamp=created), spec=spec)


_PACKED = msgspec.msgpack.Decoder(
    tuple[*(field.type for field in msgspec.structs.fields(RemoteNodeSpec)), str | None]  # type: ignore[misc]
)


def pack(remote: RemoteNode) -> PackedRemoteNode:
    packed = msgspec.msgpack.encode((*msgspec.structs.astuple(remote.spec), remote.metadata.creation_timestamp))
    return PackedRemoteNode(name=remote.metadata.name, packed=packed)


class Unpacked:
    """RemoteNodes as they are now, each in memory only while it is looked at. Any thread may do so."""

    def __init__(self, packed: Iterable[PackedRemoteNode]) -> None:
        self._packed = tuple(packed)

    def __iter__(self) -> Iterator[RemoteNode]:
        return (packed.unpack() for packed in self._packed)
