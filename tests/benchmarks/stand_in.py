"""A Python that has vLLM and SGLang, as far as peers can tell: their command lines, which know no option that the real
ones do not, and their HTTP faces. Behind them answers a fleet of ours over its own HTTP face.

Where it may differ from the real ones it is stricter, and it falls behind: it tells the tokens of two rounds at once.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from engine.text.tokenizer import Tokenizer

__all__ = ["FLEET", "NOTES", "install", "main"]

FLEET, NOTES = "STAND_IN_FLEET", "STAND_IN_NOTES"
"""What is in the environment: the port of the fleet's HTTP face, and a folder for what a server was started with."""

_ROOT = Path(__file__).resolve().parents[2]
_DTYPES = ("auto", "half", "float16", "bfloat16", "float", "float32")
_ASKED = {"prompt", "max_tokens", "temperature", "seed", "top_p", "top_k", "repetition_penalty", "stream"} | {
    "stream_options",
    "return_token_ids",
}
_DRAFTS = {
    "draft_model": {"method", "model", "num_speculative_tokens"},
    "ngram": {"method", "num_speculative_tokens", "prompt_lookup_min", "prompt_lookup_max"},
}


def install(folder: Path) -> Path:
    """The program, in this folder."""
    path = folder / "python"
    path.write_text(
        f"#!{sys.executable}\nimport sys\n\nsys.path.insert(0, {str(_ROOT)!r})\n"
        "from tests.benchmarks.stand_in import main\n\nsys.exit(main(sys.argv[1:]))\n"
    )
    path.chmod(0o755)
    return path


def main(words: Sequence[str]) -> int:
    match list(words):
        case ["-c", code]:
            print("INFO: this is said too")
            print(_told(code))
        case ["-m", "vllm.entrypoints.cli.main", "serve", *options]:
            _serve_vllm(options)
        case ["-m", "sglang.launch_server", *options]:
            _serve_sglang(options)
        case _:
            sys.exit(f"it has no {words}")
    return 0


def _told(code: str) -> str:
    if "vllm" in code:
        return "0.33.0+cpu cpu"
    if os.environ.get("SGLANG_USE_CPU_ENGINE") != "1":
        sys.exit("RuntimeError: No accelerator (CUDA, XPU, HPU, NPU) is available.")
    return "0.5.23 cpu"


def _serve_vllm(words: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog="vllm serve", allow_abbrev=False)
    parser.add_argument("model", type=_checkpoint)
    parser.add_argument("--host")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--dtype", choices=_DTYPES, default="auto")
    parser.add_argument("--max-model-len", type=int)
    parser.add_argument("--max-num-seqs", type=int)
    parser.add_argument("--gpu-memory-utilization", type=float)
    parser.add_argument("--enable-prefix-caching", action=argparse.BooleanOptionalAction)
    parser.add_argument("--speculative-config", type=json.loads)
    parser.add_argument("--per-request-spec-decode-metrics", choices=("none", "summary", "detailed"), default="none")
    options = parser.parse_args(words)
    if drafts := options.speculative_config:
        assert set(drafts) == _DRAFTS[drafts["method"]]
        _checkpoint(drafts.get("model", options.model))
    tells = bool(drafts) and options.per_request_spec_decode_metrics != "none"

    def last(histogram: Sequence[int]) -> dict[str, Any]:
        return {"metrics": {"speculative_decoding": {"acceptance_histogram": histogram}} if tells else None}

    _serve(
        options, words, model=options.model, drafters=_drafters(drafts and drafts["method"]), asked=_ASKED, last=last
    )


def _serve_sglang(words: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog="launch_server.py", allow_abbrev=False)
    parser.add_argument("--model-path", type=_checkpoint, required=True)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=30000)
    parser.add_argument("--device", choices=("cuda", "cpu"))
    parser.add_argument("--dtype", choices=_DTYPES, default="auto")
    parser.add_argument("--max-running-requests", type=int)
    parser.add_argument("--max-total-tokens", type=int)
    parser.add_argument("--disable-radix-cache", action="store_true")
    parser.add_argument("--disable-overlap-schedule", action="store_true")
    parser.add_argument("--speculative-algorithm", choices=("STANDALONE", "NGRAM"))
    parser.add_argument("--speculative-draft-model-path", type=_checkpoint)
    options = parser.parse_args(words)
    algorithm = options.speculative_algorithm
    assert (algorithm == "STANDALONE") == (options.speculative_draft_model_path is not None)

    def last(histogram: Sequence[int]) -> dict[str, Any]:
        return {"sglext": {"spec_tokens_details": {"spec_correct_drafts_histogram": histogram}} if algorithm else None}

    asked = _ASKED | {"return_spec_tokens_details"}
    remembers = algorithm == "NGRAM"
    drafters = _drafters(algorithm)
    _serve(options, words, model=options.model_path, drafters=drafters, asked=asked, last=last, remembers=remembers)


