from __future__ import annotations

import copy
import itertools

import numpy as np
import pytest
import torch

from normtune.data.encode import ENCODERS, POOL, Encoded, buckets, by_length, by_tokens, encode
from normtune.data.task import Split
from normtune.errors import DataError, GuessWarning

TEXTS = (
    "the cat is old .",
    "a dog",
    "every child reads the great new book and likes no bird",
    "zebra",
    "no , the film is not very dull !",
)
PAIRS = (
    "is it ?",
    "the old cat sees a child and the old cat sees a dog",
    "no",
    "a river a river",
    "the film was good .",
)


def texts_of(encoded, tokenizer):
    return [tokenizer.decode(ids, skip_special_tokens=True) for ids in encoded.fields["input_ids"]]


def pieces(tokenizer, text):
    return len(tokenizer.tokenize(text))


def test_texts_become_numbers(tiny_tokenizer):
    encoded = encode(Split.of_texts(TEXTS), tiny_tokenizer, 64)
    assert len(encoded) == 5
    assert [*encoded.fields] == ["input_ids", "token_type_ids", "attention_mask"]
    for i, text in enumerate(TEXTS):
        alone = tiny_tokenizer(text)
        for name, values in encoded.fields.items():
            assert values[i].tolist() == alone[name]
            assert values[i].dtype == torch.int64
    assert encoded.lengths.tolist() == [pieces(tiny_tokenizer, text) + 2 for text in TEXTS]
    assert encoded.truncated == 0


def test_pairs_are_read_together(tiny_tokenizer):
    encoded = encode(Split.of_texts(TEXTS, PAIRS), tiny_tokenizer, 64)
    for i, (first, second) in enumerate(zip(TEXTS, PAIRS, strict=True)):
        one, other = pieces(tiny_tokenizer, first), pieces(tiny_tokenizer, second)
        assert encoded.fields["input_ids"][i].tolist() == tiny_tokenizer(first, second)["input_ids"]
        assert encoded.fields["token_type_ids"][i].tolist() == [0] * (one + 2) + [1] * (other + 1)
        assert encoded.lengths[i] == one + other + 3


@pytest.mark.parametrize("limit", range(4, 16))
def test_what_is_too_long_is_cut_and_counted(limit, tiny_tokenizer):
    encoded = encode(Split.of_texts(TEXTS), tiny_tokenizer, limit)
    whole = [pieces(tiny_tokenizer, text) + 2 for text in TEXTS]
    assert encoded.truncated == sum(length > limit for length in whole)
    assert encoded.lengths.tolist() == [min(length, limit) for length in whole]
    for i, text in enumerate(TEXTS):
        ids = encoded.fields["input_ids"][i].tolist()
        assert ids[0] == tiny_tokenizer.cls_token_id
        assert ids[-1] == tiny_tokenizer.sep_token_id
        assert ids[1:-1] == tiny_tokenizer(text)["input_ids"][1 : len(ids) - 1]
        assert {len(values[i]) for values in encoded.fields.values()} == {len(ids)}


@pytest.mark.parametrize("limit", [6, 9, 12])
def test_of_a_pair_the_longer_text_is_cut_first(limit, tiny_tokenizer):
    encoded = encode(Split.of_texts(TEXTS, PAIRS), tiny_tokenizer, limit)
    cut = 0
    for i, (first, second) in enumerate(zip(TEXTS, PAIRS, strict=True)):
        one, other = pieces(tiny_tokenizer, first), pieces(tiny_tokenizer, second)
        cut += one + other + 3 > limit
        while one + other + 3 > limit:
            one, other = (one - 1, other) if one > other else (one, other - 1)
        types = encoded.fields["token_type_ids"][i]
        assert abs(int((types == 0).sum()) - 2 - one) <= 1  # of two equally long texts, either may be cut first
        assert len(types) == min(limit, pieces(tiny_tokenizer, first) + pieces(tiny_tokenizer, second) + 3)
    assert encoded.truncated == cut > 0


@pytest.mark.parametrize("empty", ["", " ", "\n\t"])
def test_empty_texts_are_refused(empty, tiny_tokenizer):
    with pytest.raises(DataError, match="Text 2 of 3 is empty"):
        encode(Split.of_texts(("a", empty, "b")), tiny_tokenizer, 16)
    with pytest.raises(DataError, match="Text 3 of 3 is empty"):
        encode(Split.of_texts(("a", "b", "c"), ("a", "b", empty)), tiny_tokenizer, 16)


