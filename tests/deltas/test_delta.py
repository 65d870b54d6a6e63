"""Deltas: exact in, exact out, and nothing damaged goes unnoticed."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from safetensors import safe_open
from safetensors.torch import save_file

from normtune.data.encode import encode
from normtune.data.task import Split
from normtune.deltas.answers import Predictor
from normtune.deltas.bank import Bank
from normtune.deltas.delta import FILE, Delta, DeltaInfo
from normtune.errors import DeltaError, ModelError, OutputError
from normtune.evaluation import logits
from normtune.files import _hash, write_tensors
from normtune.methods.expression import select, specify
from normtune.methods.selection import at
from normtune.methods.trainable import Trainable
from normtune.models.base import Base, load_base
from normtune.models.head import HeadSpec
from normtune.models.identity import tensors_identity

SPEC = HeadSpec("classification", ("no", "maybe", "yes"))
METHODS = ["layernorm", "random", "bitfit", "head", "full", "layernorm.bias@1 + pooler.dense.weight"]
METHODS[-1] = "output.LayerNorm.bias@1 + pooler.dense.weight"


def trained(base: Base, method: str, seed: int = 0) -> Delta:
    """A delta whose values all moved; the base is left as it was."""
    swap = base.put_head(SPEC, seed)
    tuning = Trainable(base, select(base.layout, method, seed=seed))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in tuning.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    delta = Delta.capture(tuning, method=method, task="mine")
    tuning.undo()
    swap.undo()
    return delta


def outputs(base: Base) -> np.ndarray:
    split = Split.of_texts(("the cat sat", "a dog", "the bird sat on the mat"))
    return logits(base, encode(split, base.need_tokenizer(), 32))


def state(base: Base) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in base.model.state_dict().items()}


def assert_same(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> None:
    assert before.keys() == after.keys()
    assert all(before[name].dtype == after[name].dtype and torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("method", METHODS)
def test_saved_and_loaded_on_a_fresh_base_it_answers_to_the_bit(tiny_folder: Path, tmp_path: Path, method: str) -> None:
    base = load_base(str(tiny_folder))
    swap = base.put_head(SPEC, 0)
    tuning = Trainable(base, select(base.layout, method))
    with torch.no_grad():
        for parameter in tuning.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
    expected = outputs(base)
    Delta.capture(tuning).save(tmp_path)
    tuning.undo()
    swap.undo()

    fresh = load_base(str(tiny_folder), head_seed=5)
    Delta.load(tmp_path).apply(fresh)
    np.testing.assert_array_equal(outputs(fresh), expected)
    assert fresh.model.config.id2label == {0: "no", 1: "maybe", 2: "yes"}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_removed_the_base_is_back_to_the_bit(tiny_folder: Path, method: str, dtype: str) -> None:
    base = load_base(str(tiny_folder), dtype=dtype)
    delta = trained(base, method)
    before, labels, layout = state(base), base.head, base.layout
    answer = outputs(base)
    applied = delta.apply(base)
    assert not np.array_equal(outputs(base)[:, :2], answer)
    assert base.head == SPEC
    applied.remove()
    assert_same(before, state(base))
    assert (base.head, base.layout) == (labels, layout)
    np.testing.assert_array_equal(outputs(base), answer)


def test_a_bfloat16_base_answers_as_it_was_trained(tiny_folder: Path, tmp_path: Path) -> None:
    base = load_base(str(tiny_folder), dtype="bfloat16")
    base.put_head(SPEC, 0)
    tuning = Trainable(base, select(base.layout, "layernorm + pooler.dense"))
    with torch.no_grad():
        for parameter in tuning.parameters():
            parameter += 1e-4  # far below bfloat16's step at 1
    expected = outputs(base)
    Delta.capture(tuning).save(tmp_path)
    tuning.undo()
    fresh = load_base(str(tiny_folder), dtype="bfloat16")
    loaded = Delta.load(tmp_path)
    loaded.apply(fresh)
    np.testing.assert_array_equal(outputs(fresh), expected)
    assert all(value.dtype == torch.float32 for value in loaded.values.values())
    name = "bert.encoder.layer.0.output.LayerNorm.weight"
    norm, frozen = fresh.model.get_parameter(name), base.model.get_parameter(name)
    assert (norm.dtype, frozen.dtype) == (torch.float32, torch.bfloat16)
    torch.testing.assert_close(norm - frozen.float(), torch.full_like(norm, 1e-4), rtol=0, atol=1e-6)


def test_the_layernorm_delta_of_minilm_is_under_20_kilobytes_without_head_and_metadata(minilm: Base) -> None:
    assert trained(minilm, "layernorm").body_bytes == 4 * 4_608 < 20_000


def test_positions_are_stored_in_the_shorter_way(tiny_folder: Path, tmp_path: Path) -> None:
    base = load_base(str(tiny_folder))
    pooler = base.layout.by_name["bert.pooler.dense.weight"]
    start = sum(place.size for place in base.layout.body[: base.layout.body.index(pooler)])
    dense = at(base.layout, np.arange(start, start + pooler.size - 1))
    tuning = Trainable(base, at(base.layout, [0, 1, 900]) | dense)
    Delta.capture(tuning).save(tmp_path)
    tuning.undo()
    with safe_open(tmp_path / FILE, "pt") as stored:
        names = set(stored.keys())
    assert f"mask/{pooler.parameter}" in names
    assert f"index/{base.layout.body[0].parameter}" in names
    assert Delta.load(tmp_path).selection(base) == at(base.layout, [0, 1, 900]) | dense


def test_a_second_delta_is_refused_until_the_first_is_off(tiny_folder: Path) -> None:
    base = load_base(str(tiny_folder))
    first, second = trained(base, "layernorm"), trained(base, "bitfit")
    applied = first.apply(base)
    with pytest.raises(DeltaError, match="carries a delta already"):
        second.apply(base)
    applied.remove()
    with second.apply(base):
        pass
    with pytest.raises(DeltaError, match="not on the base"):
        applied.remove()


@pytest.mark.parametrize("method", ["layernorm", "lora"])
def test_a_base_in_training_takes_neither_a_delta_nor_a_bank(tiny_folder: Path, method: str) -> None:
    base = load_base(str(tiny_folder))
    delta = trained(base, "layernorm")
    tuning = Trainable(base, specify(base.layout, method))
    for use in (lambda: delta.apply(base), lambda: Bank(base)):
        with pytest.raises(ModelError, match="being tuned already"):
            use()
    tuning.undo()
    with delta.apply(base):
        pass


def test_a_delta_of_another_base_is_refused(tiny_folder: Path, minilm: Base) -> None:
    delta = trained(load_base(str(tiny_folder)), "layernorm")
    with pytest.raises(DeltaError, match="belongs to the base model"):
        delta.apply(minilm)


def test_one_changed_bit_of_the_base_makes_it_another(tiny_folder: Path, tmp_path: Path) -> None:
    base = load_base(str(tiny_folder))
    delta = trained(base, "layernorm")
    with torch.no_grad():
        base.model.get_parameter("bert.encoder.layer.0.output.dense.weight")[0, 0] += 1
    base.model.save_pretrained(tmp_path)
    with pytest.raises(DeltaError, match="belongs to the base model"):
        delta.apply(load_base(str(tmp_path)))


def test_every_truncation_is_noticed(tiny_folder: Path, tmp_path: Path) -> None:
    file = trained(load_base(str(tiny_folder)), "layernorm").save(tmp_path)
    whole = file.read_bytes()
    for length in (0, 7, 100, len(whole) // 2, len(whole) - 1):
        file.write_bytes(whole[:length])
        with pytest.raises(DeltaError, match="truncated or corrupt"):
            Delta.load(file)


def test_a_flipped_bit_is_noticed(tiny_folder: Path, tmp_path: Path) -> None:
    file = trained(load_base(str(tiny_folder)), "layernorm").save(tmp_path)
    content = bytearray(file.read_bytes())
    content[-3] ^= 1
    file.write_bytes(content)
    with pytest.raises(DeltaError, match="is damaged"):
        Delta.load(file)


@pytest.mark.parametrize(
    ("was", "becomes"),
    [
        (b'\\"maybe\\"', b'\\"mayb3\\"'),
        (b'\\"max_length\\": 256', b'\\"max_length\\": 255'),
        (b'\\"center\\": 2.5', b'\\"center\\": 6.5'),
        (b'\\"pair\\": true', b'\\"pair\\":false'),
    ],
)
def test_changed_metadata_is_noticed(tiny_folder: Path, tmp_path: Path, was: bytes, becomes: bytes) -> None:
    delta = trained(load_base(str(tiny_folder)), "head")
    told = delta.info.model_copy(update={"center": 2.5, "max_length": 256, "pair": True})
    file = replace(delta, info=told).save(tmp_path)
    content = file.read_bytes()
    assert content.count(was) == 1
    file.write_bytes(content.replace(was, becomes))
    with pytest.raises(DeltaError, match="is damaged: its content does not match the hash that it carries"):
        Delta.load(file)


def test_equal_deltas_are_equal_files(tiny_folder: Path, tmp_path: Path) -> None:
    delta = trained(load_base(str(tiny_folder)), "layernorm")
    assert len({delta.save(tmp_path / str(number)).read_bytes() for number in range(8)}) == 1


@pytest.mark.parametrize("damage", ["not finite", "short", "nowhere", "a head too wide", "a head that is not finite"])
def test_values_that_cannot_be_are_refused_before_the_base_is_touched(tiny_base: Base, damage: str) -> None:
    delta = trained(tiny_base, "layernorm")
    values, head, indices = dict(delta.values), dict(delta.head), dict(delta.indices)
    name = next(iter(values))
    if damage == "not finite":
        values[name] = torch.full_like(values[name], torch.inf)
    elif damage == "short":
        values[name] = values[name][:-1]
    elif damage == "nowhere":
        indices["bert.pooler.dense.bias"] = None
    elif damage == "a head too wide":
        head["classifier.bias"] = torch.zeros(4)
    else:
        head["classifier.bias"] = torch.full((3,), torch.nan)
    wrong, own = Delta(delta.info, indices, values, head), tiny_base.model.get_submodule("classifier")
    for use in (wrong.apply, wrong.selection, wrong.spec):
        with pytest.raises(DeltaError, match=r"is damaged: |has the shape \(4,\) instead of"):
            use(tiny_base)
        assert tiny_base.model.get_submodule("classifier") is own


def test_positions_that_are_none_are_refused(tiny_base: Base, tmp_path: Path) -> None:
    delta = trained(tiny_base, "layernorm")
    name = next(iter(delta.values))
    tensors = {**delta._tensors(), f"mask/{name}": torch.ones(3)}
    info = delta.info.model_copy(update={"content": tensors_identity(tensors)})
    write_tensors(tmp_path / FILE, "normtune", info, tensors)
    with pytest.raises(DeltaError, match=r"is damaged: Positions are not stored as 'mask' of float32"):
        Delta.load(tmp_path)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float8_e4m3fn, torch.complex64, torch.bool, "matrix"])
@pytest.mark.parametrize("part", ["values", "head"])
def test_values_that_are_no_vectors_of_float32_are_refused(tiny_base: Base, tmp_path: Path, part: str, dtype) -> None:
    delta = trained(tiny_base, "layernorm")
    parts = {"values": dict(delta.values), "head": dict(delta.head)}
    name = next(iter(parts[part]))
    parts[part][name] = parts[part][name].to(torch.float64 if dtype == "matrix" else dtype)
    tensors = replace(delta, **parts)._tensors()
    if dtype == "matrix":
        key = f"values/{next(iter(delta.values))}"
        tensors |= {f"head/{name}": value.float() for name, value in parts["head"].items()}
        tensors |= {f"values/{name}": value.float() for name, value in parts["values"].items()}
        tensors[key] = tensors[key].view(2, -1)
    file = tmp_path / FILE
    write_tensors(file, "normtune", delta.info.model_copy(update={"content": tensors_identity(tensors)}), tensors)
    with pytest.raises(DeltaError, match="and no vector of float32"):
        Delta.load(file)


def test_a_loaded_delta_stays_whatever_becomes_of_its_file(tiny_base: Base, tmp_path: Path) -> None:
    file = trained(tiny_base, "full").save(tmp_path)
    loaded = Delta.load(file)
    kept = {name: value.clone() for name, value in loaded.values.items()}
    file.write_bytes(bytes(file.stat().st_size))  # overwritten in place, as by cp
    assert_same(kept, dict(loaded.values))


def test_a_text_that_is_none_and_a_header_beyond_measure_are_refused(tiny_base: Base, tmp_path: Path) -> None:
    delta = trained(tiny_base, "head")
    for number, changes in enumerate(({"labels": ("\ud800", "b", "c")}, {"note": "x" * (17 << 20)})):
        info = json.loads(delta.info.model_dump_json()) | changes | {"content": tensors_identity(delta._tensors())}
        info["hash"] = _hash(info, delta._tensors())
        file = tmp_path / f"{number}.safetensors"
        save_file(delta._tensors(), file, {"normtune": json.dumps(info)})
        with pytest.raises(DeltaError, match=["is damaged: .*surrogates", "has a header of 17,8"][number]):
            Delta.load(file)


def test_what_a_stranger_wrote_is_not_repeated_at_length(tiny_base: Base, minilm: Base, tmp_path: Path) -> None:
    delta = trained(tiny_base, "head")
    with pytest.raises(DeltaError) as caught:
        replace(delta, info=delta.info.model_copy(update={"base": "x" * 10_000})).check(minilm)
    assert len(str(caught.value)) < 400
    save_file({}, tmp_path / "a.safetensors", {"normtune": json.dumps({"format": "x" * 10_000})})
    with pytest.raises(DeltaError, match="has format 'xxx") as caught:
        Delta.load(tmp_path / "a.safetensors")
    assert len(str(caught.value)) < 300


def test_the_same_weights_with_other_parameters_are_told_as_that(tiny_base: Base) -> None:
    delta = trained(tiny_base, "head")
    with pytest.raises(DeltaError, match=r"trained on .* with other parameters than"):
        replace(delta, info=delta.info.model_copy(update={"layout": "other"})).check(tiny_base)


@pytest.mark.parametrize("field", ["center", "scale"])
def test_a_scale_that_is_not_finite_is_refused(tiny_base: Base, tmp_path: Path, field: str) -> None:
    delta = trained(tiny_base, "head")
    with pytest.raises(ValidationError, match="finite number"):
        DeltaInfo.model_validate({**delta.info.model_dump(), field: float("nan")})
    file = replace(delta, info=delta.info.model_copy(update={field: float("inf")})).save(tmp_path)
    with pytest.raises(DeltaError, match=r"metadata of .* is damaged"):
        Delta.load(file)


def test_outputs_that_are_not_finite_are_no_answer(tiny_base: Base) -> None:
    for kind, scale in (("classification", 1.0), ("regression", 1e300)):
        swap = tiny_base.put_head(HeadSpec("regression") if kind == "regression" else SPEC, 0)
        tuning = Trainable(tiny_base, select(tiny_base.layout, "layernorm"))
        delta = Delta.capture(tuning, task="loud", scale=scale)
        tuning.undo()
        swap.undo()
        loud = replace(delta, head={name: torch.full_like(value, 3e38) for name, value in delta.head.items()})
        with (
            Predictor(tiny_base, loud) as predictor,
            pytest.raises(DeltaError, match="The task 'loud' gives a number that is not finite"),
        ):
            predictor.predict(["the cat sat"])


@pytest.mark.parametrize(
    "changes",
    [{"layer_norm_eps": 10.0}, {"num_attention_heads": 2}, {"hidden_act": "relu"}],
)
def test_the_same_weights_under_another_configuration_are_another_base(
    tiny_folder: Path, tmp_path: Path, changes: dict[str, object]
) -> None:
    delta = trained(load_base(str(tiny_folder)), "layernorm")
    other = shutil.copytree(tiny_folder, tmp_path / "other")
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**config, **changes}))
    base = load_base(str(other))
    assert base.identity == delta.info.base_identity
    with pytest.raises(DeltaError, match=r"with another config\.json: .* has the same weights, but would answer"):
        delta.apply(base)


def test_the_same_weights_with_another_tokenizer_are_another_base(tiny_folder: Path, tmp_path: Path) -> None:
    delta = trained(load_base(str(tiny_folder)), "layernorm")
    other = shutil.copytree(tiny_folder, tmp_path / "other")
    tokenizer = json.loads((other / "tokenizer.json").read_text())
    tokenizer["normalizer"]["lowercase"] = False
    (other / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(DeltaError, match="with another tokenizer"):
        delta.check(load_base(str(other)))
    without = load_base(str(tiny_folder))
    without.tokenizer = None
    delta.check(without)
    blind = replace(delta, info=delta.info.model_copy(update={"base_tokenizer": ""}))
    blind.check(load_base(str(other)))


def test_what_changes_no_answer_is_the_same_base(tiny_folder: Path, tmp_path: Path) -> None:
    delta = trained(load_base(str(tiny_folder)), "layernorm")
    other = shutil.copytree(tiny_folder, tmp_path / "other")
    config = json.loads((other / "config.json").read_text())
    told = {"hidden_dropout_prob": 0.3, "architectures": ["Mine"], "id2label": {"0": "a", "1": "b", "2": "c"}}
    more = {"label2id": {"a": 0, "b": 1, "c": 2}, "my_note": "dear", "use_cache": False, "transformers_version": "4"}
    (other / "config.json").write_text(json.dumps({**config, **told, **more}))
    for dtype in ("float32", "bfloat16"):
        delta.check(load_base(str(other), dtype=dtype))


def test_a_later_format_and_foreign_files_are_refused(tiny_folder: Path, tmp_path: Path) -> None:
    delta = trained(load_base(str(tiny_folder)), "layernorm")
    later = Delta(delta.info.model_copy(update={"format": 2}), delta.indices, delta.values, delta.head)
    with pytest.raises(DeltaError, match="format 2"):
        Delta.load(later.save(tmp_path / "later.safetensors"))
    with pytest.raises(DeltaError, match="no normtune delta"):
        Delta.load(tiny_folder / "model.safetensors")
    with pytest.raises(DeltaError, match="no delta at"):
        Delta.load(tmp_path / "nowhere")


def test_saving_never_overwrites(tiny_folder: Path, tmp_path: Path) -> None:
    delta = trained(load_base(str(tiny_folder)), "layernorm")
    file = delta.save(tmp_path / "v1.2")
    assert file == tmp_path / "v1.2" / FILE
    before = file.read_bytes()
    with pytest.raises(OutputError, match="exists already"):
        delta.save(tmp_path / "v1.2")
    assert file.read_bytes() == before


def test_the_header_tells_what_it_is(tiny_folder: Path, tmp_path: Path) -> None:
    file = trained(load_base(str(tiny_folder)), "layernorm").save(tmp_path)
    with safe_open(file, "pt") as stored:
        info = json.loads(stored.metadata()["normtune"])
    assert (info["task"], info["method"], info["labels"]) == ("mine", "layernorm", ["no", "maybe", "yes"])
    assert info["base_identity"] == load_base(str(tiny_folder)).identity
    assert info["versions"]["torch"] == torch.__version__
