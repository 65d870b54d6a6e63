"""Merging: a plain transformers model that answers as base and delta do."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer, PreTrainedModel

from normtune.deltas.answers import Predictor
from normtune.deltas.delta import Delta
from normtune.deltas.merge import fresh_folder, merge
from normtune.errors import DeltaError, OutputError
from normtune.models.base import Base, load_base
from normtune.models.sources import quiet
from tests.deltas.moved import NUMBER, THREE, answers, applied, assert_untouched, inputs, moved, state


def plain(folder: Path, **options: object) -> PreTrainedModel:
    with quiet():
        model: PreTrainedModel = AutoModelForSequenceClassification.from_pretrained(folder, **options)
    return model.eval()


@pytest.mark.parametrize("method", ["layernorm", "layernorm.bias@1-", "bitfit", "random", "full", "head"])
def test_the_plain_model_gives_the_same_logits_to_the_bit(tiny_base: Base, tmp_path: Path, method: str) -> None:
    method = {"layernorm.bias@1-": "output.LayerNorm.bias@1-"}.get(method, method)
    delta = moved(tiny_base, method)
    expected = applied(tiny_base, delta)
    before, config = state(tiny_base), tiny_base.model.config.to_json_string()
    merge(delta, tiny_base, tmp_path / "out")
    assert_untouched(tiny_base, before, config)
    model = plain(tmp_path / "out")
    assert torch.equal(answers(model, inputs(model)), expected)
    assert model.config.id2label == dict(enumerate(THREE.labels))
    assert model.config.label2id == {name: i for i, name in enumerate(THREE.labels)}
    assert model.config.problem_type == "single_label_classification"
    assert {path.name for path in (tmp_path / "out").iterdir()} >= {
        "config.json",
        "model.safetensors",
        "tokenizer.json",
    }


@pytest.mark.parametrize("family", ["t5", "bart"])
def test_every_kind_of_family_can_be_merged(make_base: Callable[..., Base], tmp_path: Path, family: str) -> None:
    base = make_base(family)
    delta = moved(base, "all-layernorm")
    expected = applied(base, delta)
    merge(delta, base, tmp_path / "out")
    assert torch.equal(answers(plain(tmp_path / "out"), inputs(base.model)), expected)


def test_minilm_merged_answers_to_the_bit(minilm: Base, tmp_path: Path) -> None:
    delta = moved(minilm, "layernorm@3-")
    texts = ["A cat sat on the mat.", "Nobody knows."]
    with Predictor(minilm, delta) as predictor:
        expected = [list((answer.probabilities or {}).values()) for answer in predictor.predict(texts)]
    logits = applied(minilm, delta)
    merge(delta, minilm, tmp_path / "out")
    model = plain(tmp_path / "out")
    assert torch.equal(answers(model, inputs(model)), logits)
    encoded = AutoTokenizer.from_pretrained(tmp_path / "out")(texts, padding=True, return_tensors="pt")
    found = answers(model, dict(encoded)).softmax(dim=1).numpy()
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize(("dtype", "method"), [("bfloat16", "bitfit"), ("float16", "layernorm")])
def test_a_lower_precision_base_is_written_in_float32(
    tiny_folder: Path, tmp_path: Path, dtype: str, method: str
) -> None:
    base = load_base(str(tiny_folder), dtype=dtype)
    delta = moved(base, method)
    before, config = state(base), base.model.config.to_json_string()
    lowered = applied(base, delta)
    merge(delta, base, tmp_path / "out")
    assert_untouched(base, before, config)
    stored = load_file(tmp_path / "out" / "model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.float32}
    for name, value in delta.values.items():
        assert torch.equal(stored[name].reshape(-1), value), name  # no trained value is rounded
    frozen = "bert.encoder.layer.1.output.dense.weight"
    assert torch.equal(stored[frozen], before[frozen].float())
    model = plain(tmp_path / "out")
    assert model.dtype == torch.float32
    assert model.config.to_dict()["dtype"] in {"float32", torch.float32}
    torch.testing.assert_close(answers(model, inputs(model)), lowered, atol=0.05, rtol=0.05)


def test_tied_tensors_of_a_lower_precision_base_stay_tied(make_base: Callable[..., Base], tmp_path: Path) -> None:
    base = make_base("t5")
    base.model.to(torch.bfloat16)
    delta = moved(base, "layernorm")
    merge(delta, base, tmp_path / "out")
    names = [name for name in load_file(tmp_path / "out" / "model.safetensors") if "embed" in name or "shared" in name]
    assert names == ["transformer.shared.weight"]


@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert", "xlnet"])
@pytest.mark.parametrize("scale", [1.7, -1e-3])
def test_a_regression_answers_on_the_scale_of_its_targets(
    make_model: Callable[..., PreTrainedModel],
    make_folder: Callable[..., Path],
    tmp_path: Path,
    family: str,
    scale: float,
) -> None:
    base = load_base(str(make_folder(make_model(family))), NUMBER)
    delta = moved(base, "layernorm", NUMBER, center=250.0, scale=scale)
    before, config = state(base), base.model.config.to_json_string()
    expected = applied(base, delta) * scale + 250.0
    merge(delta, base, tmp_path / "out")
    assert_untouched(base, before, config)
    model = plain(tmp_path / "out")
    torch.testing.assert_close(answers(model, inputs(model)), expected, rtol=1e-6, atol=1e-6)
    assert (model.config.problem_type, model.config.num_labels) == ("regression", 1)


def test_a_head_without_a_bias_takes_a_scale_but_no_center(
    make_model: Callable[..., PreTrainedModel], make_folder: Callable[..., Path], tmp_path: Path
) -> None:
    base = load_base(str(make_folder(make_model("llama"))), NUMBER)
    with pytest.raises(DeltaError, match="no bias that could take the center 2"):
        merge(moved(base, "layernorm", NUMBER, center=2.0), base, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
    delta = moved(base, "layernorm", NUMBER, scale=3.0)
    expected = applied(base, delta) * 3
    merge(delta, base, tmp_path / "out")
    torch.testing.assert_close(answers(plain(tmp_path / "out"), inputs(base.model)), expected)


def test_a_head_that_does_not_end_in_its_last_linear_layer_is_refused(tiny_base: Base, tmp_path: Path) -> None:
    delta = moved(tiny_base, "head", NUMBER, scale=3.0, center=1.0)
    tiny_base.model.register_forward_hook(lambda _m, _a, output: output.__class__(logits=output.logits.tanh()))
    with pytest.raises(DeltaError, match="does not give its answer"):
        merge(delta, tiny_base, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_what_is_there_is_never_touched(tiny_base: Base, tmp_path: Path) -> None:
    delta = moved(tiny_base, "layernorm")
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "mine.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    before, config = state(tiny_base), tiny_base.model.config.to_json_string()
    for name in ("used", "file"):
        with pytest.raises(OutputError, match="is in use"):
            merge(delta, tiny_base, tmp_path / name)
    assert_untouched(tiny_base, before, config)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "mine.txt", "used"]
    (tmp_path / "empty").mkdir()
    merge(delta, tiny_base, tmp_path / "empty")
    assert (tmp_path / "empty" / "config.json").is_file()
    modes = {oct(path.stat().st_mode)[-3:] for path in (tmp_path / "empty").iterdir()}
    assert modes == {"644"}
    assert oct((tmp_path / "empty").stat().st_mode)[-3:] == "755"


def test_a_delta_on_the_base_already_or_of_another_base_is_refused(
    tiny_base: Base, make_base: Callable[..., Base], tmp_path: Path
) -> None:
    delta = moved(tiny_base, "layernorm")
    with delta.apply(tiny_base), pytest.raises(DeltaError, match="carries a delta already"):
        merge(delta, tiny_base, tmp_path / "out")
    with pytest.raises(DeltaError, match="belongs to the base model"):
        merge(delta, make_base("roberta"), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("error", [OSError(28, os.strerror(28)), KeyboardInterrupt()])
def test_a_folder_that_cannot_be_finished_leaves_nothing(tmp_path: Path, error: BaseException) -> None:
    def fill() -> None:
        with fresh_folder(tmp_path / "deep" / "out") as aside:
            (aside / "half").write_text("half")
            raise error

    with pytest.raises(OutputError if isinstance(error, OSError) else KeyboardInterrupt):
        fill()
    assert [path.name for path in tmp_path.rglob("*")] == ["deep"]


def test_others_can_read_all_that_is_in_a_fresh_folder(tmp_path: Path) -> None:
    with fresh_folder(tmp_path / "out") as aside:
        (aside / "inner").mkdir(mode=0o700)
        (aside / "inner" / "file").touch(mode=0o600)
    assert [path.stat().st_mode & 0o777 for path in sorted((tmp_path / "out").rglob("*"))] == [0o755, 0o644]


def test_a_merged_folder_is_a_base_again(tiny_base: Base, tmp_path: Path) -> None:
    delta = moved(tiny_base, "layernorm")
    merge(delta, tiny_base, tmp_path / "out")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["architectures"] == ["BertForSequenceClassification"]
    assert tiny_base.name not in json.dumps(config)  # the base's path stays private
    again = load_base(str(tmp_path / "out"), THREE, keep_head=True)
    assert again.head == THREE
    assert torch.equal(answers(again.model, inputs(again.model)), applied(tiny_base, delta))
    assert Delta.load(delta.save(tmp_path / "d")).info.base_identity != again.identity
