"""Life of one peer: its RemoteClusterConfiguration, the Secret behind it, and the connection they give.

A changed Secret opens a second connection beside the first, which is closed only once the second has synced: rotation
without a gap. A Secret that is missing or refused leaves the first one in place. Where the peer accepts the credential
no more and no change was told, the Secret is read again: its watch may be down.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from contextlib import suppress

from clustermeshd.controller.connection import Connection
from clustermeshd.controller.facts import ServiceName
from clustermeshd.kube import objects, resources
from clustermeshd.kube.access import from_secret
from clustermeshd.kube.client import Client
from clustermeshd.kube.errors import Unauthorized, Untrusted
from clustermeshd.kube.informer import Informer
from clustermeshd.kube.kubeconfigs import kubeconfig_in
from clustermeshd.model.errors import MeshError, Refused
from clustermeshd.plan.configurations import check
from clustermeshd.plan.imports import service_rules

_LOG = logging.getLogger(__name__)

_REREAD_S = 5.0
_PATIENCE_S = 15  # our own API server may restart


class Peer:
    """A remote cluster as its configuration names it; ``connection`` holds the facts in force."""

    def __init__(
        self,
        client: Client,
        configuration: objects.RemoteClusterConfiguration,
        *,
        user_agent: str,
        accept: Callable[[Peer, str], None],
        nodes_changed: Callable[[], None],
        services_changed: Callable[[ServiceName], None],
        namespaces_changed: Callable[[], None],
        status_changed: Callable[[str], None],
    ) -> None:
        self.name = configuration.metadata.name
        self.rules = service_rules(configuration.spec.import_)
        self.connection: Connection | None = None
        self.is_disowned = False  # its cluster may not be a peer: nothing of it is kept
        self.secret_problem: MeshError | None = None  # why changes of the Secret are not seen
        self._candidate: Connection | None = None
        self._tasks: dict[Connection, asyncio.Task[None]] = {}
        self._problem: MeshError | None = None
        self._configuration = configuration
        self._client = client
        self._user_agent = user_agent
        self._accept = accept
        self._nodes_changed = nodes_changed
        self._services_changed = services_changed
        self._namespaces_changed = namespaces_changed
        self._status_changed = status_changed
        self._wake = asyncio.Event()
        self._newer: objects.Secret | None = None  # than what the watch has told

    @property
    def configuration(self) -> objects.RemoteClusterConfiguration:
        """The configuration as it was last seen; a new one takes effect at once."""
        return self._configuration

    @configuration.setter
    def configuration(self, configuration: objects.RemoteClusterConfiguration) -> None:
        before, self._configuration = self._configuration.spec.import_, configuration
        if configuration.spec.import_ != before:
            self.rules = service_rules(configuration.spec.import_)
            self._wake.set()

    def admits_namespace(self, name: str) -> bool:
        """Whether Services of a namespace count."""
        known = self.connection.namespaces.store.get(name) if self.connection is not None else None
        return self.rules.admits(name, None if known is None else known.labels)

    def visible_labels(self, labels: Mapping[str, str]) -> Mapping[str, str]:
        """The labels of a Service that count in selectors."""
        return self.rules.visible(labels)

    @property
    def error(self) -> MeshError | None:
        """Why the facts of this peer are not current, or None."""
        if self._problem is not None:
            return self._problem
        newest = self._candidate or self.connection
        return newest.error if newest is not None else None

    @property
    def identified(self) -> Connection | None:
        """The newest connection that has reached its cluster: while credentials are replaced, still the one before."""
        both = (self._candidate, self.connection)
        return next((made for made in both if made is not None and made.cluster_id), None)

    @property
    def cluster_id(self) -> str:
        return self.identified.cluster_id if self.identified is not None else ""

    @property
    def credentials(self) -> Connection | None:
        """The connection with the newest credentials, synced or not."""
        return self._candidate or self.connection

    async def run(self) -> None:
        """Follows the Secret until cancelled."""
        reference = self.configuration.spec.cluster_access_secret or objects.ClusterAccessSecret()
        try:
            check(self.configuration)
            resources.SECRETS.path(reference.namespace, reference.name)
        except Refused as error:
            self._problem = error
            self._status_changed(self.name)
            return
        secrets: Informer[objects.Secret] = Informer(
            self._client,
            resources.SECRETS,
            namespace=reference.namespace,
            field_selector=f"metadata.name={reference.name}",
            on_change=lambda _: self._secret_told(),
        )
        async with asyncio.TaskGroup() as group:
            group.create_task(secrets.run())
            group.create_task(self._watch_secret_access(secrets))
            await secrets.wait_synced()
            await self._follow(group, secrets, reference)

    def _secret_told(self) -> None:
        self._newer = None
        self._wake.set()

    async def _watch_secret_access(self, secrets: Informer[objects.Secret]) -> None:
        """Tells why the Secret cannot be read (no Role, no such namespace), until it can; and so ever after.

        Once it was read, the peer does not need it: then only an error that lasts is told.
        """
        told: MeshError | None = None
        while not secrets.has_synced:
            if secrets.error is not None:
                self._problem = told = secrets.error
                self._status_changed(self.name)
            await asyncio.sleep(1)
        if self._problem is told:  # what was found in the Secret meanwhile stays
            self._problem = None
        failed = 0
        while True:
            failed = failed + 1 if secrets.error is not None else 0
            problem = secrets.error if failed > _PATIENCE_S else None
            if (problem is None) != (self.secret_problem is None):
                self.secret_problem = problem
                self._status_changed(self.name)
            await asyncio.sleep(1)

    async def _follow(
        self, group: asyncio.TaskGroup, secrets: Informer[objects.Secret], reference: objects.ClusterAccessSecret
    ) -> None:
        where = f"Secret {reference.namespace}/{reference.name}"
        while True:
            self._wake.clear()
            made = await self._open(self._newer or next(iter(secrets.store.values()), None), where)
            if made is not None:
                self._close(self._candidate)
                self._candidate = made
                self._tasks[made] = group.create_task(self._serve(made))
            self._status_changed(self.name)
            while not await self._woken():
                if isinstance(self.error, (Unauthorized, Untrusted)):
                    found = await self._read_again(reference)
                    if not self._wake.is_set():  # the watch has told nothing meanwhile
                        self._newer = found
                    break

    async def _woken(self) -> bool:
        """Waits for something to do; False where there was nothing for a while."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._wake.wait(), _REREAD_S)
        return self._wake.is_set()

    async def _read_again(self, reference: objects.ClusterAccessSecret) -> objects.Secret | None:
        try:
            return await self._client.get(resources.SECRETS, reference.name, reference.namespace)
        except MeshError as error:
            _LOG.debug("RemoteClusterConfiguration(%s): Secret not read again: %s", self.name, error)
            return self._newer

    async def _serve(self, made: Connection) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(made.run())
            await made.wait_synced()
            self._promote(made)

    def _close(self, connection: Connection | None) -> None:
        task = self._tasks.pop(connection, None) if connection is not None else None
        if task is not None:
            task.cancel()

    def recheck(self) -> None:
        """Connects anew from the start: what was accepted may not be any more."""
        self._close(self._candidate)
        self._close(self.connection)
        self._candidate = self.connection = None
        self._wake.set()

    def _accepted(self, cluster_id: str) -> None:
        """A cluster that may not be a peer gives nothing, whatever the one before it gave.

        A connection that is refused while it identifies itself asks again by itself. One that lives already, whose
        cluster has become another one, is closed, and a new one asks.
        """
        try:
            self._accept(self, cluster_id)
        except Refused:
            asks_again = self._candidate if self._candidate is not None and not self._candidate.cluster_id else None
            if asks_again is None:
                self._close(self._candidate)
                self._wake.set()
            self._close(self.connection)
            self._candidate, self.connection = asks_again, None
            if not self.is_disowned:
                self.is_disowned = True
                self._nodes_changed()
                self._status_changed(self.name)
            raise
        self.is_disowned = False

    async def _open(self, secret: objects.Secret | None, where: str) -> Connection | None:
        """A connection for the Secret's content, or None when it is in use already or cannot be used."""
        try:
            access = await from_secret(_content(secret, where), where)
        except Refused as error:
            self._problem = error
            _LOG.warning("RemoteClusterConfiguration(%s): %s", self.name, error)
            return None
        self._problem = None
        newest = self._candidate or self.connection
        limits = self.configuration.spec.import_.limits
        if newest is not None and (newest.access.fingerprint, newest.limits) == (access.fingerprint, limits):
            return None
        _LOG.info("Creating syncer for RemoteClusterConfiguration(%s)", self.name)
        return Connection(
            self.name,
            access,
            limits=limits,
            user_agent=self._user_agent,
            accept=self._accepted,
            nodes_changed=self._nodes_changed,
            services_changed=self._services_changed,
            namespaces_changed=self._namespaces_changed,
            directions_changed=lambda: self._status_changed(self.name),
        )

    def _promote(self, made: Connection) -> None:
        """Puts a connection in force that has listed everything, and only then closes the one before it."""
        before, self.connection, self._candidate = self.connection, made, None
        self._close(before)
        _LOG.info("Sending in-sync update for RemoteClusterConfiguration(%s)", self.name)
        self._nodes_changed()
        self._status_changed(self.name)


def _content(secret: objects.Secret | None, where: str) -> bytes:
    if secret is None:
        raise Refused("SecretMissing", "there is no such Secret", where=where, fix="create it with the key kubeconfig")
    return kubeconfig_in(secret.data or {}, where)
