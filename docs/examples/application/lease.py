"""A token that is always valid. A thread renews its lease, and mints the next token while the old token is still live."""

import sys
import threading
from typing import NamedTuple

import hvac

RETRY = 5  # seconds between two attempts while Vault fails


class Token(NamedTuple):
    value: str
    client_id: str
    lease_id: str
    ttl: int

    def __repr__(self):
        return f"Token({self.client_id})"


class LiveToken:
    """Read `current` for each new connection or request, and do not keep the answer for longer than a request takes."""

    def __init__(self, vault, creds):
        self._vault = vault
        self._creds = creds
        self._leases = []
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._keep, daemon=True)

    def __enter__(self):
        try:
            self.current = self._mint()
            self._thread.start()
        except BaseException:
            self._revoke()
            raise
        return self

    def __exit__(self, *_):
        self._closed.set()
        self._thread.join()
        self._revoke()

    def _revoke(self):
        """Revokes all tokens that are still live. If that fails, a token lives until its lease expires."""
        for token in self._leases:
            try:
                # `sync` waits until the token is deleted in Astra. `sys.revoke_lease` has no such option.
                self._vault.write_data("sys/leases/revoke", data={"lease_id": token.lease_id, "sync": True})
                print(f"revoked token {token.client_id}", flush=True)
            except hvac.exceptions.VaultError as error:
                print(f"token {token.client_id} was not revoked: {error}", file=sys.stderr)

    def _mint(self):
        answer = self._vault.read(self._creds)
        if answer is None:
            raise LookupError(f"nothing at {self._creds}")
        data = answer["data"]
        token = Token(data["token"], data["clientId"], answer["lease_id"], answer["lease_duration"])
        # The token before the last one has expired by now.
        self._leases = [*self._leases[-1:], token]
        print(f"got token {token.client_id} for {token.ttl} s", flush=True)
        return token

    def _keep(self):
        pause = self.current.ttl * 2 / 3
        while not self._closed.wait(pause):
            try:
                pause = self._renew()
            # An error of the network is none of hvac's errors. The thread must survive both.
            except Exception as error:
                print(f"token {self.current.client_id} is kept, Vault failed: {error}", file=sys.stderr)
                pause = RETRY

    def _renew(self):
        """Renews the lease or changes the token. Returns the seconds until the next call."""
        token = self.current
        try:
            granted = self._vault.sys.renew_lease(token.lease_id, increment=token.ttl)["lease_duration"]
            print(f"renewed token {token.client_id} for {granted} s", flush=True)
        except hvac.exceptions.InvalidRequest as error:
            print(f"token {token.client_id} has no lease any more: {error}", file=sys.stderr)
            granted = 0
        if granted >= token.ttl / 2:
            return granted * 2 / 3
        # max_ttl is near. The old token stays live for the rest of its lease, while the program changes to the next one.
        self.current = self._mint()
        return self.current.ttl * 2 / 3
