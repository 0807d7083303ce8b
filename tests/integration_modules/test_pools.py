"""Disabled IPPools for peers that the underlay routes to, on an API server with Calico's own definitions."""

from __future__ import annotations

import pytest
import yaml
from clustermesh_lab import calico
from kubernetes import client, config

from tests.integration_modules.runner import apply, audit, writes

pytestmark = [pytest.mark.lab, pytest.mark.timeout(300)]
GROUP = ("crd.projectcalico.org", "v1", "ippools")


@pytest.fixture(scope="module")
def pools(ansible, paris, crds, tmp_path_factory):
    """Calico's IPPools in paris, and a pool of its administrator for other clusters."""
    definitions = [d for d in yaml.safe_load_all(calico.objects()) if d and d["kind"] == "CustomResourceDefinition"]
    file = tmp_path_factory.mktemp("calico") / "ippools.yaml"
    file.write_text(yaml.safe_dump(next(d for d in definitions if d["spec"]["names"]["kind"] == "IPPool")))
    answer = ansible.run("manifests", {"kubeconfig": str(paris.kubeconfig), "files": [*crds, str(file)]})
    assert answer["changed"]
    api = client.CustomObjectsApi(config.new_client_from_config(str(paris.kubeconfig)))
    foreign = {"apiVersion": "crd.projectcalico.org/v1", "kind": "IPPool", "metadata": {"name": "theirs"}}
    spec = {"cidr": "10.8.0.0/14", "disabled": True}
    api.create_cluster_custom_object(*GROUP, {**foreign, "spec": spec})
    return lambda: {p["metadata"]["name"]: p["spec"] for p in api.list_cluster_custom_object(*GROUP)["items"]}


def peering(ansible, plane, overlay: str, cidrs: list[str] | None, *flags: str, **more) -> dict:
    peer = {
        "name": "oslo",
        "kubeconfig": "a kubeconfig",
        "overlay": overlay,
        **({"pod_cidrs": cidrs} if cidrs else {}),
    }
    return ansible.run("peering", {"kubeconfig": str(plane.kubeconfig), "peers": [peer], **more}, *flags)


def test_a_peer_of_the_underlay_gets_disabled_pools_until_the_overlay_routes(ansible, paris, pools):
    cidrs = ["10.2.0.0/16", "10.9.0.0/16", "fd00:2::/64"]  # the second lies in a pool of the administrator
    start = len(audit(paris))
    predicted = peering(ansible, paris, "Disabled", cidrs, "--check")
    assert writes(paris, start) == []
    made = peering(ansible, paris, "Disabled", cidrs)
    assert made["objects"] == predicted["objects"]
    ours = {name: spec for name, spec in pools().items() if name != "theirs"}
    assert sorted(ours) == ["clustermesh-oslo-10-2-0-0-16", "clustermesh-oslo-fd00-2---64"]
    for spec in ours.values():
        off = (spec["disabled"], spec["natOutgoing"], spec["disableBGPExport"], spec["ipipMode"], spec["vxlanMode"])
        assert off == (True, False, True, "Never", "Never")
    start = len(audit(paris))
    assert not peering(ansible, paris, "Disabled", cidrs)["changed"]
    assert not peering(ansible, paris, "Disabled", None)["changed"]  # a peer outside of the run keeps its pools
    assert writes(paris, start) == []
    peering(ansible, paris, "Enabled", cidrs, prune_pools=False)
    assert len(pools()) == 3
    peering(ansible, paris, "Enabled", cidrs)
    assert list(pools()) == ["theirs"]


def test_a_pool_of_somebody_else_with_our_name_is_in_the_way_unless_told(ansible, paris, pools):
    name = "clustermesh-oslo-10-3-0-0-16"
    theirs = {"apiVersion": "crd.projectcalico.org/v1", "kind": "IPPool", "metadata": {"name": name}}
    apply(paris, theirs | {"spec": {"cidr": "10.40.0.0/16"}})
    start = len(audit(paris))
    refused = peering(ansible, paris, "Disabled", ["10.3.0.0/16"])
    assert refused["failed"]
    assert refused["conflicts"] == [f"IPPool {name}"]
    assert "adopt: true (variable mesh_peering_adopt)" in refused["msg"]
    assert writes(paris, start) == []
    assert pools()[name] == {"cidr": "10.40.0.0/16"}
    peering(ansible, paris, "Enabled", ["10.3.0.0/16"])  # pruning is for ours
    assert pools()[name] == {"cidr": "10.40.0.0/16"}
    peering(ansible, paris, "Disabled", ["10.3.0.0/16"], adopt=True)
    assert pools()[name]["cidr"] == "10.3.0.0/16"
    peering(ansible, paris, "Enabled", ["10.3.0.0/16"])
    assert name not in pools()


def test_pools_are_there_before_the_overlay_lets_go(ansible, paris, pools):
    peering(ansible, paris, "Enabled", ["10.2.0.0/16"])
    start = len(audit(paris))
    peering(ansible, paris, "Disabled", ["10.2.0.0/16"])
    kinds = [line.split("/")[-1].split("?")[0] for line in writes(paris, start)]
    assert kinds == ["clustermesh-oslo-10-2-0-0-16", "oslo"]


def test_a_peer_outside_of_the_run_keeps_its_pools_until_it_is_switched_itself(ansible, paris, pools):
    """A switch that does not reach the peer leaves the pair as it is, so Calico must go on sparing its pods."""
    peering(ansible, paris, "Disabled", ["10.2.0.0/16"])
    outside = {"name": "oslo", "overlay": "Enabled", "pod_cidrs": ["10.2.0.0/16"]}
    options = {"kubeconfig": str(paris.kubeconfig), "peers": [outside]}
    assert not ansible.run("peering", options)["changed"]
    assert len(pools()) == 2
    peering(ansible, paris, "Enabled", ["10.2.0.0/16"], prune=False)
    assert len(pools()) == 2
    assert ansible.run("peering", options)["changed"]
    assert list(pools()) == ["theirs"]


def test_removing_only_foretells_and_does_what_is_left_after_a_switch(ansible, paris, pools):
    peering(ansible, paris, "Disabled", ["10.2.0.0/16"])

    def switch(*flags: str) -> list[dict[str, str]]:
        parts = ({"prune": False}, {"prune_only": True})
        answers = [peering(ansible, paris, "Enabled", ["10.2.0.0/16"], *flags, **part) for part in parts]
        done = [{item["name"]: item["action"] for item in answer["objects"]} for answer in answers]
        return [{name: action for name, action in part.items() if action != "keep"} for part in done]

    start = len(audit(paris))
    foretold = switch("--check")
    assert writes(paris, start) == []
    assert foretold == [{"oslo": "update"}, {"clustermesh-oslo-10-2-0-0-16": "delete"}]
    assert switch() == foretold
    assert list(pools()) == ["theirs"]
