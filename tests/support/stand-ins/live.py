"""Asks the simulated Astra whether a token is live."""

import os
import urllib.error
import urllib.request


def is_live(token):
    request = urllib.request.Request(os.environ["ASTRA_URL"] + "/v2/currentOrg", headers={"Authorization": f"Bearer {token}"})
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status == 200
    except urllib.error.HTTPError:
        return False
