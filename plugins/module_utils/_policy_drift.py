# Copyright: the Clustermesh authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""Which fields of a stored object differ from what is wanted, and who wrote them. Pure functions.

The server adds defaults, which are no drift. So what we write carries two digests: of what was asked for, and of what
the server made of it (by a dry run before the write). While both still hold, nothing needs to be compared or written.
"""

from __future__ import annotations

import hashlib
import json

from ansible_collections.clustermesh.core.plugins.module_utils._objects import MANAGER
from ansible_collections.clustermesh.core.plugins.module_utils._policies import DIGEST, canonical

MISSING = object()


def content_digest(*content):
    """A short digest of values of JSON, equal for equal content."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def asked(policy):
    """Digest of what is asked for."""
    return content_digest(policy.labels, policy.annotations, policy.spec)


def made(kind, stored):
    """Digest of what a server made of it; annotations of others do not count."""
    found = canonical(kind, stored)
    return content_digest(found.labels, found.spec)


def digests(stored):
    """(asked, made) as written on a stored object, empty texts where they are not."""
    text = ((stored.get("metadata") or {}).get("annotations") or {}).get(DIGEST) or ""
    first, dummy, second = text.partition(".")
    return first, second


def compare(policy, stored):
    """(is as wanted, drift): drift = fields that others changed since we wrote, [{path, want, have, manager, time}]."""
    found = canonical(policy.kind, stored)
    first, second = digests(stored)
    texts = {k: found.annotations[k] for k in policy.annotations if k in found.annotations}
    is_asked = first == asked(policy)
    is_made = second == made(policy.kind, stored) and texts == policy.annotations
    if is_made:
        return is_asked, []
    if second == made(policy.kind, stored) and not is_asked:
        return False, []
    wanted = {"labels": policy.labels, "annotations": policy.annotations, "spec": policy.spec}
    have = {"labels": found.labels, "annotations": texts, "spec": found.spec}
    writers = Writers(stored)
    fields = [_field(path, want, got, writers) for path, want, got in _differences(wanted, have)]
    return False, writers.suspicious(fields)


def _differences(want, have, path=()):
    """(path, want, have) of every field that differs; MISSING where there is none."""
    if isinstance(want, dict) and isinstance(have, dict):
        for key in sorted({*want, *have}):
            yield from _differences(want.get(key, MISSING), have.get(key, MISSING), (*path, key))
    elif isinstance(want, list) and isinstance(have, list) and len(want) == len(have):
        for index, pair in enumerate(zip(want, have)):
            yield from _differences(*pair, (*path, index))
    elif want != have and (want not in (MISSING, None, {}, []) or have not in (MISSING, None, {}, [])):
        yield path, want, have


def _field(path, want, have, writers):
    manager, time = writers.of(path)
    return {
        "path": _text(path),
        "want": None if want is MISSING else want,
        "have": None if have is MISSING else have,
        "manager": manager,
        "time": time,
    }


def _text(path):
    head = path if path[0] == "spec" else ("metadata", *path)
    text = ""
    for part in head:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if "." not in part else f"['{part}']"
    return text.removeprefix(".")


class Writers:
    """Who wrote which field of an object, by its managedFields."""

    def __init__(self, stored):
        entries = (stored.get("metadata") or {}).get("managedFields") or ()
        self._entries = [entry for entry in entries if not entry.get("subresource")]
        ours = [entry.get("time") or "" for entry in self._entries if entry.get("manager") == MANAGER]
        self._since = max(ours, default="")

    def of(self, path):
        """(manager, time) of who wrote a field last; of who else wrote to the object when the field is gone."""
        path = path if path[0] == "spec" else ("metadata", *path)
        entries = [e for e in self._entries if _covers(e.get("fieldsV1") or {}, path)]
        if not entries:  # nobody owns a field that is gone; one other writer since us can only be the one
            entries = [
                e for e in self._entries if e.get("manager") != MANAGER and (e.get("time") or "") >= self._since
            ]
            entries = entries if len(entries) == 1 else []
        last = max(entries, key=lambda e: (e.get("manager") != MANAGER, e.get("time") or ""), default={})
        return last.get("manager") or "", last.get("time") or ""

    def suspicious(self, fields):
        """Without fields that the server added when it was ours to write; all when none would be left."""
        left = [f for f in fields if f["want"] is not None or self._is_of_others(f)]
        return left or fields

    def _is_of_others(self, found):
        return found["manager"] not in ("", MANAGER) and found["time"] >= self._since


def _covers(fields, path):
    """Whether a field set names a path, or a list on the way to it as one value."""
    for part in path:
        if isinstance(part, int):
            return True
        if f"f:{part}" not in fields:
            return False
        fields = fields[f"f:{part}"]
        if not fields:
            return True
    return True
