"""A verifier group on this machine: `python -m workers.verifier --config fleet.yaml`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from contracts.clock import SystemClock
from contracts.config import load_config
from engine.load import spare_torch_threads
from engine.local_group import local_engine
from workers.process import checked_name, entry, parser, router_of, run_worker
from workers.verifier.hello import hello_of, probe
from workers.verifier.node import VerifierNode

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; see workers.process for its exit status."""
    options = parser("workers.verifier", "Serve the fleet's target model.")
    options.add_argument("--name", default="verifier", help="its name in the fleet (default %(default)s)")
    return entry(_run, options.parse_args(arguments))


def _run(options: argparse.Namespace) -> None:
    config, name = load_config(options.config), checked_name(options.name)
    spare_torch_threads()
    with local_engine(config.engine) as loaded:
        hello = hello_of(name, loaded, probe(loaded.engine, SystemClock()))
        node = VerifierNode(loaded.engine, name=name, hello=hello)
        run_worker(node, router=router_of(options, config), tls=config.security.tls_of("worker"))


if __name__ == "__main__":
    sys.exit(main())
