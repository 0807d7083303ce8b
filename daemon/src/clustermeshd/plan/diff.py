"""Desired minus actual: the one comparison behind first start, event, resync, ``--dry-run`` and uninstall."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

from clustermeshd.kernel.state import Changes, Delta, Marked, NftChange, NftTable, Value

ValueT = TypeVar("ValueT", bound=Value)


def diff(desired: Marked, actual: Marked) -> Changes:
    """What must be written and removed to turn ``actual`` into ``desired``; empty where they are equal."""
    lost = _lost_devices(desired, actual)
    return Changes(
        devices=_delta(desired.devices, actual.devices),
        addresses=_delta(desired.addresses, actual.addresses),
        nexthops=_delta(desired.nexthops, actual.nexthops, lambda value: value.device in lost),
        fdb=_delta(desired.fdb, actual.fdb, lambda value: value.device in lost),
        neighbours=_delta(desired.neighbours, actual.neighbours, lambda value: value.device in lost),
        routes=_delta(desired.routes, actual.routes, _routes_lost(actual, lost)),
        rules=_delta(desired.rules, actual.rules),
        nft=_nft(desired.nft, actual.nft),
    )


def _delta(
    desired: Mapping[object, ValueT],
    actual: Mapping[object, ValueT],
    is_lost: Callable[[ValueT], bool] = lambda _: False,
) -> Delta[ValueT]:
    """Values to put and to delete; a value that ``is_lost`` counts as not there, because its device is made anew."""
    get = actual.get
    put = tuple(
        value for key, value in desired.items() if (found := get(key)) is None or found != value or is_lost(found)
    )
    delete = tuple(value for key, value in actual.items() if key not in desired)
    return Delta(put, delete)


def _lost_devices(desired: Marked, actual: Marked) -> frozenset[str]:
    """Devices that cannot be changed in place: with them go all their entries."""
    return frozenset(
        device.name
        for key, device in desired.devices.items()
        if (found := actual.devices.get(key)) is not None and device.needs_rebuild(found)
    )


def _routes_lost(actual: Marked, lost: frozenset[str]) -> Callable[[object], bool]:
    nexthops = {nexthop.id for nexthop in actual.nexthops.values() if nexthop.device in lost}
    return lambda route: getattr(route, "nexthop", None) in nexthops


def _nft(desired: NftTable | None, actual: NftTable | None) -> NftChange | None:
    if desired is None:
        return None if actual is None else NftChange(None)
    if actual is None or (desired.chains, desired.sets) != (actual.chains, actual.sets):
        wanted = {name: sorted(elements) for name, elements in desired.elements.items() if elements}
        return NftChange(desired, rebuild=actual is not None, is_new=actual is None, add=wanted)
    add, remove = {}, {}
    for name, elements in desired.elements.items():
        present = actual.elements.get(name, frozenset())
        if missing := elements - present:
            add[name] = sorted(missing)
        if surplus := present - elements:
            remove[name] = sorted(surplus)
    write_rules = desired.rules != actual.rules
    if not (write_rules or add or remove):
        return None
    return NftChange(desired, write_rules=write_rules, add=add, remove=remove)
