from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from normtune import files
from normtune.errors import ConfigError, OutputError, SelectionError
from normtune.importance.masks import Mask, MaskInfo, read_info, top
from normtune.importance.scores import Scores
from normtune.methods.expression import select
from normtune.methods.selection import Selection, at, everything, nothing
from normtune.models.base import Base, load_base
from tests.importance.test_scores import ENTRIES, scored
from tests.methods.test_selection import LAYOUT, SIZES, entries_of, make_layout

# Few different numbers, so that most are tied.
tables = st.dictionaries(st.sampled_from(ENTRIES), st.sampled_from([-1.0, -0.0, 0.0, 2.0, 1e-300]), min_size=1)


def best(table, count):
    """The reference: a plain sort by score, then by place in the layout's order."""
    return {*sorted(table, key=lambda entry: (-table[entry], ENTRIES.index(entry)))[:count]}


@given(tables, st.floats(0, 1))
def test_a_fraction_takes_exactly_the_rounded_number_of_the_highest(table, fraction):
    chosen = entries_of(top(scored(table), fraction=fraction))
    assert len(chosen) == round(fraction * len(table))
    assert chosen == best(table, len(chosen))


@given(tables, st.data())
def test_a_number_of_entries_takes_that_many(table, data):
    count = data.draw(st.integers(0, len(table)))
    assert entries_of(top(scored(table), entries=count)) == best(table, count)


@given(st.permutations(range(len(ENTRIES))), st.integers(0, len(ENTRIES)))
def test_without_ties_the_least_are_the_others(ranks, count):
    scores = scored({entry: float(rank) for entry, rank in zip(ENTRIES, ranks, strict=True)})
    assert top(scores, entries=count) == ~top(-scores, entries=len(ENTRIES) - count)


def test_all_tied_the_first_in_the_layouts_order_are_taken():
    scores = Scores(everything(LAYOUT), {name: np.zeros(size) for name, size in SIZES.items()})
    chosen = top(scores, entries=8)
    assert entries_of(chosen) == {*ENTRIES[:8]}
    assert chosen.is_whole("a.weight")


def test_none_and_all():
    scores = Scores(everything(LAYOUT), {name: np.arange(size) for name, size in SIZES.items()})
    assert top(scores, fraction=0) == top(scores, entries=0) == nothing(LAYOUT)
    assert top(scores, fraction=1) == top(scores, entries=len(ENTRIES)) == everything(LAYOUT)


def test_a_half_rounds_to_the_even_number():
    layout = make_layout({"a.weight": (5,)})
    scores = Scores(everything(layout), {"a.weight": np.arange(5)})
    assert [len(top(scores, fraction=f)) for f in (0.1, 0.3, 0.5, 0.7, 0.9)] == [0, 2, 2, 4, 4]


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        ({"fraction": -0.1}, "between 0 and 1; got -0.1"),
        ({"fraction": 1.01}, "between 0 and 1; got 1.01"),
        ({"fraction": float("nan")}, "between 0 and 1; got nan"),
        ({"fraction": float("inf")}, "between 0 and 1; got inf"),
        ({"entries": -1}, "between 0 and all 18 candidates; got -1"),
        ({"entries": 19}, "between 0 and all 18 candidates; got 19"),
        ({}, "either a fraction of its candidates or a number of entries"),
        ({"fraction": 0.1, "entries": 1}, "either a fraction of its candidates or a number of entries"),
    ],
)
def test_a_size_that_makes_no_sense_is_refused(wanted, said):
    scores = Scores(everything(LAYOUT), {name: np.zeros(size) for name, size in SIZES.items()})
    with pytest.raises(ConfigError, match=re.escape(said)):
        top(scores, **wanted)


@pytest.mark.parametrize("wanted", [{"fraction": 0.0}, {"fraction": 0.5}, {"entries": 0}])
def test_an_empty_set_of_candidates_is_refused(wanted):
    with pytest.raises(SelectionError, match="no candidates to take a mask from"):
        top(Scores(nothing(LAYOUT), {}), **wanted)


def test_many_candidates_with_many_ties():
    layout = make_layout({"a.weight": (1000, 400), "b.weight": (7,), "c.bias": (99_993,)})
    joint = np.random.default_rng(0).integers(0, 50, size=500_000).astype(float)
    parts = np.split(joint, [400_000, 400_007])
    scores = Scores(everything(layout), dict(zip(("a.weight", "b.weight", "c.bias"), parts, strict=True)))
    order = np.argsort(-joint, kind="stable")
    for fraction in (0.001, 0.1, 0.73):
        assert top(scores, fraction=fraction) == at(layout, order[: round(fraction * 500_000)])


