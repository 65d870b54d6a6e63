from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import chi2
from transformers import BertConfig

from normtune.errors import SelectionError
from normtune.methods.components import last_layers, random
from normtune.models.base import skeleton
from normtune.models.layout import Layout, Place
from tests.conftest import TEXT_METHODS as METHODS

SELECTING = [name for name, method in METHODS.items() if method.selects or method.measured]
MODELS = {
    "bert-large-cased": {"hidden": 1024, "layers": 24, "heads": 16, "wide": 4096, "vocabulary": 28996},
    "bert-base-uncased": {"hidden": 768, "layers": 12, "heads": 12, "wide": 3072, "vocabulary": 30522},
    "bert-base-cased": {"hidden": 768, "layers": 12, "heads": 12, "wide": 3072, "vocabulary": 28996},
}


@pytest.fixture(scope="module")
def skeletons(tmp_path_factory):
    """Layouts of BERT models with 2 labels, from a configuration alone."""
    layouts = {}
    for name, size in MODELS.items():
        folder = tmp_path_factory.mktemp(name)
        BertConfig(
            hidden_size=size["hidden"],
            num_hidden_layers=size["layers"],
            num_attention_heads=size["heads"],
            intermediate_size=size["wide"],
            vocab_size=size["vocabulary"],
        ).save_pretrained(folder)
        assert [file.name for file in folder.iterdir()] == ["config.json"]
        layouts[name] = skeleton(str(folder), 2)
    return layouts


def expected(hidden, layers, heads, wide, vocabulary):
    """How many entries each method trains, by hand; positions 512, token types 2."""
    head = 2 * hidden + 2
    norm = 2 * hidden
    attention = 4 * (hidden * hidden + hidden) + norm
    feed_forward = (hidden * wide + wide) + (wide * hidden + hidden) + norm
    layer = attention + feed_forward
    pooler = hidden * hidden + hidden
    embeddings = (vocabulary + 512 + 2) * hidden + norm
    # A layer's: four in the attention, two in the feed-forward part, two norms; then the embeddings' norm and pooler.
    biases = layers * (4 * hidden + wide + hidden + 2 * hidden) + hidden + hidden
    return {
        "full": embeddings + layers * layer + pooler + head,
        "bitfit": biases + head,
        "layernorm": layers * norm + head,
        "random": layers * norm + head,
        "attention-layernorm": layers * norm + head,
        "all-layernorm": (2 * layers + 1) * norm + head,
        "fish-mask": layers * norm + head,
        "child-tuning-d": round(0.2 * (embeddings + layers * layer + pooler)) + head,
        "value-bias": layers * hidden + head,
        "last-layers": layers // 4 * layer + pooler + head,
        "head": head,
    }


def test_bert_large_trains_what_the_paper_says(skeletons):
    layout = skeletons["bert-large-cased"]
    trained = {method: len(METHODS[method](layout)) + layout.head_size for method in SELECTING}
    facts = {"full": 333_581_314, "bitfit": 274_434, "layernorm": 51_202, "random": 51_202}
    assert {method: trained[method] for method in facts} == facts
    assert layout.head_size == 2050
    assert len(METHODS["layernorm"](layout)) == 49_152
    assert len(METHODS["bitfit"](layout)) == 272_384


@pytest.mark.parametrize("name", MODELS)
def test_counts_by_hand(name, skeletons):
    layout = skeletons[name]
    trained = {method: len(METHODS[method](layout)) + layout.head_size for method in SELECTING}
    assert trained == expected(**MODELS[name])


def test_minilm(minilm):
    layout = minilm.layout
    assert layout.head_size == 770
    assert len(METHODS["layernorm"](layout)) == len(random(layout)) == 4608
    trained = {
        method: len(METHODS[method](layout)) + layout.head_size for method in SELECTING if method != "last-layers"
    }
    by_hand = expected(hidden=384, layers=6, heads=12, wide=1536, vocabulary=30522)
    assert trained == {method: count for method, count in by_hand.items() if method != "last-layers"}


@pytest.fixture(scope="module")
def bert(make_base):
    return make_base("bert").layout


def named(selection):
    return [place.parameter for place in selection]


def test_layernorm_is_the_output_layernorm_and_nothing_else(bert):
    selection = METHODS["layernorm"](bert)
    assert named(selection) == [
        f"bert.encoder.layer.{layer}.output.LayerNorm.{sub}" for layer in range(3) for sub in ("weight", "bias")
    ]
    assert all(selection.is_whole(name) for name in named(selection))
    attention = METHODS["attention-layernorm"](bert)
    assert named(attention) == [
        f"bert.encoder.layer.{layer}.attention.output.LayerNorm.{sub}"
        for layer in range(3)
        for sub in ("weight", "bias")
    ]
    assert not (selection & attention)


def test_all_layernorm_has_the_embeddings_too(bert):
    both = METHODS["layernorm"](bert) | METHODS["attention-layernorm"](bert)
    rest = METHODS["all-layernorm"](bert) - both
    assert named(rest) == ["bert.embeddings.LayerNorm.weight", "bert.embeddings.LayerNorm.bias"]
    assert both == both & METHODS["all-layernorm"](bert)