def test_texts_of_which_the_tokenizer_knows_nothing_are_told(tiny_tokenizer):
    with pytest.warns(
        GuessWarning, match=r"^Text 2 of 4: the tokenizer knows nothing of .* \(2 such texts in all\)\.$"
    ):
        encode(
            Split.of_texts(["the cat", "\N{DOG FACE}", "the \N{DOG FACE}", "\N{DOG FACE} [CLS]"]), tiny_tokenizer, 16
        )


def test_no_texts_are_refused(tiny_tokenizer):
    with pytest.raises(DataError, match="There are no examples"):
        encode(Split.of_texts(()), tiny_tokenizer, 16)


def test_labels_keep_their_kind_and_values(tiny_tokenizer):
    classes = encode(Split.of_texts(("a", "b"), labels=np.array([1, 0])), tiny_tokenizer, 16).labels
    assert classes.dtype == torch.int64
    assert classes.tolist() == [1, 0]
    targets = encode(Split.of_texts(("a", "b"), labels=np.array([3.8, 0.1])), tiny_tokenizer, 16).labels
    assert targets.is_floating_point()
    assert targets.tolist() == pytest.approx([3.8, 0.1])
    assert encode(Split.of_texts(("a", "b")), tiny_tokenizer, 16).labels is None


def test_a_batch_is_padded_to_its_longest_only(tiny_tokenizer):
    encoded = encode(Split.of_texts(TEXTS, PAIRS), tiny_tokenizer, 64)
    for indices in ([0], [1, 3], [3, 0, 1], np.array([4, 2]), [0, 1, 2, 3, 4]):
        batch = encoded.batch(indices)
        longest = max(encoded.lengths[i] for i in indices)
        assert batch.keys() == encoded.fields.keys()
        for name, values in batch.items():
            assert values.shape == (len(indices), longest)
            for row, i in zip(values, indices, strict=True):
                length = encoded.lengths[i]
                assert torch.equal(row[:length], encoded.fields[name][i])
                assert (row[length:] == encoded.pad[name]).all()
        assert batch["attention_mask"].sum(1).tolist() == [encoded.lengths[i] for i in indices]


def test_padding_takes_the_tokenizers_numbers(tiny_tokenizer):
    tokenizer = copy.deepcopy(tiny_tokenizer)
    tokenizer.pad_token = "[MASK]"
    tokenizer._pad_token_type_id = 3
    encoded = encode(Split.of_texts(TEXTS), tokenizer, 64)
    assert encoded.pad == {"input_ids": 4, "token_type_ids": 3, "attention_mask": 0}
    assert [values[0, -1].item() for values in encoded.batch([1, 0]).values()] == [4, 3, 0]


def assert_padding_changes_nothing(model, tokenizer, split):
    encoded = encode(split, tokenizer, 64)
    with torch.no_grad():
        together = model(**encoded.batch(range(len(split)))).logits
        alone = torch.cat([model(**encoded.batch([i])).logits for i in range(len(split))])
    assert together.std() > 1e-3
    assert torch.allclose(together, alone, atol=1e-5)


@pytest.mark.parametrize("pairs", [None, PAIRS], ids=["texts", "pairs"])
@pytest.mark.parametrize(
    "family",
    [
        *("bert", "roberta", "albert", "electra", "deberta", "deberta-v2", "distilbert", "mpnet", "modernbert"),
        *("gpt2", "llama", "qwen3", "gemma3_text", "opt", "t5", "bart"),
    ],
)
def test_padding_changes_no_answer(family, pairs, make_model, tiny_tokenizer):
    assert_padding_changes_nothing(make_model(family), tiny_tokenizer, Split.of_texts(TEXTS, pairs))


@pytest.mark.parametrize("family", ["xlnet", "llama"])
def test_neither_where_the_tokenizer_pads_on_the_left(family, make_model, tiny_tokenizer):
    tokenizer = copy.deepcopy(tiny_tokenizer)
    tokenizer.padding_side = "left"  # as XLNet's does, which reads its answer off the last token
    assert_padding_changes_nothing(make_model(family), tokenizer, Split.of_texts(TEXTS))


LENGTHS = np.random.default_rng(0).integers(3, 60, 997)


