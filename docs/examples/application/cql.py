"""Queries a database with the Cassandra driver. The token changes while the program runs. README.md lists the environment
variables."""

import os
import signal
import sys
import threading
import time

import hvac
from cassandra.auth import PlainTextAuthProvider
from cassandra.cluster import Cluster, NoHostAvailable

from lease import LiveToken

# The old session stays open for its last requests. Longer than a request takes, and shorter than a sixth of the role's ttl.
GRACE = float(os.environ.get("GRACE", "10"))


def open_cluster(token):
    login = PlainTextAuthProvider("token", token.value)
    bundle = os.environ.get("ASTRA_BUNDLE")
    if bundle:
        return Cluster(cloud={"secure_connect_bundle": bundle}, auth_provider=login)
    host, port = os.environ["CQL_ADDR"].split(":")
    return Cluster([host], port=int(port), auth_provider=login)


class Database:
    """Has a session that logged in with the current token."""

    def __init__(self, live):
        self._live = live
        self._lock = threading.Lock()
        self._token = self._cluster = self._session = None

    def session(self):
        """Call this for each request: after a change of the token, it opens a new session before it closes the old one."""
        with self._lock:
            token = self._live.current
            if token != self._token:
                self._log_in(token)
            return self._session

    def _log_in(self, token):
        cluster = open_cluster(token)
        try:
            session = cluster.connect()
        except NoHostAvailable as error:
            cluster.shutdown()
            if not self._session:
                raise
            # Astra may need a moment before it accepts a new token. Until then, the old token is still live.
            print(f"the database refused token {token.client_id}: {error}", file=sys.stderr)
            return
        print(f"opened a session with token {token.client_id}", flush=True)
        if self._cluster:
            closing = threading.Timer(GRACE, self._cluster.shutdown)
            closing.daemon = True
            closing.start()
        self._cluster, self._session, self._token = cluster, session, token

    def close(self):
        if self._cluster:
            self._cluster.shutdown()


def main():
    # Leaves the `with` block below, which revokes the lease.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    vault = hvac.Client(url=os.environ["VAULT_ADDR"], token=os.environ["VAULT_TOKEN"], timeout=30)
    with LiveToken(vault, os.environ["ASTRA_CREDS"]) as live:
        database = Database(live)
        try:
            for number in range(1, int(os.environ.get("JOBS", "10")) + 1):
                row = database.session().execute("SELECT release_version FROM system.local").one()
                print(f"job {number} done with token {live.current.client_id}: {row.release_version}", flush=True)
                time.sleep(1)
        finally:
            database.close()


if __name__ == "__main__":
    main()
