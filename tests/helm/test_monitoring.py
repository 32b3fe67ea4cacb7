"""Dashboards, alerts and scaling ask for what the router really exports, and are what the code says."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml

from helm import dashboards
from helm.grafana import KUBERNETES, RAY, Source
from router.front import FrontLimits
from router.metrics.exposition import metrics_text
from router.server import run_router
from tests.helm.chart import LEAST, Renderer
from tests.monitoring import documented
from tests.monitoring.alert_rules import CHART, alerts_file
from tests.monitoring.panels import panels
from tests.monitoring.prometheus import program

# What Prometheus adds to each series of a ServiceMonitor's target.
TARGET = {"namespace", "service", "pod", "instance", "job"}
PANELS = panels(KUBERNETES, {"namespace": "ns", "service": "fleet"}, interval="1m")


@pytest.fixture(scope="module")
def exported() -> dict[str, str]:
    """Metrics that a router exports, and their types."""

    async def text() -> str:
        async with run_router("127.0.0.1:0", limits=FrontLimits(mode="fleet", max_draft=8, max_waiting=1)) as router:
            return await metrics_text(router.front)

    return dict(re.findall(r"^# TYPE (\S+) (\S+)$", asyncio.run(text()), flags=re.MULTILINE))


def check(where: str, expression: str, exported: dict[str, str]) -> None:
    tree = promql_parser.parse(expression)  # refuses what is no PromQL
    selectors = list(selectors_of(tree))
    assert selectors, where
    known, labels = set(TARGET), documented.metrics()
    for selector in selectors:
        family = re.sub(r"_(bucket|sum|count)$", "", selector.name)
        if exported.get(family) == "histogram":
            assert family != selector.name, f"{where}: {family} is a histogram, and has no series of its own"
            known |= labels[family].labels | {"le"}
        else:
            assert selector.name in exported, f"{where}: no router exports {selector.name}"
            known |= labels[selector.name].labels
    for name in re.findall(r"(?:rate|increase)\((\w+)", expression):
        assert exported.get(name, "histogram") != "gauge", f"{where}: {name} is no counter"
    for name in re.findall(r"(?:deriv|changes)\((\w+)", expression):
        assert exported.get(name) == "gauge", f"{where}: {name} is no gauge"
    for group in re.findall(r"by \(([^)]*)\)", expression):
        asked = {label.strip() for label in group.split(",")}
        assert asked <= known, f"{where}: {asked - known} is no label of {[each.name for each in selectors]}"
    matched = set(re.findall(r'(\w+)=~?"', expression))
    assert matched <= known, f"{where}: {matched - known} is no label"
    assert not re.search(r'\ble="[0-9]+"', expression), f"{where}: Prometheus 3 writes a bound of 1 as 1.0"


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


def promtool(*arguments: str) -> None:
    """What Prometheus' own tool says, where it has something against it."""
    done = subprocess.run([program("promtool"), *arguments], capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("where", PANELS)
def test_panels_ask_for_what_there_is(where: str, exported: dict[str, str]) -> None:
    check(where, PANELS[where], exported)


@pytest.mark.parametrize("source", [KUBERNETES, RAY], ids=lambda source: source.name)
def test_promtool_takes_every_panel(source: Source, tmp_path: Path) -> None:
    found = panels(source, {"namespace": "ns", "service": "fleet", "session": ".*"}, interval="1m")
    rules = [{"record": f"panel:number_{number}", "expr": found[where]} for number, where in enumerate(found)]
    (tmp_path / "panels.yaml").write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))
    promtool("check", "rules", str(tmp_path / "panels.yaml"))


def test_a_name_that_nobody_exports_is_noticed(exported: dict[str, str]) -> None:
    with pytest.raises(AssertionError, match="no router exports specfleet_token_total"):
        check("here", "rate(specfleet_token_total[1m])", exported)
    with pytest.raises(AssertionError, match="is no counter"):
        check("here", "rate(specfleet_requests_running[1m])", exported)
    with pytest.raises(AssertionError, match="is no label"):
        check("here", "sum by (colour) (specfleet_rounds_total)", exported)


def test_alerts_ask_for_what_there_is(render: Renderer, exported: dict[str, str]) -> None:
    objectives = {"timeToFirstTokenSeconds": 7.5, "timePerOutputTokenSeconds": 0.125}
    values = {**LEAST, "monitoring": {"rules": True, "objectives": objectives}}
    rule = render(values).of("PrometheusRule")
    alerts = [alert for group in rule["spec"]["groups"] for alert in group["rules"]]
    assert [alert["alert"] for alert in alerts] == documented.alerts(), "docs/monitoring.md says what to do for each"
    for alert in alerts:
        check(alert["alert"], alert["expr"], exported)
        assert 'namespace="ns",service="fleet-specfleet"' in alert["expr"]
        assert alert["annotations"].keys() == {"summary", "description"}
    assert {seconds for alert in alerts for seconds in ("7.5", "0.125") if alert["expr"].endswith(f"> {seconds}")} == {
        "7.5",
        "0.125",
    }


def test_every_alert_rings_when_it_should_and_only_then(tmp_path: Path) -> None:
    tests = CHART.parent / "alerts.test.yaml"
    (tmp_path / tests.name).write_text(tests.read_text())
    alerts = [rule["alert"] for rule in yaml.safe_load(alerts_file(tmp_path).read_text())["groups"][0]["rules"]]
    tested = [test["name"].split()[0] for test in yaml.safe_load(tests.read_text())["tests"]]
    assert set(alerts) <= set(tested)
    promtool("check", "rules", str(tmp_path / "alerts.yaml"))
    promtool("test", "rules", str(tmp_path / tests.name))


def test_scaling_asks_for_what_there_is(render: Renderer, exported: dict[str, str]) -> None:
    drafters = {"a": {"kind": "stand", "autoscaling": {"min": 2, "max": 5, "waitShare": 0.3}}}
    rendered = render({**LEAST, "drafters": drafters, "monitoring": {"prometheusUrl": "http://prometheus"}})
    scaled = rendered.of("ScaledObject")["spec"]
    check("scaling", scaled["triggers"][0]["metadata"]["query"], exported)
    assert scaled["triggers"][0]["metadata"]["threshold"] == "0.3"
    assert (scaled["minReplicaCount"], scaled["maxReplicaCount"]) == (2, 5)
    of = rendered.of("StatefulSet", "-a")
    assert scaled["scaleTargetRef"]["name"] == of["metadata"]["name"]
    assert "replicas" not in of["spec"], "helm would set back what KEDA has set"


def test_scaling_of_routers_asks_for_the_queue(render: Renderer, exported: dict[str, str]) -> None:
    router = {"autoscaling": {"enabled": True}}
    rendered = render({**LEAST, "router": router, "monitoring": {"prometheusUrl": "http://prometheus"}})
    query = rendered.of("ScaledObject")["spec"]["triggers"][0]["metadata"]["query"]
    check("scaling", query, exported)
    assert "specfleet_requests_waiting" in query
    by_hpa = render({**LEAST, "router": {"autoscaling": {"enabled": True, "by": "hpa"}}})
    assert by_hpa.of("HorizontalPodAutoscaler")["spec"]["metrics"][0]["external"]["metric"]["name"] in exported


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
