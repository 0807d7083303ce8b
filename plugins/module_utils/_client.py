# Copyright: the Clustermesh authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""A small client of one API server: plain requests over one kept connection, errors as a small tree.

Credentials come from the ``kubernetes`` library (kubeconfig, exec plugins, in-cluster); the requests do not, because a
run must send exactly the requests it needs, time out, and put nothing secret into an error.
"""

from __future__ import annotations

import base64
import copy
import json
import time
from email.utils import parsedate_to_datetime
from pathlib import Path
from urllib.parse import quote, urlencode, urlsplit

from ansible.module_utils.basic import missing_required_lib

from ansible_collections.clustermesh.core.plugins.module_utils._objects import MANAGER, name_of

try:
    import kubernetes
    import urllib3

    MISSING = None
except ImportError as error:
    MISSING = error

# kind -> (plural, namespaced) of what our modules write; anything else is asked for
KINDS = {
    "Namespace": ("namespaces", False),
    "ServiceAccount": ("serviceaccounts", True),
    "Secret": ("secrets", True),
    "ClusterRole": ("clusterroles", False),
    "ClusterRoleBinding": ("clusterrolebindings", False),
    "Role": ("roles", True),
    "RoleBinding": ("rolebindings", True),
    "CustomResourceDefinition": ("customresourcedefinitions", False),
    "RemoteClusterConfiguration": ("remoteclusterconfigurations", False),
    "RemoteNode": ("remotenodes", False),
    "MeshNode": ("meshnodes", False),
    "IPPool": ("ippools", False),
}
RETRIED = (429, 500, 502, 503, 504)


class ClusterError(Exception):
    """The cluster could not be asked, or said no."""


class Unreachable(ClusterError):
    """No answer from the API server."""


class Refused(ClusterError):
    """The API server answered with an error."""

    def __init__(self, message, status):
        super().__init__(message)
        self.status = status


class UnknownKind(ClusterError):
    """The API server does not serve this kind (yet)."""


def client_of(module):
    """The client that a module's options describe; ends the module when it cannot be made."""
    if MISSING is not None:
        module.fail_json(msg=missing_required_lib("kubernetes"), exception=str(MISSING))
    try:
        return Client(module.params)
    except ClusterError as problem:
        module.fail_json(msg=str(problem))


def _configuration(params):
    configuration = kubernetes.client.Configuration()
    host, key = params.get("host"), params.get("api_key")
    try:
        if not (host and key):
            path, context = params.get("kubeconfig") or None, params.get("context") or None
            kubernetes.config.load_kube_config(path, context, client_configuration=configuration, persist_config=False)
    except (kubernetes.config.ConfigException, OSError, ValueError) as problem:
        raise ClusterError(f"no access to the cluster: {problem}; set kubeconfig, or host and api_key") from problem
    if host:
        configuration.host = host
    if key:
        configuration.api_key = {"authorization": f"Bearer {key}"}
        configuration.api_key_prefix = {}
    if params.get("ca_cert"):
        configuration.ssl_ca_cert = params["ca_cert"]
    if params.get("validate_certs") is False:
        configuration.verify_ssl = False
    return configuration