def info(**fields: object) -> MaskInfo:
    required = {"base": "b", "base_identity": "i", "layout": "l", "candidates": 10, "entries": 1, "content": "c"}
    return MaskInfo.model_validate({**required, **fields})


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"importance": "fisher", "scope": "individual", "fraction": 0.1}, "fisher-individual@0.1"),
        ({"importance": "fisher", "scope": "global", "fraction": 0.2}, "fisher-global@0.2"),
        ({"importance": "fisher", "scope": "leave-one-out", "fraction": 0.1}, "fisher-leave-one-out@0.1"),
        ({"importance": "least-fisher", "scope": "individual", "fraction": 0.1}, "least-fisher-individual@0.1"),
        ({"importance": "change", "scope": "individual", "fraction": 0.1}, "change-individual@0.1"),
        ({"importance": "random", "fraction": 0.1}, "random@0.1"),
        ({"importance": "magnitude", "fraction": 0.1}, "magnitude@0.1"),
        (
            {"importance": "fisher", "scope": "individual", "fraction": 0.001, "within": "full"},
            "fisher-individual@0.001 of full",
        ),
        (
            {"importance": "fisher", "scope": "individual", "entries": 4608, "within": "full"},
            "fisher-individual@4608 of full",
        ),
        ({"importance": "random", "entries": 1}, "random@1 of layernorm"),
        ({"importance": "random", "fraction": 1}, "random@1.0"),
    ],
)
def test_its_name_says_importance_scope_and_size(fields, name):
    assert info(**fields).name == name


def test_on_another_task_the_name_says_whose_it_is():
    own = info(importance="fisher", scope="individual", fraction=0.1, target="rte")
    assert own.name_on("rte") == own.name == "fisher-individual@0.1"
    assert own.name_on("cola") == "fisher-individual@0.1 for rte"
    assert info(importance="random", fraction=0.1).name_on("cola") == "random@0.1"


WITHIN = {
    "layernorm": {"fraction": 0.1},
    "full": {"fraction": 0.001},
    "pooler.dense": {"fraction": 0.9},
    "bitfit": {"fraction": 1.0},
    "output.LayerNorm.bias": {"entries": 7},
    "attention-layernorm": {"fraction": 0.0},
}


def make(base: Base, within: str = "layernorm", *, seed: int = 0, **options: object) -> Mask:
    """A mask by random scores."""
    candidates = select(base.layout, within)
    generator = np.random.default_rng(seed)
    scores = Scores(candidates, {p.parameter: generator.random(candidates.count(p.parameter)) for p in candidates})
    size = {"fraction": 0.1} if not {"fraction", "entries"} & options.keys() else {}
    return Mask.make(base, scores, **{"importance": "random", "within": within, "seed": seed, **size, **options})


@pytest.mark.parametrize("within", WITHIN)
def test_saved_and_loaded_it_is_the_same(tiny_folder: Path, tmp_path: Path, within: str) -> None:
    mask = make(
        load_base(str(tiny_folder)),
        within,
        **WITHIN[within],
        tasks=("cola", "rte"),
        examples={"cola": 10, "rte": 20},
        head_seeds=(0, 1),
    )
    file = mask.save(tmp_path / "masks" / "one.safetensors")
    loaded = Mask.load(file, load_base(str(tiny_folder), head_seed=3))
    assert loaded.selection.fingerprint == mask.selection.fingerprint
    assert loaded.info == mask.info == read_info(file)
    assert loaded.info.candidates == len(select(loaded.selection.layout, within))
    assert loaded.info.entries == len(loaded.selection)


def test_whole_parameters_take_no_bytes_and_the_rest_few(tiny_base: Base, tmp_path: Path) -> None:
    make(tiny_base, "bitfit", fraction=1.0).save(tmp_path / "whole")
    whole = load_file(tmp_path / "whole")
    assert {name.partition("/")[0] for name in whole} == {"whole"}
    assert sum(tensor.nbytes for tensor in whole.values()) == 0
    make(tiny_base, "layernorm", fraction=0.5).save(tmp_path / "half")
    assert sum(tensor.nbytes for tensor in load_file(tmp_path / "half").values()) <= 3 * 2 * 32 / 8
    make(tiny_base, "full", entries=5).save(tmp_path / "few")
    assert sum(tensor.nbytes for tensor in load_file(tmp_path / "few").values()) <= 5 * 4


def test_an_existing_file_is_left_alone(tiny_base: Base, tmp_path: Path) -> None:
    file = make(tiny_base).save(tmp_path / "mask.safetensors")
    before = file.read_bytes()
    with pytest.raises(OutputError, match="exists already"):
        make(tiny_base, seed=1).save(file)
    assert file.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["mask.safetensors"]


def test_a_mask_of_another_model_is_refused(tiny_base: Base, make_base, tmp_path: Path) -> None:
    file = make(tiny_base).save(tmp_path / "mask")
    same_layout, other_layout = make_base("bert", seed=4), make_base("bert", num_hidden_layers=2)
    assert same_layout.layout.fingerprint == tiny_base.layout.fingerprint
    for other in (same_layout, other_layout):
        with pytest.raises(
            SelectionError, match=r"^This mask belongs to the base model '.*' \(.*\), not to '.*' \(.*\)\.$"
        ):
            Mask.load(file, other)
    Mask.load(file, tiny_base)


