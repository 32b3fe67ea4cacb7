"""The published wheel holds specfleet/ alone and asks for neither torch nor Ray."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

import specfleet

CHECKOUT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    # A copy of every Python file, for a build leaves products beside its sources; no network, no isolation.
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    packages = [*(init.parent for init in CHECKOUT.glob("*/__init__.py")), CHECKOUT / "tests"]
    for file in (file for package in packages for pattern in ("*.py", "py.typed") for file in package.rglob(pattern)):
        (source / file.relative_to(CHECKOUT)).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, source / file.relative_to(CHECKOUT))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(CHECKOUT / name, source)
    program = "from setuptools import build_meta; import sys; build_meta.build_wheel(sys.argv[1])"
    subprocess.run([sys.executable, "-c", program, out], cwd=source, check=True, capture_output=True, timeout=60)
    return zipfile.ZipFile(next(out.glob("*.whl")))


def test_the_wheel_holds_the_client_only(wheel: zipfile.ZipFile) -> None:
    tops = {name.partition("/")[0] for name in wheel.namelist()}
    assert tops == {"specfleet", f"specfleet-{specfleet.__version__}.dist-info"}
    ours = {path.relative_to(CHECKOUT).as_posix() for path in (CHECKOUT / "specfleet").rglob("*.py")}
    assert {name for name in wheel.namelist() if name.startswith("specfleet/")} == {*ours, "specfleet/py.typed"}


def test_the_wheel_carries_the_licence(wheel: zipfile.ZipFile) -> None:
    names = [name for name in wheel.namelist() if name.endswith("/LICENSE")]
    assert [wheel.read(name) for name in names] == [(CHECKOUT / "LICENSE").read_bytes()]


def test_the_client_installs_without_torch_and_ray(wheel: zipfile.ZipFile) -> None:
    metadata = Parser().parsestr(wheel.read(f"specfleet-{specfleet.__version__}.dist-info/METADATA").decode())
    assert metadata["Requires-Python"] == ">=3.11"
    required = [line for line in metadata.get_all("Requires-Dist", []) if "extra ==" not in line]
    assert not [line for line in required if line.startswith(("torch", "ray", "cryptography"))]
