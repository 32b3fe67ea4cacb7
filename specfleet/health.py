"""Whether a process is well, for whoever asks without certificates: kubelets, container engines.

`grpc.health.v1` on an address of its own, and nothing else there: no name, no number, no data. The service "" is life,
and `READY` is whether the process does its work. `python -m specfleet.health HOST:PORT` asks for life. Needs
grpcio-health-checking, which comes with the service.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from specfleet.errors import InvalidRequest

__all__ = ["READY", "Health", "health_face"]

READY = "ready"

_SILENT_S = 30.0
_ANSWER_S = 3.0
_MAX_CALLS = 32
_OPTIONS = (
    ("grpc.so_reuseport", 0),
    ("grpc.max_receive_message_length", 1024),
    ("grpc.server_handshake_timeout_ms", 5_000),
    # Whoever reaches the port may connect and then say nothing, or half of a call, which holds a thread: not for long.
    ("grpc.max_allowed_incoming_connections", 128),
    ("grpc.max_connection_idle_ms", 2_000),
    ("grpc.max_connection_age_ms", 2_000),
    ("grpc.max_connection_age_grace_ms", 500),
)


class Health:
    """How a process is. Once it has begun to `beat` it is dead when it is silent for half a minute; before, while it
    loads, it lives as long as it answers.
    """

    def __init__(self, now_s: Callable[[], float] = time.monotonic) -> None:
        self.is_ready = False
        self._now_s, self._beat_s = now_s, float("inf")

    def beat(self) -> None:
        """A sign of life, from the loop that does the work."""
        self._beat_s = self._now_s()

    @property
    def lives(self) -> bool:
        """Whether there was a sign lately."""
        return self._now_s() - self._beat_s < _SILENT_S


class _Face(health_pb2_grpc.HealthServicer):
    """Without `Watch`, whose streams anybody could keep."""

    def __init__(self, health: Health) -> None:
        self._health = health

    def Check(self, request: Any, context: Any) -> Any:
        of = {"": self._health.lives, READY: self._health.lives and self._health.is_ready}
        if request.service not in of:
            context.abort(grpc.StatusCode.NOT_FOUND, f"services are empty and {READY}")
        is_well = of[request.service]
        response = health_pb2.HealthCheckResponse
        return response(status=response.SERVING if is_well else response.NOT_SERVING)


@contextmanager
def health_face(address: str | None) -> Iterator[Health]:
    """How this process is, told at `address` until the block is left, by threads of its own; None: told to nobody."""
    health = Health()
    if address is None:
        yield health
        return
    with ThreadPoolExecutor(_MAX_CALLS, thread_name_prefix="health") as threads:
        server = grpc.server(threads, options=_OPTIONS, maximum_concurrent_rpcs=_MAX_CALLS)
        health_pb2_grpc.add_HealthServicer_to_server(_Face(health), server)
        try:
            server.add_insecure_port(address)
        except RuntimeError as error:
            raise InvalidRequest(
                f"--health is {address!r}, where this process cannot listen; it must be HOST:PORT of this machine"
            ) from error
        server.start()
        try:
            yield health
        finally:
            server.stop(grace=None).wait()


def main(arguments: Sequence[str] | None = None) -> int:
    """Asks for life; 0: it lives."""
    parser = argparse.ArgumentParser(prog="python -m specfleet.health", description="Ask a process whether it lives.")
    parser.add_argument("address", metavar="HOST:PORT")
    options = parser.parse_args(arguments)
    # Not through a proxy of the environment (https_proxy, http_proxy), which is for the world outside.
    with grpc.insecure_channel(options.address, options=(("grpc.enable_http_proxy", 0),)) as channel:
        try:
            health: Any = health_pb2_grpc.HealthStub(channel)
            status = health.Check(health_pb2.HealthCheckRequest(), timeout=_ANSWER_S).status
        except grpc.RpcError as error:
            said: Any = error
            print(f"{options.address} does not answer: {said.details()}", file=sys.stderr)
            return 1
    name = health_pb2.HealthCheckResponse.ServingStatus.Name(status)
    print(name)
    return 0 if name == "SERVING" else 1


if __name__ == "__main__":
    sys.exit(main())
