"""One YAML file, checked as a whole: what is right is taken as written, and what is wrong is named in full."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from contracts.config import EngineConfig, FleetConfig, load_config
from contracts.errors import ConfigError


def refusal(text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(text)
    assert caught.value.message.isascii()
    return caught.value.message


def engine_refusal(line: str) -> str:
    return refusal(f"engine:\n  model: tiny\n  {line}\n")


sizes = st.integers(1, 1023).map(lambda n: (f"{n}GiB", n * 2**30)) | st.integers(2**20, 2**50).map(lambda n: (n, n))
engines = st.fixed_dictionaries(
    {"model": st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs", "Cn"]), min_size=1, max_size=50)},
    optional={
        "dtype": st.sampled_from(["auto", "bfloat16", "float32"]),
        "num_threads": st.just("auto") | st.integers(1, 1024),
        "tensor_parallel": st.integers(1, 1024),
        "max_context": st.just("auto") | st.integers(1, 2**24),
        "prefix_cache": st.booleans(),
        "compiled_step": st.sampled_from(["auto", "on", "off"]),
        "step_deadline_s": st.floats(0.001, 3600.0) | st.integers(1, 3600),
    },
)


@given(engines, sizes)
def test_what_is_written_is_what_is_loaded(engine: dict[str, Any], size: tuple[Any, int]) -> None:
    written, size_bytes = size
    # JSON is YAML: its quotes keep text text, whatever it looks like.
    loaded = load_config(yaml.safe_dump({"engine": {**engine, "kv_cache_bytes": written}}, default_style=None))
    assert loaded.engine.kv_cache_bytes == size_bytes
    assert loaded.engine.model_dump(include=set(engine)) == engine
    assert loaded.model_validate(loaded.model_dump()) == loaded


def test_files_and_text_are_read_alike(tmp_path: Path) -> None:
    text = "engine: {model: größer, compiled_step: on, num_threads: 0x10, step_deadline_s: 1e2}"
    file = tmp_path / "fleet.yaml"
    file.write_text(text, encoding="utf-8")
    assert load_config(file) == load_config(text)
    engine = load_config(file).engine
    assert (engine.model, engine.compiled_step, engine.num_threads, engine.step_deadline_s) == ("größer", "on", 16, 100)


def test_a_loaded_tree_cannot_be_changed() -> None:
    engine = load_config("engine: {model: tiny}").engine
    with pytest.raises(ValidationError):
        engine.max_batch_rows = 32  # type: ignore[misc]


WRONG_VALUES = [
    ("dtype: float16", "engine.dtype is 'float16'", 'must be "auto" or "bfloat16" or "float32"'),
    ("device: tpu", "engine.device is 'tpu'", '"cuda"'),
    ("num_threads: 0", "engine.num_threads is 0", '"auto" or an integer from 1 up to 1024'),
    ("num_threads: many", "engine.num_threads is 'many'", '"auto" or an integer'),
    ("num_threads: {auto: 1}", "engine.num_threads is {'auto': 1}", '"auto" or an integer'),
    ("tensor_parallel: 1.0", "engine.tensor_parallel is 1.0", "an integer from 1"),
    ('tensor_parallel: "2"', "engine.tensor_parallel is '2'", "an integer from 1"),
    ("max_batch_rows: true", "engine.max_batch_rows is True", "an integer from 1 up to 65536"),
    ("max_batch_rows: 1e400", "engine.max_batch_rows is inf", "an integer from 1 up to 65536"),
    ("kv_cache_bytes: 2 GiBs", "engine.kv_cache_bytes is '2 GiBs'", 'such as "2GiB"'),
    ("kv_cache_bytes: 1", "engine.kv_cache_bytes is 1;", "from 1MiB"),
    ("kv_cache_bytes: 2.5", "engine.kv_cache_bytes is 2.5", "from 1MiB"),
    ("kv_cache_bytes: 9999999999TiB", "engine.kv_cache_bytes is '9999999999TiB'", "to 1024TiB"),
    ("prefix_cache: yes", "engine.prefix_cache is 'yes'", "true or false"),
    ("prefix_cache: 1", "engine.prefix_cache is 1", "true or false"),
    ("compiled_step: true", "engine.compiled_step is True", '"on" or "off"'),
    ("step_deadline_s: 0", "engine.step_deadline_s is 0", "a number above 0 up to 3600"),
    ("step_deadline_s: .nan", "engine.step_deadline_s is nan", "a number above 0 up to 3600"),
    ("step_deadline_s: 1:30", "engine.step_deadline_s is '1:30'", "a number above 0"),
    ("max_context:", "engine.max_context is None", '"auto" or an integer'),
]


@pytest.mark.parametrize(("line", "found", "right"), WRONG_VALUES, ids=[line for line, _, _ in WRONG_VALUES])
def test_a_wrong_value_is_named_with_what_would_be_right(line: str, found: str, right: str) -> None:
    message = engine_refusal(line)
    assert message.startswith(f"config: {found}")
    assert "it must be" in message
    assert right in message
    assert "\n" not in message, "one fault is one line"


def test_missing_and_empty_models_are_named() -> None:
    assert "engine.model is missing; it must be text of 1 to 4096 characters" in refusal("engine: {}")
    assert "engine.model is ''" in refusal("engine: {model: ''}")
    for nothing in ("", "# only a comment\n", "{}"):
        assert "engine is missing; it must be a mapping with the keys compiled_step" in refusal(nothing)


def test_an_unknown_key_comes_with_its_neighbours_and_all_known_ones() -> None:
    message = engine_refusal("max_bach_rows: 32")
    assert "engine.max_bach_rows is not a known key (it is 32); did you mean max_batch_rows?" in message
    assert f"Keys of engine: {', '.join(sorted(EngineConfig.model_fields))}" in message
    assert "engin is not a known key" in refusal("engin: {model: tiny}")
    assert "did you mean engine?" in refusal("engin: {model: tiny}")
    assert "did you mean" not in engine_refusal("zzz: 1")


def test_all_faults_are_reported_at_once_by_key() -> None:
    with pytest.raises(ConfigError) as caught:
        load_config("engine: {max_batch_rows: 0, dtype: fp8, speed: 1}\nextra: 1")
    assert set(caught.value.details) == {
        "engine.max_batch_rows",
        "engine.dtype",
        "engine.model",
        "engine.speed",
        "extra",
    }
    assert len(caught.value.message.splitlines()) == 5


def test_file_names_lead_the_message(tmp_path: Path) -> None:
    file = tmp_path / "fleet.yaml"
    file.write_text("engine: {model: tiny, max_batch_rows: 0}")
    with pytest.raises(ConfigError) as caught:
        load_config(file)
    assert caught.value.message.startswith(f"{file}: engine.max_batch_rows is 0;")
    file.write_bytes(b"engine: {model: \xff}")
    with pytest.raises(ConfigError, match="byte 16 is not UTF-8"):
        load_config(file)
    for unreadable in (tmp_path / "absent.yaml", tmp_path):
        with pytest.raises(ConfigError, match="cannot be read"):
            load_config(unreadable)


def test_a_file_name_given_as_text_is_recognised() -> None:
    assert "pass its name as a pathlib.Path" in refusal("fleet.yaml")


def test_every_key_is_described() -> None:
    def undescribed(model: type[BaseModel], path: str) -> list[str]:
        keys: list[str] = []
        for name, field in model.model_fields.items():
            keys += [] if field.description else [f"{path}{name}"]
            if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
                keys += undescribed(field.annotation, f"{path}{name}.")
        return keys

    assert undescribed(FleetConfig, "") == []
