"""The wire types in specfleet/v1 are those that protos/ says, and nothing else."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]


def test_generated_code_matches_the_protos(tmp_path: Path) -> None:
    protos = sorted(path.relative_to(CHECKOUT / "protos").as_posix() for path in (CHECKOUT / "protos").rglob("*.proto"))
    outputs = [f"--{kind}_out={tmp_path}" for kind in ("python", "pyi", "grpc_python")]
    command = [sys.executable, "-W", "ignore", "-m", "grpc_tools.protoc", f"-I{CHECKOUT / 'protos'}", *outputs, *protos]
    subprocess.run(command, check=True, timeout=60)
    made = {path.name: path.read_text() for path in (tmp_path / "specfleet" / "v1").iterdir()}
    kept = {
        path.name: path.read_text()
        for path in (CHECKOUT / "specfleet" / "v1").iterdir()
        if path.is_file() and path.name != "__init__.py"
    }
    assert kept == made, "run `make protos`"
