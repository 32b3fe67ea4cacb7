"""Builds the CPU library once per machine and source, and keeps it in a cache folder.

The library needs a C++ compiler when it is built and none when it is used. One build serves every model and
shape. Its file name is a digest of the sources, the flags, the processor's features and CXX where it is set, so that
a cache folder shared between machines can never hand one of them instructions it does not have, and a folder filled
where there is a compiler serves where there is none.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

SOURCE_FOLDER = Path(__file__).parent / "src"
# -ffp-contract=off: a multiply-add is fused only where the source says so, or results would follow the compiler's mood.
FLAGS = ("-std=c++17", "-O3", "-march=native", "-ffp-contract=off", "-fno-math-errno")
# -fvisibility=hidden: two builds in one process would otherwise share what the loader thinks is one function or table,
# and one of them would run code for the other's processor.
LINK_FLAGS = ("-fPIC", "-shared", "-pthread", "-fvisibility=hidden")
BUILD_TIMEOUT_S = 300


class BuildError(RuntimeError):
    """The library could not be built here; the message says why in one line."""


def cache_folder() -> Path:
    """Where built libraries are kept: SPECFLEET_CACHE_DIR, or the user's cache folder."""
    chosen = os.environ.get("SPECFLEET_CACHE_DIR")
    if chosen:
        return Path(chosen) / "native"
    base = os.environ.get("XDG_CACHE_HOME")
    if not base:
        try:
            base = str(Path.home() / ".cache")
        except RuntimeError as error:
            raise BuildError(f"no place for the library ({error} Set SPECFLEET_CACHE_DIR.)") from error
    return Path(base) / "specfleet" / "native"


def find_compiler() -> list[str]:
    """The command of a C++ compiler: CXX, then the usual names, then the compiler of the ziglang wheel."""
    chosen = os.environ.get("CXX")
    if chosen:
        return chosen.split()
    for name in ("c++", "g++", "clang++"):
        found = shutil.which(name)
        if found:
            return [found]
    if importlib.util.find_spec("ziglang") is not None:
        return [sys.executable, "-m", "ziglang", "c++"]
    raise BuildError("no C++ compiler found (looked for CXX, c++, g++, clang++ and the ziglang package)")


def build() -> Path:
    """The path of the library for this machine, built if it is not in the cache yet."""
    folder = cache_folder()
    path = folder / f"libspecfleet-{_digest()}.so"
    if path.exists():
        return path
    compiler = find_compiler()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _locked(folder / "build.lock"):
            if not path.exists():
                _compile(compiler, path)
    except OSError as error:
        raise BuildError(f"cannot write the library to {folder}: {error}") from error
    return path


def _digest() -> str:
    digest = hashlib.sha256()
    for source in sorted(SOURCE_FOLDER.iterdir()):
        digest.update(source.name.encode() + b"\0" + source.read_bytes() + b"\0")
    digest.update(" ".join((os.environ.get("CXX", ""), *FLAGS, *LINK_FLAGS)).encode())
    digest.update(_processor_features().encode())
    return digest.hexdigest()[:24]


def _processor_features() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith(("flags", "Features")):
                return platform.machine() + line
    return platform.machine() + platform.processor()


def _compile(compiler: list[str], path: Path) -> None:
    with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
        built = Path(scratch) / path.name
        command = [*compiler, *FLAGS, *LINK_FLAGS, str(SOURCE_FOLDER / "exports.cpp"), "-o", str(built)]
        try:
            run = subprocess.run(command, capture_output=True, text=True, timeout=BUILD_TIMEOUT_S, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise BuildError(f"the compiler {compiler[0]} did not run: {error}") from error
        if run.returncode != 0:
            said = [line.strip() for line in run.stderr.splitlines() if line.strip()]
            first = next((line for line in said if "error" in line), said[-1] if said else "it said nothing")
            raise BuildError(f"the compiler {compiler[0]} failed with exit status {run.returncode}: {first}")
        os.replace(built, path)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """One builder at a time on this machine: ranks start together and would all compile."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
