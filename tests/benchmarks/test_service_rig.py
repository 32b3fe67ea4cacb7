"""What benchmarks start ends with them."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]
START_ONE = """
import sys
from pathlib import Path
from benchmarks.service_rig import WorkerProcesses
folder = Path(sys.argv[1])
workers = WorkerProcesses(port=1, config=folder / "fleet.yaml", log=folder / "workers.log")
workers.start("lookup")
print(workers.running["lookup"].pid, flush=True)
sys.stdin.read()
"""


def test_workers_end_with_a_benchmark_that_is_killed(tmp_path: Path) -> None:
    (tmp_path / "fleet.yaml").write_text("{engine: {model: m}, drafters: {lookup: {kind: prompt_lookup}}}")
    with subprocess.Popen(
        [sys.executable, "-c", START_ONE, str(tmp_path)],
        cwd=CHECKOUT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as benchmark:
        assert benchmark.stdout is not None
        worker = int(benchmark.stdout.readline())
        until(lambda: "no stream to the router" in (tmp_path / "workers.log").read_text())
        benchmark.kill()
    until(lambda: not is_alive(worker))


def is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def until(is_so: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + 60.0
    while not is_so():
        assert time.monotonic() < deadline_s
        time.sleep(0.02)
