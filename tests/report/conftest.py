from __future__ import annotations

from pathlib import Path

import pytest

from tests.report import made


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A results folder with runs of five methods and of masks, which tests leave as it is."""
    return made.results(tmp_path_factory.mktemp("results"), methods={**made.METHODS, **made.masks()})
