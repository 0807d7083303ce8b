"""A pytest plugin: API servers that all modules which name it share, put right after each test."""

from __future__ import annotations

import base64
import contextlib
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from controller_world import CRDS, Cluster, World, install


@pytest.fixture(scope="session")
def clusters() -> Iterator[dict[str, Cluster]]:
    """East with our CRDs, west and south without."""
    names = ("east", "west", "south")
    with contextlib.ExitStack() as stack:
        made = {name: Cluster(name, number) for number, name in enumerate(names, start=1)}
        for cluster in made.values():
            stack.callback(cluster.plane.stop)
        with ThreadPoolExecutor() as pool:
            list(pool.map(lambda cluster: cluster.plane.start(), made.values()))
        for file in sorted(CRDS.glob("*.yaml")):
            install(made["east"], file)
        yield made


@pytest.fixture
def world(clusters: dict[str, Cluster], tmp_path: Path) -> Iterator[World]:
    """Nothing joined yet, no controller. Afterwards strangers' things are untouched, and no key was logged."""
    made = World(tmp_path, clusters["east"], {name: clusters[name] for name in ("west", "south")})
    try:
        made.fill()
        strangers = _strangers(made)
        yield made
        assert _strangers(made) == strangers
        secrets = [s["data"]["kubeconfig"] for s in made.east.all("Secret", "default") if "data" in s]
        for controller in made.controllers:
            assert "Traceback" not in controller.log, controller.log[-5000:]
            for key in _keys(secrets):
                assert key not in controller.log, "a private key was logged"
    finally:
        for controller in made.controllers:
            controller.stop()
        made.empty()
        for relay in made.relays.values():
            relay.close()


def _strangers(world: World) -> list[str]:
    """I3: what nobody of us may touch."""
    return [world.east.get("EndpointSlice", "reviews-77")["metadata"]["resourceVersion"]]


def _keys(secrets: list[str]) -> Iterator[str]:
    for text in secrets:
        with contextlib.suppress(ValueError, KeyError, TypeError, IndexError):
            user = json.loads(base64.b64decode(text))["users"][0]["user"]
            yield from (value for key, value in user.items() if key in ("client-key-data", "token"))
