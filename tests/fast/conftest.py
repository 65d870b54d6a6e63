"""Each of the two libraries that compute float32 products, whatever this processor prefers."""

from __future__ import annotations

import pytest
import torch

from normtune.fast import layer, linear

HAS_ONEDNN = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
ONEDNN = pytest.param("onednn", marks=pytest.mark.skipif(not HAS_ONEDNN, reason="torch without oneDNN"))


def prefer(library: str, monkeypatch: pytest.MonkeyPatch) -> str:
    for module in (linear, layer):
        monkeypatch.setattr(module, "prefers_onednn", lambda: library == "onednn")
    return library


@pytest.fixture(params=["torch", ONEDNN])
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each library in turn."""
    return prefer(request.param, monkeypatch)


@pytest.fixture(params=[ONEDNN])
def onednn(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """oneDNN, which takes another way than torch."""
    return prefer(request.param, monkeypatch)
