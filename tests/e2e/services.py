"""Federated Services that tests make beside those of the example."""

from __future__ import annotations

import json

from clustermesh_lab.cluster import LabCluster

from demo import probes, scenario


def federate(
    cluster: LabCluster, name: str, spec: dict, selector: str = 'app == "reviews"', **annotations: str
) -> dict:
    """A Service over the reviews backends of the mesh, or those that a selector finds; as the API server took it."""
    return _apply(cluster, name, spec, annotations={"federation.tigera.io/serviceSelector": selector, **annotations})


def back(cluster: LabCluster, name: str, spec: dict) -> dict:
    """A Service that federated ones find by label app, which is its name."""
    return _apply(cluster, name, spec, labels={"app": name})


def _apply(cluster: LabCluster, name: str, spec: dict, **metadata: dict) -> dict:
    body = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": scenario.NAMESPACE, **metadata},
        "spec": {"ports": [{"name": "http", "port": probes.PORT, "protocol": "TCP"}], **spec},
    }
    return json.loads(cluster.kubectl("apply", "-o", "json", "-f", "-", stdin=json.dumps(body)))
