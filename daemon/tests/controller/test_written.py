"""What we know of our own slices without reading them again."""

from __future__ import annotations

from clustermeshd.controller.facts import ServiceName
from clustermeshd.controller.written import WrittenSlices, digest, summary
from clustermeshd.kube import objects
from clustermeshd.kube.informer import Change
from clustermeshd.model import names


def piece(*ips: str, version: str = "") -> objects.EndpointSlice:
    labels = {names.SERVICE_NAME: "web"}
    return objects.EndpointSlice(
        metadata=objects.Metadata(name="web-1", namespace="shop", labels=labels, resource_version=version),
        endpoints=tuple(objects.Endpoint(addresses=(ip,)) for ip in ips),
    )


def bare(version: str) -> objects.Object:
    return objects.Object(metadata=piece(version=version).metadata)


def test_a_slice_in_the_version_that_we_wrote_is_known_by_it_and_no_other_is():
    told: list[ServiceName] = []
    slices, desired = WrittenSlices(told.append), piece("10.2.0.5")
    assert slices.recognise(bare("7")) is None
    slices.expect(desired)
    assert slices.recognise(bare("")) is None
    slices.wrote(desired, "7")
    known = slices.recognise(bare("7"))
    assert known == summary(piece("10.2.0.5", version="7"))
    assert slices.recognise(bare("8")) is None
    slices.on_change(Change("added", None, known))
    assert told == []
    slices.on_change(Change("modified", known, summary(piece("10.9.9.9", version="8"))))
    assert told == [ServiceName("shop", "web")]


def test_a_version_of_what_is_not_wanted_any_more_tells_nothing():
    slices, desired = WrittenSlices(lambda _: None), piece("10.2.0.5")
    slices.expect(desired)
    slices.expect(piece("10.2.0.6"))
    slices.wrote(desired, "7")
    assert slices.recognise(bare("7")) is None


def test_what_is_expected_is_digested_anew_when_it_changes():
    slices = WrittenSlices(lambda _: None)
    first, second = piece("10.2.0.5"), piece("10.2.0.6")
    assert slices.expect(first) == slices.expect(first) == digest(first)
    assert slices.expect(second) == digest(second) != digest(first)
