"""The chart under test: rendered by the real helm, and what is asked of its pods."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

__all__ = ["CHART", "EXAMPLES", "LEAST", "Manifest", "Refused", "Rendered", "Renderer"]

CHECKOUT = Path(__file__).resolve().parents[2]
CHART = CHECKOUT / "helm" / "specfleet"
EXAMPLES = sorted((CHECKOUT / "helm" / "examples").glob("*.yaml"))
_RENDER_S = 30.0

Manifest = Mapping[str, Any]

LEAST: Mapping[str, Any] = {
    "engine": {"model": "/models/target"},
    "security": {"apiKeysSecret": {"name": "specfleet-keys"}},
    "store": {"passwordSecret": {"name": "specfleet-store"}},
}
"""What has no default."""


class Refused(Exception):
    """What helm says about values that it does not take."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rendered:
    """All manifests of one release."""

    text: str
    manifests: Sequence[Manifest]

    def of(self, kind: str, ending: str = "") -> Manifest:
        """The one of this kind whose name ends so."""
        found = [each for each in self.all(kind) if str(each["metadata"]["name"]).endswith(ending)]
        assert len(found) == 1, f"{len(found)} {kind} with names in -{ending}"
        return found[0]

    def all(self, kind: str) -> list[Manifest]:
        return [each for each in self.manifests if each["kind"] == kind]

    @property
    def fleet_file(self) -> str:
        """What the processes read."""
        text: str = self.of("ConfigMap", "-fleet")["data"]["fleet.yaml"]
        return text

    def pods(self) -> Iterator[tuple[str, Manifest]]:
        """Every pod's template, and whose it is."""
        for manifest in self.manifests:
            name = f"{manifest['kind']} {manifest['metadata']['name']}"
            if manifest["kind"] == "RayCluster":
                yield f"{name} head", manifest["spec"]["headGroupSpec"]["template"]
                for group in manifest["spec"]["workerGroupSpecs"]:
                    yield f"{name} {group['groupName']}", group["template"]
            elif "template" in manifest.get("spec", {}):
                yield name, manifest["spec"]["template"]

    def containers(self) -> Iterator[tuple[str, Manifest, Manifest]]:
        """Every container, with its pod's specification."""
        for owner, pod in self.pods():
            for container in [*pod["spec"].get("initContainers", []), *pod["spec"]["containers"]]:
                yield f"{owner}: {container['name']}", container, pod["spec"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Renderer:
    """`helm template` of the chart."""

    helm: Path
    scratch: Path

    def __call__(
        self,
        values: Mapping[str, Any] | None = None,
        *,
        files: Sequence[Path] = (),
        chart: Path = CHART,
        cluster: str | None = None,
    ) -> Rendered:
        """`cluster` is the address of an API server that the templates may ask."""
        given = self.scratch / "values.yaml"
        given.write_text(yaml.safe_dump(dict(values or {})))
        asks = ["--dry-run=server", "--disable-openapi-validation", "--kube-apiserver", cluster] if cluster else []
        text = self.run("template", "fleet", str(chart), "--namespace", "ns", *_options([*files, given]), *asks)
        manifests = [each for each in yaml.load_all(text, Loader=yaml.CSafeLoader) if each]
        return Rendered(text=text, manifests=manifests)

    def run(self, *arguments: str) -> str:
        done = subprocess.run(
            [str(self.helm), *arguments],
            capture_output=True,
            text=True,
            timeout=_RENDER_S,
            check=False,
            env={"HOME": str(self.scratch), "HELM_CACHE_HOME": str(self.scratch)},
        )
        if done.returncode != 0:
            raise Refused(f"{done.stdout}\n{done.stderr}")
        return done.stdout


def _options(files: Sequence[Path]) -> list[str]:
    return [word for file in files for word in ("--values", str(file))]