def test_scores_of_another_model_make_no_mask(tiny_base: Base, make_base) -> None:
    layout = make_base("bert", num_hidden_layers=2).layout
    candidates = select(layout, "layernorm")
    scores = Scores(candidates, {p.parameter: np.ones(p.size) for p in candidates})
    with pytest.raises(SelectionError, match="scores are of another model"):
        Mask.make(tiny_base, scores, fraction=0.5, importance="random")


def test_a_mask_is_what_it_says(tiny_base: Base) -> None:
    mask, other = make(tiny_base), make(tiny_base, seed=1)
    with pytest.raises(SelectionError, match="do not match"):
        Mask(other.selection, mask.info)
    with pytest.raises(SelectionError, match="do not match"):
        Mask(mask.selection, mask.info.model_copy(update={"entries": mask.info.entries + 1}))


def test_cut_anywhere_it_is_refused(tiny_base: Base, tmp_path: Path) -> None:
    whole = make(tiny_base).save(tmp_path / "mask").read_bytes()
    for length in (0, 1, 8, 9, len(whole) // 2, len(whole) - 1):
        (tmp_path / "cut").write_bytes(whole[:length])
        for read in (read_info, lambda path: Mask.load(path, tiny_base)):
            with pytest.raises(SelectionError, match="truncated or corrupt"):
                read(tmp_path / "cut")


def rewrite(source: Path, target: Path, tensors=None, **changes: object) -> Path:
    """The mask in `source` with other tensors or other metadata."""
    with safe_open(source, "pt") as stored:
        metadata = {**json.loads(stored.metadata()["normtune-mask"]), **changes}
    given_tensors = load_file(source) if tensors is None else tensors
    metadata["hash"] = files._hash({name: value for name, value in metadata.items() if name != "hash"}, given_tensors)
    save_file(given_tensors, target, {"normtune-mask": json.dumps(metadata)})
    return target


def test_damaged_inside_it_is_refused(tiny_base: Base, tmp_path: Path) -> None:
    source = make(tiny_base).save(tmp_path / "mask")
    tensors = load_file(source)
    first = next(iter(tensors))
    flipped = tensors[first].clone()
    flipped[0] ^= 1
    for changed in (
        {**tensors, first: flipped},
        {name: tensor for name, tensor in tensors.items() if name != first},
        {**tensors, first: tensors[first].float()},
        {**tensors, "whole/classifier.weight": torch.empty(0, dtype=torch.uint8)},
        {**tensors, "whole/nothing.weight": torch.empty(0, dtype=torch.uint8)},
        {**tensors, "index/bert.pooler.dense.bias": torch.tensor([-1], dtype=torch.int32)},
        {**tensors, "values/bert.pooler.dense.bias": torch.tensor([1.0])},
    ):
        with pytest.raises(SelectionError, match=r"^The mask .* is corrupt: "):
            Mask.load(rewrite(source, tmp_path / "changed", changed), tiny_base)
    rewrite(source, tmp_path / "same", tensors)
    assert Mask.load(tmp_path / "same", tiny_base).selection == make(tiny_base).selection


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"format": 2}, "has format 2; this version of normtune reads format 1"),
        ({"scope": "mine"}, "metadata of .* is damaged"),
        ({"colour": "red"}, "metadata of .* is damaged"),
        ({"candidates": "many"}, "metadata of .* is damaged"),
    ],
)
def test_metadata_that_is_not_ours_is_refused(tiny_base: Base, tmp_path: Path, changes, said) -> None:
    source = make(tiny_base).save(tmp_path / "mask")
    with pytest.raises(SelectionError, match=said):
        Mask.load(rewrite(source, tmp_path / "changed", **changes), tiny_base)


@pytest.mark.parametrize("header", [None, {"normtune": "{}"}, {"normtune-mask": "{"}])
def test_another_safetensors_file_is_no_mask(tmp_path: Path, header) -> None:
    save_file({"a": torch.ones(2)}, tmp_path / "other", header)
    with pytest.raises(SelectionError, match="is no normtune mask"):
        read_info(tmp_path / "other")


def test_a_list_in_the_header_is_no_mask(tmp_path: Path) -> None:
    save_file({"a": torch.ones(2)}, tmp_path / "other", {"normtune-mask": "[]"})
    with pytest.raises(SelectionError, match="is no normtune mask"):
        read_info(tmp_path / "other")


def test_a_mask_that_is_not_there(tiny_base: Base, tmp_path: Path) -> None:
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(SelectionError, match="There is no mask at"):
            Mask.load(path, tiny_base)


def test_the_file_is_the_same_to_the_byte(tiny_base: Base, tmp_path: Path) -> None:
    one, other = make(tiny_base).save(tmp_path / "one"), make(tiny_base).save(tmp_path / "other")
    assert one.read_bytes() == other.read_bytes()


def test_masks_are_selections_like_any_other(tiny_base: Base) -> None:
    mask = make(tiny_base, "layernorm", fraction=0.5)
    assert isinstance(mask.selection, Selection)
    assert len(mask.selection - select(tiny_base.layout, "layernorm")) == 0
    assert len(mask.selection) == 96
    assert mask.name == "random@0.5"
