"""What to do about each reason that a status or a check can give, in one line.

Reasons are those of conditions (plan/peerstatus.py), of a node's problems (plan/overlay*.py) and of the commands.
A Refused error says in its own message what to set, so that most of its reasons need no entry.
"""

from __future__ import annotations

from typing import Final

_FIXES: Final[dict[str, str]] = {
    # connection of a peer: classes of kube/errors.py
    "Unreachable": "from the controller's host, open the URL in the peer's access Secret: firewall, address, port",
    "Busy": "the peer's API server is overloaded; nothing to do here, it is asked again",
    "Unauthorized": "the credential is not accepted any more: rotate it (playbook mesh.yml of the peer)",
    "Forbidden": "a right is missing: apply the role mesh_access where the message says; clustermesh check names it",
    "NotFound": "the peer does not know the kind: is it a Kubernetes API server of a supported version?",
    "CertificateRefused": "the CA in the access Secret does not vouch for that server: write it anew (mesh.yml)",
    "Connecting": "wait; when it lasts, look at the controller's log",
    "NotListed": "wait for the first complete list; when it lasts, clustermesh check tells why",
    "Stale": "see Connected; the last known state is kept until the peer answers again",
    "NoNodes": "see the refused objects of this peer; are there nodes with an InternalIP?",
    "OneWay": "join that cluster too (mesh.yml does both directions), or set overlayRoutingMode to Disabled",
    "NeverSeen": "does the controller run? systemctl status clustermesh-controller, or its Deployment",
    "NotLeading": "start a controller: systemctl status clustermesh-controller, or its Deployment",
    # admission
    "OverlapsLocal": "renumber one of the two clusters, or admit less of the peer (spec.import)",
    "OverlapsPeer": "renumber one of the two peers, or admit less of the one that has it (spec.import)",
    "OverlapsRemote": "renumber one of the two peers, or admit less of the later one (spec.import)",
    "Reserved": "no cluster may claim such a prefix: correct the peer's Node",
    "ReservedPrefix": "no cluster may claim such a prefix: correct the peer's Node",
    "NotAllowed": "widen the named list in spec.import, or correct the peer",
    "InvalidAddress": "correct status.addresses of the peer's Node",
    "InvalidCIDR": "correct spec.podCIDRs of the peer's Node",
    "LimitReached": "raise spec.import.limits, if the peer may have so many",
    "BudgetReached": "raise spec.import.limits.totalBytes, if the peer may have so much",
    "ObjectTooLarge": "raise spec.import.limits.objectBytes, or make the peer's object smaller",
    "ObjectUnreadable": "see the message; is that a Kubernetes API server of a supported version?",
    "InvalidName": "no Kubernetes names a node so: look at what answers for the peer",
    "TooManyPrefixes": "give the peer's node fewer pod prefixes",
    "NoAddress": "the peer's kubelet must report an InternalIP (--node-ip)",
    # agents
    "NoAgent": "install the agent there (role mesh_daemon), or look at journalctl -u clustermesh-agent",
    "AgentSilent": "start it: systemctl status clustermesh-agent there, or its DaemonSet's pod",
    "ForwardingOff": "set the sysctl that the message names; the role mesh_daemon does",
    "NoUnderlay": "bring the node's InternalIP up, or set the agent's underlay_interface or underlay_cidr",
    "NoPodCIDR": "give the node a pod CIDR (Node.spec.podCIDRs)",
    "NoTunnelAddress": "none needed for pods; hosts need an address that no pod gets, as Calico's VXLAN gives them",
    "NoNodeAddress": "the kubelet there must report an InternalIP (--node-ip)",
    "NoUnderlayAddress": "let all clusters use one family of node addresses (--underlay-cidr): docs/coexistence.md",
    "MTUTooSmall": "raise the MTU of the underlay: IPv6 inside needs 1330 bytes, 1350 over IPv6",
    "NotProgrammed": "look at journalctl -u clustermesh-agent on that node; it is tried again",
    "black-holed": "large packets vanish: raise the MTU of the way, or let ICMP 'fragmentation needed' pass",
    "unreachable": "see that the agent runs there, and let the mesh's UDP port pass between the two nodes, both ways",
    "degraded": "packets are lost between the two nodes: look at the network between them",
    # federated Services
    "InvalidSelector": "correct the annotation; clustermesh eval --services 'SELECTOR' tries one out",
    "HasSelector": "remove spec.selector: a federated Service gets its endpoints by the annotation alone",
    "ExternalName": "make it a ClusterIP or headless Service",
    "InvalidStaleness": "write keep, not-ready:5m or drop:10m",
    "InvalidAffinity": "write local, remote or none",
    "NoBacking": "label a Service of the same namespace so that the selector matches, in any cluster of the mesh",
    "NoEndpoints": "are the pods behind the backing Services ready? kubectl get endpointslices in their clusters",
    "PortMismatch": "give the port the same name and protocol on both sides; numbers may differ",
    "NotWritten": "does the controller run? clustermesh status; systemctl status clustermesh-controller",
    "OverCapacity": "none needed: EndpointSlices hold all endpoints, only the Endpoints object is cut at 1,000",
    "ClusterStale": "clustermesh check tells why that peer is not in sync",
}


def fix(reason: str) -> str:
    """One line of what to do, or "" where the message says it."""
    return _FIXES.get(reason, "")
