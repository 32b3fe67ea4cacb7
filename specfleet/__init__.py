"""The client side of specfleet: the only part that is published as a wheel."""

__version__ = "0.1.0"
