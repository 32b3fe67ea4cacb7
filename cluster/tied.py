"""Runs a command that ends with whoever started it: `python -m cluster.tied PARENT FILE COMMAND...`.

A supervisor that is killed cannot end what it started; on Linux the kernel can. It has to be asked by the process
itself, and asking between fork and exec in a program with threads can deadlock: so this is a program of its own, which
becomes the command. Elsewhere it only becomes the command.

With a FILE the command is the only one at a time that was started with it: the file stays locked until the process is
gone, however it ends. A fleet that is started again at once waits here for what is left of the one before.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import signal
import sys
import time

__all__ = ["main"]

_PR_SET_PDEATHSIG = 1
_PATIENCE_S = 20.0  # until the process before has written what it has to write
_LOOK_S = 0.05


def main() -> None:
    """Becomes the command, unless the parent is gone already."""
    parent, file, command = int(sys.argv[1]), sys.argv[2], sys.argv[3:]
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM))
    if file and not _locked(file):
        sys.exit(f"{file} is held by a process that does not end; another {command[0]} would work on the same data")
    if os.getppid() == parent:
        try:
            os.execvp(command[0], command)
        except OSError as error:
            sys.exit(f"{command[0]} cannot be started: {error.strerror}")


def _locked(file: str) -> bool:
    """Whether nobody else holds it, for as long as this process and what it becomes live."""
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o600)
    os.set_inheritable(descriptor, True)
    end_s = time.monotonic() + _PATIENCE_S
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except OSError:
            if time.monotonic() > end_s:
                return False
            time.sleep(_LOOK_S)


if __name__ == "__main__":
    main()
