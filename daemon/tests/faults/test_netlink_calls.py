"""F16 and F22: each single call to the kernel fails, or is the last thing the agent did."""

from __future__ import annotations

import contextlib
import errno

import pytest
from clustermeshd.kernel.state import Marked
from clustermeshd.kube.objects import RemoteNode
from fault_mesh import Driver, Stream, phantom
from fault_shim import Fault, Faults, Killed
from kernel_topology import Topology
from test_reconcile import add_strangers

pytestmark = pytest.mark.faults
REFUSALS = [
    Fault("refuse", code)
    for code in (errno.ENODEV, errno.EEXIST, errno.EBUSY, errno.ENOBUFS, errno.ENOMEM, errno.EPERM, errno.EINTR)
]
SOCKET_FAULTS = [Fault("send", errno.ENOBUFS), Fault("lose"), Fault("interrupt"), Fault("close")]


B = phantom(0)  # stands for node b until the topology is there
STATES = {
    "nothing": (),
    "before": (B, phantom(1), phantom(2), phantom(3)),
    "soon": (B, phantom(1, at=11), phantom(3, cidrs=("10.99.3.0/24", "10.98.3.0/24")), phantom(4)),
    "after": (B, phantom(1, at=11), phantom(3, cidrs=("10.99.3.0/24", "10.98.3.0/25")), phantom(4)),
}
STEPS = [("before", "after"), ("nothing", "after"), ("before", "nothing")]
QUICK_STEPS = [("before", "soon")]  # one that a quick round can take


class Step:
    """Node a goes from one set of remote nodes to another; what both have in common is nobody's business."""

    def __init__(self, mesh: Topology, start: str, goal: str) -> None:
        self.mesh = mesh
        b = mesh.b.as_remote()
        self.start, self.goal = ([b if node is B else node for node in STATES[name]] for name in (start, goal))
        self._go(self.goal)
        self.wanted = mesh.a.observe().marked
        self.restore()
        self.untouched = _texts(self.wanted) & _texts(mesh.a.observe().marked)

    def restore(self) -> None:
        self._go(self.start)

    def check_untouched(self) -> None:
        missing = self.untouched - _texts(self.mesh.a.observe().marked)
        assert not missing, f"gone or changed: {missing}"

    def check_reached(self) -> None:
        assert self.mesh.a.observe().marked == self.wanted

    def _go(self, remotes: list[RemoteNode]) -> None:
        self.mesh.a.remotes = remotes
        self.mesh.a.reconcile()


def _texts(marked: Marked) -> set[str]:
    """Every object of ours, as text."""
    kinds = (marked.devices, marked.addresses, marked.nexthops, marked.fdb, marked.neighbours, marked.routes)
    texts = {str(value) for kind in (*kinds, marked.rules) for value in kind.values()}
    if marked.nft is not None:
        texts |= {f"rule {chain} {mark}" for chain, mark in marked.nft.rules}
        texts |= {f"{name} {element.hex()}" for name, elements in marked.nft.elements.items() for element in elements}
    return texts


@pytest.fixture
def step(mesh: Topology, request: pytest.FixtureRequest) -> Step:
    add_strangers(mesh.a.space)
    return Step(mesh, *request.param)


def fail_each(step: Step, fault: Fault, stride: int = 1, *, is_quick: bool = False) -> int:
    """Take the step once per call, that call failing; returns the number of calls that one round makes."""
    number = 1
    while True:
        with contextlib.closing(Driver(step.mesh.a)) as driver:
            if is_quick:
                driver.settle(step.start)
            faults = Faults(driver.kernel, fault, number)
            try:
                if is_quick:
                    assert driver.try_quick(step.start, step.goal) is not None, "it took a whole round"
                else:
                    driver.round(step.goal)
            except Killed:
                driver.begin_anew()
            calls, faults.number = faults.calls, 0
            step.check_untouched()
            driver.settle(step.goal)
            step.check_reached()
        if calls < number:
            return calls
        step.restore()
        number += stride


def harm_each(step: Step, fault: Fault, stride: int = 1, *, is_quick: bool = False) -> None:
    foreign = strangers(step.mesh)
    with Stream(step.mesh.pod_a, step.mesh.pod_b, "10.92.1.5", is_expected=bool(step.untouched)) as stream:
        assert fail_each(step, fault, stride, is_quick=is_quick) > (20 if is_quick else 30)
        assert strangers(step.mesh) == foreign
        assert not step.untouched or stream.lost() == 0


@pytest.mark.parametrize("fault", SOCKET_FAULTS + REFUSALS, ids=str)
@pytest.mark.parametrize("step", STEPS, ids="-".join, indirect=True)
@pytest.mark.slow
def test_F22_any_one_failing_call_is_made_good_and_harms_no_other_node(step: Step, fault: Fault) -> None:
    harm_each(step, fault)


@pytest.mark.parametrize("fault", [Fault("refuse", errno.ENOMEM), Fault("close")], ids=str)
@pytest.mark.parametrize("step", STEPS[:1], ids="-".join, indirect=True)
def test_F22_every_seventh_call_fails_and_is_made_good(step: Step, fault: Fault) -> None:
    harm_each(step, fault, stride=7)


@pytest.mark.parametrize("fault", SOCKET_FAULTS + REFUSALS, ids=str)
@pytest.mark.parametrize("step", QUICK_STEPS, ids="-".join, indirect=True)
@pytest.mark.slow
def test_F22_any_one_failing_call_of_a_quick_round_is_made_good_and_harms_no_other_node(
    step: Step, fault: Fault
) -> None:
    harm_each(step, fault, is_quick=True)


@pytest.mark.parametrize("fault", [Fault("refuse", errno.ENOMEM), Fault("lose"), Fault("kill")], ids=str)
@pytest.mark.parametrize("step", QUICK_STEPS, ids="-".join, indirect=True)
def test_F16_F22_every_fifth_call_of_a_quick_round_fails_or_is_the_last(step: Step, fault: Fault) -> None:
    harm_each(step, fault, stride=5, is_quick=True)


@pytest.mark.parametrize("step", QUICK_STEPS, ids="-".join, indirect=True)
@pytest.mark.slow
def test_F16_killed_at_any_call_of_a_quick_round(step: Step) -> None:
    harm_each(step, Fault("kill"), is_quick=True)


@pytest.mark.parametrize("step", STEPS, ids="-".join, indirect=True)
@pytest.mark.slow
def test_F16_killed_at_any_call_the_next_agent_ends_where_an_unharmed_one_does(step: Step) -> None:
    harm_each(step, Fault("kill"))


@pytest.mark.parametrize("step", STEPS[:1], ids="-".join, indirect=True)
def test_F16_killed_at_every_seventh_call(step: Step) -> None:
    harm_each(step, Fault("kill"), stride=7)


def strangers(mesh: Topology) -> str:
    """What of others stands beside our objects."""
    space = mesh.a.space
    return "\n".join(
        [
            space.ip("-d", "link", "show", "other0").partition("\n")[2],
            space.ip("route", "show", "table", "all", "proto", "80"),
            space.ip("route", "show", "table", "300"),
            space.ip("rule", "show", "pref", "97"),
            space.ip("rule", "show", "pref", "96"),
            space.ip("nexthop", "get", "id", "8"),
            space.ip("neigh", "show", "dev", "eth0", "nud", "permanent"),
            space.run("bridge", "fdb", "show", "dev", "other0"),
            space.run("nft", "list", "table", "inet", "other"),
        ]
    )
