"""The embedded suite: reproducible, balanced, without leaks or shortcuts, good English, and in GLUE's layout."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression

from normtune.data.glue import load_glue
from normtune.data.task import Split, TaskData
from normtune.data.templates import PHENOMENA, TEMPLATES, generate, read_phenomena, write
from normtune.data.templates.grammar import article, noun, verb
from normtune.data.templates.suite import GRAMMARS, Grammar, build
from normtune.errors import ConfigError, DataError, OutputError, UnknownNameError

NAMES = sorted(TEMPLATES)
FILES = {
    "cola": "CoLA/train.tsv", "sst2": "SST-2/train.tsv", "mrpc": "MRPC/train.tsv", "stsb": "STS-B/train.tsv",
    "qqp": "QQP/train.tsv", "mnli": "MNLI/train.tsv", "qnli": "QNLI/train.tsv", "rte": "RTE/train.tsv",
}  # fmt: skip
COLUMNS = {  # text columns and label column of GLUE's files, counted from the left
    "cola": ((3,), 1), "sst2": ((0,), 1), "mrpc": ((3, 4), 0), "stsb": ((7, 8), 9),
    "qqp": ((3, 4), 5), "mnli": ((8, 9), 11), "qnli": ((1, 2), 3), "rte": ((1, 2), 3),
}  # fmt: skip
VOWEL_SOUND = re.compile(r"^(?!(?:uni|use|usu|ute|eur|one))[aeiou]|^(?:hour|honest|heir)", re.IGNORECASE)


@pytest.fixture(scope="module")
def data() -> dict[str, TaskData]:
    return {name: generate(name, train=1200, dev=600, seed=5) for name in NAMES}


def sentences(split: Split) -> list[str]:
    return [*split.texts, *(split.pairs or ())]


def digest(folder: Path) -> str:
    parts = [path.relative_to(folder).as_posix().encode() + path.read_bytes() for path in sorted(folder.rglob("*.tsv"))]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()


def test_the_same_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    for folder, seed in (("one", 3), ("two", 3), ("three", 4)):
        write(tmp_path / folder, train=60, dev=30, seed=seed)
    assert digest(tmp_path / "one") == digest(tmp_path / "two") != digest(tmp_path / "three")


def test_draws_are_pinned() -> None:
    # Guards the promise that an update of Python or of this package does not silently change the data of a seed.
    identities = "".join(generate(name, train=50, dev=20, seed=0).split("train").identity() for name in NAMES)
    assert hashlib.sha256(identities.encode()).hexdigest()[:16] == "40a98867c79ccabf"


@pytest.mark.parametrize("name", NAMES)
def test_a_small_train_split_begins_a_larger_one(name: str) -> None:
    small, large = (generate(name, train=size, dev=5, seed=1).split("train") for size in (40, 90))
    assert large.texts[:40] == small.texts
    assert large.tags is not None
    assert large.tags[:40] == small.tags


@pytest.mark.parametrize("name", NAMES)
def test_no_sentence_of_train_is_in_dev(name: str, data: dict[str, TaskData]) -> None:
    train = {text.casefold() for text in sentences(data[name].split("train"))}
    for split in set(data[name]) - {"train"}:
        assert train.isdisjoint(text.casefold() for text in sentences(data[name].split(split)))


@pytest.mark.parametrize("name", NAMES)
def test_dev_does_not_depend_on_the_size_of_train(name: str) -> None:
    # Train and dev are apart by their words, so what is rejected as already taken changes nothing.
    small, large = (generate(name, train=size, dev=50, seed=2).split("dev") for size in (10, 2000))
    assert small.identity() == large.identity()


@pytest.mark.parametrize("name", NAMES)
def test_phenomena_and_labels_are_balanced_and_independent(name: str, data: dict[str, TaskData]) -> None:
    for split in data[name].splits.values():
        assert split.tags is not None
        assert split.labels is not None
        cells = Counter(zip(split.tags, split.labels.tolist(), strict=True))
        assert set(split.tags) == set(PHENOMENA[name])
        assert len(cells) == len(PHENOMENA[name]) * len(GRAMMARS[name].targets)
        shares = Counter([*PHENOMENA[name], *GRAMMARS[name].common])
        whole = len(split) // (sum(shares.values()) * len(GRAMMARS[name].targets))
        for (tag, _), count in cells.items():
            assert whole * shares[tag] <= count <= (whole + 1) * shares[tag]


@pytest.mark.parametrize("name", NAMES)
def test_examples_are_distinct(name: str, data: dict[str, TaskData]) -> None:
    for split in data[name].splits.values():
        pairs = list(zip(split.texts, split.pairs or split.texts, strict=True))
        assert len(set(pairs)) == len(pairs)
        if split.pairs is not None:
            assert all(one.casefold() != two.casefold() for one, two in pairs)


def good_sentences(split: Split, name: str) -> list[str]:
    """All sentences but those that are meant to be bad English."""
    if name != "cola":
        return sentences(split)
    assert split.labels is not None
    return [text for text, label in zip(split.texts, split.labels, strict=True) if label]


@pytest.mark.parametrize("name", NAMES)
def test_sentences_are_well_formed(name: str, data: dict[str, TaskData]) -> None:
    for split in data[name].splits.values():
        for text in sentences(split):
            assert re.fullmatch(r"[A-Z].*[^\s,;][.?]", text), text
            assert not re.search(r"\s\s|\s[,.;?]|,,|[,;]\.|[{}_|\t\n]", text), text
            assert text.isascii(), text
        for text in good_sentences(split, name):
            assert not re.search(r"\b(\w+) \1\b", text), text


@pytest.mark.parametrize("name", NAMES)
def test_articles_fit_the_next_word(name: str, data: dict[str, TaskData]) -> None:
    for split in data[name].splits.values():
        for text in good_sentences(split, name):
            for shown, following in re.findall(r"\b([Aa]n?) (\w+)", text):
                assert (shown.lower() == "an") == bool(VOWEL_SOUND.match(following)), text


@pytest.mark.parametrize("name", ["qqp", "mnli"])  # qqp has the fewest examples to give
def test_large_splits_can_be_had(name: str) -> None:
    splits = generate(name, train=20_000, dev=2_000, seed=0).splits
    assert [len(split) for split in splits.values()] == [20_000, 2_000, 2_000][: len(splits)]


def test_sizes_beyond_the_grammar_are_refused() -> None:
    def narrow(draw: object, target: float) -> tuple[str, ...]:
        return (f"Sentence {target}.",)

    grammar = Grammar(TEMPLATES["cola"], {"narrow": narrow})
    with pytest.raises(DataError, match=r"'train'.* 1,000 examples: phenomenon 'narrow' gives no more after 2;"):
        build(grammar, train=1000, dev=0, seed=0)
    with pytest.raises(DataError, match="'dev'"):
        build(grammar, train=2, dev=1, seed=0)


def test_arguments_are_checked() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'mrpc'"):
        generate("mrcp", train=1, dev=1, seed=0)
    with pytest.raises(ConfigError, match="negative"):
        generate("rte", train=-1, dev=1, seed=0)
    assert len(generate("rte", train=0, dev=0, seed=0).split("train")) == 0


def test_mismatched_dev_has_other_topics(data: dict[str, TaskData]) -> None:
    def words(split: Split) -> set[str]:
        return set(re.findall(r"[a-z]{4,}", " ".join(sentences(split)).lower()))

    inference = data["mnli"]
    assert {"farmer", "goatherd", "forger"}.isdisjoint(words(inference.split("train")) | words(inference.split("dev")))
    assert {"goatherd", "ferryman", "vet's"} & words(inference.split("dev_mismatched"))


@pytest.mark.parametrize("name", [name for name in NAMES if name != "stsb"])
def test_no_bag_of_words_solves_a_task(name: str, data: dict[str, TaskData]) -> None:
    train, dev = data[name].split("train"), data[name].split("dev")
    counts = CountVectorizer(token_pattern=r"\S+", min_df=2)
    model = LogisticRegression(max_iter=300).fit(counts.fit_transform(marked(train)), train.labels)
    assert model.score(counts.transform(marked(dev)), dev.labels) < 0.85


def marked(split: Split) -> list[str]:
    """Texts as bags of words, those of the second text told apart."""
    seconds = split.pairs or ("",) * len(split)
    return [
        " ".join([one, *(f"2:{word}" for word in two.split())]) for one, two in zip(split.texts, seconds, strict=True)
    ]


@pytest.mark.parametrize("name", NAMES)
def test_length_and_shared_words_do_not_tell_the_label(name: str, data: dict[str, TaskData]) -> None:
    if name == "stsb":
        pytest.skip("shared words are what similarity is about")
    train, dev = (
        np.array([shape(split, i) for i in range(len(split))]) for split in map(data[name].split, ("train", "dev"))
    )
    model = LogisticRegression(max_iter=1000).fit(train, data[name].split("train").labels)
    chance = 1 / len(TEMPLATES[name].labels)
    assert model.score(dev, data[name].split("dev").labels) < chance + 0.2


def shape(split: Split, i: int) -> list[float]:
    one = split.texts[i].lower().rstrip(".?").split()
    two = split.pairs[i].lower().rstrip(".?").split() if split.pairs else []
    return [len(one), len(two), len(set(one) & set(two)) / max(len(set(one) | set(two)), 1)]


@pytest.mark.parametrize("name", NAMES)
def test_files_hold_what_was_generated(name: str, tmp_path: Path) -> None:
    write(tmp_path / "suite", train=60, dev=24, seed=7, tasks=[name])
    expected = generate(name, train=60, dev=24, seed=7).split("train")
    lines = (tmp_path / "suite" / FILES[name]).read_text(encoding="utf-8").splitlines()
    rows = [line.split("\t") for line in lines[name != "cola" :]]
    texts, label = COLUMNS[name]
    assert tuple(row[texts[0]] for row in rows) == expected.texts
    if len(texts) == 2:
        assert tuple(row[texts[1]] for row in rows) == expected.pairs
    read = [
        TEMPLATES[name].labels.index(row[label]) if row[label].isalpha() or "_" in row[label] else float(row[label])
        for row in rows
    ]
    assert expected.labels is not None
    assert read == expected.labels.tolist()


@pytest.mark.parametrize("name", NAMES)
def test_glue_reader_reads_the_suite(name: str, tmp_path: Path) -> None:
    write(tmp_path / "suite", train=40, dev=24, seed=7, tasks=[name])
    expected, read = generate(name, train=40, dev=24, seed=7), load_glue(name, tmp_path / "suite")
    phenomena = read_phenomena(tmp_path / "suite", name)
    assert set(read) == set(expected) == set(phenomena)
    assert not any(read.dropped.values())
    for split in expected:
        assert read.split(split).identity() == expected.split(split).identity()
        assert phenomena[split] == expected.split(split).tags


def test_a_folder_in_use_is_refused(tmp_path: Path) -> None:
    used, fresh = tmp_path / "used", tmp_path / "new" / "suite"
    used.mkdir()
    (used / "notes.txt").write_text("mine")
    with pytest.raises(OutputError, match="not empty"):
        write(used, train=1, dev=1, seed=0, tasks=["rte"])
    with pytest.raises(OutputError, match="not a folder"):
        write(used / "notes.txt", train=1, dev=1, seed=0, tasks=["rte"])
    with pytest.raises(UnknownNameError):
        write(fresh, train=1, dev=1, seed=0, tasks=["wnli"])
    write(fresh, train=1, dev=1, seed=0, tasks=["rte"])
    assert [path.name for path in fresh.parent.iterdir()] == ["suite"]
    assert sorted(path.name for path in (fresh / "RTE").iterdir()) == ["dev.tsv", "phenomena.tsv", "train.tsv"]


def test_nothing_is_left_of_a_suite_that_cannot_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> TaskData:
        raise DataError("too many")

    monkeypatch.setattr("normtune.data.templates.layout.generate", fail)
    with pytest.raises(DataError):
        write(tmp_path / "suite", train=1, dev=1, seed=0)
    assert not list(tmp_path.iterdir())


def test_damaged_phenomena_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "suite", train=3, dev=2, seed=0, tasks=["rte"])
    path = tmp_path / "suite" / "RTE" / "phenomena.tsv"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], *lines[2:]]))
    with pytest.raises(DataError, match="line 2"):
        read_phenomena(tmp_path / "suite", "rte")


@pytest.mark.parametrize(
    ("word", "forms"),
    [
        ("carry", ("carries", "carried", "carrying")),
        ("lie/lied", ("lies", "lied", "lying")),
        ("chop", ("chops", "chopped", "chopping")),
        ("visit", ("visits", "visited", "visiting")),
        ("watch", ("watches", "watched", "watching")),
        ("throw_away/threw_away/thrown_away", ("throws away", "threw away", "throwing away")),
        ("see/saw/seen", ("sees", "saw", "seeing")),
    ],
)
def test_verbs_are_inflected(word: str, forms: tuple[str, str, str]) -> None:
    inflected = verb(word)
    assert (inflected.third, inflected.past, inflected.gerund) == forms


def test_nouns_and_articles() -> None:
    plurals = [noun(word).plural for word in ("box", "lady", "key", "knife/knives", "potato", "train_driver", "watch")]
    assert plurals == ["boxes", "ladies", "keys", "knives", "potatoes", "train drivers", "watches"]
    phrases = [article(word) for word in ("apple", "uniform", "hour", "one-way ticket", "umbrella", "house")]
    assert phrases == ["an apple", "a uniform", "an hour", "a one-way ticket", "an umbrella", "a house"]
