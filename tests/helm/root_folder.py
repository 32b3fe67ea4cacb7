"""The Dockerfile's steps without a container engine, one by one in a folder that begins as a fresh Debian.

    debootstrap --variant=minbase --include=python3,python3-venv,ca-certificates bookworm BASE
    python -m tests.helm.root_folder BASE ROOT

Then compose's fleet runs in ROOT, closed as compose closes it, and is asked for a completion. It needs Linux, root and
a network. What it cannot show: the image's own Python (Debian's is taken), layers, and an engine's way of reading.
"""

from __future__ import annotations

import argparse
import json
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path

import yaml

__all__ = ["Stage", "Step", "main", "stages"]

CHECKOUT = Path(__file__).resolve().parents[2]
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_CLOSED = "setpriv --reuid=10001 --regid=10001 --clear-groups --no-new-privs --bounding-set=-all --inh-caps=-all"
_TOLD = {"ARG", "ENV", "RUN", "COPY", "WORKDIR", "USER", "EXPOSE", "HEALTHCHECK", "CMD"}
_READY_S = 240.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One instruction and what it says."""

    kind: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """From one FROM to the next."""

    name: str
    above: str
    steps: Sequence[Step]


@dataclass(slots=True, kw_only=True)
class _Folder:
    """A root folder while its steps are done."""

    root: Path
    variables: dict[str, str] = field(default_factory=lambda: {"PATH": _PATH})
    arguments: dict[str, str] = field(default_factory=dict)
    place: str = "/"


def stages(text: str) -> list[Stage]:
    """What a Dockerfile says, by stage; its global arguments are in none."""
    lines = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
    found: list[Stage] = []
    for line in lines.replace("\\\n", " ").splitlines():
        kind, _, said = line.strip().partition(" ")
        if kind == "FROM":
            above, _, name = said.partition(" AS ")
            found.append(Stage(name=name, above=above, steps=[]))
        elif kind and found:
            if kind not in _TOLD:
                raise ValueError(f"the Dockerfile says {kind}; this can do {', '.join(sorted(_TOLD))}")
            last = found[-1]
            found[-1] = Stage(name=last.name, above=last.above, steps=[*last.steps, Step(kind=kind, text=said.strip())])
    return found


def build(base: Path, out: Path, *, binds: Sequence[str], given: Mapping[str, str]) -> None:
    """All stages that the CPU image is made of; `out` is its root folder then."""
    done: dict[str, _Folder] = {}
    for stage in stages((CHECKOUT / "Dockerfile").read_text(encoding="utf-8")):
        if stage.above in done:  # a stage with no files of its own: the image with CUDA
            continue
        root = out if stage.name == "cpu" else out.with_name(f"{out.name}-{stage.name}")
        subprocess.run(["cp", "--archive", "--reflink=auto", str(base), str(root)], check=True)
        (root / "usr/local/bin/python").symlink_to("/usr/bin/python3")  # as Python's own images have it
        folder = done[stage.name] = _Folder(root=root)
        for step in stage.steps:
            print(f"[{stage.name}] {step.kind} {step.text[:100]}", flush=True)
            _do(step, folder, done, binds=binds, given=given)


def _do(
    step: Step, folder: _Folder, done: Mapping[str, _Folder], *, binds: Sequence[str], given: Mapping[str, str]
) -> None:
    match step.kind:
        case "ARG":
            name, _, default = step.text.partition("=")
            folder.arguments[name] = default
        case "ENV":
            for name, value in (pair.split("=", 1) for pair in shlex.split(step.text)):
                folder.variables[name] = value.replace("$PATH", folder.variables["PATH"])
        case "WORKDIR":
            folder.place = step.text
            (folder.root / step.text[1:]).mkdir(parents=True, exist_ok=True)
        case "COPY":
            _copy(step.text, folder, done)
        case "RUN":
            shell = f"cd {folder.place} && {step.text}"
            inside(
                folder.root, ["/bin/sh", "-c", shell], {**folder.variables, **folder.arguments, **given}, binds=binds
            )


def _copy(text: str, folder: _Folder, done: Mapping[str, _Folder]) -> None:
    words = text.split()
    source = done[words.pop(0).removeprefix("--from=")].root if words[0].startswith("--from=") else CHECKOUT
    *names, last = words
    target = folder.root / (Path(folder.place) / last).as_posix()[1:]
    for name in names:
        file = source / name.lstrip("/")
        if file.is_dir():
            shutil.copytree(file, target, symlinks=True, ignore=None if source != CHECKOUT else _ignored)
        else:
            shutil.copy2(file, target / file.name)


def _ignored(_: str, names: list[str]) -> list[str]:
    """Of .dockerignore what holds below any folder; the names at the top are those that are copied, by a test."""
    lines = (CHECKOUT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    patterns = [line.removeprefix("**/") for line in lines if line.startswith("**/")]
    return [name for name in names if any(fnmatch(name, pattern) for pattern in patterns)]


def inside(root: Path, command: Sequence[str], variables: Mapping[str, str], *, binds: Sequence[str]) -> None:
    """A command in the folder, which sees its own processes and, of this machine, what is bound."""
    mounts = [f"mount -t proc proc {root}/proc", f"mount --rbind /dev {root}/dev"]
    for path in [*binds, "/etc/resolv.conf"]:
        target = root / path[1:]
        if Path(path).is_dir():
            target.mkdir(parents=True, exist_ok=True)
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.touch()
        mounts.append(f"mount --bind {path} {target}")
    told = [f"{name}={value}" for name, value in variables.items()]
    subprocess.run(
        _alone([*mounts, shlex.join(["exec", "chroot", str(root), "env", "-i", *told, *command])]), check=True
    )


def _alone(lines: Sequence[str], *more: str) -> list[str]:
    return ["unshare", "--mount", "--pid", "--fork", "--kill-child", *more, "sh", "-ec", "\n".join(lines)]


def run_fleet(root: Path) -> str:
    """compose's services in the folder: its commands, nobody's rights, nothing to write but /tmp and /data.

    What is not compose's: they share one network, without this machine's, so each has a port of its own for its health.
    """
    compose = yaml.safe_load((CHECKOUT / "compose.yaml").read_text(encoding="utf-8"))
    for name in ("models", "etc/specfleet/fleet", "asked"):
        (root / name).mkdir(parents=True, exist_ok=True)
    (root / "etc/specfleet/fleet/fleet.yaml").write_text(compose["configs"]["fleet"]["content"], encoding="utf-8")
    (root / "etc/hosts").write_text("127.0.0.1 localhost store router\n", encoding="utf-8")
    (root / "asked/ask.py").write_text(_ASK, encoding="utf-8")
    variables = dict(_variables())
    mounts = [
        "ip link set lo up",
        f"mount --bind {root} {root}",
        f"mount --bind {CHECKOUT / 'models/demo'} {root}/models",
        f"mount -t proc proc {root}/proc",
        f"mount --rbind /dev {root}/dev",
        f"mount -t tmpfs -o mode=0700,uid=10001,gid=10001,exec tmpfs {root}/tmp",
        f"mount -t tmpfs -o mode=0700,uid=10001,gid=10001 tmpfs {root}/data",
        f"mount -o remount,ro,bind {root}",
    ]
    started = []
    for index, command in enumerate(_commands(compose)):
        told = [word.replace("127.0.0.1:8081", f"127.0.0.1:{8081 + index}") for word in command]
        started.append(f"{_closed(root, variables, told)} >&2 &")
    ports = [str(8081 + index) for index in range(len(started))][1:]
    asked = _closed(root, variables, ["python", "/asked/ask.py", *ports])
    done = subprocess.run(
        _alone([*mounts, *started, f"cd / && {asked}"], "--net"),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=_READY_S,
    )
    return done.stdout


def _commands(compose: Mapping[str, object]) -> Iterator[list[str]]:
    """The store first."""
    services = compose["services"]
    assert isinstance(services, dict)
    return ([str(word) for word in services[name]["command"]] for name in services)


def _variables() -> Iterator[tuple[str, str]]:
    """What ENV says in the stages of the CPU image."""
    folder = _Folder(root=Path("/"))
    for stage in stages((CHECKOUT / "Dockerfile").read_text(encoding="utf-8")):
        if stage.name == "cpu":
            for step in stage.steps:
                if step.kind == "ENV":
                    _do(step, folder, {}, binds=(), given={})
    yield from folder.variables.items()


def _closed(root: Path, variables: Mapping[str, str], command: Sequence[str]) -> str:
    told = [f"{name}={value}" for name, value in variables.items()]
    return shlex.join(
        ["chroot", str(root), *_CLOSED.split(), "env", "-i", "--chdir=/opt/specfleet/app", *told, *command]
    )


_ASK = """
import json, subprocess, sys, time, urllib.request

