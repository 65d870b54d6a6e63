"""What the tests of studies share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from normtune.studies import plan


@pytest.fixture(scope="module", autouse=True)
def _no_rate_beyond() -> Iterator[None]:
    """Searches try the protocol's rates alone, unless a test says otherwise."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plan, "BEYOND", 0)
        yield
