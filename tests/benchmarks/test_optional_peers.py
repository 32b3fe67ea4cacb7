"""Peers that need not be installed: what they are given, what they say, and what is said where they are not."""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.peers import lineup
from benchmarks.peers.figures import Same
from benchmarks.peers.gguf_file import main as write
from benchmarks.peers.llamacpp import rounds_of
from benchmarks.peers.peer import Ask, Said
from benchmarks.peers.workloads import workload
from contracts.errors import InvalidArgument
from engine.checkpoint import Checkpoint
from engine.text.tokenizer import Tokenizer
from models.tokenizer import load_tokenizer
from tests.engine.checkpoints import write_checkpoint

DEMO = Path(__file__).resolve().parents[2] / "models" / "demo"
RIG = lineup.Rig(
    drafters=[str(DEMO / "drafter-sql")],
    max_draft=4,
    threads=1,
    dtype="bfloat16",
    their_dtype="float32",
    llama_server="llama-server",
    openvino_python=sys.executable,
    vllm_python=sys.executable,
    sglang_python=sys.executable,
    device="cpu",
    together=2,
    context=512,
)
QUERY, KEY, VALUE = (f"model.layers.0.self_attn.{part}_proj.weight" for part in "qkv")


def read(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """A GGUF file's fields and tensors."""
    reader = pytest.importorskip("gguf").GGUFReader(path)
    fields = {name: field.contents() for name, field in reader.fields.items()}
    return fields, {tensor.name: tensor for tensor in reader.tensors}


def matrix(tensor: Any, *shape: int) -> torch.Tensor:
    """Of bfloat16, which numpy does not know."""
    return torch.from_numpy(tensor.data.copy()).view(torch.bfloat16).reshape(shape)


def test_a_checkpoint_as_a_gguf_file_has_the_same_weights_bit_by_bit(tmp_path: Path) -> None:
    folder, path = DEMO / "drafter-sql", tmp_path / "sql.gguf"
    pytest.importorskip("gguf")
    assert write(["--checkpoint", str(folder), "--out", str(path)]) == 0
    fields, tensors = read(path)
    with Checkpoint.open(folder) as checkpoint:
        config, stored = (
            checkpoint.config,
            {n: checkpoint.tensor(n, expect=checkpoint.shape(n)) for n in checkpoint.names},
        )
    assert torch.equal(matrix(tensors["blk.0.attn_v.weight"], *stored[VALUE].shape), stored[VALUE])
    assert torch.equal(
        matrix(tensors["token_embd.weight"], config.vocab_size, config.hidden_size),
        stored["model.embed_tokens.weight"],
    )
    assert "output.weight" not in tensors, "the embedding is the head too"
    norm = torch.from_numpy(tensors["blk.0.attn_norm.weight"].data.copy())
    assert torch.equal(norm, stored["model.layers.0.input_layernorm.weight"].float())
    # llama.cpp rotates rows 0 and 1, 2 and 3 of a head together; Hugging Face 0 and half, 1 and half + 1.
    half = config.head_dim // 2
    for name, heads, where in (("attn_q", config.num_heads, QUERY), ("attn_k", config.num_kv_heads, KEY)):
        theirs = matrix(tensors[f"blk.0.{name}.weight"], heads, half, 2, config.hidden_size)
        ours = stored[where].reshape(heads, 2, half, config.hidden_size)
        assert torch.equal(theirs[:, :, 0], ours[:, 0])
        assert torch.equal(theirs[:, :, 1], ours[:, 1])
    tokenizer = Tokenizer.load(folder)
    assert fields["tokenizer.ggml.tokens"] == [tokenizer.token(number) for number in range(config.vocab_size)]
    assert fields["tokenizer.ggml.eos_token_id"] == tokenizer.eos_token_id
    assert "<|assistant|>" in fields["tokenizer.chat_template"]
    assert (fields["llama.block_count"], fields["llama.rope.freq_base"]) == (config.num_layers, config.rope.theta)


def test_qwen_keeps_its_rows_and_another_type_may_be_asked_for(tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    folder, path = write_checkpoint(tmp_path / "qwen3", "qwen3"), tmp_path / "qwen3.gguf"
    assert write(["--checkpoint", str(folder), "--out", str(path), "--dtype", "float16"]) == 0
    fields, tensors = read(path)
    with Checkpoint.open(folder) as checkpoint:
        query = checkpoint.tensor(QUERY, expect=checkpoint.shape(QUERY))
        norm = checkpoint.tensor("model.layers.0.self_attn.q_norm.weight", expect=(checkpoint.config.head_dim,))
    assert fields["general.architecture"] == "qwen3"
    assert torch.equal(torch.from_numpy(tensors["blk.0.attn_q.weight"].data.copy()), query.half())
    assert torch.equal(torch.from_numpy(tensors["blk.0.attn_q_norm.weight"].data.copy()), norm)
    assert "output.weight" in tensors, "this one has a head of its own"


def test_what_no_gguf_file_can_say_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("gguf")
    asked = ["--checkpoint", str(tmp_path / "llama"), "--out", str(tmp_path / "llama.gguf")]
    write_checkpoint(tmp_path / "llama", "llama")
    path = tmp_path / "llama" / "tokenizer.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "pre_tokenizer": {"type": "Whitespace"}}))
    assert write(asked) == 2
    assert "known here are byte-level BPE tokenizers" in capsys.readouterr().err
    write_checkpoint(tmp_path / "llama", "llama", rope={"rope_type": "linear", "factor": 2.0})
    assert write(asked) == 2
    assert "rope 'linear'" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "gguf", None)
    assert write(asked) == 2
    assert "install it with: pip install gguf" in capsys.readouterr().err


def event(token: int, num_told: int, num_accepted: int | None = None) -> dict[str, Any]:
    timings = {"predicted_n": num_told} | ({} if num_accepted is None else {"draft_n_accepted": num_accepted})
    return {"tokens": [token], "timings": timings}


def test_rounds_are_found_in_what_llama_cpp_tells_token_by_token() -> None:
    told = [event(5, 1), event(6, 2, 2), event(7, 3, 2), event(8, 4, 2), event(9, 5, 2), event(2, 6, 3), event(1, 7, 3)]
    end = {"tokens": [], "timings": {"predicted_n": 7, "draft_n_accepted": 3}}
    rounds, times_s = rounds_of([(each, 0.1 * number) for number, each in enumerate([*told, end])])
    assert rounds == [[5], [6, 7, 8], [9], [2, 1]]
    assert times_s == pytest.approx([0.0, 0.3, 0.4, 0.6])
    plain, _ = rounds_of([(event(token, number), 0.0) for number, token in ((1, 5), (2, 6), (4, 7))])
    assert plain == [[5], [6], [7], [7]], "one of a character's tokens is not told, and counted"


def test_default_peers_that_are_not_installed_are_left_out_and_others_refused() -> None:
    python = "no-such-python"
    nowhere = replace(
        RIG, llama_server="no-such-server", openvino_python=python, vllm_python=python, sglang_python=python
    )
    lines: list[str] = []
    found = lineup.chosen(None, nowhere, lines.append)
    assert found == [
        name for name in lineup.DEFAULT if not name.startswith(("llamacpp-", "openvino-", "vllm-", "sglang-"))
    ]
    assert [line.partition(":")[0] for line in lines] == [
        f"{name} is left out" for name in lineup.DEFAULT if name not in found
    ]
    if find_spec("gguf"):
        with pytest.raises(InvalidArgument, match=r"no-such-server does not start .* name it with --llama-server"):
            lineup.chosen(["off", "llamacpp-draft"], nowhere, lines.append)
        with pytest.raises(InvalidArgument, match="--openvino-python is no-such-python"):
            lineup.chosen(["openvino-plain"], nowhere, lines.append)


def test_tokens_of_optional_peers_are_told_and_never_wrong() -> None:
    same = Same(workload="domain", temperature=0.0, peer="fleet", reference="off", num_same=1, num_answers=2)
    assert same.is_wrong({"bfloat16"})
    for names in (
        ("llamacpp-plain", "hf-plain"),
        ("openvino-plain", "off"),
        ("off", "llamacpp-draft"),
        ("vllm-draft", "off"),
    ):
        assert not replace(same, peer=names[0], reference=names[1]).is_wrong({"float32"})
    assert replace(same, reference="hf-plain").is_wrong({"float32"})
    assert not replace(same, reference="hf-plain").is_wrong({"float32", "bfloat16"})


@pytest.mark.parametrize(
    ("program", "names"),
    [("llama-server", ["llamacpp-plain", "llamacpp-draft"]), ("", ["openvino-plain", "openvino-speculative"])],
)
def test_installed_peers_say_what_hugging_face_says(program: str, names: list[str]) -> None:
    """In few tokens, which no tie comes between; with drafts in fewer rounds than tokens."""
    if not find_spec("gguf") or not (shutil.which(program) if program else find_spec("openvino_genai")):
        pytest.skip("not installed here")
    asked = ["hf-plain", *names]
    work = workload("domain", load_tokenizer(DEMO / "target" / "tokenizer.json"), corpus=None, count=2)

    async def answers(names: list[str]) -> list[list[Said]]:
        async with lineup.lined_up(names, str(DEMO / "target"), RIG) as peers:
            ask = Ask(max_tokens=8, temperature=0.0, seed=1, together=1)
            return [await peer.answer(work.warm_up, replace(ask, together=peer.max_together or 2)) for peer in peers]

    reference, plain, drafted = asyncio.run(answers(asked))
    assert [each.token_ids for each in plain] == [each.token_ids for each in reference]
    assert [each.token_ids for each in drafted] == [each.token_ids for each in reference]
    assert all(each.num_rounds == len(each.token_ids) for each in plain)
    assert sum(each.num_rounds for each in drafted) < sum(len(each.token_ids) for each in drafted)
    assert all(each.first_token_s > 0.0 and each.token_s is not None for each in (*plain, *drafted))
