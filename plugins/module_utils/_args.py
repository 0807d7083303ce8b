# Copyright: the Clustermesh authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""The options by which every module reaches its cluster; named as those of kubernetes.core."""

from __future__ import annotations

AUTH = {
    "kubeconfig": {"type": "path"},
    "context": {"type": "str"},
    "host": {"type": "str"},
    "api_key": {"type": "str", "no_log": True},
    "ca_cert": {"type": "path"},
    "validate_certs": {"type": "bool", "default": True},
    "request_timeout": {"type": "float", "default": 15.0},
}


def spec(**options):
    """The argument spec of a module: how to reach the cluster, and its own options."""
    return {**AUTH, **options}
