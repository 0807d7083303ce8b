"""Cluster mesh for Kubernetes: one controller per cluster, one agent per node.

Data flows one way: remote API servers -> controller -> local API server -> agent -> kernel. Each arrow is one
package (see ``[tool.importlinter]`` in pyproject.toml), and what crosses it is a typed, immutable value.
"""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("clustermeshd")
except PackageNotFoundError:  # run from a source tree that was never installed
    __version__ = "0.0.0"
