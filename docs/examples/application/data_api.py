"""Reads documents through the Data API with astrapy. The token changes while the program runs. README.md lists the
environment variables."""

import os
import signal
import sys
import time

import hvac
from astrapy import DataAPIClient
from astrapy.authentication import TokenProvider

from lease import LiveToken


class LeasedToken(TokenProvider):
    """Gives astrapy the current token."""

    def __init__(self, live):
        self.live = live

    def __repr__(self):
        return "LeasedToken(...)"

    # The method of the base class compares tokens, which differ from one moment to the next.
    def __eq__(self, other):
        return self is other

    __hash__ = object.__hash__

    def get_token(self):
        return self.live.current.value


def main():
    # Leaves the `with` block below, which revokes the lease.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    vault = hvac.Client(url=os.environ["VAULT_ADDR"], token=os.environ["VAULT_TOKEN"], timeout=30)
    with LiveToken(vault, os.environ["ASTRA_CREDS"]) as live:
        database = DataAPIClient().get_database(os.environ["ASTRA_DATA_API"], token=LeasedToken(live))
        for number in range(1, int(os.environ.get("JOBS", "10")) + 1):
            # astrapy asks for the token when it makes a collection, not at each request. So make one for each job.
            document = database.get_collection("orders").find_one({"_id": number})
            print(f"job {number} done with token {live.current.client_id}: {document['_id']}", flush=True)
            time.sleep(1)


if __name__ == "__main__":
    main()
