"""A process beside the command that must run as long as the fleet does."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from cluster.backoff import Backoff
from contracts.clock import Clock

__all__ = ["Child"]

_NUM_LAST_BYTES = 2000


class Child:
    """Starts its command, and starts it again when it ends, with growing delays.

    It has a process group of its own, so that Ctrl-C in a terminal reaches the supervisor alone, which then ends all
    in order. Its log is a file. `alone`: a file that only one such process at a time may hold.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        folder: Path,
        log: Path,
        clock: Clock,
        alone: Path | None = None,
    ) -> None:
        self.name, self.log, self._alone = name, log, alone
        self._command, self._folder, self._clock = command, folder, clock
        self._process: subprocess.Popen[bytes] | None = None
        self._began_s, self._again_s = 0.0, 0.0
        self._backoff = Backoff()

    @property
    def pid(self) -> int:
        """Of the process that runs, or ran last."""
        assert self._process is not None, "a child is asked for its pid after its start"
        return self._process.pid

    def start(self) -> None:
        """Starts it; a command that does not exist is an OSError of the process itself, seen by `watch`."""
        tied = [sys.executable, "-m", "cluster.tied", str(os.getpid()), str(self._alone or ""), *self._command]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                tied, cwd=self._folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log, process_group=0
            )
        self._began_s, self._again_s = self._clock.now_s(), 0.0

    def ended(self) -> int | None:
        """The exit status, if it has ended."""
        return self._process.poll() if self._process is not None else None

    def watch(self) -> str:
        """Starts it again when it is time to; what there is to say about that, or nothing."""
        status, now_s = self.ended(), self._clock.now_s()
        if status is None:
            return ""
        if self._again_s == 0.0:
            delay_s = self._backoff.delay_s(now_s - self._began_s)
            self._again_s = now_s + delay_s
            return f"{self.name} ended with status {status}: {self.last_words()}; starts again in {delay_s:.1f} s"
        if now_s < self._again_s:
            return ""
        self.start()
        return f"{self.name} started again as process {self.pid}"

    def last_words(self) -> str:
        """The last line of its log."""
        with self.log.open("rb") as log:
            log.seek(max(0, log.seek(0, os.SEEK_END) - _NUM_LAST_BYTES))
            content = log.read().decode(errors="replace")
        lines = [line for line in content.splitlines() if line.strip()]
        return lines[-1].strip() if lines else "it said nothing"

    def stop(self, patience_s: float) -> None:
        """Ends it: asks, then kills."""
        if self._process is None or self._process.poll() is not None:
            return
        self._process.terminate()
        try:
            self._process.wait(patience_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
