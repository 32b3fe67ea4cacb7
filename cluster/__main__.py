"""The fleet's own commands: `python -m cluster --help`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from cluster.control import order
from cluster.home import running_fleet, state_folder, wait_until_ended
from cluster.plan import with_models_found
from cluster.up import up
from contracts.config import load_config
from contracts.config.names import entry_of
from contracts.errors import InvalidArgument, NotFound, SpecfleetError, Unavailable, shown
from specfleet.errors import InvalidRequest
from specfleet.health import health_face

__all__ = ["main"]

_ADD_S, _REMOVE_S, _DOWN_S = 300.0, 30.0, 60.0


def main(arguments: Sequence[str] | None = None) -> int:
    """The command. 0: it was done; 2: it asks for something that can never work; 1: it failed."""
    options = _parser().parse_args(arguments)
    try:
        match options.command:
            case "up":
                with health_face(options.health) as health:
                    return up(
                        options.config,
                        address=options.address,
                        has_dashboard=options.dashboard,
                        router=options.router,
                        health=health,
                    )
            case "add-drafter":
                print(_add_drafter(options.name, options.config))
            case "remove-drafter":
                fleet = running_fleet(state_folder())
                print(order(Path(fleet.control), "remove-drafter", name=options.name, patience_s=_REMOVE_S))
            case _:
                print(_down())
    except (SpecfleetError, InvalidRequest) as error:
        print(f"error: {error.message}", file=sys.stderr)
        return 2 if isinstance(error, InvalidArgument | InvalidRequest) else 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m cluster", description="Start a fleet, and change it while it runs."
    )
    parsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    up_parser = parsers.add_parser("up", help="start the fleet of a file, and keep it running until Ctrl-C")
    _add_config(up_parser)
    up_parser.add_argument(
        "--address", metavar="HOST:PORT", help="of a Ray cluster to run on (default: a Ray of its own on this machine)"
    )
    up_parser.add_argument(
        "--no-dashboard", dest="dashboard", action="store_false", help="without Ray's dashboard, which takes memory"
    )
    up_parser.add_argument(
        "--router",
        metavar="HOST:PORT",
        help="of a router that is elsewhere: start no other and no store, only the workers, which outlive the command",
    )
    up_parser.add_argument(
        "--health", metavar="HOST:PORT", help="where to tell anybody whether this command lives and all have joined"
    )
    add = parsers.add_parser("add-drafter", help="add a drafter to the fleet that runs")
    add.add_argument("name", metavar="NAME", help="which of the file's drafters, or NAME-NUMBER for one more of them")
    _add_config(add)
    remove = parsers.add_parser("remove-drafter", help="take a drafter out of the fleet that runs")
    remove.add_argument("name", metavar="NAME", help="which of the fleet's drafters")
    parsers.add_parser("down", help="end the fleet that runs")
    return parser


def _add_config(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-c", "--config", type=Path, required=True, metavar="FLEET.yaml", help="the fleet's file")


def _add_drafter(name: str, file: Path) -> str:
    fleet = running_fleet(state_folder())
    config = load_config(file)
    if (entry := entry_of(name, config.drafters)) is None:
        raise NotFound(f"{file} has no drafter {shown(name)}; its drafters are {', '.join(config.drafters) or 'none'}")
    alone = config.model_copy(update={"drafters": {name: config.drafters[entry]}})
    found = with_models_found(alone, is_local=fleet.is_local, is_folder=Path.is_dir).drafters[name]
    plain = found.model_dump(mode="json", exclude_none=True)
    return order(Path(fleet.control), "add-drafter", name=name, config=plain, patience_s=_ADD_S)


def _down() -> str:
    state = state_folder()
    fleet = running_fleet(state)
    order(Path(fleet.control), "down", patience_s=_REMOVE_S)
    if not wait_until_ended(state, _DOWN_S):
        raise Unavailable(
            f"process {fleet.pid} has not ended within {_DOWN_S:.0f} s; it takes SIGTERM twice to kill it"
        )
    return "the fleet has ended"


if __name__ == "__main__":
    sys.exit(main())