class Client:
    """Requests to one API server."""

    def __init__(self, params, configuration=None):
        self._params = params
        self._configuration = configuration = configuration or _configuration(params)
        self.server = configuration.host.rstrip("/")
        self.tls_server_name = configuration.tls_server_name
        options = {
            "timeout": urllib3.Timeout(connect=5.0, read=params.get("request_timeout") or 15.0),
            "retries": False,
            "maxsize": 4,
            "cert_file": configuration.cert_file,
            "key_file": configuration.key_file,
            "ca_certs": configuration.ssl_ca_cert,
            "cert_reqs": "CERT_REQUIRED" if configuration.verify_ssl else "CERT_NONE",
        }
        if configuration.tls_server_name:
            options["server_hostname"] = configuration.tls_server_name
        if configuration.proxy:
            self._pool = urllib3.ProxyManager(configuration.proxy, **options)
        else:
            self._pool = urllib3.PoolManager(**options)
        self._served = {}
        self.clock_offset = 0.0  # seconds that the API server's clock is ahead of ours, by its last answer

    @property
    def authority(self):
        """The certificates that vouch for the API server (PEM), empty when the system's do."""
        file = self._configuration.ssl_ca_cert
        return Path(file).read_text(encoding="utf-8") if file else ""

    def by_token(self, token):
        """A client of the same API server to which a bearer token alone says who asks."""
        configuration = copy.copy(self._configuration)
        configuration.cert_file = configuration.key_file = configuration.refresh_api_key_hook = None
        configuration.api_key, configuration.api_key_prefix = {"authorization": f"Bearer {token}"}, {}
        return Client(self._params, configuration)

    def _headers(self):
        configuration = self._configuration
        token = configuration.get_api_key_with_prefix("BearerToken", alias="authorization")
        headers = {"Accept": "application/json", "User-Agent": MANAGER}
        if token:
            headers["Authorization"] = token
        elif configuration.username and configuration.password:
            pair = f"{configuration.username}:{configuration.password}".encode()
            headers["Authorization"] = f"Basic {base64.b64encode(pair).decode()}"
        return headers

    def request(self, method, path, body=None, query=None, kind="application/json"):
        """The decoded answer; reads are tried again when the server is busy."""
        url = f"{self.server}{path}" + (f"?{urlencode(query)}" if query else "")
        headers = self._headers()
        data = None
        if body is not None:
            data, headers["Content-Type"] = json.dumps(body).encode(), kind
        for attempt in range(3):
            answer = self._send(method, url, data, headers)
            if answer.status not in RETRIED or (method != "GET" and answer.status != 429) or attempt == 2:
                break
            time.sleep(min(float(answer.headers.get("Retry-After") or 0.5), 5.0))
        if answer.status >= 400:
            raise Refused(f"{self.server} answers {method} {path}: {_reason(answer)}", answer.status)
        return json.loads(answer.data or b"{}")

    def _send(self, method, url, data, headers):
        try:
            answer = self._pool.request(method, url, body=data, headers=headers, redirect=False)
        except (urllib3.exceptions.HTTPError, OSError, ValueError) as problem:
            # urllib3 puts a description of its own object in front
            cause = str(getattr(problem, "reason", None) or problem).partition("): ")
            raise Unreachable(f"{urlsplit(url).netloc} does not answer: {cause[2] or cause[0]}") from problem
        if answer.headers.get("Date"):
            # the header has whole seconds, half of which passed on average
            self.clock_offset = round(parsedate_to_datetime(answer.headers["Date"]).timestamp() + 0.5 - time.time(), 1)
        return answer

    def get(self, path, query=None):
        """The object at a path, None when there is none."""
        try:
            return self.request("GET", path, query=query)
        except Refused as problem:
            if problem.status == 404:
                return None
            raise

    def items(self, path, selector=None, fields=None):
        """All objects of a collection, page by page, by label and field selectors; empty when the kind is not served."""
        found, query = [], {"limit": "500"}
        if selector:
            query["labelSelector"] = selector
        if fields:
            query["fieldSelector"] = fields
        while True:
            page = self.get(path, query) or {}
            found += page.get("items") or []
            token = (page.get("metadata") or {}).get("continue")
            if not token:
                return found
            query["continue"] = token

    def path(self, item):
        """The path of an object."""
        meta = item["metadata"]
        plural, namespaced = self._kind(item["apiVersion"], item["kind"])
        place = f"/namespaces/{quote(meta.get('namespace') or 'default')}" if namespaced else ""
        return f"{group_path(item['apiVersion'])}{place}/{plural}/{quote(meta['name'])}"

    def _kind(self, version, kind):
        if kind in KINDS:
            return KINDS[kind]
        if version not in self._served:
            resources = (self.get(group_path(version)) or {}).get("resources") or []
            table = {r["kind"]: (r["name"], r["namespaced"]) for r in resources if "/" not in r["name"]}
            if kind not in table:
                raise UnknownKind(f"{self.server} does not serve {kind} of {version}")
            self._served[version] = table
        if kind not in self._served[version]:
            raise UnknownKind(f"{self.server} does not serve {kind} of {version}")
        return self._served[version][kind]

    def read(self, item):
        """What is stored of an object, None when nothing is."""
        stored = self.get(self.path(item))
        return stored and {"apiVersion": item["apiVersion"], "kind": item["kind"], **stored}

    def apply(self, item):
        """Server-side apply; we own what we apply."""
        query = {"fieldManager": MANAGER, "force": "true"}
        try:
            return self.request("PATCH", self.path(item), item, query, "application/apply-patch+yaml")
        except Refused as problem:
            raise Refused(f"{name_of(item)}: {problem}", problem.status) from problem

    def delete(self, item):
        """Deletes an object, and only the one that was looked at."""
        options = {"preconditions": {"uid": item["metadata"]["uid"]}, "propagationPolicy": "Background"}
        try:
            self.request("DELETE", self.path(item), options)
        except Refused as problem:
            if problem.status != 404:
                raise


def group_path(version):
    """The path of an API version."""
    return f"/apis/{version}" if "/" in version else f"/api/{version}"


def _reason(answer):
    try:
        message = json.loads(answer.data).get("message")
    except (ValueError, AttributeError):
        message = None
    return f"{answer.status} {message or answer.reason or ''}".rstrip()
