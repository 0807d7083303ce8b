"""Desired minus actual: the one comparison behind first start, event, resync, ``--dry-run`` and uninstall."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

from clustermeshd.kernel.state import Changes, Delta, Device, Marked, NftChange, NftTable, Value

ValueT = TypeVar("ValueT", bound=Value)


def diff(desired: Marked, actual: Marked) -> Changes:
    """What must be written and removed to turn ``actual`` into ``desired``; empty where they are equal."""
    lost = _devices(desired, actual, lambda wanted, found: wanted.needs_rebuild(found))
    lost |= {value.name for value in actual.leftovers.values() if isinstance(value, Device)}
    renewed = _devices(desired, actual, lambda wanted, found: wanted.mac != found.mac)  # the kernel drops neighbours
    dropped = lost | renewed
    return Changes(
        devices=_delta(desired.devices, actual.devices),
        addresses=_delta(desired.addresses, actual.addresses),
        nexthops=_delta(desired.nexthops, actual.nexthops, (lambda value: value.device in lost) if lost else None),
        fdb=_delta(desired.fdb, actual.fdb, (lambda value: value.device in lost) if lost else None),
        neighbours=_delta(
            desired.neighbours, actual.neighbours, (lambda value: value.device in dropped) if dropped else None
        ),
        routes=_delta(desired.routes, actual.routes, _routes_lost(actual, lost) if lost else None),
        rules=_delta(desired.rules, actual.rules),
        leftovers=_delta(desired.leftovers, actual.leftovers),
        nft=_nft(desired.nft, actual.nft),
    )


def _delta(
    desired: Mapping[object, ValueT],
    actual: Mapping[object, ValueT],
    is_lost: Callable[[ValueT], bool] | None = None,
) -> Delta[ValueT]:
    """Values to put and to delete; a value that ``is_lost`` counts as not there, because its device is made anew."""
    if desired is actual and is_lost is None:
        return Delta()
    get = actual.get
    put = tuple(value for key, value in desired.items() if get(key) != value or (is_lost and is_lost(value)))
    delete = tuple(value for key, value in actual.items() if key not in desired)
    return Delta(put, delete)


def _devices(desired: Marked, actual: Marked, is_so: Callable[[Device, Device], bool]) -> frozenset[str]:
    """Devices that are there and of which, wanted and found, something is so."""
    pairs = ((device, actual.devices.get(key)) for key, device in desired.devices.items())
    return frozenset(wanted.name for wanted, found in pairs if found is not None and is_so(wanted, found))


def _routes_lost(actual: Marked, lost: frozenset[str]) -> Callable[[object], bool]:
    nexthops = {nexthop.id for nexthop in actual.nexthops.values() if nexthop.device in lost}
    return lambda route: getattr(route, "nexthop", None) in nexthops


def _nft(desired: NftTable | None, actual: NftTable | None) -> NftChange | None:
    if desired is None:
        return None if actual is None else NftChange(None)
    if actual is None:
        wanted = {name: sorted(elements) for name, elements in desired.elements.items() if elements}
        return NftChange(desired, is_new=True, add=wanted)
    add, remove = {}, {}
    for name, elements in desired.elements.items():
        present = actual.elements.get(name, frozenset())
        if present is elements:
            continue
        if missing := elements - present:
            add[name] = sorted(missing)
        if surplus := present - elements:
            remove[name] = sorted(surplus)
    add_sets, remove_sets = _names(desired.sets - actual.sets), _names(actual.sets - desired.sets)
    is_replaced = not set(add_sets).isdisjoint(remove_sets)
    change = NftChange(
        desired,
        write_rules=is_replaced
        or not actual.is_sealed
        or (desired.rules, desired.chains) != (actual.rules, actual.chains),
        remove_chains=_names(actual.chains - desired.chains),
        add_sets=add_sets,
        remove_sets=remove_sets,
        add=add,
        remove=remove,
    )
    return change if change.write_rules or change.add_sets or change.remove_sets or add or remove else None


def _names(marked: Iterable[tuple[str, object]]) -> tuple[str, ...]:
    return tuple(sorted(name for name, _ in marked))
