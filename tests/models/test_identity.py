from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import normalizers, pre_tokenizers, processors
from transformers import AutoTokenizer

from normtune.errors import ModelError
from normtune.models.base import load_base, wrap
from normtune.models.head import HeadSpec
from normtune.models.identity import (
    canonical_name,
    checkpoint_identity,
    config_identity,
    tensors_identity,
    tokenizer_identity,
)

WEIGHTS = "model.safetensors"


@pytest.fixture
def rewritten(tiny_folder, tmp_path):
    """Saves a copy of the tiny BERT with its tensors put through `change`, and returns its folder."""

    def rewrite(change, name="copy"):
        folder = tmp_path / name
        shutil.copytree(tiny_folder, folder)
        save_file(change(load_file(tiny_folder / WEIGHTS)), folder / WEIGHTS, metadata={"format": "pt"})
        return str(folder)

    return rewrite


@pytest.mark.parametrize(
    ("stored", "expected"),
    [
        ("bert.pooler.dense.weight", "pooler.dense.weight"),
        ("pooler.dense.weight", "pooler.dense.weight"),
        ("bert.encoder.layer.0.output.LayerNorm.gamma", "encoder.layer.0.output.LayerNorm.weight"),
        ("encoder.layer.0.output.LayerNorm.beta", "encoder.layer.0.output.LayerNorm.bias"),
        ("gamma.dense.weight", "gamma.dense.weight"),
        ("bertram.weight", "bertram.weight"),
        ("mask_emb", "mask_emb"),
    ],
)
def test_canonical_name(stored, expected):
    assert canonical_name(stored, "bert") == expected


def test_the_identity_of_tensors():
    a, b = torch.arange(6.0).reshape(2, 3), torch.ones(2)
    identity = tensors_identity({"a": a, "b": b})
    assert len(identity) == 64
    assert tensors_identity({"b": b.clone(), "a": a.t().contiguous().t()}) == identity
    for other in (
        {"a": a, "c": b},
        {"a": b, "b": a},
        {"a": a.reshape(3, 2), "b": b},
        {"a": a.double(), "b": b},
        {"a": a.view(torch.int32), "b": b},  # the same bytes
        {"a": a},
        {"a": a, "b": torch.tensor([1.0, torch.nextafter(torch.tensor(1.0), torch.tensor(2.0))])},
        {"a": torch.cat([a[:1] * -1, a[1:]]), "b": b},  # 0.0 becomes -0.0: other bits, equal numbers
    ):
        assert tensors_identity(other) != identity


def test_it_does_not_depend_on_the_dtype_that_is_loaded(tiny_folder):
    identities = {load_base(str(tiny_folder), dtype=dtype).identity for dtype in ("float32", "bfloat16", "float16")}
    assert len(identities) == 1


def test_it_does_not_depend_on_the_head(tiny_folder):
    first = load_base(str(tiny_folder), head_seed=1)
    second = load_base(str(tiny_folder), HeadSpec("regression"), head_seed=2)
    assert first.identity == second.identity


def test_a_classifier_in_the_checkpoint_and_the_prefix_that_comes_with_it_change_nothing(
    tiny_folder, make_model, make_folder
):
    model = make_model("bert")
    whole = make_folder(model)
    assert all(name.startswith(("bert.", "classifier.")) for name in load_file(whole / WEIGHTS))
    assert not any(name.startswith("bert.") for name in load_file(tiny_folder / WEIGHTS))
    identity = load_base(str(tiny_folder)).identity
    assert load_base(str(whole)).identity == identity
    with torch.no_grad():
        model.classifier.weight.add_(1)
    assert load_base(str(make_folder(model))).identity == identity
    wrap(model).put_head(HeadSpec.numbered(5))
    assert load_base(str(make_folder(model))).identity == identity


def test_old_names_of_the_norms_change_nothing(tiny_folder, rewritten):
    def old(tensors):
        return {
            name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): value
            for name, value in tensors.items()
        }

    base, new = load_base(rewritten(old)), load_base(str(tiny_folder))
    assert base.identity == new.identity
    assert all(
        torch.equal(base.model.get_parameter(place.parameter), new.model.get_parameter(place.parameter))
        for place in base.layout.body
    )


@pytest.mark.parametrize("name", ["embeddings.word_embeddings.weight", "encoder.layer.2.output.LayerNorm.bias"])
def test_one_changed_bit_makes_another_model(name, tiny_folder, rewritten):
    def flip(tensors):
        tensors[name].reshape(-1).view(torch.int32)[-1] ^= 1
        return tensors

    same, other = load_base(rewritten(lambda tensors: tensors, "same")), load_base(rewritten(flip, "other"))
    assert same.identity == load_base(str(tiny_folder)).identity
    assert other.identity != same.identity


def test_a_checkpoint_stored_in_another_dtype_is_another_model(tiny_folder, rewritten):
    folder = rewritten(lambda tensors: {name: value.bfloat16() for name, value in tensors.items()})
    assert load_base(folder).identity != load_base(str(tiny_folder)).identity


