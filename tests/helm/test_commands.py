"""What the chart's and compose's containers start is there: each command is asked by its own parser."""

from __future__ import annotations

import contextlib
import importlib
import io
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import yaml

from contracts.config import load_config
from tests.docs.pages import PAGES, blocks_of
from tests.helm.chart import LEAST, Renderer

CHECKOUT = Path(__file__).resolve().parents[2]


def flags_of(command: Sequence[str]) -> str:
    """What its own parser says that it takes."""
    name = command[2]
    if (CHECKOUT / name.replace(".", "/")).is_dir():
        name += ".__main__"
    main, said = importlib.import_module(name).main, io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(said):
        patch.setattr(sys, "argv", [*command[2:], "--help"])
        with pytest.raises(SystemExit, match="0"):
            main()
    return said.getvalue()


def check_commands(commands: Sequence[tuple[Sequence[str], Sequence[str]]]) -> None:
    known = {tuple(command): flags_of(command) for command, _ in commands}
    for command, arguments in commands:
        assert list(command[:2]) == ["python", "-m"], command
        for flag in arguments:
            assert f"{flag.partition('=')[0]} " in known[tuple(command)], f"{command} does not know {flag}"


def test_the_chart_starts_what_there_is(render: Renderer) -> None:
    ours = ("router", "verifier", "drafter", "supervisor")
    drafters = {"a": {"kind": "stand", "replicas": 2}}
    both = (render({**LEAST, "drafters": drafters, "ray": {"enabled": enabled}}) for enabled in (True, False))
    containers = [of for rendered in both for _, of, _ in rendered.containers() if of["name"] in ours]
    commands = [(of["command"], of["args"]) for of in containers]
    assert {of["name"] for of in containers} == set(ours)
    check_commands(commands)


def test_the_node_beside_the_supervisor_is_started_as_ray_is(render: Renderer) -> None:
    (node,) = render(LEAST).of("Deployment", "-supervisor")["spec"]["template"]["spec"]["initContainers"]
    program = Path(sys.executable).with_name(node["command"][0])
    said = subprocess.run(
        [str(program), *node["command"][1:], "--help"], capture_output=True, text=True, check=True, timeout=60
    )
    for flag in node["args"]:
        assert f"{flag.partition('=')[0]} " in said.stdout


def test_the_job_downloads_with_a_function_that_there_is(render: Renderer) -> None:
    job = render({**LEAST, "models": {"claim": {"existing": "a"}, "download": ["a/b"]}}).of("Job")
    container = job["spec"]["template"]["spec"]["containers"][0]
    assert container["args"] == ["a/b"]
    program, name, script = container["command"]
    assert (program, name) == ("python", "-c")
    without_names = subprocess.run([sys.executable, name, script], cwd=CHECKOUT, check=False, timeout=60)
    assert without_names.returncode == 0  # it is imported, and has nothing to do


def test_what_pages_tell_to_install_is_what_the_chart_takes(render: Renderer) -> None:
    """Each `helm install` of the pages renders, and mounts the Secrets that the same block tells to make."""
    blocks = [block for page in PAGES for block in blocks_of(page) if "helm install" in block.text]
    assert len(blocks) == 3
    for block in blocks:
        (line,) = re.findall(r"^helm install (.+)$", block.text, flags=re.MULTILINE)
        words = [word.replace("my-values.yaml", "helm/examples/one-gpu-node.yaml") for word in shlex.split(line)]
        text = render.run("template", *(str(CHECKOUT / word) if word.startswith("helm/") else word for word in words))
        assert "REGISTRY/specfleet:" in text, block.name
        for name, key in re.findall(r"secret generic (\S+) --from-\w+=([\w.]+)", block.text):
            assert f"secretName: {name}, defaultMode: 0440, items: [{{key: {key}, " in text, block.name


@pytest.fixture(scope="module")
def compose() -> dict[str, dict[str, dict[str, object]]]:
    found: dict[str, dict[str, dict[str, object]]] = yaml.safe_load((CHECKOUT / "compose.yaml").read_text())
    return found


def test_compose_starts_every_process_of_its_file(compose: dict[str, dict[str, dict[str, object]]]) -> None:
    config = load_config(str(compose["configs"]["fleet"]["content"]))
    commands = [of["command"] for of in compose["services"].values() if isinstance(of.get("command"), list)]
    ours = [
        [str(word) for word in command] for command in commands if isinstance(command, list) and command[0] == "python"
    ]
    check_commands([(command[:3], [word for word in command[3:] if word.startswith("--")]) for command in ours])
    names = [word.removeprefix("--name=") for command in ours for word in command if word.startswith("--name=")]
    assert sorted(names) == sorted(config.drafters)
    assert [command[2] for command in ours].count("router") == 1
    assert [command[2] for command in ours].count("workers.verifier") == 1


def test_compose_opens_itself_to_this_machine_alone(compose: dict[str, dict[str, dict[str, object]]]) -> None:
    for name, of in compose["services"].items():
        ports = of.get("ports", [])
        assert isinstance(ports, list)
        assert all(str(port).startswith("127.0.0.1:") for port in ports), name
        assert of["read_only"] is True
        assert of["cap_drop"] == ["ALL"]
        assert of["security_opt"] == ["no-new-privileges:true"]
