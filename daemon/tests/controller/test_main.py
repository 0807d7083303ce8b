"""How the process ends, and what must not end it."""

from __future__ import annotations

import asyncio
import ssl

import pytest
from clustermeshd.controller import main
from clustermeshd.controller.mesh import Mesh
from clustermeshd.controller.metrics import Metrics
from clustermeshd.kube import objects
from clustermeshd.kube.access import Access
from clustermeshd.kube.client import Client
from clustermeshd.model.errors import Fatal, Refused
from clustermeshd.runtime.notify import Notifier


@pytest.fixture
def ending(monkeypatch):
    """Runs the process until it ends with an error."""

    def run(error: BaseException) -> int:
        class Process:
            def __init__(self, _):
                pass

            async def run(self):
                raise error

        class Options:
            log_format, log_level = "text", "info"

        for name in ("freeze", "set_threshold"):
            monkeypatch.setattr(main.gc, name, lambda *_: None)
        monkeypatch.setattr(main.logs, "configure", lambda *_: None)
        monkeypatch.setattr(main, "_Process", Process)
        return main.run(Options())

    return run


@pytest.mark.parametrize(
    "error",
    [
        Fatal("set --kubeconfig"),
        ExceptionGroup("unhandled errors in a TaskGroup", [ExceptionGroup("inner", [Fatal("set --kubeconfig")])]),
    ],
)
def test_an_error_for_people_ends_the_process_with_a_message_and_no_traceback(ending, caplog, error):
    assert ending(error) == 1
    (record,) = caplog.records
    assert (record.getMessage(), record.exc_info) == ("set --kubeconfig", None)


def test_a_bug_ends_the_process_with_its_traceback(ending):
    with pytest.raises(ExceptionGroup) as caught:
        ending(ExceptionGroup("unhandled errors in a TaskGroup", [Fatal("for people"), ZeroDivisionError()]))
    assert caught.group_contains(ZeroDivisionError)


@pytest.mark.parametrize("name", ["../x", "a/b", ""])
async def test_a_configuration_whose_secret_has_an_impossible_name_is_refused_alone(name):
    access = Access(server="https://127.0.0.1:1", tls=ssl.create_default_context())
    reference = objects.ClusterAccessSecret(name=name, namespace=name)
    spec = objects.RemoteClusterConfigurationSpec(cluster_access_secret=reference)
    west = objects.RemoteClusterConfiguration(metadata=objects.Metadata(name="west", uid="1"), spec=spec)
    async with Client(access, user_agent="t") as client, asyncio.TaskGroup() as group:
        mesh = Mesh(client, user_agent="t", metrics=Metrics(), notifier=Notifier({}), fence=lambda: None)
        mesh._start(group, west)
        await asyncio.wait_for(mesh._tasks["west"], 10)
        assert isinstance(mesh.peers["west"].error, Refused)


async def test_a_peer_that_learns_who_it_is_while_it_is_being_closed_disturbs_nobody():
    access = Access(server="https://127.0.0.1:1", tls=ssl.create_default_context())
    west = objects.RemoteClusterConfiguration(metadata=objects.Metadata(name="west", uid="1"))
    async with Client(access, user_agent="t") as client, asyncio.TaskGroup() as group:
        mesh = Mesh(client, user_agent="t", metrics=Metrics(), notifier=Notifier({}), fence=lambda: None)
        mesh._start(group, west)
        closing = mesh.peers.pop("west")
        closing._accepted("its id")
        mesh._start(group, west)
        closing._accepted("its id")
        assert not mesh.peers["west"].is_disowned
