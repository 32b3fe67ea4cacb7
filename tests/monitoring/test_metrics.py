"""What the router counts adds up, is named as Prometheus has it, and is what docs/monitoring.md says."""

from __future__ import annotations

import asyncio
import re
import threading
from pathlib import Path

import pytest
from prometheus_client.registry import Collector

from contracts.errors import PermissionDenied
from router.front import FrontLimits
from router.metrics import exposition
from router.metrics.exposition import metrics_text
from router.metrics.histogram import Histogram, buckets_of
from router.security.gate import FLEET, Gate
from router.server import run_router
from tests.engine.checkpoints import write_checkpoint
from tests.monitoring import documented
from tests.monitoring.scene import NUM_TOKENS, PROMPT, Exported, fleet_of, send_some
from tests.service.fleet import engine_of


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("monitoring") / "tiny", "llama", max_position_embeddings=2048)


@pytest.fixture(scope="module")
def exported(folder: Path) -> tuple[Exported, Exported]:
    """After some requests; and after more, without drafters, when the verifier had been away."""

    async def scene() -> tuple[Exported, Exported]:
        async with fleet_of(folder) as fleet:
            await send_some(fleet)
            await fleet.say(PROMPT, mode="off", max_tokens=NUM_TOKENS)  # rounds that the verifier begins by itself
            first = await Exported.of(fleet)
            await fleet.remove("one")
            await fleet.remove("other")
            await send_some(fleet)
            await fleet.remove("verifier")
            away = await Exported.of(fleet)
            assert away.sum("specfleet_verifier_up") == 0
            await fleet.add_verifier(engine_of(folder))
            return first, await Exported.of(fleet)

    return asyncio.run(scene())


def test_names_are_as_prometheus_has_them(exported: tuple[Exported, Exported]) -> None:
    first, _ = exported
    for name, kind in first.types.items():
        assert re.fullmatch(r"(specfleet|spec_decode|process)_[a-z0-9_]+", name)
        assert name.endswith("_total") == (kind == "counter"), name
        assert not re.search(r"_(s|ms|time|duration|num)$", name), f"{name} has no unit of Prometheus'"
        assert first.about[name].endswith("."), f"{name} is not explained"
        for labels, value in first.series(f"{name}_bucket").items():
            of = {label: text for label, text in labels if label != "le"}
            assert value <= first.sum(f"{name}_count", **of) == first.sum(f"{name}_bucket", **of, le="+Inf")


def test_all_are_documented_with_type_and_labels(exported: tuple[Exported, Exported]) -> None:
    first, _ = exported
    told = documented.metrics()
    assert set(told) == set(first.types)
    for name, kind in first.types.items():
        assert told[name].type == kind, name
        assert told[name].labels == first.labels(name), name


def test_what_speculation_did_adds_up(exported: tuple[Exported, Exported]) -> None:
    first, _ = exported
    num_verdicts = first.sum("specfleet_frontier_nodes_count")
    num_accepted = first.sum("spec_decode_num_accepted_tokens_total")
    assert num_accepted > 0
    assert first.sum("specfleet_tokens_total") == num_verdicts + num_accepted, "each verdict brings one of its own"
    assert first.sum("specfleet_frontier_nodes_sum") == first.sum("spec_decode_num_draft_tokens_total")
    num_empty = first.sum("specfleet_frontier_nodes_bucket", le="0")
    assert first.sum("spec_decode_num_drafts_total") == num_verdicts - num_empty
    for drafter in ("one", "other"):
        by_position = first.sum("spec_decode_num_accepted_tokens_per_pos_total", drafter=drafter)
        assert by_position == first.sum("spec_decode_num_accepted_tokens_total", drafter=drafter)
    assert first.sum("specfleet_reroots_total") == num_verdicts
    num_rounds = first.sum("specfleet_rounds_total")
    assert first.sum("specfleet_draft_wait_seconds_count") == num_rounds
    assert first.sum("specfleet_round_seconds_count") == num_rounds
    assert first.sum("specfleet_round_seconds_sum") == pytest.approx(first.sum("specfleet_verifier_busy_seconds_total"))
    assert first.sum("specfleet_fallbacks_total") <= num_empty
    assert first.sum("specfleet_kv_blocks", state="free") > 0


