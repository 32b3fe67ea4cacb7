"""Drafters that live in the target's process: on a GPU their kernels run beside the target's, on streams of their own.

Between processes a GPU takes turns. The price is one Python for all of them, which launches one kernel at a time; of
steps that are captured graphs it launches each as a whole.
"""

from __future__ import annotations

import logging
from contextlib import ExitStack

from contracts.config import FleetConfig
from contracts.errors import SpecfleetError
from workers.drafter_node.hosting import hosted
from workers.process import Guest

__all__ = ["hosted_guests"]

logger = logging.getLogger(__name__)


def hosted_guests(config: FleetConfig, stack: ExitStack) -> list[Guest]:
    """Those of this fleet, ready to join, until the stack is left. The target does without one that cannot be."""
    guests = list[Guest]()
    for name, drafter in config.drafters.items():
        if not drafter.with_target:
            continue
        try:
            node = stack.enter_context(hosted(name, drafter.as_booked))
        except SpecfleetError as error:
            logger.error("%s is not served: %s", name, error)
        except Exception:  # such as a cache that finds no memory
            logger.exception("%s is not served", name)
        else:
            guests.append(Guest(worker=node, tls=config.security.tls_of("drafter")))
    return guests
