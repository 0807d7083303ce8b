"""Cluster mesh for Kubernetes: one controller per cluster, one agent per node.

Data flows one way: remote API servers -> controller -> local API server -> agent -> kernel. Each arrow is one
package (see ``[tool.importlinter]`` in pyproject.toml), and what crosses it is a typed, immutable value.
"""

__version__ = "0.1.0"