def test_what_the_encoder_does_not_use_changes_nothing(tiny_folder, rewritten):
    folder = rewritten(lambda tensors: {**tensors, "cls.predictions.bias": torch.zeros(7)})
    assert load_base(folder).identity == load_base(str(tiny_folder)).identity


def test_shards_change_nothing(tiny_folder, make_model, make_folder):
    sharded = make_folder(make_model("bert").base_model, max_shard_size="30KB")
    assert len(list(sharded.glob("model-*.safetensors"))) > 1
    base, single = load_base(str(sharded)), load_base(str(tiny_folder))
    assert base.identity == single.identity
    assert torch.equal(base.model.bert.pooler.dense.weight, single.model.bert.pooler.dense.weight)


def test_the_order_in_which_tensors_are_stored_changes_nothing(tiny_folder, tmp_path):
    tensors = load_file(tiny_folder / WEIGHTS)
    names = [*tensors]
    for number, part in enumerate((names[::-1][:10], names[::-1][10:])):
        save_file({name: tensors[name] for name in part}, tmp_path / f"{number}.safetensors")
    files = [tmp_path / "1.safetensors", tmp_path / "0.safetensors"]
    assert checkpoint_identity(files, "bert", names) == checkpoint_identity([tiny_folder / WEIGHTS], "bert", names)


def test_a_checkpoint_that_transformers_renames_is_known_by_its_encoder(image_folders, tmp_path):
    folder = image_folders["vit"]
    base = load_base(str(folder))
    # Another head in the file leaves the base the same.
    shutil.copytree(folder, tmp_path / "other")
    tensors = load_file(folder / WEIGHTS)
    save_file({**tensors, "classifier.bias": tensors["classifier.bias"] + 1}, tmp_path / "other" / WEIGHTS)
    assert load_base(str(tmp_path / "other")).identity == base.identity


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("bert", {"layer_norm_eps": 1e-5}),
        ("bert", {"num_attention_heads": 8}),
        ("bert", {"hidden_act": "relu"}),
        ("roberta", {"pad_token_id": 1}),
        ("llama", {"rms_norm_eps": 1e-3}),
        ("llama", {"rope_parameters": {"rope_type": "default", "rope_theta": 500.0}}),
        ("gpt2", {"activation_function": "relu"}),
        ("modernbert", {"local_attention": 8}),
    ],
)
def test_what_a_configuration_computes_has_a_hash(make_model, family, changes):
    usual = make_model(family).config
    assert config_identity(make_model(family, **changes).config) != config_identity(usual)
    for same in ({"attention_dropout": 0.3}, {"use_cache": False}, {"id2label": {0: "a", 1: "b", 2: "c"}}):
        assert config_identity(make_model(family, **same).config) == config_identity(usual)


@pytest.mark.parametrize("change", ["vocabulary", "normalizer", "pre_tokenizer", "post_processor"])
def test_what_a_tokenizer_reads_has_a_hash(tiny_folder, change):
    own = AutoTokenizer.from_pretrained(tiny_folder)
    before = tokenizer_identity(own)
    own(["the cat"] * 2, truncation=True, max_length=4, padding=True)  # it keeps these settings
    assert tokenizer_identity(own) == tokenizer_identity(AutoTokenizer.from_pretrained(tiny_folder)) == before
    backend = own.backend_tokenizer
    if change == "vocabulary":
        own.add_tokens(["tree"])
    elif change == "normalizer":
        backend.normalizer = normalizers.BertNormalizer(lowercase=True, strip_accents=False)
    elif change == "pre_tokenizer":
        backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    else:
        backend.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
        )
    assert tokenizer_identity(own) != before


def test_minilm(minilm):
    assert wrap(minilm.model).identity == minilm.identity


def test_a_file_that_cannot_be_read_is_named(tiny_folder, tmp_path):
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes((tiny_folder / WEIGHTS).read_bytes()[:1000])
    with pytest.raises(ModelError, match=r"broken\.safetensors"):
        checkpoint_identity([broken], "bert", [])
    with pytest.raises(ModelError, match=r"none\.safetensors"):
        checkpoint_identity([tmp_path / "none.safetensors"], "bert", [])


def test_the_index_of_a_sharded_checkpoint_lists_every_tensor(tiny_folder, make_model, make_folder):
    sharded = make_folder(make_model("bert").base_model, max_shard_size="30KB")
    index = json.loads((sharded / "model.safetensors.index.json").read_text())
    assert index["weight_map"].keys() == load_file(tiny_folder / WEIGHTS).keys()


def test_statistics_of_norms_are_part_of_it(make_model):
    """A BatchNorm's running mean and variance change what a model computes; other buffers are made anew."""
    model = make_model("bert")
    plain = wrap(model).identity
    model.bert.pooler.add_module("norm", torch.nn.BatchNorm1d(32))
    with_norm = wrap(model).identity
    model.bert.pooler.norm.running_mean += 1
    assert len({plain, with_norm, wrap(model).identity}) == 3
    model.bert.embeddings.position_ids += 1
    assert wrap(model).identity != plain
    model.bert.pooler.norm.running_mean -= 1
    assert wrap(model).identity == with_norm
