# Copyright: the Clustermesh authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations


class ModuleDocFragment:
    """How a module reaches its cluster."""

    DOCUMENTATION = r"""
options:
  kubeconfig:
    description: Path of a kubeconfig. Without it, and without O(host) and O(api_key), the usual places are tried.
    type: path
  context:
    description: Context in the kubeconfig, its current one by default.
    type: str
  host:
    description: URL of the API server, instead of the kubeconfig's.
    type: str
  api_key:
    description: Bearer token, instead of the kubeconfig's credentials.
    type: str
  ca_cert:
    description: Path of the certificates that vouch for the API server, instead of the kubeconfig's.
    type: path
  validate_certs:
    description: Whether to verify the API server's certificate.
    type: bool
    default: true
  request_timeout:
    description: Seconds after which a request without answer has failed.
    type: float
    default: 15.0
requirements:
  - kubernetes >= 24.2.0
"""
