"""Whatever happens to a configuration and its Secret ends in the state that a controller started afresh would give."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from clustermeshd.kube import resources
from clustermeshd.kube.client import Client
from clustermeshd.kube.errors import NotFound
from meshes import access_secret, admin, conditions, configuration, controller, delete, eventually, put

NODE = {
    "apiVersion": "v1",
    "kind": "Node",
    "metadata": {"name": "n1"},
    "spec": {"podCIDR": "10.2.0.0/24", "podCIDRs": ["10.2.0.0/24"]},
    "status": {"addresses": [{"type": "InternalIP", "address": "192.168.2.1"}]},
}
IN_SYNC, NO_SECRET = ("True", "Connected"), ("False", "SecretMissing")
OVERLAY = {"Enabled": "", "Disabled": " -"}
# Step: what to put, with a minus what to delete, with "?" the reason that it (west, if not said) is to tell.
# "!": what is mirrored by then. Then: name -> condition Connected, and whose nodes are mirrored, " -": not overlaid.
CASES: dict[str, tuple[list[str], dict[str, tuple[str, str]], set[str]]] = {
    "the Secret comes later": (["west", "?SecretMissing", "secret"], {"west": IN_SYNC}, {"west"}),
    "the Secret comes first": (["secret", "west"], {"west": IN_SYNC}, {"west"}),
    "the Secret changes": (["secret", "west", "?Connected", "secret of another user"], {"west": IN_SYNC}, {"west"}),
    "the Secret goes": (["secret", "west", "?Connected", "-secret"], {"west": NO_SECRET}, {"west"}),
    "the Secret goes and comes": (
        ["secret", "west", "?Connected", "-secret", "?SecretMissing", "secret"],
        {"west": IN_SYNC},
        {"west"},
    ),
    "it is deleted": (["secret", "west", "?Connected", "-west"], {}, set()),
    "it is disabled": (["secret", "west", "?Connected", "west without overlay"], {"west": IN_SYNC}, {"west -"}),
    "it is disabled and enabled": (
        ["secret", "west", "?Connected", "west without overlay", "!west -", "west"],
        {"west": IN_SYNC},
        {"west"},
    ),
    "it is renamed": (["secret", "west", "?Connected", "-west", "ouest"], {"ouest": IN_SYNC}, {"ouest"}),
    "it is made again at once": (["secret", "west", "?Connected", "-west", "west"], {"west": IN_SYNC}, {"west"}),
    "the new name comes first": (
        ["secret", "west", "?Connected", "ouest", "-west"],
        {"ouest": IN_SYNC},
        {"ouest"},
    ),
    "the new name is refused first": (
        ["secret", "west", "?Connected", "weston", "weston?DuplicateCluster", "-west"],
        {"weston": IN_SYNC},
        {"weston"},
    ),
}


@pytest.fixture
async def west(remote_api) -> AsyncIterator[None]:
    async with admin(remote_api) as client:
        await put(client, NODE)
        yield
        await delete(client, NODE)


@pytest.fixture
def documents(remote_api) -> dict[str, dict[str, Any]]:
    without_overlay = configuration("west", "life")
    without_overlay["spec"]["syncOptions"]["overlayRoutingMode"] = "Disabled"
    other = remote_api.client("other", ["system:masters"]).read_text()
    return {
        "secret": access_secret("life", remote_api.kubeconfig.read_text()),
        "secret of another user": access_secret("life", other),
        "west": configuration("west", "life"),
        "west without overlay": without_overlay,
        "ouest": configuration("ouest", "life"),  # of two made in one second the first by name counts
        "weston": configuration("weston", "life"),
    }


async def _reason(client: Client, name: str) -> tuple[str, str]:
    try:
        return (await conditions(client, name)).get("Connected", ("", ""))
    except NotFound:
        return ("", "")


async def _state(client: Client, names: set[str]) -> tuple[dict[str, tuple[str, str]], set[tuple[str, str, str]]]:
    """Condition Connected by configuration; cluster with its mode, node and owner of what is mirrored."""
    nodes, _ = await client.list(resources.REMOTE_NODES)
    mirrored = {
        (node.spec.cluster_name + OVERLAY[node.spec.overlay_routing_mode], node.spec.node_name, owner.uid)
        for node in nodes
        for owner in node.metadata.owner_references or ()
    }
    return {name: await _reason(client, name) for name in names}, mirrored


@pytest.mark.parametrize("case", CASES)
async def test_every_life_ends_in_the_state_of_a_fresh_start(api, east, west, documents, case):
    steps, reasons, mirrored = CASES[case]
    await delete(east, documents["secret"])

    async def is_as_expected() -> bool:
        found, nodes = await _state(east, set(reasons))
        owners = {
            name: (await east.get(resources.REMOTE_CLUSTER_CONFIGURATIONS, name)).metadata.uid for name in reasons
        }
        return found == reasons and nodes == {(name, "n1", owners[name.removesuffix(" -")]) for name in mirrored}

    def is_told(name: str, reason: str) -> Callable[[], Any]:
        async def check() -> bool:
            return (await _reason(east, name))[1] == reason

        return check

    def is_mirrored(cluster: str) -> Callable[[], Any]:
        async def check() -> bool:
            return {name for name, _, _ in (await _state(east, set()))[1]} == {cluster}

        return check

    async with controller(api):
        for step in steps:
            name, _, reason = step.partition("?")
            if step.startswith("!"):
                await eventually(is_mirrored(step[1:]))
            elif reason:
                await eventually(is_told(name or "west", reason), 30)
            elif step.startswith("-"):
                await delete(east, documents[step[1:]])
            else:
                await put(east, documents[step])
        await eventually(is_as_expected)
        settled = await _state(east, set(reasons))
    async with controller(api) as (mesh, _):

        async def has_looked() -> bool:
            peers = mesh.peers.values()
            return mesh.has_synced and all(p.connection is not None or p.error is not None for p in peers)

        await eventually(has_looked, 30)
        await eventually(is_as_expected, 30)
        assert await _state(east, set(reasons)) == settled
