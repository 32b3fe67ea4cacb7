"""Dashboards, alerts and scaling ask for what the router really exports, and are what the code says."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator
from typing import Any

import promql_parser
import pytest
import yaml

from helm import dashboards
from router.front import FrontLimits
from router.metrics import metrics_text
from router.server import run_router
from tests.helm.chart import CHART, LEAST, Renderer

# What Prometheus adds to each series of a ServiceMonitor's target.
TARGET = {"namespace", "service", "pod", "instance", "job"}
# Of metrics that have no series before something has happened.
LABELS = {
    "spec_decode_num_draft_tokens_total": {"drafter", "kind"},
    "spec_decode_num_accepted_tokens_total": {"drafter", "kind"},
    "spec_decode_num_accepted_tokens_per_pos_total": {"position"},
    "specfleet_rounds_by_frontier_total": {"nodes"},
}


@pytest.fixture(scope="module")
def exported() -> dict[str, str]:
    """Metrics that a router exports, and their types."""

    async def text() -> str:
        async with run_router("127.0.0.1:0", limits=FrontLimits(mode="fleet", max_draft=8, max_waiting=1)) as router:
            return metrics_text(router.front)

    return dict(re.findall(r"^# TYPE (\S+) (\S+)$", asyncio.run(text()), flags=re.MULTILINE))


def panels() -> Iterator[tuple[str, str]]:
    for name, content in dashboards.files():
        for panel in json.loads(content)["panels"]:
            for target in panel["targets"]:
                yield f"{name}: {panel['title']}", target["expr"]


def check(where: str, expression: str, exported: dict[str, str]) -> None:
    concrete = expression.replace("$__rate_interval", "1m")
    tree = promql_parser.parse(concrete)  # refuses what is no PromQL
    selectors = list(selectors_of(tree))
    assert selectors, where
    for selector in selectors:
        assert selector.name in exported, f"{where}: no router exports {selector.name}"
    for name in re.findall(r"(?:rate|increase)\((\w+)", concrete):
        assert exported[name] == "counter", f"{where}: {name} is no counter"
    known = TARGET.union(*(LABELS.get(selector.name, set()) for selector in selectors))
    for group in re.findall(r"by \(([^)]*)\)", concrete):
        asked = {label.strip() for label in group.split(",")}
        assert asked <= known, f"{where}: {asked - known} is no label of {[each.name for each in selectors]}"
    matched = set(re.findall(r'(\w+)=~?"', concrete))
    assert matched <= known, f"{where}: {matched - known} is no label"


def selectors_of(node: Any) -> Iterator[Any]:
    """All selectors of series in an expression."""
    match node:
        case promql_parser.VectorSelector():
            yield node
        case promql_parser.MatrixSelector():
            yield node.vector_selector
        case promql_parser.BinaryExpr():
            yield from selectors_of(node.lhs)
            yield from selectors_of(node.rhs)
        case promql_parser.Call():
            for argument in node.args:
                yield from selectors_of(argument)
        case promql_parser.NumberLiteral():
            pass
        case _:
            yield from selectors_of(node.expr)


@pytest.mark.parametrize(("where", "expression"), list(panels()), ids=[where for where, _ in panels()])
def test_panels_ask_for_what_there_is(where: str, expression: str, exported: dict[str, str]) -> None:
    check(where, expression, exported)


def test_a_name_that_nobody_exports_is_noticed(exported: dict[str, str]) -> None:
    with pytest.raises(AssertionError, match="no router exports specfleet_token_total"):
        check("here", "rate(specfleet_token_total[1m])", exported)
    with pytest.raises(AssertionError, match="is no counter"):
        check("here", "rate(num_requests_running[1m])", exported)
    with pytest.raises(AssertionError, match="is no label"):
        check("here", "sum by (colour) (specfleet_rounds_total)", exported)


def test_the_labels_here_are_those_of_the_router() -> None:
    source = (CHART.parents[1] / "router" / "metrics.py").read_text()
    for name, labels in LABELS.items():
        assert f'"{name}"' in source
        assert all(f'"{label}"' in source for label in labels)


def test_alerts_ask_for_what_there_is(render: Renderer, exported: dict[str, str]) -> None:
    values = {**LEAST, "monitoring": {"rules": True}, "router": {"config": {"max_waiting": 500}}}
    rule = render(values).of("PrometheusRule")
    alerts = [alert for group in rule["spec"]["groups"] for alert in group["rules"]]
    assert len(alerts) >= 5
    for alert in alerts:
        check(alert["alert"], alert["expr"], exported)
        assert 'namespace="ns",service="fleet-specfleet"' in alert["expr"]
        assert alert["annotations"].keys() == {"summary", "description"}
    assert any("0.8 * 500" in alert["expr"] for alert in alerts)


def test_scaling_asks_for_what_there_is(render: Renderer, exported: dict[str, str]) -> None:
    drafters = {"a": {"kind": "stand", "autoscaling": {"min": 2, "max": 5, "idleShare": 0.3}}}
    rendered = render({**LEAST, "drafters": drafters, "monitoring": {"prometheusUrl": "http://prometheus"}})
    scaled = rendered.of("ScaledObject")["spec"]
    check("scaling", scaled["triggers"][0]["metadata"]["query"], exported)
    assert scaled["triggers"][0]["metadata"]["threshold"] == "0.3"
    assert (scaled["minReplicaCount"], scaled["maxReplicaCount"]) == (2, 5)
    of = rendered.of("StatefulSet", "-a")
    assert scaled["scaleTargetRef"]["name"] == of["metadata"]["name"]
    assert "replicas" not in of["spec"], "helm would set back what KEDA has set"


def test_monitors_find_the_router_with_a_key(render: Renderer) -> None:
    monitoring = {"serviceMonitor": True, "podMonitors": True, "keySecret": {"name": "key"}, "labels": {"release": "p"}}
    rendered = render({**LEAST, "monitoring": monitoring})
    monitor = rendered.of("ServiceMonitor")
    assert monitor["metadata"]["labels"]["release"] == "p"
    found = [
        each
        for each in rendered.all("Service")
        if monitor["spec"]["selector"]["matchLabels"].items() <= each["metadata"]["labels"].items()
    ]
    assert [each["metadata"]["name"] for each in found] == ["fleet-specfleet"]
    endpoint = monitor["spec"]["endpoints"][0]
    assert endpoint["port"] in {port["name"] for port in found[0]["spec"]["ports"]}
    assert endpoint["authorization"]["credentials"] == {"name": "key", "key": "key"}
    assert endpoint["tlsConfig"]["serverName"] in rendered.of("Certificate", "-router")["spec"]["dnsNames"]
    named = {
        port["name"] for _, of, _ in rendered.containers() if of["name"].startswith("ray-") for port in of["ports"]
    }
    for each in rendered.all("PodMonitor"):
        assert {port["port"] for port in each["spec"]["podMetricsEndpoints"]} <= named


def test_dashboards_are_what_the_code_says(render: Renderer) -> None:
    assert dashboards.main(["--check"]) == 0
    rendered = render({**LEAST, "monitoring": {"dashboards": {"enabled": True}}})
    maps = [each for each in rendered.all("ConfigMap") if each["metadata"]["labels"].get("grafana_dashboard") == "1"]
    shown = {json.loads(content)["uid"] for each in maps for content in each["data"].values()}
    assert shown == {f"specfleet-{dashboard.name}" for dashboard in dashboards.DASHBOARDS}
    assert yaml.safe_load(rendered.text.split("---")[1])  # a page's braces are not taken for a template's
