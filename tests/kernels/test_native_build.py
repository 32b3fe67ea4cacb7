"""Building the CPU library: where it fails, what then happens, and where two build at once."""

from __future__ import annotations

import importlib
import logging
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from kernels import native
from tests.kernels.rig import (
    require_library,
)

# By name: the package has a function of the same name in the module's place.
builder = importlib.import_module("kernels.native.build")
ROOT = Path(__file__).parents[2]
BUILD_ALONE = "import runpy, sys; print(runpy.run_path(sys.argv[1])['build']())"  # needs no torch, so it starts at once


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("SPECFLEET_CACHE_DIR", str(folder))
    return folder


def load_afresh() -> object:
    """What the first use in a process does."""
    return native._load.__wrapped__()


def script(path: Path, text: str) -> str:
    path.write_text("#!/bin/sh\n" + text)
    path.chmod(0o755)
    return str(path)


def test_without_a_compiler_a_process_says_so_once_and_uses_the_references(tmp_path: Path) -> None:
    program = """
import logging, torch
logging.basicConfig(format="%(levelname)s %(message)s")
from kernels import native
from kernels.linear import Linear
from kernels.swiglu import swiglu
layer = Linear(torch.ones(2, 3))
print(native.library(), layer.packed, layer(torch.ones(1, 3)).tolist())
print(swiglu(torch.zeros(1, 2), torch.float32).tolist())
"""
    environment = {**os.environ, "SPECFLEET_CACHE_DIR": str(tmp_path), "CXX": "/nonexistent/c++"}
    ran = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    assert ran.stdout.split("\n") == ["None None [[3.0, 3.0]]", "[[0.0]]", ""]
    lines = ran.stderr.strip().splitlines()
    assert len(lines) == 1, ran.stderr
    assert lines[0].startswith("WARNING CPU library not available, the slower torch reference is used instead:")
    assert "/nonexistent/c++" in lines[0]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("echo one; echo 'x.cpp:1: error: no such thing' >&2; echo three >&2; exit 1", "x.cpp:1: error: no such thing"),
        ("printf 'first\\nlast\\n' >&2; exit 3", "exit status 3: last"),
        ("exit 7", "exit status 7: it said nothing"),
    ],
)
def test_a_failing_compiler_is_one_warning_line(
    text: str,
    said: str,
    tmp_path: Path,
    empty_cache: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("CXX", script(tmp_path / "compiler", text))
    assert load_afresh() is None
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert said in caplog.messages[0]
    assert "\n" not in caplog.messages[0]
    assert sorted(path.name for path in (empty_cache / "native").iterdir()) == ["build.lock"]


def test_a_compiler_that_makes_no_library_is_one_warning_line(
    tmp_path: Path, empty_cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("CXX", script(tmp_path / "compiler", 'for out; do :; done; echo rubbish > "$out"'))
    assert load_afresh() is None
    assert len(caplog.records) == 1


def test_a_folder_that_cannot_be_written_is_one_warning_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A file stands where the folder should be: permissions alone would not stop a test that runs as root."""
    (tmp_path / "taken").write_text("")
    monkeypatch.setenv("SPECFLEET_CACHE_DIR", str(tmp_path / "taken"))
    assert load_afresh() is None
    assert len(caplog.records) == 1
    assert f"cannot write the library to {tmp_path / 'taken' / 'native'}" in caplog.messages[0]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder_is_one_warning_line(
    empty_cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    empty_cache.mkdir()
    empty_cache.chmod(0o500)
    assert load_afresh() is None
    assert len(caplog.records) == 1


def test_no_home_and_no_compiler_are_errors_that_say_what_to_do(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("SPECFLEET_CACHE_DIR", "XDG_CACHE_HOME", "CXX"):
        monkeypatch.delenv(name, raising=False)

    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", no_home)
    with pytest.raises(builder.BuildError, match="SPECFLEET_CACHE_DIR"):
        builder.build()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert builder.cache_folder() == tmp_path / "specfleet" / "native"
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(builder.BuildError, match=r"no C\+\+ compiler found"):
        builder.build()


def test_a_built_library_needs_no_compiler(empty_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder filled where there is a compiler serves where there is none."""
    monkeypatch.delenv("CXX", raising=False)
    tools = tmp_path / "tools"
    tools.mkdir()
    script(tools / "c++", 'for out; do :; done; echo built > "$out"')
    monkeypatch.setenv("PATH", str(tools))
    built = builder.build()
    assert built.read_text() == "built\n"
    (tools / "c++").unlink()
    assert builder.build() == built


def test_two_processes_at_once_compile_once(tmp_path: Path, empty_cache: Path) -> None:
    log = tmp_path / "log"
    compiler = script(
        tmp_path / "compiler",
        f'echo run >> {shlex.quote(str(log))}; sleep 0.5; for out; do :; done; echo library > "$out"',
    )
    command = [sys.executable, "-c", BUILD_ALONE, str(ROOT / "kernels" / "native" / "build.py")]
    both = [
        subprocess.Popen(command, env={**os.environ, "CXX": compiler}, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    paths = {process.communicate(timeout=60)[0].strip() for process in both}
    assert [process.returncode for process in both] == [0, 0]
    assert log.read_text() == "run\n"
    assert len(paths) == 1
    built = Path(paths.pop())
    assert built.read_text() == "library\n"
    assert sorted(path.name for path in built.parent.iterdir()) == ["build.lock", built.name]


def test_the_name_follows_sources_flags_compiler_and_processor(
    empty_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two machines with different processors, or two versions of the code, may share a folder."""
    monkeypatch.setenv("CXX", script(tmp_path / "compiler", 'for out; do :; done; echo x > "$out"'))
    names = [builder.build().name]
    with monkeypatch.context() as patch:
        patch.setattr(builder, "_processor_features", lambda: "another processor")
        names.append(builder.build().name)
    with monkeypatch.context() as patch:
        patch.setattr(builder, "FLAGS", ("-O0",))
        names.append(builder.build().name)
    with monkeypatch.context() as patch:
        patch.setenv("CXX", script(tmp_path / "other", 'for out; do :; done; echo x > "$out"'))
        names.append(builder.build().name)
    changed = tmp_path / "src"
    changed.mkdir()
    for source in builder.SOURCE_FOLDER.iterdir():
        (changed / source.name).write_bytes(source.read_bytes())
    with (changed / "simd.h").open("a") as file:
        file.write("\n")
    with monkeypatch.context() as patch:
        patch.setattr(builder, "SOURCE_FOLDER", changed)
        names.append(builder.build().name)
    assert len(set(names)) == len(names)


def test_a_library_of_another_version_is_refused(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    require_library()
    monkeypatch.setattr("kernels.native.signatures.VERSION", -1)
    assert load_afresh() is None
    assert "this code needs -1" in caplog.messages[0]
