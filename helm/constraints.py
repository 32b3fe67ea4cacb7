"""Prints the versions that the image is made with: `python -m helm.constraints > constraints.txt`, in an environment
whose tests have passed. Of each package that the service needs, the version that is installed here.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distribution

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

__all__ = ["constraints"]

_BESIDES = ("setuptools",)  # what builds the wheel
_HEADER = "# Made by `python -m helm.constraints`: what the image holds."


def constraints() -> Iterator[str]:
    """A line for each package, by name."""
    found: dict[str, str] = {}
    _collect(Requirement("specfleet[service]"), found)
    for name in _BESIDES:
        _collect(Requirement(name), found)
    del found["specfleet"]
    yield _HEADER
    yield from (f"{name}=={version}" for name, version in sorted(found.items()))


def _collect(wanted: Requirement, found: dict[str, str]) -> None:
    name = canonicalize_name(wanted.name)
    if name in found and not wanted.extras:
        return
    try:
        of = distribution(name)
    except PackageNotFoundError:
        if name in _BESIDES:
            raise
        return  # for other platforms, or the libraries of another build of torch
    found[name] = of.version.partition("+")[0]
    for line in of.requires or []:
        inner = Requirement(line)
        if inner.marker is None or any(inner.marker.evaluate({"extra": extra}) for extra in ("", *wanted.extras)):
            _collect(inner, found)


if __name__ == "__main__":
    print("\n".join(constraints()))
