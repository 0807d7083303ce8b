"""The Calico selector language: one parser for federated Services, policy and ``clustermesh eval``.

>>> parse("app == 'reviews' && version in {'v1', 'v2'}").matches({"app": "reviews", "version": "v2"})
True
"""

from clustermeshd.selector.ast import Selector
from clustermeshd.selector.parser import SelectorError, parse

__all__ = ["Selector", "SelectorError", "parse"]
