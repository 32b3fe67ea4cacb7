"""Cost per token stays bounded on long and on adversarial texts, of every kind."""

from __future__ import annotations

import random
import time
import tracemalloc

import pytest

from tests.workers.drafters.rig import ALL_KINDS, ONE, A, check_tree, de_bruijn, make, sentences
from workers.drafters.drafter import Ask, Commit, Drafter, Opening

VOCAB_SIZE = 30_000
LONG = 100_000
SHORT = 6_000
TEXTS = {
    "equal": [7] * SHORT,
    "two, alternating": [1, 2] * (SHORT // 2),
    "de Bruijn": de_bruijn(9, 4),
    "random": [random.Random(i).randrange(VOCAB_SIZE) for i in range(SHORT)],
    "one token before all others": [token for other in range(SHORT // 2) for token in (1, 2 + other)],
    "ever longer runs": [token for size in range(110) for token in [*[1] * size, 2]][:SHORT],
}


def cpu_s(drafter: Drafter, text: list[int], *, num_proposals: int = 60) -> float:
    """CPU time of saying a text in pieces, with proposals between them."""
    started_s = time.process_time()
    drafter.open([Opening(sequence=ONE, tenant=A, tokens=text[: len(text) // 4])])
    step = max(1, (len(text) - len(text) // 4) // num_proposals)
    for start in range(len(text) // 4, len(text), step):
        drafter.commit([Commit(sequence=ONE, position=start, tokens=text[start : start + step])])
        (tree,) = drafter.propose([Ask(sequence=ONE, num_nodes=32)])
        check_tree(tree, 32, VOCAB_SIZE)
    drafter.close([ONE])
    return time.process_time() - started_s


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_a_hundred_thousand_tokens_cost_little_each(kind: str) -> None:
    text = sentences(LONG, 1, num_words=2000)
    # Measured at 2 to 20 µs a token; a cost that grew with the text would be hundreds.
    assert cpu_s(make(kind, vocab_size=VOCAB_SIZE), text) / LONG < 100e-6


@pytest.mark.parametrize("kind", ALL_KINDS)
@pytest.mark.parametrize("name", TEXTS)
def test_adversarial_texts_cost_no_more(kind: str, name: str) -> None:
    drafter = make(kind, vocab_size=VOCAB_SIZE)
    text = TEXTS[name]
    assert cpu_s(drafter, text) / len(text) < 300e-6


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_memory_grows_with_the_text_at_most(kind: str) -> None:
    for name in ("equal", "random", "one token before all others"):
        text = TEXTS[name][:2000]
        drafter = make(kind, vocab_size=VOCAB_SIZE)
        tracemalloc.start()
        try:
            drafter.open([Opening(sequence=ONE, tenant=A, tokens=text[:10])])
            drafter.commit([Commit(sequence=ONE, position=10, tokens=text[10:])])
            used = tracemalloc.get_traced_memory()[0]
        finally:
            tracemalloc.stop()
        assert used / len(text) < 8192, name
