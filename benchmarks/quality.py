"""Dev scores after every epoch, by case and seed."""

from __future__ import annotations

from typing import Any

import numpy as np
import ours
import peers
from speed import BATCH, RATE, Setting
from transformers import EvalPrediction, set_seed

from normtune.evaluation import score_outputs

SEEDS, EPOCHS = (0, 1, 2), 10


def train_and_score(setting: Setting, case: str) -> dict[str, Any]:
    """The primary metric on dev after each epoch, by seed; under ``best``, that of the best epoch in float32."""
    run, curves, best = _own if case in ours.CASES else _peer, {}, {}
    for seed in SEEDS:
        curve, score = run(setting, case, seed)
        curves[str(seed)], best[str(seed)] = [round(each, 5) for each in curve], round(score, 5)
    return {**curves, "best": best}


def _own(setting: Setting, case: str, seed: int) -> tuple[list[float], float]:
    trained = ours.train(
        setting.base(seed),
        setting.task,
        case,
        setting.train,
        setting.dev,
        epochs=EPOCHS,
        rate=RATE,
        seed=seed,
    )
    primary = setting.task.primary
    return [point.scores[primary] for point in trained.curve], trained.scores[primary]


def _peer(setting: Setting, _: str, seed: int) -> tuple[list[float], float]:
    curve: list[float] = []

    def scored(prediction: EvalPrediction) -> dict[str, float]:
        scores = score_outputs(np.asarray(prediction.predictions), np.asarray(prediction.label_ids), setting.task)
        curve.append(scores[setting.task.primary])
        return scores

    set_seed(seed)
    model = peers.peer_model(setting.base(seed), "layernorm")
    every: dict[str, Any] = {"regression": setting.regression, "padded": None}
    peers.trainer(
        model,
        peers.items(setting.train, range(len(setting.train)), **every),
        setting.tokenizer,
        rate=RATE,
        epochs=EPOCHS,
        batch_size=BATCH,
        padded=False,
        strategy="group_by_length",
        seed=seed,
        # The order changes no score; texts of similar length side by side need little padding.
        dev=peers.items(setting.dev, np.argsort(setting.dev.lengths, kind="stable"), **every),
        compute_metrics=scored,
    ).train()
    return curve, max(curve)
