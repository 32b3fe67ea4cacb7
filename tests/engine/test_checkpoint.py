from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from contracts.errors import CheckpointError
from engine.checkpoint import FULL_DIGEST_BYTES, Checkpoint
from engine.text.tokenizer import Tokenizer
from tests.engine.checkpoints import FAMILIES, family_config, random_model, write_checkpoint

EMBEDDING = "model.embed_tokens.weight"
SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_checkpoint(tmp_path / "model", "qwen2")


def edit_index(folder: Path, tensor: str, shard: object) -> None:
    index = json.loads((folder / INDEX).read_text())
    index["weight_map"][tensor] = shard
    (folder / INDEX).write_text(json.dumps(index))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("sharded", [False, True])
def test_tensors_are_those_of_the_model(tmp_path: Path, family: str, dtype: str, sharded: bool) -> None:
    folder = write_checkpoint(tmp_path, family, dtype=dtype, sharded=sharded, seed=3)
    assert (folder / SINGLE).exists() != sharded
    model = random_model(family_config(family), seed=3).to(getattr(torch, dtype))
    with Checkpoint.open(folder) as checkpoint:
        assert checkpoint.config.architecture == family
        assert checkpoint.config.dtype == dtype
        assert set(checkpoint.names) == {name for name, _ in model.named_parameters()}
        for name, parameter in model.named_parameters():
            assert checkpoint.shape(name) == tuple(parameter.shape)
            found = checkpoint.tensor(name, expect=tuple(parameter.shape))
            assert found.dtype == parameter.dtype == checkpoint.dtype(name)
            assert torch.equal(found, parameter)


def test_slices_are_contiguous_owned_and_right(folder: Path) -> None:
    checkpoint = Checkpoint.open(folder)
    whole = checkpoint.tensor(EMBEDDING, expect=(320, 64))
    for rows, columns in [
        (slice(10, 30), None),
        (None, slice(16, 48)),
        (slice(0, 7), slice(60, 64)),
        (slice(300, None), slice(None, 5)),
    ]:
        part = checkpoint.tensor(EMBEDDING, expect=(320, 64), rows=rows, columns=columns)
        assert torch.equal(part, whole[rows or slice(None), columns or slice(None)])
        assert part.is_contiguous()
        assert part.untyped_storage().nbytes() == part.numel() * 4
    bias = "model.layers.0.self_attn.q_proj.bias"
    assert torch.equal(
        checkpoint.tensor(bias, expect=(64,), rows=slice(8, 16)), checkpoint.tensor(bias, expect=(64,))[8:16]
    )


def test_tensors_outlive_their_file(folder: Path) -> None:
    with Checkpoint.open(folder) as checkpoint:
        before = checkpoint.tensor(EMBEDDING, expect=(320, 64), rows=slice(0, 5))
    kept = before.clone()
    with open(folder / SINGLE, "r+b") as file:
        file.write(b"\xff" * 1_000_000)
    assert torch.equal(before, kept)


@pytest.mark.parametrize(
    ("rows", "columns"),
    [(slice(0, 321), None), (slice(-5, 5), None), (slice(5, 5), None), (slice(0, 9, 2), None), (None, slice(60, 65))],
)
def test_slices_beyond_the_tensor_are_refused(folder: Path, rows: slice | None, columns: slice | None) -> None:
    with pytest.raises(CheckpointError, match=rf"not a range within axis [01] of tensor {EMBEDDING}.*\[320, 64\]"):
        Checkpoint.open(folder).tensor(EMBEDDING, expect=(320, 64), rows=rows, columns=columns)


def test_wrong_shape_and_missing_tensor_are_named(folder: Path) -> None:
    checkpoint = Checkpoint.open(folder)
    with pytest.raises(CheckpointError, match=rf"{EMBEDDING}.*has shape \[320, 64\].*implies \[320, 65\]"):
        checkpoint.tensor(EMBEDDING, expect=(320, 65))
    with pytest.raises(CheckpointError, match=r"model.norm.bias is missing.*searched: model.safetensors"):
        checkpoint.tensor("model.norm.bias", expect=(64,))
    assert not checkpoint.has("model.norm.bias")
    assert checkpoint.has(EMBEDDING)


def test_tied_checkpoints_have_no_head(tmp_path: Path) -> None:
    checkpoint = Checkpoint.open(write_checkpoint(tmp_path, "qwen3", tie=True))
    assert checkpoint.config.tie_embeddings
    assert not checkpoint.has("lm_head.weight")


def test_unreadable_dtype_is_named(folder: Path) -> None:
    tensors = load_file(folder / SINGLE)
    tensors[EMBEDDING] = tensors[EMBEDDING].to(torch.int8)
    save_file(tensors, folder / SINGLE)
    with pytest.raises(CheckpointError, match=rf"{EMBEDDING}.*stored as I8; readable are F32, BF16, F16"):
        Checkpoint.open(folder).tensor(EMBEDDING, expect=(320, 64))


@pytest.mark.parametrize("name", ["pytorch_model.bin", "consolidated.00.pth", "model.pt"])
def test_pickles_are_refused_unread(folder: Path, name: str) -> None:
    (folder / SINGLE).unlink()
    (folder / name).write_bytes(b"cos\nsystem\n(S'exit 1'\ntR.")
    with pytest.raises(CheckpointError, match=rf"only pickled weights \({name}\).*convert"):
        Checkpoint.open(folder)


