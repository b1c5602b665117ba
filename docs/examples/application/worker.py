"""Does jobs with an Astra token and its lease. Renews the lease, replaces the token when the lease cannot be extended, and
revokes the lease at the end. README.md lists the environment variables."""

import os
import signal
import sys
import time

import hvac
import requests

TIMEOUT = 30


class AstraToken:
    """A token that works if the program reads `value` before each job."""

    def __init__(self, vault, creds):
        self.vault = vault
        self.creds = creds
        self.client_id = None
        self._value = None
        self._lease_id = None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._revoke()

    @property
    def value(self):
        if self._lease_id and time.monotonic() >= self._renew_at and not self._renew():
            self._revoke()
        if not self._lease_id:
            self._mint()
        return self._value

    def _mint(self):
        answer = self.vault.read(self.creds)
        if answer is None:
            raise LookupError(f"nothing at {self.creds}")
        # Store the lease first: if a later step fails, the token can still be revoked.
        self._lease_id = answer["lease_id"]
        self._ttl = answer["lease_duration"]
        self._renew_at = time.monotonic() + self._ttl * 2 / 3
        self.client_id = answer["data"]["clientId"]
        self._value = answer["data"]["token"]
        print(f"got token {self.client_id} for {self._ttl} s", flush=True)

    def _renew(self):
        """Extends the lease. Returns false if a new token is needed: max_ttl is near, or the lease no longer exists."""
        try:
            granted = self.vault.sys.renew_lease(self._lease_id, increment=self._ttl)["lease_duration"]
        except hvac.exceptions.VaultError as error:
            print(f"token {self.client_id} was not renewed: {error}", file=sys.stderr)
            return False
        self._renew_at = time.monotonic() + granted * 2 / 3
        print(f"renewed token {self.client_id} for {granted} s", flush=True)
        return granted >= self._ttl / 2

    def _revoke(self):
        """Deletes the token in Astra. If that fails, the token lives until its lease expires."""
        lease_id, self._lease_id, self._value = self._lease_id, None, None
        if not lease_id:
            return
        try:
            # `sync` waits until the token is deleted in Astra. `sys.revoke_lease` has no such option.
            self.vault.write_data("sys/leases/revoke", data={"lease_id": lease_id, "sync": True})
            print(f"revoked token {self.client_id}", flush=True)
        except hvac.exceptions.VaultError as error:
            print(f"token {self.client_id} was not revoked: {error}", file=sys.stderr)


def job(astra_url, token):
    """The job: asks Astra which organization the token belongs to."""
    headers = {"Authorization": f"Bearer {token}"}
    requests.get(f"{astra_url}/v2/currentOrg", headers=headers, timeout=TIMEOUT).raise_for_status()


def main():
    # Leaves the `with` block below, which revokes the lease.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    vault = hvac.Client(url=os.environ["VAULT_ADDR"], token=os.environ["VAULT_TOKEN"], timeout=TIMEOUT)
    astra_url = os.environ.get("ASTRA_URL", "https://api.astra.datastax.com")
    with AstraToken(vault, os.environ["ASTRA_CREDS"]) as token:
        for number in range(1, int(os.environ.get("JOBS", "10")) + 1):
            job(astra_url, token.value)
            print(f"job {number} done with token {token.client_id}", flush=True)
            time.sleep(1)


if __name__ == "__main__":
    main()
