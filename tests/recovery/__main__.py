"""A soak: random faults, one after another, for as long as told: `python -m tests.recovery --minutes 20`.

Every round puts requests into flight, does one harm to the fleet, and looks what became of them. Ends with a table,
and with status 1 where anything was lost, told twice or changed.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import tempfile
import time
from pathlib import Path

from tests.engine.checkpoints import write_checkpoint
from tests.recovery.disk import small_disk
from tests.recovery.faults import FAULTS, NEED_A_DISK
from tests.recovery.fleet import harmed_fleet
from tests.recovery.scene import Outcome, expected_answers, requests, summary, undergo
from tests.router.valkey import valkey
from tests.service.fleet import engine_of


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.recovery", description="Random faults, one after another.")
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--seed", type=int, default=1, help="of the choice of faults")
    parser.add_argument("--report", type=Path, help="where the table goes too")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        outcomes = asyncio.run(soak(Path(folder), options.minutes, random.Random(options.seed)))
    text = summary(outcomes)
    print("\n" + text)
    if options.report is not None:
        options.report.write_text(text + "\n")
    return 0 if all(outcome.is_clean for _, outcome in outcomes) else 1


async def soak(folder: Path, minutes: float, chance: random.Random) -> list[tuple[str, Outcome]]:
    """What each round did, with the name of its fault."""
    model = write_checkpoint(folder / "tiny", "llama", max_position_embeddings=2048)
    engine, wanted = engine_of(model, tensor_parallel=2), requests()
    expected = expected_answers(engine, wanted)
    outcomes: list[tuple[str, Outcome]] = []
    with small_disk(folder / "store") as disk, valkey(disk, {"appendonly": "yes"}) as store:
        names = [name for name in FAULTS if name not in NEED_A_DISK or disk.is_mount()]
        async with harmed_fleet(folder, engine, engine_of(model), store) as fleet:
            ends_s = time.monotonic() + 60.0 * minutes
            while time.monotonic() < ends_s:
                name = chance.choice(names)
                outcome = await undergo(fleet, FAULTS[name], wanted, expected, f"round{len(outcomes)}")
                outcomes.append((name, outcome))
                words = "clean" if outcome.is_clean else f"NOT CLEAN: {outcome}"
                print(f"{len(outcomes)}: {name}: {words}, recovered in {outcome.recovery_s:.1f} s", flush=True)
    return outcomes


if __name__ == "__main__":
    sys.exit(main())
