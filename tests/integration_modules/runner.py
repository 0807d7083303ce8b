"""Runs one module of the collection as ansible does, and reads the audit log of what it did."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from pathlib import Path

import yaml
from clustermesh_lab.audit import is_write, requests
from clustermesh_lab.build import program

ROOT = Path(__file__).parent.parent.parent
_OPEN = ("ca.crt", "namespace", "datastoreType")  # of a Secret, what is none


def ansible_tree(directory: Path) -> Path:
    """A collections path in which this checkout is clustermesh.core."""
    place = directory / "ansible_collections" / "clustermesh"
    place.mkdir(parents=True)
    (place / "core").symlink_to(ROOT)
    return directory


class Runner:
    """Ad-hoc runs of modules against control planes."""

    def __init__(self, directory: Path) -> None:
        self._env = {
            **os.environ,
            "ANSIBLE_COLLECTIONS_PATH": str(ansible_tree(directory)),
            "ANSIBLE_LOCALHOST_WARNING": "False",
            "ANSIBLE_NOCOLOR": "1",
            "ANSIBLE_CALLBACK_RESULT_FORMAT": "json",
        }

    def output(self, module: str, options: dict, *flags: str) -> str:
        """What ansible prints."""
        python = {"ansible_python_interpreter": sys.executable}
        argv = [str(Path(sys.executable).parent / "ansible"), "localhost", "-c", "local", "-e", json.dumps(python)]
        argv += ["-m", f"clustermesh.core.{module}", "-a", json.dumps(options), *flags]
        ran = subprocess.run(argv, env=self._env, capture_output=True, text=True, check=False)
        return ran.stdout + ran.stderr

    def run(self, module: str, options: dict, *flags: str) -> dict:
        """The module's answer."""
        text = self.output(module, options, *flags)
        head = text.index("localhost | ")
        answer = json.JSONDecoder().raw_decode(text[text.index("{", head) :])[0]
        if "FAILED" in text[head:].splitlines()[0]:
            answer["failed"] = True
        return answer


def kubectl(plane, *argv: str, stdin: str | None = None) -> str:
    """What kubectl prints, as the admin of a control plane."""
    argv = (*program("kubectl"), f"--kubeconfig={plane.kubeconfig}", *argv)
    return subprocess.run(argv, input=stdin, check=True, capture_output=True, text=True, timeout=60).stdout


def apply(plane, *items: dict, **flags: str) -> None:
    """Server-side apply of these objects, whoever owns their fields."""
    argv = [f"--{name.replace('_', '-')}={value}" for name, value in flags.items()]
    kubectl(plane, "apply", "--server-side", "--force-conflicts", *argv, "-f", "-", stdin=yaml.safe_dump_all(items))


def admin_token(plane) -> str:
    """A token of an account that may do everything."""
    kubectl(plane, "create", "serviceaccount", "ansible")
    kubectl(plane, "create", "clusterrolebinding", "ansible", "--clusterrole=cluster-admin",
            "--serviceaccount=default:ansible")  # fmt: skip
    return kubectl(plane, "create", "token", "ansible").strip()


def audit(plane, user: str = "admin") -> list[dict]:
    """Audited requests of a user; the modules are run as the admin."""
    return requests(plane.audit_log, user)


def writes(plane, since: int = 0) -> list[str]:
    """Write requests of the admin, from the given one of its requests on."""
    return [f"{e['verb']} {e['requestURI']}" for e in audit(plane)[since:] if is_write(e)]


def stored(plane) -> set[str]:
    """Values of all Secrets, as stored and as meant; of a token its signature too, which a shortened one still has."""
    found = set()
    for secret in json.loads(kubectl(plane, "get", "secrets", "-A", "-o", "json"))["items"]:
        for key, value in (secret.get("data") or {}).items():
            if key not in _OPEN:
                text = base64.b64decode(value).decode()
                found |= {value, text, *(text.split(".")[2:3] if text.startswith("ey") else [])}
    return {value for value in found if len(value) >= 20}
