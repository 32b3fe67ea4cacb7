"""Runs a command that ends with whoever started it: `python -m cluster.tied PARENT COMMAND...`.

A supervisor that is killed cannot end what it started; on Linux the kernel can. It has to be asked by the process
itself, and asking between fork and exec in a program with threads can deadlock: so this is a program of its own, which
becomes the command. Elsewhere it only becomes the command.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

__all__ = ["main"]

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Becomes the command, unless the parent is gone already."""
    parent, command = int(sys.argv[1]), sys.argv[2:]
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM))
    if os.getppid() == parent:
        try:
            os.execvp(command[0], command)
        except OSError as error:
            sys.exit(f"{command[0]} cannot be started: {error.strerror}")


if __name__ == "__main__":
    main()