def answer(path, body=None):
    data = None if body is None else json.dumps(body).encode()
    asked = urllib.request.Request(f"http://127.0.0.1:8000{path}", data, {"content-type": "application/json"})
    with urllib.request.urlopen(asked, timeout=60) as found:
        return found.read().decode()

def healthy(port):
    asked = [sys.executable, "-m", "specfleet.health", f"127.0.0.1:{port}"]
    return subprocess.run(asked, capture_output=True).returncode == 0

for _ in range(200):
    try:
        answer("/readyz")
        if all(healthy(port) for port in sys.argv[1:]):
            break
    except OSError:
        pass
    time.sleep(1)
else:
    raise SystemExit("the fleet is not ready")
for file in ("/opt/specfleet/app/written", "/etc/written"):
    try:
        open(file, "w")
    except OSError:
        continue
    raise SystemExit(f"{file} can be written")
body = {"prompt": "SELECT name FROM", "max_tokens": 20, "temperature": 0}
print(answer("/v1/completions", body))
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m tests.helm.root_folder", description="Do a Dockerfile's steps.")
    parser.add_argument("base", type=Path, help="folder with a fresh Debian")
    parser.add_argument("root", type=Path, help="folder to make, with another beside it for the stage that builds")
    parser.add_argument(
        "--bind", action="append", default=[], help="a path of this machine that the steps see, e.g. of pip"
    )
    parser.add_argument("--env", action="append", default=[], help="NAME=VALUE for the steps, e.g. TORCH_INDEX=URL")
    parser.add_argument("--built", action="store_true", help="the folder is there already: only run the fleet in it")
    options = parser.parse_args(arguments)
    begun_s = time.monotonic()
    if not options.built:
        given = dict(each.split("=", 1) for each in options.env)
        build(options.base.resolve(), options.root.resolve(), binds=options.bind, given=given)
        print(f"built in {time.monotonic() - begun_s:.0f} s", flush=True)
    answer = json.loads(run_fleet(options.root.resolve()))
    if not re.search(r"\w", answer["choices"][0]["text"]):
        print(f"the fleet said nothing: {answer}", file=sys.stderr)
        return 1
    print(f"the fleet in it said {answer['choices'][0]['text']!r}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
