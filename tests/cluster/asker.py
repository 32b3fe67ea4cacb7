"""All requests of `tests/recovery/scene.py` from a machine of its own:
`python -m tests.cluster.asker ADDRESS NAME EXPECTED.json HARMED`.

Says "begun" when every request has begun, takes the harm for done when there is a file HARMED, says "counted" when it
has counted those still in flight then, and ends with a line of JSON: what became of the requests.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from tests.recovery.fleet import until_quiet
from tests.recovery.scene import Outcome, requests, survive
from tests.service.router_process import until

_PATIENCE_S = 300.0
_NUM_DRAFTERS = 2


async def main(address: str, name: str, expected: Sequence[Sequence[int]], harmed: Path) -> Outcome:
    async def harm() -> None:
        print("begun", flush=True)
        await until(harmed.exists, f"the harm is done and there is {harmed}", patience_s=_PATIENCE_S)
        print("counted", flush=True)  # as they are now, before any other task has its turn

    outcome = await survive(address, harm, requests(), expected, name)
    await until_quiet(address, num_drafters=_NUM_DRAFTERS)
    return outcome


if __name__ == "__main__":
    of_address, of_name, of_expected, of_harmed = sys.argv[1:]
    answers = json.loads(Path(of_expected).read_bytes())
    print(json.dumps(asdict(asyncio.run(main(of_address, of_name, answers, Path(of_harmed))))), flush=True)
