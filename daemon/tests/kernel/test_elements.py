"""Set elements by our own codec against the library's, and the fast reader of attributes against the slow one."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from ipaddress import ip_address

import pytest
from clustermeshd.kernel.elements import Sets
from clustermeshd.kernel.layout import Reader, slowly
from clustermeshd.kernel.netlink import NESTED, Netlink, NetlinkError, attribute
from clustermeshd.kernel.nftdump import NFNETLINK
from hypothesis import given
from hypothesis import strategies as st
from kernel_topology import Namespace

SETS = """
add table inet t
add set inet t v4 { type ipv4_addr; flags interval; }
add set inet t v6 { type ipv6_addr; flags interval; }
add set inet t nodes { type ipv4_addr; }
add set inet t bound { typeof ip saddr . @th,336,32; }
add set inet t bound6 { typeof ip6 saddr . @th,304,128; }
"""
INTERVALS = {"v4", "v6"}


def span(low: str, high: str) -> bytes:
    return ip_address(low).packed + ip_address(high).packed


def keys(*addresses: str) -> bytes:
    return b"".join(ip_address(address).packed for address in addresses)


@pytest.fixture
def sets(spaces: Callable[[str], Namespace]) -> Iterator[tuple[Namespace, Sets]]:
    space = spaces("s")
    space.run("nft", SETS)
    netlink = space.call(lambda: Netlink(NFNETLINK))
    yield space, Sets(netlink, "t")
    netlink.close()


def shown(space: Namespace, name: str) -> str:
    return " ".join(space.run("nft", "list", "set", "inet", "t", name).split())


def test_what_we_add_is_what_nft_lists_and_what_we_read_back(sets: tuple[Namespace, Sets]) -> None:
    space, table = sets
    wanted = {
        "v4": {span("10.2.0.0", "10.2.0.255"), span("10.2.1.0", "10.2.1.255"), span("9.9.9.9", "9.9.9.9")},
        "v6": {span("fd02::", "fd02::ffff:ffff:ffff:ffff"), span("fd03::1", "fd03::1")},
        "nodes": {keys("10.0.0.1"), keys("10.0.0.2")},
        "bound": {keys("10.0.0.1", "10.2.0.0"), keys("10.0.0.2", "10.2.1.7")},
        "bound6": {keys("fd00::1", "fd02::")},
    }
    table.change({}, wanted, INTERVALS)
    assert {name: table.read(name, is_interval=name in INTERVALS) for name in wanted} == wanted
    assert "elements = { 9.9.9.9, 10.2.0.0/24, 10.2.1.0/24 }" in shown(space, "v4")
    assert "fd02::/64" in shown(space, "v6")
    assert "10.0.0.1 . 0xa020000" in shown(space, "bound")


def test_what_nft_adds_is_read_alike(sets: tuple[Namespace, Sets]) -> None:
    space, table = sets
    space.run("nft", "add element inet t v4 { 0.0.0.0/8, 10.2.0.0/23, 255.255.255.0/24 }")
    space.run("nft", "add element inet t bound { 10.0.0.1 . 0xa020000 }")
    assert table.read("v4", is_interval=True) == {
        span("0.0.0.0", "0.255.255.255"),
        span("10.2.0.0", "10.2.1.255"),
        span("255.255.255.0", "255.255.255.255"),
    }
    assert table.read("bound", is_interval=False) == {keys("10.0.0.1", "10.2.0.0")}


def test_thousands_come_and_go_as_one_transaction_each(sets: tuple[Namespace, Sets]) -> None:
    _, table = sets
    many = {struct.pack("!II", 0x0A000000 + 512 * n, 0x0A000000 + 512 * n + 255) for n in range(5000)}
    table.change({}, {"v4": many}, INTERVALS)
    assert table.read("v4", is_interval=True) == many
    gone = set(sorted(many)[::2])
    table.change({"v4": gone}, {"v4": {span("9.9.9.9", "9.9.9.9")}}, INTERVALS)
    assert table.read("v4", is_interval=True) == many - gone | {span("9.9.9.9", "9.9.9.9")}


def test_a_refused_element_leaves_the_set_as_it_was(sets: tuple[Namespace, Sets]) -> None:
    _, table = sets
    table.change({}, {"v4": {span("10.2.0.0", "10.2.0.255")}}, INTERVALS)
    with pytest.raises(NetlinkError, match="ENOENT"):
        table.change({"v4": {span("10.9.0.0", "10.9.0.255")}}, {"v4": {span("10.3.0.0", "10.3.0.255")}}, INTERVALS)
    assert table.read("v4", is_interval=True) == {span("10.2.0.0", "10.2.0.255")}
    with pytest.raises(NetlinkError):
        table.change({}, {"unknown": {span("10.3.0.0", "10.3.0.255")}}, INTERVALS)
    table.change({}, {"v4": {span("10.3.0.0", "10.3.0.255")}}, INTERVALS)  # the socket is in step
    assert len(table.read("v4", is_interval=True)) == 2


attribute_lists = st.lists(st.tuples(st.integers(1, 6), st.binary(max_size=9)), max_size=6)


@given(st.lists(st.tuples(st.binary(min_size=4, max_size=4), attribute_lists, attribute_lists), max_size=12))
def test_the_fast_reader_agrees_with_the_slow_one(shapes: list[tuple[bytes, list, list]]) -> None:
    paths = [(1,), (2,), (3, 2)]
    messages = []
    for header, plain, nested in shapes:
        inner = b"".join(attribute(kind, value) for kind, value in nested)
        message = header + b"".join(attribute(kind, value) for kind, value in plain if kind != 3)
        message += attribute(3 | NESTED, inner) if nested else b""
        messages += [message, bytes(4) + message[4:]]  # alike but for the header
    found = Reader(4, paths, spans=[(1, 2)], ignored=[(5,)]).read(messages)
    expected = [(message[1:3], *(slowly(message, 4, path) for path in paths)) for message in messages]
    assert sorted(found, key=str) == sorted(expected, key=str)
