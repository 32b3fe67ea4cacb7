"""The image is pinned, runs as nobody in particular, and gets the files that it needs and no others."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from specfleet import health
from tests.helm.root_folder import stages

CHECKOUT = Path(__file__).resolve().parents[2]
DOCKERFILE = (CHECKOUT / "Dockerfile").read_text(encoding="utf-8")
APART = {"benchmarks", "models"}  # rooms that no process of a fleet reads


def constraints() -> dict[str, str]:
    lines = (CHECKOUT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return dict(line.split("==") for line in lines if not line.startswith("#"))


def copied() -> set[str]:
    """What the Dockerfile takes of the checkout."""
    lines = re.findall(r"^COPY (?!--from)(.+) \S+$", DOCKERFILE, flags=re.MULTILINE)
    return {name for line in lines for name in line.split()}


def test_a_linter_finds_nothing() -> None:
    program = Path(sys.executable).with_name("hadolint")
    if not program.exists():
        pytest.skip("no hadolint: the extra `chart` brings it, for Linux and macOS")
    done = subprocess.run(
        [str(program), str(CHECKOUT / "Dockerfile")], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stdout


def test_every_stage_ends_as_nobody_in_particular() -> None:
    stages = re.split(r"^FROM ", DOCKERFILE, flags=re.MULTILINE)[1:]
    runtime = next(stage for stage in stages if " AS cpu\n" in stage)
    assert re.findall(r"^USER (\S+)$", runtime, flags=re.MULTILINE) == ["10001:10001"]
    assert "\nHEALTHCHECK " in runtime
    assert next(stage for stage in stages if " AS cuda\n" in stage).startswith("cpu AS cuda")


def test_every_process_is_asked_where_it_tells_of_its_health() -> None:
    asked = re.findall(r"^HEALTHCHECK .*\n    CMD (\[.*\])$", DOCKERFILE, flags=re.MULTILINE)
    command = json.loads(asked[0])
    assert command[:3] == ["python", "-m", health.__name__]
    told = json.loads(re.findall(r"^CMD (\[.*\])$", DOCKERFILE, flags=re.MULTILINE)[-1])
    assert told[-2:] == ["--health", command[3]]
    services = yaml.safe_load((CHECKOUT / "compose.yaml").read_text(encoding="utf-8"))["services"]
    for name in services.keys() - {"store"}:
        assert f"--health={command[3]}" in services[name]["command"]
        assert "healthcheck" not in services[name], "the image's own"


def test_everything_is_pinned() -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+-slim-\w+", re.findall(r"^ARG PYTHON=(\S+)$", DOCKERFILE, flags=re.MULTILINE)[0])
    assert "torch==${TORCH}" in DOCKERFILE
    pins = constraints()
    assert re.findall(r"^ARG TORCH=(\S+)$", DOCKERFILE, flags=re.MULTILINE) == [pins["torch"]]
    assert f'"setuptools=={pins["setuptools"]}"' in DOCKERFILE


def test_the_pins_are_what_the_service_asks_for() -> None:
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    asked = [*project["dependencies"], *extras["certs"], *extras["engine"], *extras["service"]]
    pins = constraints()
    for line in asked:
        wanted = Requirement(line)
        name = canonicalize_name(wanted.name)
        if name != "specfleet":
            assert name in pins, f"{name} is not pinned; `python -m helm.constraints > constraints.txt` renews the pins"
            assert pins[name] in wanted.specifier, f"{name} is pinned to {pins[name]}, which {line} does not allow"


def test_the_image_gets_every_room_that_runs() -> None:
    rooms = {init.parent.name for init in CHECKOUT.glob("*/__init__.py")} - APART
    assert rooms <= copied()
    ignore = (CHECKOUT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert "*" in ignore
    assert {line[1:] for line in ignore if line.startswith("!")} == copied()
    assert all((CHECKOUT / name).exists() for name in copied())


def test_its_steps_can_be_done_one_by_one() -> None:
    """What `tests.helm.root_folder` builds is this Dockerfile, no instruction left out."""
    build, cpu, cuda = stages(DOCKERFILE)
    assert (build.name, cpu.name, cuda.name) == ("build", "cpu", "cuda")
    assert cuda.above == cpu.name
    assert {step.kind for step in cuda.steps} == {"ENV"}, "the image with CUDA has no files of its own"
    assert {step.text for step in cpu.steps if step.kind == "USER"} == {"10001:10001"}
    with pytest.raises(ValueError, match="the Dockerfile says ADD"):
        stages(DOCKERFILE + "ADD a b\n")


def test_the_chart_runs_what_the_image_holds() -> None:
    pins = constraints()
    values = (CHECKOUT / "helm" / "specfleet" / "values.yaml").read_text(encoding="utf-8")
    assert re.findall(r"^  version: (\S+)", values, flags=re.MULTILINE) == [pins["ray"]]
    uid = "runAsUser: 10001"
    assert uid in (CHECKOUT / "helm" / "specfleet" / "templates" / "_pods.tpl").read_text(encoding="utf-8")
