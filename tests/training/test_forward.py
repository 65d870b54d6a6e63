"""The mode that a model trains in: dropout and batch statistics are switched separately."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from normtune.training.forward import train_mode


@pytest.mark.parametrize("dropout", [True, False])
@pytest.mark.parametrize("statistics", [True, False])
def test_dropout_and_running_statistics_are_two_things(dropout: bool, statistics: bool) -> None:
    model, inputs = nn.Sequential(nn.Dropout(0.5), nn.BatchNorm1d(4), nn.Dropout(0.5)), torch.randn(64, 4) + 3
    before = model[1].running_mean.clone()
    train_mode(model, dropout=dropout, statistics=statistics)
    outputs = model(inputs)
    assert bool((outputs == 0).any()) is dropout
    assert torch.equal(model[1].running_mean, before) is not statistics
