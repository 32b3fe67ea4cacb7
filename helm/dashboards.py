"""Writes the chart's Grafana dashboards: `python -m helm.dashboards`; `--check` only compares, and `--ray FOLDER`
writes the same pages for what Ray's metrics have of a fleet, whose names begin with `ray_`.

A panel is a line of code. What it shows is made of the names that `router/metrics/` exports, which a test compares.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from helm.grafana import KUBERNETES, RAY, Dashboard, Panel, Source, page

__all__ = ["DASHBOARDS", "FOLDER", "files", "main"]

FOLDER = Path(__file__).parent / "specfleet" / "dashboards"


def _rate(name: str, by: str = "", where: str = "") -> str:
    """Of a counter, for each second."""
    return f"sum{_by(by)} (rate({name}{_chosen(where)}[$__rate_interval]))"


def _many(name: str, by: str = "", where: str = "") -> str:
    """Of a counter, in all."""
    return f"sum{_by(by)} (increase({name}{_chosen(where)}[$__rate_interval]))"


def _sum(name: str, by: str = "", where: str = "") -> str:
    """Of a gauge."""
    return f"sum{_by(by)} ({name}{_chosen(where)})"


def _quantile(share: float, name: str, by: str = "") -> str:
    """Of a histogram: as large, or smaller, was such a share."""
    grouped = ", ".join(filter(None, ("le", by)))
    return f"histogram_quantile({share:g}, sum by ({grouped}) (rate({name}_bucket{{FLEET}}[$__rate_interval])))"


def _mean(name: str) -> str:
    """Of a histogram."""
    return _part(_rate(f"{name}_sum"), _rate(f"{name}_count"))


def _part(some: str, of: str) -> str:
    return f"{some} / {of}"


def _by(labels: str) -> str:
    return f" by ({labels})" if labels else ""


def _chosen(where: str) -> str:
    return "{" + ",".join(filter(None, ("FLEET", where))) + "}"


def _half_and_most(name: str) -> Mapping[str, str]:
    """What half of them, and what one in twenty, meets with."""
    return {"half": _quantile(0.5, name), "19 of 20": _quantile(0.95, name)}


_ACCEPTED, _DRAFTED = "spec_decode_num_accepted_tokens_total", "spec_decode_num_draft_tokens_total"
_DRAFTS, _TOKENS, _ROUNDS = "spec_decode_num_drafts_total", "specfleet_tokens_total", "specfleet_rounds_total"
_IDLE_S, _BUSY_S = "specfleet_verifier_idle_seconds_total", "specfleet_verifier_busy_seconds_total"
_SAID, _SAID_ACCEPTED = "specfleet_drafter_said_tokens_total", "specfleet_drafter_said_accepted_tokens_total"
_FIRST_NODE, _LATE = "specfleet_drafter_first_node_seconds", "specfleet_drafter_late_total"
_NODES, _REROOTS = "specfleet_reroot_nodes_total", "specfleet_reroots_total"
_FRONTIER, _BLOCKS = "specfleet_frontier_nodes", "specfleet_kv_blocks"

_LENGTH = Panel(
    title="Acceptance length",
    about="Tokens that a sequence gains from a pass with drafts: its accepted ones, and the target's own.",
    lines={"tokens a pass": f"1 + {_rate(_ACCEPTED)} / {_rate(_DRAFTS)}"},
)
_TOKENS_S = Panel(title="Tokens a second", about="Decided by the target.", lines={"tokens": _rate(_TOKENS)}, unit="ops")
_IDLE = Panel(
    title="Verifier idle",
    about="Part of the time with work in which it computed nothing: waiting for drafts, the router or the network.",
    lines={"idle": f"{_rate(_IDLE_S)} / ({_rate(_IDLE_S)} + {_rate(_BUSY_S)})"},
    unit="percentunit",
)
_REFUSED = Panel(
    title="Refused requests a second",
    about="By the kind of error. Overloaded: the queue is full. Unavailable: no target, or the fleet is drained.",
    lines={"{{reason}}": _rate("specfleet_requests_refused_total", "reason")},
    unit="reqps",
    is_stacked=True,
)

_OVERVIEW = Dashboard(
    name="overview",
    title="specfleet: overview",
    panels=[
        Panel(
            title="Requests",
            about="Choices that are computed, and that wait for it. Beyond the limit requests are refused.",
            lines={
                "running": _sum("specfleet_requests_running"),
                "waiting": _sum("specfleet_requests_waiting"),
                "limit": "max(specfleet_requests_waiting_limit{FLEET})",
            },
        ),
        _TOKENS_S,
        Panel(
            title="Time to first token",
            about="From a request to its first token, its wait for its turn included.",
            lines=_half_and_most("specfleet_time_to_first_token_seconds"),
            unit="s",
        ),
        Panel(
            title="Time for each further token",
            about="Of each answer the mean.",
            lines=_half_and_most("specfleet_request_time_per_output_token_seconds"),
            unit="s",
        ),
        Panel(
            title="Time to the end",
            about="From a request to the end of its answer.",
            lines=_half_and_most("specfleet_e2e_request_latency_seconds"),
            unit="s",
        ),
        Panel(
            title="Time in the queue",
            about="Until a choice has its turn. Long: the fleet has more work than its verifier can do.",
            lines=_half_and_most("specfleet_request_queue_time_seconds"),
            unit="s",
        ),
        Panel(
            title="Requests a second",
            about="Let in, and choices that ended, by why.",
            lines={
                "let in": _rate("specfleet_requests_total"),
                "{{reason}}": _rate("specfleet_requests_finished_total", "reason"),
            },
            unit="reqps",
        ),
        _REFUSED,
        _LENGTH,
        _IDLE,
        Panel(
            title="KV cache in use",
            about="Of the verifier's blocks: those in use, and those that what runs may come to need.",
            lines={
                "used": _part(_sum(_BLOCKS, where='state="used"'), _sum(_BLOCKS)),
                "reserved": _part(_sum("specfleet_kv_blocks_reserved"), _sum(_BLOCKS)),
            },
            unit="percentunit",
        ),
        Panel(
            title="Prompt tokens a second",
            about="Of prompts that began to run, and those of them that the prefix cache had.",
            lines={
                "all": _rate("specfleet_prompt_tokens_total"),
                "cached": _rate("specfleet_prompt_tokens_cached_total"),
            },
            unit="ops",
        ),
    ],
)

_SPECULATION = Dashboard(
    name="speculation",
    title="specfleet: speculation",
    panels=[
        _LENGTH,
        Panel(
            title="Acceptance",
            about="Of the draft tokens that passes checked, those that the target decided too.",
            lines={"accepted": _part(_rate(_ACCEPTED), _rate(_DRAFTED))},
            unit="percentunit",
        ),
        Panel(
            title="Frontiers",
            about="Draft nodes that a sequence had checked by a pass.",
            lines={"mean": _mean(_FRONTIER), "19 of 20": _quantile(0.95, _FRONTIER)},
        ),
        Panel(
            title="Passes without drafts",
            about="Part of the passes of sequences that checked nothing: in all, and of those that speculate by why.",
            lines={
                "all": _part(_rate(f"{_FRONTIER}_bucket", where='le=~"0|0[.]0"'), _rate(f"{_FRONTIER}_count")),
                "{{reason}}": _part(
                    _rate("specfleet_fallbacks_total", "reason"),
                    f"ignoring(reason) group_left() {_rate(f'{_FRONTIER}_count')}",
                ),
            },
            unit="percentunit",
        ),
        Panel(
            title="Accepted by position",
            about="Of drafts, the tokens at each position that the target decided too.",
            lines={"{{position}}": _rate("spec_decode_num_accepted_tokens_per_pos_total", "position")},
            unit="ops",
        ),
        Panel(
            title="Rounds",
            about="Target passes; and those that the verifier began by itself, before it was asked.",
            lines={"all": _rate(_ROUNDS), "unasked": _rate("specfleet_rounds_unasked_total")},
            unit="ops",
        ),
        Panel(
            title="Trees at a verdict",
            about="Part of the nodes that lived on below the new root; and of the misses, those that found a subtree "
            "ready to go on with.",
            lines={
                "nodes that survived": _part(_rate(_NODES, where='fate="survived"'), _rate(_NODES)),
                "misses that were ready": _part(
                    _rate(_REROOTS, where='missed="true",ready="true"'), _rate(_REROOTS, where='missed="true"')
                ),
            },
            unit="percentunit",
        ),
        Panel(
            title="Waiting for drafts",
            about="Part of the time in which a round was held back for drafts that were due.",
            lines={"waiting": _rate("specfleet_draft_wait_seconds_sum")},
            unit="percentunit",
        ),
        Panel(
            title="Time of a round",
            about="In the verifier.",
            lines=_half_and_most("specfleet_round_seconds"),
            unit="s",
        ),
        Panel(
            title="Rows",
            about="That passes computed, and those of them that left early, since nothing would have come of them.",
            lines={"all": _rate("specfleet_rows_total"), "pruned": _rate("specfleet_rows_pruned_total")},
            unit="ops",
        ),
        Panel(
            title="Sequences by manner",
            about="How the fleet drafts for those that speculate: running ahead, in turn with the target, or not.",
            lines={"{{manner}}": _sum("specfleet_speculating_sequences", "manner")},
            is_stacked=True,
        ),
        _IDLE,
    ],
)

_DRAFTERS = Dashboard(
    name="drafters",
    title="specfleet: drafters",
    panels=[
        Panel(
            title="Accepted tokens a second",
            about="What each drafter gives: of a token that several said, it is the one's that was surest.",
            lines={"{{drafter}}": _rate(_ACCEPTED, "drafter")},
            unit="ops",
            is_stacked=True,
        ),
        Panel(
            title="Acceptance",
            about="Of what it said and a pass checked, what the target decided too.",
            lines={"{{drafter}}": _part(_rate(_SAID_ACCEPTED, "drafter"), _rate(_SAID, "drafter"))},
            unit="percentunit",
        ),
        Panel(
            title="Checked tokens a second",
            about="What each drafter costs the verifier in rows.",
            lines={"{{drafter}}": _rate(_DRAFTED, "drafter")},
            unit="ops",
            is_stacked=True,
        ),
        Panel(
            title="Accepted tokens a second by kind",
            about="What each kind of drafter gives.",
            lines={"{{kind}}": _rate(_ACCEPTED, "kind")},
            unit="ops",
            is_stacked=True,
        ),
        Panel(
            title="From verdict to first node",
            about="How long a drafter takes to say something of use after a verdict: 19 of 20 times no longer.",
            lines={"{{drafter}}": _quantile(0.95, _FIRST_NODE, "drafter")},
            unit="s",
        ),
        Panel(
            title="Too late",
            about="Part of the verdicts after which a drafter had said nothing of use when the next one came.",
            lines={
                "{{drafter}}": _part(
                    _rate(_LATE, "drafter"), f"({_rate(_LATE, 'drafter')} + {_rate(f'{_FIRST_NODE}_count', 'drafter')})"
                )
            },
            unit="percentunit",
        ),
        Panel(
            title="Busy",
            about="Part of its time in which a drafter drafts.",
            lines={"{{drafter}}": _rate("specfleet_drafter_busy_seconds_total", "drafter")},
            unit="percentunit",
        ),
        Panel(
            title="Time of a step",
            about="For one sequence, lately.",
            lines={"{{drafter}}": "max by (drafter) (specfleet_drafter_step_seconds{FLEET})"},
            unit="s",
        ),
        Panel(
            title="Sequences",
            about="That each drafter has open, to draft for them or to follow them.",
            lines={"{{drafter}}": _sum("specfleet_drafter_sequences", "drafter")},
        ),
        Panel(
            title="Calibration error",
            about="How far a drafter's chances are from what came of them, after calibration.",
            lines={"{{drafter}}": "max by (drafter) (specfleet_drafter_calibration_error{FLEET})"},
        ),
        Panel(
            title="Nodes a second",
            about="That each drafter sent, checked or not.",
            lines={"{{drafter}}": _rate("specfleet_drafter_nodes_total", "drafter")},
            unit="ops",
        ),
        Panel(
            title="Steps a second",
            about="Of each drafter's model.",
            lines={"{{drafter}}": _rate("specfleet_drafter_steps_total", "drafter")},
            unit="ops",
        ),
    ],
)

_RELIABILITY = Dashboard(
    name="reliability",
    title="specfleet: reliability",
    panels=[
        Panel(
            title="Who is there",
            about="Routers that Prometheus reads and that lead (one should), verifiers, drafters, and those kept out.",
            lines={
                "routers": f"count({_ROUNDS}{{FLEET}})",
                "leading": _sum("specfleet_router_leads"),
                "verifiers": _sum("specfleet_verifier_up"),
                "drafters": _sum("specfleet_drafters"),
                "quarantined": _sum("specfleet_drafters_quarantined"),
            },
        ),
        Panel(
            title="Begun again",
            about="Sequences, because the verifier was lost (their texts are the same), and verifiers that joined.",
            lines={
                "sequences": _many("specfleet_restarts_total"),
                "verifiers": _many("specfleet_verifier_joins_total"),
            },
        ),
        Panel(
            title="Stale messages a second",
            about="From an epoch or round that is over; dropped.",
            lines={"{{sender}}": _rate("specfleet_stale_messages_total", "sender")},
            unit="ops",
        ),
        Panel(
            title="Offences of drafters",
            about="What no honest drafter does, and how often one was put out for it.",
            lines={
                "{{offence}}": _many("specfleet_drafter_offences_total", "offence"),
                "quarantines": _many("specfleet_drafter_quarantines_total"),
            },
        ),
        Panel(
            title="Journal",
            about="Age of the oldest news that is not in the store. Normal is a tenth of a second.",
            lines={"{{pod}}": "max by (pod) (specfleet_journal_lag_seconds{FLEET})"},
            unit="s",
        ),
        Panel(
            title="Store",
            about="Whether it is away, how often it did not answer, and requests whose end it will never know.",
            lines={
                "away": "max(specfleet_store_lost{FLEET})",
                "no answer": _many("specfleet_journal_errors_total"),
                "lost": _many("specfleet_journal_requests_lost_total"),
            },
        ),
        Panel(
            title="Calls turned away",
            about="For a key that nobody knows, or a certificate or key that may not do this.",
            lines={"{{reason}}": _rate("specfleet_calls_refused_total", "reason")},
            unit="reqps",
        ),
        Panel(
            title="Failed answers",
            about="That ended with an error or at their deadline.",
            lines={"{{reason}}": _many("specfleet_requests_finished_total", "reason", 'reason=~"error|deadline"')},
        ),
        Panel(
            title="Router busy",
            about="Part of its one thread that the scheduler takes. Above 0.8 rounds wait for it.",
            lines={"{{pod}}": _rate("specfleet_router_tick_cpu_seconds_sum", "pod")},
            unit="percentunit",
        ),
        Panel(
            title="Router tick",
            about="CPU time of one: 19 of 20 take no longer.",
            lines={"{{pod}}": _quantile(0.95, "specfleet_router_tick_cpu_seconds", "pod")},
            unit="s",
        ),
        Panel(
            title="Router memory",
            about="Resident.",
            lines={"{{pod}}": "max by (pod) (process_resident_memory_bytes{FLEET})"},
            unit="bytes",
        ),
        Panel(
            title="Router's open files",
            about="Connections are files; the second line is as many as it may have.",
            lines={
                "{{pod}}": "max by (pod) (process_open_fds{FLEET})",
                "limit": "min(process_max_fds{FLEET})",
            },
        ),
    ],
)

DASHBOARDS = (_OVERVIEW, _SPECULATION, _DRAFTERS, _RELIABILITY)


def files(source: Source = KUBERNETES) -> Iterator[tuple[str, str]]:
    """Name and content of each file."""
    for dashboard in DASHBOARDS:
        yield f"{dashboard.name}.json", json.dumps(page(dashboard, source), indent=1) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; 1 where `--check` finds a file to be another."""
    parser = argparse.ArgumentParser(prog="python -m helm.dashboards", description="Write the chart's dashboards.")
    parser.add_argument("--check", action="store_true", help="write nothing, and fail where a file is not up to date")
    parser.add_argument("--ray", type=Path, metavar="FOLDER", help="write pages for Ray's metrics into this folder")
    options = parser.parse_args(arguments)
    if options.ray is not None:
        _write(options.ray, dict(files(RAY)))
        return 0
    wanted = dict(files())
    found = {file.name: file.read_text(encoding="utf-8") for file in FOLDER.glob("*.json")}
    if not options.check:
        for name in found.keys() - wanted.keys():
            (FOLDER / name).unlink()
        _write(FOLDER, wanted)
    elif found != wanted:
        print("dashboards/ is not what helm/dashboards.py says; `python -m helm.dashboards` writes it", file=sys.stderr)
        return 1
    return 0


def _write(folder: Path, wanted: Mapping[str, str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in wanted.items():
        (folder / name).write_text(content, encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
