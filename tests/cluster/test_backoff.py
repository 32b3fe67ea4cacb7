"""Delays before what died is started again."""

from __future__ import annotations

from cluster.backoff import Backoff


def test_what_fails_at_once_waits_ever_longer_but_never_for_ever() -> None:
    backoff = Backoff()
    delays = [backoff.delay_s(0.1) for _ in range(12)]
    assert delays[:4] == [0.5, 1.0, 2.0, 4.0]
    assert delays == sorted(delays)
    assert delays[-1] == 30.0


def test_what_lived_for_a_while_is_started_soon() -> None:
    backoff = Backoff()
    for _ in range(10):
        backoff.delay_s(0.1)
    assert backoff.delay_s(3600.0) == 0.5
    assert backoff.delay_s(0.1) == 1.0
