"""A drafter node on this machine: `python -m workers.drafter --config fleet.yaml --name NAME`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from contracts.config import load_config
from contracts.errors import InvalidArgument, shown
from specfleet.health import Health
from workers.drafter_node.hosting import hosted
from workers.process import checked_name, entry, parser, router_of, run_worker

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; see workers.process for its exit status."""
    options = parser("workers.drafter", "Serve one of the fleet's drafters.")
    options.add_argument("--name", required=True, help="which of the configuration's drafters")
    options.add_argument(
        "--as", dest="alias", metavar="NAME", help="its name in the fleet, where several processes are this drafter"
    )
    return entry("drafter", _run, options.parse_args(arguments))


def _run(options: argparse.Namespace, health: Health) -> None:
    config = load_config(options.config)
    drafter = config.drafters.get(options.name)
    if drafter is None:
        known = ", ".join(config.drafters) or "none"
        raise InvalidArgument(f"--name is {shown(options.name)}; drafters of {options.config}: {known}")
    if drafter.with_target:
        raise InvalidArgument(
            f"--name is {shown(options.name)}, which lives with the target, in `python -m workers.verifier`; it must "
            "be another, or its with_target be left out"
        )
    with hosted(checked_name(options.alias or options.name), drafter) as node:
        run_worker(node, health, router=router_of(options, config), tls=config.security.tls_of("drafter"))


if __name__ == "__main__":
    sys.exit(main())
