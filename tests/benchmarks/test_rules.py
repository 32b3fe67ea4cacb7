"""The table of verification rules: what was asked for is in it, and what cannot be is said."""

from __future__ import annotations

import pytest

from benchmarks.rules import main


def test_the_table_has_a_row_for_each_rule_and_the_bound(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = "--rule block --rule rsd --paths 2 --depth 2 --vocab 3 --rounds 20"
    assert main(arguments.split()) == 0
    rows = {line[:28].strip(): line[28:].split() for line in capsys.readouterr().out.splitlines()[2:]}
    assert list(rows) == ["block", "rsd", "shared_noise, runners-up", "bound for paths"]
    for values in rows.values():
        assert all(1.0 <= float(value) <= 3.0 for value in values)


def test_a_vocabulary_too_large_for_sets_leaves_out_what_needs_them(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--depth", "1", "--paths", "1", "--vocab", "13", "--rounds", "5"]) == 0
    assert "optimal_transport" not in capsys.readouterr().out


def test_an_unknown_rule_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--rule", "blok"]) == 2
    assert "'blok'" in capsys.readouterr().err