def test_bitfit_is_every_bias(family, make_base):
    base = make_base(family)
    prefix = f"{base.model.base_model_prefix}."
    biases = [
        name
        for name, _ in base.model.named_parameters()
        if name.startswith(prefix) and (name.endswith((".bias", "_bias")))
    ]
    if biases:
        assert named(METHODS["bitfit"](base.layout)) == biases
    else:
        with pytest.raises(SelectionError, match="has no biases"):
            METHODS["bitfit"](base.layout)


def test_full_and_head(bert):
    assert named(METHODS["full"](bert)) == [place.parameter for place in bert.body]
    assert not METHODS["head"](bert)


def test_last_layers(bert):
    def layers_of(selection):
        return {place.layer for place in selection}

    assert layers_of(last_layers(bert)) == {2, None}  # a quarter of three, rounded up
    assert layers_of(last_layers(bert, option=2)) == {1, 2, None}
    assert {place.component.split(".")[0] for place in ~last_layers(bert, option=3)} == {"embeddings"}
    assert all(place.component == "pooler.dense" for place in last_layers(bert) if place.layer is None)
    for count in (0, 4, -1):
        with pytest.raises(SelectionError, match=f"a number of layers of 1 to 3; got {count}"):
            last_layers(bert, option=count)


def test_random_is_seeded(bert):
    assert random(bert, seed=3) == random(bert, seed=3)
    assert len({random(bert, seed=seed) for seed in range(20)}) == 20
    assert random(bert) == random(bert, seed=0)
    # A seed draws the same entries on every machine and in every version.
    flat = np.random.default_rng([3, 0x7A4D]).choice(bert.size, size=192, replace=False, shuffle=False)
    ends = np.cumsum([place.size for place in bert.body])
    starts = {place.parameter: end - place.size for place, end in zip(bert.body, ends, strict=True)}
    drawn = random(bert, seed=3)
    assert sorted(int(starts[name] + i) for name in drawn.chosen for i in drawn.indices(name)) == sorted(flat.tolist())


def test_random_leaves_the_global_generator_alone(bert):
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    random(bert, seed=1)
    assert np.array_equal(state, np.random.get_state()[1])  # noqa: NPY002


def test_random_draws_without_replacement_as_many_as_layernorm_has(family, make_base):
    layout = make_base(family).layout
    drawn = random(layout, seed=5)
    assert len(drawn) == len(METHODS["layernorm"](layout))
    assert not any(place.head for place in drawn)
    assert all(len(np.unique(drawn.indices(name))) == drawn.count(name) for name in drawn.chosen)


def goodness(observed, shares):
    """The probability of counts at least this far from their shares."""
    wanted = observed.sum() * shares
    return chi2.sf(((observed - wanted) ** 2 / wanted).sum(), len(shares) - 1)


def test_random_is_uniform_over_tensors(bert):
    draws = [random(bert, seed=seed) for seed in range(300)]
    sizes = np.array([place.size for place in bert.body])
    counts = np.array([[draw.count(place.parameter) for place in bert.body] for draw in draws]).sum(0)
    assert counts.sum() == 300 * 192
    assert goodness(counts, sizes / sizes.sum()) > 1e-3
    # A LayerNorm gets its share as well: it is not rounded down to nothing.
    small = np.array([place.norm for place in bert.body])
    assert counts[small].sum() > 0
    # The test has power: it detects a tenth more for every third tensor.
    bent = sizes * np.where(np.arange(len(sizes)) % 3 == 0, 1.1, 1.0)
    assert goodness(counts, bent / bent.sum()) < 1e-3


def test_random_is_uniform_within_tensors(bert):
    name, bins = "bert.embeddings.word_embeddings.weight", 10
    size = bert.by_name[name].size
    positions = np.concatenate([random(bert, seed=seed).indices(name) for seed in range(300)])
    counts = np.bincount(positions * bins // size, minlength=bins)
    edges = np.ceil(np.arange(bins + 1) * size / bins)
    assert goodness(counts, np.diff(edges) / size) > 1e-3


def test_random_counts_a_shared_tensor_once(make_base):
    layout = make_base("albert", num_hidden_layers=12).layout
    assert layout.size == make_base("albert", num_hidden_option=2).layout.size
    assert random(layout, seed=1) == random(make_base("albert", num_hidden_option=2).layout, seed=1)


def test_models_without_norms_or_of_unknown_families_are_refused():
    plain = Layout("bert", (Place("a.weight", "a", "weight", 0, (2, 2), head=False, norm=False),))
    with pytest.raises(SelectionError, match=r"'bert' model has no output\.LayerNorm"):
        METHODS["layernorm"](plain)
    with pytest.raises(SelectionError, match="no normalisations"):
        METHODS["all-layernorm"](plain)
    with pytest.raises(SelectionError, match="no biases"):
        METHODS["bitfit"](plain)
    for method in ("layernorm", "attention-layernorm", "random"):
        with pytest.raises(SelectionError, match="'nope'"):
            METHODS[method](Layout("nope", plain.places))
