"""A verifier group on this machine, and the drafters that live in its process: `python -m workers.verifier --config
fleet.yaml`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from contextlib import ExitStack

from contracts.config import load_config
from engine.load import spare_torch_threads
from specfleet.health import Health
from workers.process import checked_name, entry, parser, router_of, run_worker
from workers.verifier.guests import hosted_guests
from workers.verifier.hosting import hosted

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; see workers.process for its exit status."""
    options = parser("workers.verifier", "Serve the fleet's target model.")
    options.add_argument("--name", default="verifier", help="its name in the fleet (default %(default)s)")
    return entry("verifier", _run, options.parse_args(arguments))


def _run(options: argparse.Namespace, health: Health) -> None:
    config, name = load_config(options.config), checked_name(options.name)
    spare_torch_threads()
    with ExitStack() as stack:
        node = stack.enter_context(hosted(name, config.engine, config.verifier))
        guests = hosted_guests(config, stack)
        tls = config.security.tls_of("verifier")
        run_worker(node, health, router=router_of(options, config), tls=tls, guests=guests)


if __name__ == "__main__":
    sys.exit(main())
