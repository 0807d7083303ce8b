# Copyright: the Clustermesh authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations


class ModuleDocFragment:
    """What modules that change a cluster promise."""

    DOCUMENTATION = r"""
options: {}
attributes:
  check_mode:
    support: full
    description: Predicts what would change without writing.
  diff_mode:
    support: full
    description: Shows what changes; values of Secrets as digests.
  idempotent:
    support: full
    description: A second run sends no write request.
  action_group:
    support: full
    description: Options of all modules of a play can be set once in C(module_defaults).
    version_added: 0.1.0
    membership: [clustermesh.core.cluster]
"""

    INFO = r"""
options: {}
attributes:
  check_mode:
    support: full
    description: Reads only.
  diff_mode:
    support: N/A
    details: Changes nothing.
    description: Shows what changes.
  idempotent:
    support: full
    description: Reads only.
  action_group:
    support: full
    description: Options of all modules of a play can be set once in C(module_defaults).
    version_added: 0.1.0
    membership: [clustermesh.core.cluster]
"""

    NODE = r"""
options: {}
attributes:
  check_mode:
    support: full
    description: Reads only.
  diff_mode:
    support: N/A
    details: Changes nothing.
    description: Shows what changes.
  idempotent:
    support: full
    description: Reads only.
"""

    NODE_CHANGE = r"""
options: {}
attributes:
  check_mode:
    support: full
    description: Predicts what would change without writing.
  diff_mode:
    support: full
    description: Shows what changes; secrets as digests.
  idempotent:
    support: full
    description: A second run writes nothing.
"""