def test_what_clients_met_with_adds_up(exported: tuple[Exported, Exported]) -> None:
    first, _ = exported
    assert first.sum("specfleet_requests_finished_total", reason="length") == 7
    assert first.sum("specfleet_requests_finished_total", reason="cancelled") == 1
    assert first.sum("specfleet_requests_refused_total", reason="InvalidArgument") == 1
    assert first.sum("specfleet_requests_total") == 8
    assert first.sum("specfleet_e2e_request_latency_seconds_count") == 8
    assert 7 <= first.sum("specfleet_time_to_first_token_seconds_count") <= 8
    first_token_s = first.sum("specfleet_time_to_first_token_seconds_sum")
    assert 0.0 < first_token_s < first.sum("specfleet_e2e_request_latency_seconds_sum")
    assert first.sum("specfleet_request_queue_time_seconds_count") >= 8
    assert first.sum("specfleet_requests_running") == first.sum("specfleet_requests_waiting") == 0


def test_who_comes_and_goes_is_counted(exported: tuple[Exported, Exported]) -> None:
    first, last = exported
    assert (first.sum("specfleet_drafters"), last.sum("specfleet_drafters")) == (2, 0)
    assert (first.sum("specfleet_verifier_joins_total"), last.sum("specfleet_verifier_joins_total")) == (1, 2)
    assert last.sum("specfleet_verifier_up") == 1
    before = first.sum("specfleet_fallbacks_total", reason="no_drafter")
    assert last.sum("specfleet_fallbacks_total", reason="no_drafter") > before
    assert not last.series("spec_decode_num_drafts_total"), "a drafter's counters leave with it"
    for name, kind in first.types.items():
        if kind == "counter" and not first.labels(name) & {"drafter"}:
            for labels, value in first.series(name).items():
                assert value <= last.series(name)[labels], f"{name} has shrunk"


def test_calls_that_are_turned_away_are_counted() -> None:
    gate = Gate()

    async def scene() -> Exported:
        async with run_router("127.0.0.1:0", limits=FrontLimits(), gate=gate) as router:
            with pytest.raises(PermissionDenied):
                gate.enter_grpc(FLEET, "client", "")
            gate.enter_grpc(FLEET, "drafter", "")
            return Exported(await metrics_text(router.front))

    exported = asyncio.run(scene())
    assert exported.sum("specfleet_calls_refused_total", reason="PermissionDenied") == 1
    assert exported.sum("specfleet_calls_refused_total") == 1


def test_rounds_go_on_while_thousands_of_lines_are_written(monkeypatch: pytest.MonkeyPatch) -> None:
    went_on = threading.Event()

    def written_slowly(moment: Collector) -> bytes:
        return str(went_on.wait(30.0)).encode()

    async def scene() -> str:
        async with run_router("127.0.0.1:0", limits=FrontLimits()) as router:
            asyncio.get_running_loop().call_later(0.0, went_on.set)
            return await metrics_text(router.front)

    monkeypatch.setattr(exposition, "generate_latest", written_slowly)
    assert asyncio.run(scene()) == "True"


def test_a_histogram_counts_each_value_once_under_its_bound() -> None:
    made = Histogram((0.0, 1.0, 2.5))
    for value in (0.0, 0.5, 1.0, 2.5, 9.0):
        made.observe(value)
    assert made.buckets() == [("0", 1.0), ("1", 3.0), ("2.5", 4.0), ("+Inf", 5.0)]
    assert (made.num, made.sum) == (5, 13.0)
    counted = buckets_of({0: 3, 2: 1, 70: 2}, (0, 1, 2, 64))
    assert counted.buckets() == [("0", 3.0), ("1", 3.0), ("2", 4.0), ("64", 4.0), ("+Inf", 6.0)]
    assert counted.sum == 142
