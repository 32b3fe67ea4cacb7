"""What one file says about drafters, router and store: taken as written, and refused by name."""

from __future__ import annotations

from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.config import DrafterConfig, EngineConfig, FleetConfig, RouterConfig, load_config
from contracts.config.drafter import OwnKind
from contracts.config.router import host_port
from contracts.errors import ConfigError
from workers.drafters.registry import KINDS, MODEL_KINDS

ENGINE = "engine: {model: target}\n"


def refusal(text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(ENGINE + text)
    assert caught.value.message.isascii()
    return caught.value.message


def test_an_engine_is_enough() -> None:
    config = load_config(ENGINE)
    assert config.drafters == {}
    assert config.router == RouterConfig(
        host="127.0.0.1",
        grpc_port=50051,
        http_port=8000,
        mode="fleet",
        max_draft=8,
        max_running=64,
        max_waiting=256,
        client_grace_s=30.0,
    )
    assert config.store.url == "embedded"


def test_drafters_are_read_in_their_order() -> None:
    config = load_config(
        ENGINE
        + """
drafters:
  general: {kind: model, engine: {model: small, num_threads: 1}, num_cpus: 0.5, labels: {zone: a}}
  code_2: {kind: model, engine: {model: small}, num_gpus: 0.25, resources: {fast_disk: 1}, capacity: 8}
  lookup: {kind: prompt_lookup}
router: {grpc_port: 0, mode: pearl}
store: {url: "redis://store.example:6379/3"}
"""
    )
    assert list(config.drafters) == ["general", "code_2", "lookup"], "the first of them drafts alone"
    general, code, lookup = config.drafters.values()
    assert general.engine is not None
    assert (general.engine.model, general.engine.num_threads, general.num_cpus) == ("small", 1, 0.5)
    assert general.labels == {"zone": "a"}
    assert (code.capacity, code.num_gpus, code.resources) == (8, 0.25, {"fast_disk": 1.0})
    assert (lookup.kind, lookup.engine, lookup.capacity) == ("prompt_lookup", None, 64)
    assert FleetConfig.model_validate(config.model_dump()) == config


def test_the_kinds_are_those_that_there_are() -> None:
    assert set(get_args(OwnKind)) == {*KINDS, *MODEL_KINDS}


@given(st.sampled_from([*KINDS, *MODEL_KINDS]), st.booleans())
def test_a_model_drafter_has_an_engine_and_no_other_does(kind: str, has_engine: bool) -> None:
    written = {"kind": kind, **({"engine": {"model": "small"}} if has_engine else {})}
    if has_engine == (kind == "model"):
        assert DrafterConfig.model_validate(written).kind == kind
    else:
        assert "drafters.a: kind is" in refusal(f"drafters: {{a: {written}}}".replace("'", ""))


WRONG_VALUES = [
    ("drafters: {A: {kind: stand}}", "drafters has the name 'A'; a name must be 1 to 63 of the characters a-z, 0-9"),
    ("drafters: {'a b': {kind: stand}}", "drafters has the name 'a b'"),
    (f"drafters: {{{'a' * 64}: {{kind: stand}}}}", "a name must be 1 to 63"),
    ("drafters: {'': {kind: stand}}", "drafters has the name ''"),
    ("drafters: [a]", "drafters is ['a']; it must be a mapping"),
    ("drafters: {a: }", "drafters.a is None; it must be a mapping with the keys capacity, engine"),
    ("drafters: {a: {}}", "drafters.a.kind is missing; it must be model, prompt_lookup"),
    ("drafters: {a: {kind: ngram}}", "drafters.a.kind is 'ngram'; it must be"),
    ("drafters: {a: {kind: 'mine:'}}", "drafters.a.kind is 'mine:'; it must be model"),
    ("drafters: {a: {kind: '../mine:Echo'}}", "lookahead, retrieval, or a class of yours as module:Class"),
    ("drafters: {a: {kind: 'mine:Echo', engine: {model: m}}}", "kind is 'mine:Echo' and engine is given; it must be"),
    (
        "drafters: {a: {kind: model, engine: {model: m, num_threads: 0}}}",
        'drafters.a.engine.num_threads is 0; it must be "auto" or an integer from 1 up to 1024',
    ),
    ("drafters: {a: {kind: model, engin: {}}}", "drafters.a.engin is not a known key (it is {}); did you mean engine?"),
    ("drafters: {a: {kind: stand, capacity: 0}}", "drafters.a.capacity is 0; it must be an integer from 1 up to 4096"),
    ("drafters: {a: {kind: stand, num_gpus: -1}}", "drafters.a.num_gpus is -1; it must be a number from 0 up to 64"),
    ("drafters: {a: {kind: stand, resources: {x: y}}}", "drafters.a.resources.x is 'y'; it must be a number from 0"),
    ("drafters: {a: {kind: stand, num_cpus: 0.00005}}", "drafters.a: num_cpus is 5e-05; it must be 0 or at least"),
    ("drafters: {a: {kind: stand, resources: {x: 0.00005}}}", "resources.'x' is 5e-05; it must be 0 or at least"),
    ("drafters: {a: {kind: stand, num_gpus: 1.5}}", "drafters.a: num_gpus is 1.5; above 1 it must be a whole number"),
    ("drafters: {a: {kind: stand, resources: {GPU: 1}}}", "resources has 'GPU'; it must be in num_gpus"),
    ("drafters: {a: {kind: stand, resources: {CPU: 0}}}", "resources has 'CPU'; it must be in num_cpus"),
    ("drafters: {a: {kind: stand, resources: {memory: 1}}}", "resources has 'memory'; it must be left out"),
    ("drafters: {a: {kind: stand, labels: {x: 1}}}", "drafters.a.labels.x is 1; it must be 1 to 63 letters, digits"),
    ("drafters: {a: {kind: stand, labels: {x: '!b'}}}", "drafters.a.labels.x is '!b'; it must be 1 to 63 letters"),
    ("drafters: {a: {kind: stand, labels: {my zone: x}}}", "drafters.a.labels is {'my zone': 'x'}; it must be a"),
    ("verifier: {labels: {a//b: x}}", "verifier.labels is {'a//b': 'x'}; it must be a mapping of labels"),
    ("verifier: {num_gpus: 0.00005}", "verifier.num_gpus is 5e-05; it must be a number from 0.0001 up to 1"),
    ("router: {grpc_port: 65536}", "router.grpc_port is 65536; it must be an integer from 0 up to 65535"),
    ("router: {http_port: http}", "router.http_port is 'http'"),
    ("router: {host: ''}", "router.host is ''; it must be text of 1 to 253 characters"),
    ("router: {mode: fast}", 'router.mode is \'fast\'; it must be "off" or "vanilla"'),
    (
        "router: {host: '[::1]'}",
        "router.host is '[::1]'; it must be text of 1 to 253 characters, IPv6 without brackets",
    ),
    (
        "router: {grpc_port: 90, http_port: 90}",
        "router: grpc_port and http_port are both 90; one of them must be",
    ),
    ("router: {max_draft: 257}", "router.max_draft is 257; it must be an integer from 1 up to 256"),
    ("router: {max_draft: 0}", "router.max_draft is 0; it must be an integer from 1"),
    ("router: {max_running: 0}", "router.max_running is 0"),
    ("router: {client_grace_s: -1}", "router.client_grace_s is -1; it must be a number from 0"),
    ("router: {fusion: x}", 'router.fusion is \'x\'; it must be "auto" or "merged"'),
    ("verifier: {prune: [{layer: 2, max_above: 9}, {layer: 4, max_above: 99}]}", "layers must rise, and since deeper"),
    ("verifier: {prune: [{layer: 2, max_above: 0}]}", "max_above is 0; it must be an integer from 1"),
    ("store: {url: mysql://x}", 'store.url is \'mysql://x\'; it must be "embedded", "memory", or a Redis URL'),
    ("store: {url: 'redis://host/x'}", "store.url is 'redis://host/x'"),
    ("store: {url: }", "store.url is None"),
    ("store: {journal: sometimes}", 'store.journal is \'sometimes\'; it must be "off" or "buffered"'),
    ("store: {lease_s: 0}", "store.lease_s is 0; it must be a number from 0.2"),
    ("store: {num_replicas: 1}", "store: num_replicas is 1 and the embedded store has none; it must be 0"),
    ("store: {url: 'redis+cluster://h', journal: fsynced}", "cannot be had of a Redis Cluster"),
    ("store: {url: 'redis://h', ca_file: ca.crt}", "ca_file is set and url does not use TLS"),
    ("store: {url: 'rediss://h', key_file: k}", "cert_file and key_file go together"),
]


@pytest.mark.parametrize(("line", "expected"), WRONG_VALUES, ids=[line for line, _ in WRONG_VALUES])
def test_a_wrong_value_is_named_with_what_would_be_right(line: str, expected: str) -> None:
    message = refusal(line)
    assert expected in message
    assert "\n" not in message, "one fault is one line"


def test_labels_are_those_that_nodes_can_carry() -> None:
    labels = {"zone": "eu-1.b", "ray.io/accelerator-type": "A100", "a" * 63: "b" * 63}
    assert DrafterConfig(kind="stand", labels=labels).labels == labels


@pytest.mark.parametrize(("host", "address"), [("10.0.0.7", "10.0.0.7:80"), ("::1", "[::1]:80"), ("name", "name:80")])
def test_an_address_has_its_port_behind_the_host(host: str, address: str) -> None:
    assert host_port(host, 80) == address


def test_both_ports_may_be_any_free_one() -> None:
    assert RouterConfig(host="::1", grpc_port=0, http_port=0).http_port == 0


def test_faults_of_all_parts_are_reported_at_once() -> None:
    message = refusal("drafters: {a: {kind: x}, b: {kind: model}}\nrouter: {mode: x}\nstore: {url: x}")
    assert len(message.splitlines()) == 4


STORES = ["embedded", "memory", "redis://h", "rediss://user:word@h:6379/0", "unix:///run/store.sock"]
STORES += ["redis+sentinel://h,i:1/name/0", "rediss+sentinel://:word@h:1/name", "redis+cluster://h:1,i:2"]


@pytest.mark.parametrize("url", STORES)
def test_stores_that_there_are(url: str) -> None:
    assert load_config(ENGINE + f"store: {{url: '{url}'}}").store.url == url


GUEST = "  g{0}: {{kind: model, with_target: true, engine: {{model: m{1}}}{2}}}\n"


def guests(*, engine: str = "", more: str = "", of_target: str = "", count: int = 1, verifier: str = "") -> str:
    """The text of a fleet with drafters in the target's process."""
    drafters = "".join(GUEST.format(number, engine, more) for number in range(count))
    return f"engine: {{model: target{of_target}}}\nverifier: {{{verifier}}}\ndrafters:\n{drafters}"


def test_drafters_in_the_targets_process_share_its_gpu() -> None:
    config = load_config(guests(count=2, more=", num_gpus: 0.1", verifier="num_gpus: 0.8"))
    assert [of.with_target for of in config.drafters.values()] == [True, True]
    assert load_config(guests(count=8)).drafters["g7"].as_booked.engine == EngineConfig(model="m", device="cpu")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            ENGINE + "drafters: {a: {kind: stand, with_target: true}}",
            "drafters.a: with_target is true and kind is 'stand'",
        ),
        (guests(engine=", tensor_parallel: 2"), "with_target is true and engine.tensor_parallel is 2; it must be 1"),
        (guests(engine=", device: cuda"), "engine.device 'cuda' and num_gpus 0; num_gpus must be above 0"),
        (
            guests(engine=", device: cpu", more=", num_gpus: 0.3"),
            "engine.device 'cpu' and num_gpus 0.3; num_gpus must be 0",
        ),
        (guests(more=", replicas: 0"), "with_target is true and replicas is 0; it must be 1"),
        (guests(more=", labels: {a: b}"), "labels or resources are given; they must be left out"),
        (guests(of_target=", tensor_parallel: 2"), "drafters.g0.with_target is true and engine.tensor_parallel is 2"),
        (guests(count=9), "9 drafters are with_target; at most 8 may be"),
        (guests(more=", num_gpus: 0.3", verifier="num_gpus: 0.8"), "are 0.8, 0.3; together they must be at most 1"),
        (guests(more=", num_gpus: 0.3"), "are 1, 0.3; together they must be at most 1"),
    ],
)
def test_what_cannot_live_in_the_targets_process_is_refused(text: str, expected: str) -> None:
    with pytest.raises(ConfigError) as refused:
        load_config(text)
    assert expected in str(refused.value)
