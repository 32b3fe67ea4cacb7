"""Who is measured: all peers by name, those that can run here, and the chosen ones loaded."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.peers import hugging_face as hf
from benchmarks.peers import llamacpp, openvino, sglang, vllm
from benchmarks.peers.fleet import FleetMode
from benchmarks.peers.gguf_file import check_package, write_gguf
from benchmarks.peers.peer import Peer, is_ours
from benchmarks.service_rig import measured_fleet
from contracts.errors import InvalidArgument
from router.front import FrontLimits
from router.modes import mode_parts
from specfleet.async_client import AsyncClient
from workers.drafters.prompt_lookup import PromptLookup
from workers.drafters.registry import KINDS

__all__ = ["DEFAULT", "Rig", "chosen", "lined_up", "versions"]

_HUGGING_FACE = tuple(f"{hf.PREFIX}{way}" for way in hf.WAYS)
_LLAMA = tuple(f"{llamacpp.PREFIX}{way}" for way in llamacpp.WAYS)
_OPENVINO = tuple(f"{openvino.PREFIX}{way}" for way in openvino.WAYS)
_VLLM = tuple(f"{vllm.PREFIX}{way}" for way in vllm.WAYS)
_SGLANG = tuple(f"{sglang.PREFIX}{way}" for way in sglang.WAYS)
_CONVERTED = (*_LLAMA, *_OPENVINO)
_OPTIONAL = (*_CONVERTED, *_VLLM, *_SGLANG)
_ASSISTED = (f"{hf.PREFIX}assisted", *_CONVERTED, f"{vllm.PREFIX}draft", f"{sglang.PREFIX}draft")
DEFAULT = (*_HUGGING_FACE, *_OPTIONAL, "off", "vanilla", "pearl", "fleet", "fleet-routing-fusion")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rig:
    """With what all peers are loaded."""

    drafters: Sequence[str]
    """The first is the peers' assistant too."""
    max_draft: int
    threads: int
    dtype: str
    their_dtype: str
    llama_server: str
    openvino_python: str
    vllm_python: str
    sglang_python: str
    device: str
    """Where ours run, and with them what can run on several kinds."""
    together: int
    """The most requests at once."""
    context: int
    """The most tokens of a request and its answer."""


def chosen(only: Sequence[str] | None, rig: Rig, say: Callable[[str], None]) -> list[str]:
    """Refuses what cannot run; of the default ones it leaves that out and says so."""
    if remembering := sorted((KINDS.keys() - {PromptLookup.kind}).intersection(rig.drafters)):
        raise InvalidArgument(
            f"drafters {', '.join(remembering)} remember answers, and all modes ask one fleet the same prompts, so one "
            f"would guess what another was told; right are checkpoint folders and {PromptLookup.kind}"
        )
    for name in only or ():
        if name not in (*_HUGGING_FACE, *_OPTIONAL):
            mode_parts(name)
    found = []
    for name in only or DEFAULT:
        try:
            versions([name], rig)
        except InvalidArgument as error:
            if only:
                raise
            say(f"{name} is left out: {error}")
        else:
            found.append(name)
    if not Path(rig.drafters[0]).is_dir() and (needing := set(_ASSISTED).intersection(found)):
        raise InvalidArgument(
            f"the first drafter is {rig.drafters[0]!r}; right is a checkpoint folder, which assists "
            f"{', '.join(sorted(needing))} too"
        )
    return found


def versions(names: Sequence[str], rig: Rig) -> list[str]:
    """Of the optional peers among them; refused where one is not installed."""
    if not set(names).isdisjoint(_CONVERTED):
        check_package()
    found = []
    if not set(names).isdisjoint(_LLAMA):
        found.append(f"llama.cpp {llamacpp.llama_server_version(rig.llama_server)}")
    if not set(names).isdisjoint(_OPENVINO):
        found.append(f"OpenVINO GenAI {openvino.openvino_version(rig.openvino_python)}")
    if not set(names).isdisjoint(_VLLM):
        found.append(f"vLLM {vllm.vllm_version(rig.vllm_python, rig.device)}")
    if not set(names).isdisjoint(_SGLANG):
        found.append(f"SGLang {sglang.sglang_version(rig.sglang_python, rig.device)}")
    return found


@asynccontextmanager
async def lined_up(names: Sequence[str], target: str, rig: Rig) -> AsyncIterator[list[Peer]]:
    """All of them, loaded, in the order of their names."""
    async with AsyncExitStack() as stack:
        found: dict[str, Peer] = {}
        files = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        for name in names:
            way = name.partition("-")[2]
            if name in _HUGGING_FACE:
                found[name] = await stack.enter_async_context(
                    hf.hugging_face(
                        way,
                        target=target,
                        assistant=rig.drafters[0],
                        device=rig.device,
                        dtype=rig.their_dtype,
                        threads=rig.threads,
                    )
                )
            elif name in _LLAMA:
                found[name] = await stack.enter_async_context(
                    llamacpp.llama_server(
                        way,
                        program=rig.llama_server,
                        target=_gguf(target, files, llamacpp.best_dtype(rig.dtype)),
                        draft=_gguf(rig.drafters[0], files, llamacpp.best_dtype(rig.dtype)),
                        dtype=rig.dtype,
                        threads=rig.threads,
                        together=rig.together,
                        context=rig.context,
                    )
                )
            elif name in _OPENVINO:
                found[name] = await stack.enter_async_context(
                    openvino.openvino(
                        way,
                        python=rig.openvino_python,
                        target=_gguf(target, files, openvino.DTYPE),
                        assistant=_gguf(rig.drafters[0], files, openvino.DTYPE),
                        threads=rig.threads,
                    )
                )
            elif name in (*_VLLM, *_SGLANG):
                server, python = (
                    (vllm.vllm_server, rig.vllm_python) if name in _VLLM else (sglang.sglang_server, rig.sglang_python)
                )
                found[name] = await stack.enter_async_context(
                    server(
                        way,
                        python=python,
                        target=target,
                        draft=rig.drafters[0],
                        device=rig.device,
                        # On a processor it is torch that computes, as for Hugging Face.
                        dtype=rig.their_dtype if rig.device == "cpu" else rig.dtype,
                        threads=rig.threads,
                        together=rig.together,
                        context=rig.context,
                    )
                )
        if modes := [name for name in names if is_ours(name)]:
            fleet = await stack.enter_async_context(
                measured_fleet(
                    target=target,
                    drafters=rig.drafters,
                    limits=FrontLimits(max_draft=rig.max_draft, max_waiting=4096),
                    dtype=rig.dtype,
                    threads=rig.threads,
                    prefix_cache=False,  # modes of one fleet ask the same prompts, and others read them each time
                )
            )
            client = await stack.enter_async_context(AsyncClient(f"127.0.0.1:{fleet.router.port}"))
            found |= {name: FleetMode(name=name, fleet=fleet, client=client) for name in modes}
        yield [found[name] for name in names]


def _gguf(checkpoint: str, files: Path, dtype: str) -> Path:
    """Written once for all that read it."""
    path = files / dtype / Path(checkpoint).name / "model.gguf"
    if not path.exists():
        path.parent.mkdir(parents=True)
        write_gguf(Path(checkpoint), path, dtype=dtype)
    return path