@pytest.mark.parametrize(("count", "size"), [(1, 4), (4, 4), (5, 4), (997, 32), (997, 1), (997, 3), (20, 64)])
def test_every_example_comes_once_an_epoch(count, size):
    batches = buckets(LENGTHS[:count], size, seed=1, epoch=2)
    assert sorted(np.concatenate(batches).tolist()) == [*range(count)]
    assert len(batches) == -(-count // size)
    assert sorted(len(batch) for batch in batches)[1:] == [size] * (len(batches) - 1)


def order(**options):
    return [batch.tolist() for batch in buckets(LENGTHS, 16, **{"seed": 0, "epoch": 0, **options})]


def test_seed_and_epoch_fix_the_order():
    assert order() == order()
    orders = [order(seed=seed, epoch=epoch) for seed in range(3) for epoch in range(3)]
    assert len({str(each) for each in orders}) == 9
    # The batches themselves differ, not only their order.
    assert {tuple(sorted(batch)) for batch in orders[0]} != {tuple(sorted(batch)) for batch in orders[1]}


def test_the_order_leaves_the_global_generators_alone():
    state, numbers = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    order()
    assert torch.equal(torch.get_rng_state(), state)
    assert np.array_equal(np.random.get_state()[1], numbers)  # noqa: NPY002


def test_batches_are_of_like_length_and_in_random_order():
    batches = buckets(LENGTHS, 16, seed=0, epoch=0)
    padded = sum(LENGTHS[batch].max() * len(batch) for batch in batches)
    shuffled = np.random.default_rng(0).permutation(997)
    unsorted = sum(LENGTHS[part].max() * len(part) for part in np.array_split(shuffled, len(batches)))
    assert padded < 1.1 * LENGTHS.sum() < unsorted
    longest = [LENGTHS[batch].max() for batch in batches]
    assert longest != sorted(longest)
    assert longest != sorted(longest, reverse=True)


def test_a_pool_holds_examples_from_everywhere():
    lengths = np.arange(POOL * 2 * 4)
    first = buckets(lengths, 4, seed=0, epoch=0)
    # With more examples than a pool holds, batches are not slices of the sorted data.
    assert max(np.ptp(batch) for batch in first) > 3
    assert not any(batch.max() - batch.min() > len(lengths) / 4 for batch in first)


@pytest.mark.parametrize("size", [1, 7, 64, 2000])
def test_for_evaluation_the_longest_come_first(size):
    batches = by_length(LENGTHS, size)
    order = np.concatenate(batches)
    assert sorted(order.tolist()) == [*range(997)]
    assert (np.diff(LENGTHS[order]) <= 0).all()
    assert [len(batch) for batch in batches[:-1]] == [size] * (len(batches) - 1)
    # Equal lengths stay in the data's order, so that the same set always gives the same batches.
    ties = LENGTHS[order][1:] == LENGTHS[order][:-1]
    assert (np.diff(order)[ties] > 0).all()


def test_minilm_reads_real_text(minilm):
    encoded = encode(Split.of_texts(("The cat sat.", "Hello"), ("On what?", "world")), minilm.need_tokenizer(), 16)
    assert encoded.fields["input_ids"][1].tolist() == [101, 7592, 102, 2088, 102]
    assert texts_of(encoded, minilm.need_tokenizer()) == ["the cat sat. on what?", "hello world"]


def test_batches_by_tokens_hold_every_example_once_within_the_budget():
    lengths = np.random.default_rng(0).integers(3, 60, size=200)
    lengths[7] = 500
    batches = by_tokens(lengths, 256)
    assert sorted(np.concatenate(batches)) == list(range(200))
    assert list(batches[0]) == [7]
    for batch, after in itertools.pairwise(batches):
        assert len(batch) == 1 or lengths[batch].max() * len(batch) <= 256
        assert lengths[batch].max() * (len(batch) + 1) > 256
        assert lengths[batch].min() >= lengths[after].max()


def test_a_kind_of_input_adds_its_encoder(monkeypatch):
    def pictures(split, processor, limit):
        pixels = tuple(processor * torch.full((3, 2, 2), float(value[0])) for value in split.columns["picture"])
        return Encoded({"pixel_values": pixels}, None, {})

    monkeypatch.setitem(ENCODERS, "picture", pictures)
    encoded = encode(Split({"picture": (b"\x01", b"\x02", b"\x03")}, np.array([0, 1, 0])), 10.0, 64)
    assert (len(encoded), encoded.lengths.tolist(), encoded.labels.tolist()) == (3, [1, 1, 1], [0, 1, 0])
    batch = encoded.batch([2, 0])["pixel_values"]
    assert batch.shape == (2, 3, 2, 2)
    assert batch[:, 0, 0, 0].tolist() == [30.0, 10.0]


def test_a_tokenizer_that_names_no_mask_gives_one(tiny_tokenizer):
    bare = copy.deepcopy(tiny_tokenizer)
    bare.model_input_names = ["input_ids"]
    encoded = encode(Split.of_texts(["the cat", "the cat reads a book"]), bare, 6)
    assert encoded.batch([0, 1])["attention_mask"].sum(1).tolist() == [4, 6]
