"""Where a kind is served: no name leads elsewhere."""

import pytest
from clustermeshd.kube import resources
from clustermeshd.kube.errors import Rejected


def test_paths_are_those_of_the_api():
    assert resources.NODES.path() == "/api/v1/nodes"
    assert resources.NODES.path(None, "n1.example", "status") == "/api/v1/nodes/n1.example/status"
    assert resources.LEASES.path("kube-system", "a") == "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases/a"
    assert resources.NODES.path(None, "system:node:" + "n" * 241).endswith("n")


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        "a/../b",
        "west.n1/../../secrets",
        "a%2fb",
        "a?b",
        "a#b",
        "a\\b",
        "a b",
        "a\n",
        "\u00e4",
        "a" * 254,
    ],
)
def test_a_name_that_could_lead_elsewhere_is_refused(name):
    for place in ({"name": name}, {"namespace": name}):
        with pytest.raises(Rejected):
            resources.PODS.path(**place)
