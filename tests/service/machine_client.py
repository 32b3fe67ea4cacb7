"""A client as a program, for a machine of its own: `python -m tests.service.machine_client ADDRESS REQUEST`.

The request is JSON, the arguments of `Client.generate`; each token is a line of JSON.
"""

from __future__ import annotations

import json
import sys

from specfleet import Client

if __name__ == "__main__":
    address, request = sys.argv[1:]
    with Client(address) as client:
        for event in client.generate(**json.loads(request)):
            if event.token_id is not None:
                print(json.dumps({"token": event.token_id, "drafter": event.drafter}), flush=True)