def test_folders_without_usable_weights(folder: Path) -> None:
    (folder / SINGLE).rename(folder / "consolidated.safetensors")
    with pytest.raises(CheckpointError, match=r"has consolidated.safetensors, but neither model.safetensors or"):
        Checkpoint.open(folder)
    (folder / "consolidated.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"has no weights.*never made up"):
        Checkpoint.open(folder)
    with pytest.raises(CheckpointError, match=r"config\.json is a file; give the checkpoint folder"):
        Checkpoint.open(folder / "config.json")
    for missing in ("./nowhere", str(folder / "nowhere"), folder / "nowhere", "a//b"):
        with pytest.raises(CheckpointError, match="does not exist"):
            Checkpoint.open(missing)


@pytest.mark.parametrize("num_bytes", [0, 5, 100, -1])
def test_truncated_files_are_named(folder: Path, num_bytes: int) -> None:
    content = (folder / SINGLE).read_bytes()
    (folder / SINGLE).write_bytes(content[:num_bytes])
    with pytest.raises(CheckpointError, match=r"model.safetensors is not a complete safetensors file"):
        Checkpoint.open(folder)


def test_other_bytes_are_not_taken_for_weights(folder: Path) -> None:
    (folder / SINGLE).write_bytes(b"\x80\x04\x95" * 500)
    with pytest.raises(CheckpointError, match=r"model.safetensors is not a complete safetensors file"):
        Checkpoint.open(folder)


def test_a_broken_index_is_explained(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "model", "llama", sharded=True)
    shard = json.loads((folder / INDEX).read_text())["weight_map"][EMBEDDING]
    outside = tmp_path / "outside.safetensors"
    save_file({EMBEDDING: torch.zeros(320, 64)}, outside)

    for hostile in ("../outside.safetensors", str(outside), "..\\outside.safetensors", "..", "", 7, None, "model.bin"):
        edit_index(folder, EMBEDDING, hostile)
        with pytest.raises(
            CheckpointError, match=r"weight_map.*must be the name of a .safetensors file beside the index"
        ):
            Checkpoint.open(folder)
    edit_index(folder, EMBEDDING, "model-9.safetensors")
    with pytest.raises(CheckpointError, match=rf"model-9.safetensors is missing.*{EMBEDDING}"):
        Checkpoint.open(folder)
    edit_index(folder, EMBEDDING, shard)
    edit_index(folder, "model.extra", shard)
    with pytest.raises(CheckpointError, match=rf"says that model.extra is in {shard}, but it is not there"):
        Checkpoint.open(folder)
    (folder / INDEX).write_text('{"weight_map": []}')
    with pytest.raises(CheckpointError, match=r"weight_map is \[\]"):
        Checkpoint.open(folder)


def test_digest_follows_contents_and_not_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    digest = Checkpoint.open(write_checkpoint(tmp_path / "a", "llama")).digest()
    assert Checkpoint.open(write_checkpoint(tmp_path / "b", "llama", sharded=True)).digest() == digest
    assert Checkpoint.open(write_checkpoint(tmp_path / "c", "llama", dtype="bfloat16")).digest() != digest
    assert Checkpoint.open(write_checkpoint(tmp_path / "d", "llama", seed=1)).digest() != digest

    scaled = write_checkpoint(tmp_path / "e", "llama", rope={"rope_type": "linear", "factor": 2.0})
    assert Checkpoint.open(scaled).digest() != digest, "the same weights compute something else with another rope"

    tensors = load_file(tmp_path / "a" / SINGLE)
    tensors["model.layers.1.mlp.up_proj.weight"][30, 3] += 1e-3
    save_file(tensors, tmp_path / "a" / SINGLE)
    assert Checkpoint.open(tmp_path / "a").digest() != digest

    assert FULL_DIGEST_BYTES > 10**9
    monkeypatch.setattr("engine.checkpoint.FULL_DIGEST_BYTES", 1000)
    sampled = {Checkpoint.open(tmp_path / name).digest() for name in ("a", "b", "d")}
    assert len(sampled) == 2, "samples see other seeds but not one value between them"
    assert digest not in sampled


def test_identity_says_what_the_fleet_compares(folder: Path) -> None:
    checkpoint, tokenizer = Checkpoint.open(folder), Tokenizer.load(folder)
    identity = checkpoint.identity(tokenizer)
    model = random_model(family_config("qwen2"))
    assert identity.num_parameters == sum(parameter.numel() for parameter in model.parameters())
    assert (identity.name, identity.architecture, identity.vocab_size) == ("model", "qwen2", 320)
    assert (identity.tokenizer_digest, identity.weights_digest) == (tokenizer.digest, checkpoint.digest())
    assert identity.dtype == "float32"
    assert checkpoint.identity(tokenizer, dtype="bfloat16").dtype == "bfloat16"


def test_an_unreachable_hub_is_one_clear_error(tmp_path: Path) -> None:
    from engine.hub import download

    with pytest.raises(CheckpointError, match=r"'owner/name@v1' is not a local folder.*could not be fetched"):
        download("owner/name@v1", endpoint="http://127.0.0.1:9", cache=tmp_path)
    with pytest.raises(CheckpointError, match="not a hub id"):
        download("../up", cache=tmp_path)
