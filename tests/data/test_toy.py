"""The toy suite: reproducible, balanced, without leaks or shortcuts, and in good English."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterator

import numpy as np
import pytest
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression

from normtune.data.holdout import labels_of
from normtune.data.task import Split, TaskData
from normtune.data.toy import FRAMES, TOY, generate
from normtune.data.toy_words import WORDS, Word
from normtune.errors import DataError, UnknownNameError

NAMES = [*TOY]
VOWEL_SOUND = re.compile(r"^(?!useful)[aeiou]|^hour", re.IGNORECASE)


@pytest.fixture(scope="module")
def data() -> dict[str, TaskData]:
    return {name: generate(name, train=1000, dev=500, seed=5) for name in NAMES}


def sentences(split: Split) -> list[str]:
    return [*split.texts, *(split.pairs or ())]


def test_draws_are_pinned() -> None:
    # Guards the promise that an update of Python or of this package does not silently change the data of a seed.
    identities = "".join(generate(name, train=50, dev=20, seed=0).split("train").identity() for name in NAMES)
    assert hashlib.sha256(identities.encode()).hexdigest()[:16] == "85467125beaae058"


def test_seeds_differ() -> None:
    assert len({generate("rte", train=20, dev=0, seed=seed).split("train").identity() for seed in (0, 1, 0)}) == 2


@pytest.mark.parametrize("name", NAMES)
def test_a_small_train_split_begins_a_larger_one_and_leaves_dev_as_it_is(name: str) -> None:
    small, large = (generate(name, train=size, dev=40, seed=1) for size in (40, 1500))
    assert large.split("train").texts[:40] == small.split("train").texts
    assert large.split("dev").identity() == small.split("dev").identity()


@pytest.mark.parametrize("name", NAMES)
def test_no_sentence_of_train_is_in_dev(name: str, data: dict[str, TaskData]) -> None:
    train = set(sentences(data[name].split("train")))
    for split in set(data[name]) - {"train"}:
        assert train.isdisjoint(sentences(data[name].split(split)))


@pytest.mark.parametrize("name", NAMES)
def test_labels_are_balanced(name: str, data: dict[str, TaskData]) -> None:
    frames = len(re.findall(r"\n(?=\s*[^>\s])", FRAMES[name]))
    for split in data[name].splits.values():
        counts = Counter(labels_of(split).tolist())
        assert len(counts) == (len(TOY[name].labels) or 6)
        assert max(counts.values()) - min(counts.values()) <= frames


@pytest.mark.parametrize("name", NAMES)
def test_examples_are_distinct(name: str, data: dict[str, TaskData]) -> None:
    for split in data[name].splits.values():
        pairs = list(zip(*split.columns.values(), strict=True))
        assert len(set(pairs)) == len(pairs)
        assert all(len(set(texts)) == len(texts) for texts in pairs)


@pytest.mark.parametrize("name", NAMES)
def test_sentences_are_well_formed(name: str, data: dict[str, TaskData]) -> None:
    for text in good_sentences(data[name], name):
        assert re.fullmatch(r"[A-Z][ -~]*[^\s,][.?]", text), text
        assert not re.search(r"\s\s|\s[,.?]|,,|[{}\[\]()|*<>=]|\b(\w+) \1\b", text), text
        for shown, following in re.findall(r"\b([Aa]n?) (\w+)", text):
            assert (shown.lower() == "an") == bool(VOWEL_SOUND.match(following)), text


def good_sentences(data: TaskData, name: str) -> Iterator[str]:
    """All sentences but those that are meant to be bad English."""
    for split in data.splits.values():
        yield from sentences(split) if name != "cola" else split.take(np.flatnonzero(labels_of(split))).texts


@pytest.mark.parametrize("name", ["qqp", "mnli", "stsb"])  # qqp has the fewest examples to give
def test_large_splits_can_be_had(name: str) -> None:
    splits = generate(name, train=10_000, dev=2_000, seed=0).splits
    assert [len(split) for split in splits.values()] == [10_000, 2_000, 2_000][: len(splits)]


def test_what_cannot_be_had_is_refused() -> None:
    with pytest.raises(DataError, match=r"'dev'.*'qqp' cannot have 100,000 examples: a frame gives no more after"):
        generate("qqp", train=0, dev=100_000, seed=0)
    with pytest.raises(UnknownNameError, match="Did you mean 'mrpc'"):
        generate("mrcp", train=1, dev=1, seed=0)
    assert len(generate("rte", train=0, dev=0, seed=0).split("train")) == 0


def test_mismatched_dev_has_other_topics(data: dict[str, TaskData]) -> None:
    def words(split: Split) -> set[str]:
        return set(re.findall(r"[a-z]{4,}", " ".join(sentences(split)).lower()))

    inference = data["mnli"]
    elsewhere = {"goatherd", "trawler", "rehearsed"}
    assert elsewhere.isdisjoint(words(inference.split("train")) | words(inference.split("dev")))
    assert elsewhere <= words(inference.split("dev_mismatched"))


@pytest.mark.parametrize("name", [name for name in NAMES if name != "stsb"])
def test_no_bag_of_words_solves_a_task(name: str, data: dict[str, TaskData]) -> None:
    train, dev = data[name].split("train"), data[name].split("dev")
    counts = CountVectorizer(token_pattern=r"\S+", min_df=2)
    model = LogisticRegression(max_iter=300).fit(counts.fit_transform(marked(train)), train.labels)
    assert model.score(counts.transform(marked(dev)), dev.labels) < 0.85


def marked(split: Split) -> list[str]:
    """Texts as bags of words, with the words of the second text marked."""
    seconds = split.pairs or ("",) * len(split)
    return [
        " ".join([one, *(f"2:{word}" for word in two.split())]) for one, two in zip(split.texts, seconds, strict=True)
    ]


@pytest.mark.parametrize("name", [name for name in NAMES if name != "stsb"])
def test_length_and_shared_words_do_not_tell_the_label(name: str, data: dict[str, TaskData]) -> None:
    train, dev = (np.array([shape(split, i) for i in range(len(split))]) for split in map(data[name].split, SIDES))
    model = LogisticRegression(max_iter=1000).fit(train, data[name].split("train").labels)
    assert model.score(dev, data[name].split("dev").labels) < 1 / len(TOY[name].labels) + 0.2


SIDES = ("train", "dev")


def shape(split: Split, i: int) -> list[float]:
    one = split.texts[i].lower().rstrip(".?").split()
    two = split.pairs[i].lower().rstrip(".?").split() if split.pairs else []
    return [len(one), len(two), len(set(one) & set(two)) / max(len(set(one) | set(two)), 1)]


def test_words() -> None:
    raised = Word.read("raise=lift=lower")
    assert (raised, raised.past, raised.ing) == ("raise", "raised", "raising")
    assert (raised.same.past, raised.opposite.past) == ("lifted", "lowered")
    assert Word.read("cough").same.past == "coughed"
    for kind, words in WORDS.items():
        assert len(set(words)) == len(words), kind
