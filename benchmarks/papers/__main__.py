"""Papers' figures on the simulator, with ours beside them: `python -m benchmarks.papers --help`.

python -m benchmarks.papers --only pearl --only cosine --only faser --out DIR
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.papers.claims import Paper, claims_table, systems_table
from benchmarks.papers.cosine import cosine
from benchmarks.papers.faser import faser
from benchmarks.papers.pearl import pearl
from benchmarks.papers.pictures import draw
from benchmarks.simulator.__main__ import DEMO
from benchmarks.traces.acceptance import AcceptanceModel, learned

__all__ = ["main"]

_PAPERS: dict[str, tuple[Callable[..., Paper], int]] = {
    "pearl": (pearl, 24),
    "cosine": (cosine, 64),
    "faser": (faser, 600),
}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.papers", description=__doc__.partition("\n")[0])
    parser.add_argument("--only", action="append", choices=_PAPERS, help="several are possible; default: all")
    parser.add_argument("--part", type=float, default=1.0, metavar="P", help="of the requests, for a quick look")
    parser.add_argument("--out", type=Path, metavar="DIR", help="where JSON and pictures go")
    options = parser.parse_args(arguments)
    model = learned(DEMO)
    for name in options.only or _PAPERS:
        paper = _run(name, model, options.part)
        print(f"\n## {paper.name}\n\n{paper.setup}\n\n{claims_table(paper)}\n\n{systems_table(paper)}\n")
        print("\n".join(f"- {remark}" for remark in paper.remarks), flush=True)
        if options.out is not None:
            options.out.mkdir(parents=True, exist_ok=True)
            (options.out / f"{name}.json").write_text(json.dumps(_plain(paper), indent=2), encoding="utf-8")
            draw(paper, options.out / f"{name}.png")
    return 0


def _run(name: str, model: AcceptanceModel, part: float) -> Paper:
    paper, num_requests = _PAPERS[name]
    return paper(model, num_requests=max(round(part * num_requests), 8))


def _plain(paper: Paper) -> dict[str, Any]:
    return {
        "paper": paper.name,
        "setup": paper.setup,
        "claims": [{"what": c.what, "theirs": c.theirs, "rebuilt": c.rebuilt, "ours": c.ours} for c in paper.claims],
        "measured": [
            {
                "load": each.load,
                "system": each.system.name,
                "tokens_per_s": each.result.tokens_per_s,
                "full_tokens_per_s": each.result.full_tokens_per_s,
                "mean_latency_s": each.result.mean_latency_s,
                "p95_latency_s": each.result.latency_quantile_s(0.95),
                "tokens_per_part": each.result.num_tokens / each.result.num_parts,
            }
            for each in paper.measured
        ],
        "remarks": list(paper.remarks),
    }


if __name__ == "__main__":
    sys.exit(main())
