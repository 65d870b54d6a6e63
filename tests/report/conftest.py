from __future__ import annotations

from pathlib import Path

import pytest

from normtune.records.results import read
from normtune.report.cells import Cells
from normtune.report.page import Report, write
from tests.report import made


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A results folder with runs of five methods and of masks, which tests leave as it is."""
    return made.results(tmp_path_factory.mktemp("results"), methods={**made.METHODS, **made.masks()})


@pytest.fixture(scope="session")
def shown(folder: Path) -> Report:
    """The report of `folder`."""
    return Report(read(folder))


@pytest.fixture(scope="session")
def cells(shown: Report) -> Cells:
    """The scores in it."""
    return shown.cells


@pytest.fixture(scope="session")
def report(shown: Report, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its page, with the files beside it."""
    return write(shown, tmp_path_factory.mktemp("out") / "report")
