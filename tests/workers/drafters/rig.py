"""What the drafters' tests share: synthetic texts, a target that says a given text, and what every tree must be."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

from contracts.types import ROOT, DrafterId, DraftNode, SequenceId, TenantId, TokenLogprob
from contracts.verdict import walk
from workers.drafters.drafter import Ask, Commit, Drafter, Opening
from workers.drafters.registry import KINDS, Setup, make_drafter

VOCAB_SIZE = 200
A, B = TenantId("tenant-a"), TenantId("tenant-b")
ONE, TWO = SequenceId("one"), SequenceId("two")
ALL_KINDS = sorted(KINDS)
REMEMBERING = [kind for kind in ALL_KINDS if kind != "prompt_lookup"]


def make(kind: str, *, vocab_size: int = VOCAB_SIZE, max_bytes: int = 2**24, max_tenant_bytes: int = 2**22) -> Drafter:
    setup = Setup(
        drafter=DrafterId(kind), vocab_size=vocab_size, max_bytes=max_bytes, max_tenant_bytes=max_tenant_bytes
    )
    return make_drafter(kind, setup)


def sentences(num_tokens: int, seed: int, *, first: int = 0, num_words: int = 60) -> list[int]:
    """Text of phrases that come again, from a small random grammar over tokens first..first + num_words - 1."""
    rng = random.Random(seed)
    phrases = [[first + rng.randrange(num_words) for _ in range(rng.randint(2, 9))] for _ in range(12)]
    weights = [1.0 / (1 + rank) for rank in range(len(phrases))]
    tokens: list[int] = []
    while len(tokens) < num_tokens:
        tokens += rng.choices(phrases, weights)[0]
    return tokens[:num_tokens]


def de_bruijn(num_symbols: int, order: int) -> list[int]:
    """Every string of this length exactly once: a text in which nothing long repeats and everything short does."""
    word, result = [0] * (num_symbols * order), list[int]()

    def extend(t: int, p: int) -> None:
        if t > order:
            if order % p == 0:
                result.extend(word[1 : p + 1])
            return
        word[t] = word[t - p]
        extend(t + 1, p)
        for symbol in range(word[t - p] + 1, num_symbols):
            word[t] = symbol
            extend(t + 1, t)

    extend(1, 1)
    return result


def top_of(token: int, runners_up: Sequence[int] = ()) -> TokenLogprob:
    """What a target thinks that likes `token` best, and then the others."""
    order = [token, *(other for other in runners_up if other != token)]
    logprobs = [math.log(0.6 * 0.35**rank) for rank in range(len(order))]
    return TokenLogprob(token=token, logprob=logprobs[0], top=tuple(zip(order, logprobs, strict=True)))


def say(drafter: Drafter, sequence: SequenceId, position: int, tokens: Sequence[int]) -> None:
    drafter.commit([Commit(sequence=sequence, position=position, tokens=tokens)])


def teach(drafter: Drafter, tenant: TenantId, prompt: Sequence[int], answer: Sequence[int]) -> None:
    """One whole sequence."""
    name = SequenceId("lesson")
    drafter.open([Opening(sequence=name, tenant=tenant, tokens=prompt)])
    say(drafter, name, len(prompt), answer)
    drafter.close([name])


def proposed(
    drafter: Drafter, sequence: SequenceId, num_nodes: int, below: tuple[int, ...] = ()
) -> tuple[DraftNode, ...]:
    (tree,) = drafter.propose([Ask(sequence=sequence, num_nodes=num_nodes, below=below)])
    check_tree(tree, num_nodes)
    return tree


def check_tree(tree: Sequence[DraftNode], num_nodes: int, vocab_size: int = VOCAB_SIZE) -> None:
    """The protocol's promises."""
    assert len(tree) <= num_nodes
    assert len({(node.parent, node.token) for node in tree}) == len(tree)
    sums: dict[int, float] = {}
    for index, node in enumerate(tree):
        assert ROOT <= node.parent < index
        assert 0 <= node.token < vocab_size
        assert 0.0 <= node.confidence <= 1.0
        sums[node.parent] = sums.get(node.parent, 0.0) + node.confidence
    assert all(total <= 1.0 + 1e-9 for total in sums.values())


def paths(tree: Sequence[DraftNode]) -> list[tuple[int, ...]]:
    """The path of each node."""
    found: list[tuple[int, ...]] = []
    for node in tree:
        found.append((*(found[node.parent] if node.parent != ROOT else ()), node.token))
    return found


def chain(tree: Sequence[DraftNode]) -> tuple[int, ...]:
    """The path that follows the most confident child."""
    path: list[int] = []
    at = ROOT
    while children := [index for index, node in enumerate(tree) if node.parent == at]:
        at = max(children, key=lambda index: tree[index].confidence)
        path.append(tree[at].token)
    return tuple(path)


def accepted_lengths(
    drafter: Drafter, prompt: Sequence[int], answer: Sequence[int], num_nodes: int, tenant: TenantId = A
) -> list[int]:
    """Runs a target that says this answer; how many proposed tokens each round accepted."""
    name = SequenceId("run")
    drafter.open([Opening(sequence=name, tenant=tenant, tokens=prompt)])
    lengths: list[int] = []
    said = 0
    while said < len(answer) - 1:
        tree = proposed(drafter, name, num_nodes)
        depths: list[int] = []
        for node in tree:
            depths.append(1 if node.parent == ROOT else depths[node.parent] + 1)
        choices = [answer[min(said + depth, len(answer) - 1)] for depth in (0, *depths)]
        accepted = walk(choices, [node.token for node in tree], [node.parent for node in tree])
        num_tokens = min(len(accepted) + 1, len(answer) - said)
        say(drafter, name, len(prompt) + said, answer[said : said + num_tokens])
        lengths.append(num_tokens - 1)
        said += num_tokens
    drafter.close([name])
    return lengths
