"""helm, where it can be had."""

from __future__ import annotations

import pytest

from tests.helm.chart import Renderer
from tests.helm.program import NotToBeHad, helm_program


@pytest.fixture(scope="session")
def render(tmp_path_factory: pytest.TempPathFactory) -> Renderer:
    try:
        helm = helm_program()
    except NotToBeHad as error:
        pytest.skip(f"no helm: {error}")
    return Renderer(helm=helm, scratch=tmp_path_factory.mktemp("helm"))