def _checkpoint(folder: str) -> str:
    assert (Path(folder) / "config.json").is_file(), folder
    return folder


def _drafters(method: str | None) -> list[str]:
    """Of ours, that guess as it would."""
    match method:
        case None:
            return []
        case "ngram" | "NGRAM":
            return ["lookup"]
        case _:
            return ["model"]


def _serve(
    options: argparse.Namespace,
    words: Sequence[str],
    *,
    model: str,
    drafters: Sequence[str],
    asked: set[str],
    last: Callable[[Sequence[int]], dict[str, Any]],
    remembers: bool = False,
) -> None:
    tokenizer = Tokenizer.load(Path(model))
    token_of = {tokenizer.decode([token]): token for token in range(tokenizer.vocab_size)}
    answered: set[tuple[int, ...]] = set()
    flushes: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._reply(200 if self.path == "/health" else 404)

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"] or 0))
            if self.path == "/flush_cache" and remembers:
                flushes.append(self.path)
                self._reply(400 if len(flushes) == 1 else 200)  # the first time it is still busy
                answered.clear()
            elif self.path == "/v1/completions":
                self._complete(json.loads(body))
            else:
                self._reply(404)

        def _complete(self, request: dict[str, Any]) -> None:
            prompt = tuple(request["prompt"])
            if set(request) != asked or (remembers and prompt in answered):
                self._reply(400, f"of {sorted(request)}, answered before: {prompt in answered}")
                return
            answered.add(prompt)
            self._reply(200)
            for event in _answer(request, drafters, token_of, last):
                self.wfile.write(b"data: " + json.dumps(event).encode() + b"\n\n")
            self.wfile.write(b"data: [DONE]\n\n")

        def _reply(self, status: int, text: str = "") -> None:
            self.send_response(status)
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_: object) -> None:
            pass

    helper = subprocess.Popen(["sleep", "600"])  # as the real ones have, and may leave behind
    with ThreadingHTTPServer((options.host, options.port), Handler) as server:
        content = {"words": list(words), "environment": dict(os.environ), "helper": helper.pid}
        (Path(os.environ[NOTES]) / f"{os.getpid()}.json").write_text(json.dumps(content))
        server.serve_forever()


def _answer(
    request: dict[str, Any],
    drafters: Sequence[str],
    token_of: dict[str, int],
    last: Callable[[Sequence[int]], dict[str, Any]],
) -> Iterator[dict[str, Any]]:
    """Pieces of the fleet's answer, two at a time, and what the drafts came to."""
    held: list[list[int]] = []
    histogram: list[int] = []
    for event in _fleet_says(request, drafters):
        for choice in event["choices"]:
            if choice["logprobs"] is not None:
                held.append([token_of[text] for text in choice["logprobs"]["tokens"]])
        if "speculation" in event:
            histogram = event["speculation"][0].get("acceptance_histogram", [])
        if len(held) == 2 or "speculation" in event:
            yield {"choices": [{"index": 0, "text": "", "token_ids": [token for ids in held for token in ids]}]}
            held = []
    yield {"choices": [], "usage": {}, **last(histogram)}


def _fleet_says(request: dict[str, Any], drafters: Sequence[str]) -> Iterator[dict[str, Any]]:
    connection = http.client.HTTPConnection("127.0.0.1", int(os.environ[FLEET]))
    ours = {key: request[key] for key in ("prompt", "max_tokens", "temperature", "seed", "top_p", "repetition_penalty")}
    speculation = {"mode": "vanilla", "drafters": drafters} if drafters else {"mode": "off"}
    body = {**ours, "stream": True, "logprobs": 0, "speculation": speculation}
    connection.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
    for line in connection.getresponse():
        if line.startswith(b"data: {"):
            yield json.loads(line.removeprefix(b"data: "))
    connection.close()
