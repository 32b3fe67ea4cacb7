"""What Ray reads from the environment when it is imported, and hands on to its own processes."""

from __future__ import annotations

import os

__all__ = ["settle_environment"]

_EVERYWHERE = {
    "RAY_USAGE_STATS_ENABLED": "0",
    # Lines of Ray's daemons that no one should see: all. What there is to say about a death is said by the supervisor.
    "RAY_DEDUP_LOGS_SKIP_REGEX": ".",
}
_LOCAL = {
    # As it is by default on macOS: one machine, on 127.0.0.1. On Linux every port of Ray would be on every interface,
    # whatever address its node is given.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    # Nobody else reaches the loopback. Without this, a token file that some other Ray left behind would be asked for.
    "RAY_AUTH_MODE": "disabled",
    # An idle Python process for each CPU that we declare, and `Cluster.local` declares many.
    "RAY_enable_worker_prestart": "0",
    "RAY_prestart_worker_first_driver": "0",
}


def settle_environment(*, is_local: bool) -> None:
    """Before the first import of Ray. A cluster that is there already keeps to the environment it is given in."""
    os.environ.update(_EVERYWHERE | (_LOCAL if is_local else {}))
