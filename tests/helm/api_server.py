"""As much of a Kubernetes API server as helm asks before it renders: what kinds there are, and objects by name."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

from tests.helm.chart import Manifest

__all__ = ["api_server"]


@contextmanager
def api_server(kinds: Collection[Manifest], objects: Collection[Manifest]) -> Iterator[str]:
    """Its address; it knows the kinds of these manifests, and has these objects in their namespaces."""
    answers = {**_discovery(kinds), **{_path(each): each for each in objects}}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found = answers.get(self.path.split("?")[0])
            status = {"kind": "Status", "status": "Failure", "reason": "NotFound", "code": 404}
            content = json.dumps(found or status).encode()
            self.send_response(200 if found else 404)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def _discovery(kinds: Collection[Manifest]) -> dict[str, Mapping[str, Any]]:
    of_version: dict[str, set[str]] = defaultdict(set)
    for each in kinds:
        of_version[each["apiVersion"]].add(each["kind"])
    groups: dict[str, list[dict[str, str]]] = defaultdict(list)
    for version in sorted(of_version):
        if "/" in version:
            groups[version.split("/")[0]].append({"groupVersion": version, "version": version.split("/")[1]})
    listed = [{"name": name, "versions": of, "preferredVersion": of[0]} for name, of in groups.items()]
    return {
        "/version": {"major": "1", "minor": "34", "gitVersion": "v1.34.0"},
        "/api": {"kind": "APIVersions", "versions": ["v1"]},
        "/apis": {"kind": "APIGroupList", "apiVersion": "v1", "groups": listed},
        **{
            _root(version): {
                "kind": "APIResourceList",
                "groupVersion": version,
                "resources": [
                    {"name": _plural(kind), "kind": kind, "namespaced": True, "singularName": "", "verbs": ["get"]}
                    for kind in sorted(names)
                ],
            }
            for version, names in of_version.items()
        },
    }


def _path(of: Manifest) -> str:
    name = f"namespaces/{of['metadata']['namespace']}/{_plural(of['kind'])}/{of['metadata']['name']}"
    return f"{_root(of['apiVersion'])}/{name}"


def _root(version: str) -> str:
    return f"/apis/{version}" if "/" in version else f"/api/{version}"


def _plural(kind: str) -> str:
    return f"{kind.lower()}s"
