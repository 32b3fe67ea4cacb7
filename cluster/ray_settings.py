"""What Ray reads from the environment when it is imported, and hands on to its own processes."""

from __future__ import annotations

import os
from collections.abc import Mapping

import grpc

from contracts.config.security import is_loopback
from contracts.errors import ConfigError, Unavailable, shown

__all__ = ["check_asks_for_token", "needs_token", "reconnect_s", "report_s", "settle_environment"]

_MODE = "RAY_AUTH_MODE"
_TOKEN = "token"
_ANY_CALL = "/ray.rpc.NodeInfoGcsService/CheckAlive"
_ANSWER_S = 5.0
_NO_ANSWER = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
_REPORT, _REPORT_MS = "RAY_metrics_report_interval_ms", "10000"  # the latter is Ray's own default
_RECONNECT, _RECONNECT_S = "RAY_gcs_rpc_server_reconnect_timeout_s", "60"  # the latter is Ray's own default

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
    _MODE: "disabled",
    # An idle Python process for each CPU that we declare, and `Cluster.local` declares many.
    "RAY_enable_worker_prestart": "0",
    "RAY_prestart_worker_first_driver": "0",
}


def needs_token(address: str | None, *, is_insecure: bool) -> bool:
    """Whether the Ray at this address must ask for a token: whoever gives it orders runs programs on its machines."""
    return address is not None and not is_insecure and not is_loopback(address.rpartition(":")[0])


def settle_environment(*, is_local: bool, needs_token: bool = False) -> None:
    """Before the first import of Ray. A cluster that is there already keeps to the environment it is given in."""
    os.environ.update(_EVERYWHERE | (_LOCAL if is_local else {}))
    if needs_token and os.environ.setdefault(_MODE, _TOKEN) != _TOKEN:
        raise ConfigError(
            f"{_MODE} is {shown(os.environ[_MODE])} and other machines reach the Ray cluster; it must be {_TOKEN}, "
            "with the cluster's own in RAY_AUTH_TOKEN_PATH, or security.insecure be true"
        )


def reconnect_s(environment: Mapping[str, str]) -> float:
    """How long a process of Ray's looks for a lost head before Ray ends it."""
    return float(environment.get(_RECONNECT, _RECONNECT_S))


def report_s(environment: Mapping[str, str]) -> float:
    """How often Ray takes the metrics of its processes on; what was not told for two of these it forgets."""
    return float(environment.get(_REPORT, _REPORT_MS)) / 1e3


def check_asks_for_token(address: str) -> None:
    """Refuses a cluster that answers those who show none: it would run programs for anyone who reaches it. Unavailable
    where there is no answer, from which nothing follows."""
    with grpc.insecure_channel(address) as channel:
        try:
            channel.unary_unary(_ANY_CALL)(b"", timeout=_ANSWER_S)  # type: ignore[arg-type]  # bytes as they are
        except grpc.RpcError as error:
            if error.code() == grpc.StatusCode.UNAUTHENTICATED:
                return
            if error.code() in _NO_ANSWER:
                raise Unavailable(
                    f"the Ray cluster at {shown(address)} does not say whether it asks for a token: "
                    f"{error.code().name}; it must answer there without TLS, and may be about to start"
                ) from error
    raise ConfigError(
        f"the Ray cluster at {shown(address)} takes orders from whoever reaches it; it must be started with "
        f"{_MODE}={_TOKEN} and a token on every node, or security.insecure be true where nobody else is on the network"
    )
