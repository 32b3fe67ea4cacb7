"""A checkpoint folder is what transformers expects, reads back as written, and never exists by halves."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer

from contracts.errors import CheckpointError
from models import hf_folder
from models.chat import Message, prompt_text
from models.generate import continue_prompts
from models.hf_folder import export, load_network, read_tensors, write_tensors
from tests.models.tiny_family import TINY_SHAPE, lively_network

PROMPTS = [list(range(6 + number, 30 + 3 * number)) for number in range(5)]
END_ID = 2


def test_transformers_computes_the_same(folder: Path) -> None:
    theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    ours = load_network(folder)
    tokens = torch.tensor([PROMPTS[0]])
    with torch.no_grad():
        assert torch.allclose(theirs(tokens).logits, ours.logits(tokens), atol=2e-4, rtol=1e-4)


def test_transformers_generates_the_same_greedy_tokens(folder: Path) -> None:
    """Our batch is ragged and cached, theirs is one prompt at a time: padding and positions must not show."""
    theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    ours = continue_prompts(load_network(folder), PROMPTS, max_new=12, end_id=END_ID, batch_rows=3)
    for prompt, answer in zip(PROMPTS, ours, strict=True):
        tokens = torch.tensor([prompt])
        expected = theirs.generate(tokens, attention_mask=torch.ones_like(tokens), max_new_tokens=12, do_sample=False)
        assert answer == expected[0, len(prompt) :].tolist()


def test_chat_template_is_what_the_family_is_trained_on(folder: Path, tokenizer: Tokenizer) -> None:
    theirs = AutoTokenizer.from_pretrained(folder)
    messages = (
        Message(role="system", content="Be brief."),
        Message(role="user", content=" Say red "),
        Message(role="assistant", content="red"),
        Message(role="user", content="again"),
    )
    rendered = theirs.apply_chat_template(
        [{"role": message.role, "content": message.content} for message in messages],
        tokenize=False,
        add_generation_prompt=True,
    )
    assert rendered == prompt_text(messages)
    encoded = tokenizer.encode(rendered, add_special_tokens=False)
    assert theirs(rendered, add_special_tokens=False)["input_ids"] == encoded.ids
    assert theirs.eos_token_id == END_ID
    with pytest.raises(Exception, match="role must be"):
        theirs.apply_chat_template([{"role": "tool", "content": "x"}], tokenize=False)


def test_what_is_written_is_read_back(folder: Path) -> None:
    written, read = lively_network(3), load_network(folder)
    for (name, a), (_, b) in zip(written.named_parameters(), read.named_parameters(), strict=True):
        assert torch.equal(a, b), name


def test_big_checkpoints_are_sharded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hf_folder, "MAX_SHARD_BYTES", 30_000)
    tensors = {f"t{number}": torch.randn(100, 50).bfloat16() for number in range(8)}
    write_tensors(tmp_path, tensors.items())
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == 80_000
    assert set(index["weight_map"]) == set(tensors)
    assert len(set(index["weight_map"].values())) == 3
    read = read_tensors(tmp_path)
    assert all(torch.equal(read[name], tensor) for name, tensor in tensors.items())


def damage(folder: Path, kind: str) -> None:
    weights, config = folder / "model.safetensors", folder / "config.json"
    match kind:
        case "truncated":
            weights.write_bytes(weights.read_bytes()[:-1000])
        case "not safetensors":
            weights.write_bytes(b"\x80\x04pickle")
        case "missing":
            weights.unlink()
        case "not a number":
            content = bytearray(weights.read_bytes())
            content[-64:] = b"\xff" * 64
            weights.write_bytes(bytes(content))
        case "other sizes":
            config.write_text(config.read_text().replace('"intermediate_size": 96', '"intermediate_size": 80'))
        case "config is no JSON":
            config.write_text("{")
        case "other family":
            config.write_text(config.read_text().replace('"model_type": "llama"', '"model_type": "gpt2"'))


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("truncated", "model.safetensors is no complete safetensors file"),
        ("not safetensors", "model.safetensors is no complete safetensors file"),
        ("missing", "holds no model.safetensors"),
        ("not a number", "not finite"),
        ("other sizes", r"has shape \[96, 64\]; config.json implies \[80, 64\]"),
        ("config is no JSON", "config.json cannot be read as JSON"),
        ("other family", "model_type 'gpt2'"),
    ],
)
def test_damage_is_named(folder: Path, tmp_path: Path, kind: str, message: str) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(folder, broken)
    damage(broken, kind)
    with pytest.raises(CheckpointError, match=message):
        load_network(broken)


def test_a_failed_write_keeps_the_old_folder(folder: Path, tmp_path: Path, tokenizer: Tokenizer) -> None:
    kept = tmp_path / "model"
    shutil.copytree(folder, kept)
    before = {path.name: path.read_bytes() for path in kept.iterdir()}

    def explode(partial: Path) -> None:
        (partial / "config.json").write_text("{}")
        raise OSError(28, "No space left on device")

    with pytest.raises(CheckpointError, match="No space left on device"):
        hf_folder.replace_folder(kept, explode)
    assert {path.name: path.read_bytes() for path in kept.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


FULL_DISK = """
import resource, signal, sys
from pathlib import Path
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
from models import inflate
inflate.main([sys.argv[1], "--params", "1M", "--out", sys.argv[2]])
"""


def test_a_full_disk_leaves_nothing_that_loads(folder: Path, tmp_path: Path) -> None:
    """The limit on file sizes makes real writes fail in the middle of the weights, as a full disk does."""
    found = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(folder), str(tmp_path / "big")],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert found.returncode == 1
    assert "error: cannot write checkpoint folder" in found.stderr
    assert "Traceback" not in found.stderr
    assert list(tmp_path.iterdir()) == []


def test_shape_survives_the_round_trip(tmp_path: Path, tokenizer: Tokenizer) -> None:
    export(lively_network(1), tokenizer, tmp_path / "model", card="")
    assert load_network(tmp_path / "model").shape == TINY_SHAPE
