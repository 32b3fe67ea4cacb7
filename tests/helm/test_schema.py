"""The chart's schema is what the typed values say, and they are what values.yaml has."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from helm import schema
from helm.values import ChartValues, OwnStore
from tests.helm.chart import CHART


def test_the_schema_is_up_to_date(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert schema.main(["--check"]) == 0
    old = tmp_path / "values.schema.json"
    old.write_text("{}")
    monkeypatch.setattr(schema, "FILE", old)
    assert schema.main(["--check"]) == 1
    assert schema.main([]) == 0
    assert json.loads(old.read_text()) == json.loads(schema.schema_text())


def test_defaults_are_values() -> None:
    """With the subchart's among them, as Helm has them where it is on."""
    given = yaml.safe_load((CHART / "values.yaml").read_text())
    own = yaml.safe_load((CHART / "charts" / "store" / "values.yaml").read_text())
    assert OwnStore.model_validate(own) == OwnStore()
    given["store"] |= own
    values = ChartValues.model_validate(given)
    assert values.model_fields_set == set(ChartValues.model_fields)
    for section in ("router", "store", "security", "models", "ray", "networkPolicy", "monitoring", "verifier", "image"):
        of = getattr(values, section)
        assert of.model_fields_set == set(type(of).model_fields), section
