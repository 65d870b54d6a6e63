from __future__ import annotations

import csv
import json
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from normtune.data.files import load_files
from normtune.data.metrics import METRICS
from normtune.data.task import Split, TaskData
from normtune.errors import ConfigError, DataError


def write(
    folder: Path, name: str, rows: Sequence[tuple[object, ...]], header: tuple[str, ...] = ("text", "label")
) -> Path:
    path = folder / name
    with path.open("w", encoding="utf-8", newline="") as file:
        if path.suffix == ".csv":
            csv.writer(file).writerows([header, *rows])
        else:
            file.writelines(json.dumps(dict(zip(header, row, strict=True))) + "\n" for row in rows)
    return path


def load(train: Path, dev: Path | None = None, *, dev_fraction: float = 0.1, **options: object) -> TaskData:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("normtune.data.files.DEV_FRACTION", dev_fraction)
        return load_files(train, dev, **{"text": "text", "label": "label"} | options)  # type: ignore[arg-type]


def sizes(split: Split) -> list[int]:
    assert split.labels is not None
    return np.bincount(split.labels).tolist()


def numbered(counts: dict[object, int]) -> list[tuple[str, object]]:
    return [(f"{label} number {i}", label) for label, count in counts.items() for i in range(count)]


def test_two_files(tmp_path: Path) -> None:
    train = write(tmp_path, "my intents (v2).csv", [(" a,\nb ", " yes"), ("c", "no"), ("d", "yes")])
    dev = write(tmp_path, "dev.jsonl", [("e", "no"), ("f", "yes")])
    found = load(train, dev)
    task = found.task
    assert (task.name, task.title, task.kind) == ("my-intents-v2", "my-intents-v2", "classification")
    assert task.labels == ("no", "yes")
    assert task.metrics == ("accuracy", "macro_f1", "f1", "matthews")
    assert not task.pair
    assert task.weights is None
    assert found.source == "my intents (v2).csv, dev.jsonl"
    assert list(found) == ["train", "dev"]
    assert found.split("train").texts == (" a,\nb ", "c", "d")
    assert found.split("train").labels.tolist() == [1, 0, 1]
    assert found.split("dev").labels.tolist() == [0, 1]
    assert found.split("dev").labels.dtype == np.int64
    assert found.labels_count == {"no": 1, "yes": 2}
    assert load(train, dev, name="mine").task.name == "mine"


def test_pairs(tmp_path: Path) -> None:
    header = ("question", "sentence", "label")
    rows = [("a", "b", "x"), ("a", "c", "y"), ("b", "a", "x"), ("d", "e", "y")]
    train = write(tmp_path, "train.csv", rows, header)
    found = load(train, train, text="question", pair="sentence")
    assert found.task.pair
    assert found.split("dev").pairs == ("b", "c", "a", "e")
    assert not any("share" in note for note in found.notes)


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ([10, 9, 1.0, 2.5], ("1.0", "2.5", "9", "10")),
        (["b", "10", "a", "9", "-1", "nan"], ("-1", "9", "10", "a", "b", "nan")),
        ([True, False], ("false", "true")),
        (["3", "007", 3, "x"], ("3", "007", "x")),
    ],
)
def test_labels(tmp_path: Path, labels: list[object], expected: tuple[str, ...]) -> None:
    train = write(tmp_path, "train.jsonl", [(f"text {i}", label) for i, label in enumerate(labels)])
    found = load(train, train)
    assert found.task.labels == expected
    assert set(found.task.metrics) <= set(METRICS)
    assert len(found.task.metrics) == (4 if len(expected) == 2 else 2)


ERRORS = [
    (
        [("a", "x"), ("  ", "y")],
        r"train\.csv, line 3: the column 'text' is empty\. Fill in or remove such rows, or leave them out with",
    ),
    (
        [("a\nb", "x"), ("c", " "), ("", "x")],
        r"line 4: the column 'label' is empty \(2 bad rows in all: lines 4, 5\)\.",
    ),
    (
        [("a", "x"), *[("c", "")] * 8],
        r"line 3: the column 'label' is empty \(8 bad rows in all: lines 3, 4, 5, 6, 7, \.\.\.\)\.",
    ),
    ([("a", "x"), ("b", "x ")], r"train\.csv has only one label, 'x', so there is nothing to tell apart\."),
    (
        [("a", "x"), ("b", "y")],
        r"No dev split can be made of 2 rows, as every class has a single text; give a dev file\.",
    ),
    ([("a", "1.5"), ("b", "2.5")], r"every class has a single text \(is this regression\?\); give a dev file\."),
]


@pytest.mark.parametrize(("rows", "message"), ERRORS)
def test_errors(tmp_path: Path, rows: list[tuple[str, str]], message: str) -> None:
    with pytest.raises(DataError, match=message):
        load(write(tmp_path, "train.csv", rows))


def test_labels_that_only_dev_has(tmp_path: Path) -> None:
    train = write(tmp_path, "train.csv", [("a", "x"), ("b", "y")])
    one = write(tmp_path, "one.csv", [("c", "x"), ("d", "z")])
    with pytest.raises(DataError, match=r"one\.csv, line 3: the label 'z' does not occur in .*train\.csv\.$"):
        load(train, one)
    three = write(tmp_path, "three.csv", [("c", "z"), ("d", "z"), ("e", "v"), ("f", "w")])
    with pytest.raises(DataError, match=r"line 2: the label 'z' .*train\.csv \(other such labels in this file: 2\)\."):
        load(train, three)


def test_wrong_options(tmp_path: Path) -> None:
    train = write(tmp_path, "train.csv", [("a", "1"), ("b", "2"), ("c", "1"), ("d", "2")])
    with pytest.raises(ConfigError, match="Class weights need one class"):
        load(train, kind="regression", class_weights=True)
    with pytest.raises(DataError, match=r"has no column 'labels'\. Did you mean 'label'\?"):
        load(train, label="labels")
    with pytest.raises(DataError, match=r"has no column 'second'\. It has: text, label\."):
        load(train, pair="second")


def test_split_is_stratified_and_seeded(tmp_path: Path) -> None:
    train = write(tmp_path, "train.csv", numbered({"a": 500, "b": 60, "c": 20, "d": 2}))
    found = load(train, dev_fraction=0.2)
    assert sizes(found.split("dev")) == pytest.approx([100, 12, 4, 1], abs=1)
    assert (np.array(sizes(found.split("train"))) + sizes(found.split("dev"))).tolist() == [500, 60, 20, 2]
    again, other = load(train, dev_fraction=0.2), load(train, dev_fraction=0.2, seed=1)
    for split in ("train", "dev"):
        assert found.split(split).identity() == again.split(split).identity()
        assert found.split(split).identity() != other.split(split).identity()
        order = [int(text.split()[-1]) for text in found.split(split).texts if text.startswith("a ")]
        assert order == sorted(order)
    assert found.labels_count == dict(zip("abcd", sizes(found.split("train")), strict=True))
    assert found.notes == ("Classes with fewer than 5 train rows: 1 of 4 ('d').",)


@pytest.mark.parametrize("fraction", [0.01, 0.1, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("seed", range(3))
def test_every_class_is_on_both_sides_where_it_can_be(tmp_path: Path, fraction: float, seed: int) -> None:
    counts = {"single": 1, "two": 2, "three": 3, "also two": 2, "many": 50}
    found = load(write(tmp_path, "train.csv", numbered(counts)), dev_fraction=fraction, seed=seed)
    train, dev = (Counter(found.split(split).labels.tolist()) for split in ("train", "dev"))
    single = found.task.labels.index("single")
    assert set(train) == set(range(5))
    assert set(dev) == set(range(5)) - {single}
    assert any("as they have too few different texts to share: 1 of 5 ('single')" in note for note in found.notes)


def test_a_class_that_is_hidden_behind_contradictions_stays_in_train(tmp_path: Path) -> None:
    rows = [(f"both {i}", label) for i in range(4) for label in ("rare", "common")]
    rows += [(f"other {i}", "third") for i in range(4)]
    for seed in range(5):
        found = load(write(tmp_path, "train.csv", rows), dev_fraction=0.9, seed=seed)
        assert set(found.split("train").labels.tolist()) == {0, 1, 2}
        assert not set(found.split("train").texts) & set(found.split("dev").texts)


def test_identical_texts_stay_together(tmp_path: Path) -> None:
    rows = [(f"{label} {i}", label) for i in range(30) for label in "ab" for _ in range(1 + i % 3)]
    found = load(write(tmp_path, "train.csv", rows), dev_fraction=0.3)
    train, dev = found.split("train"), found.split("dev")
    assert not set(train.texts) & set(dev.texts)
    assert len(train) + len(dev) == len(rows)
    assert len(dev) == pytest.approx(0.3 * len(rows), rel=0.25)


def test_dev_is_enlarged_for_many_small_classes(tmp_path: Path) -> None:
    found = load(write(tmp_path, "train.csv", numbered({f"c{i}": 2 for i in range(40)})))
    assert sizes(found.split("dev")) == [1] * 40
    assert found.notes[0].startswith("Dev takes 40 of 80 rows, not the fraction 0.1,")


def test_77_classes_with_odd_names(tmp_path: Path) -> None:
    odd = [
        "🙂",
        '"',
        ",",
        "a\nb",
        "a\r\nb",
        "שלום",
        "مرحبا",
        "e\u0301",
        "é",
        "x\u2028y",
        "-",
        "=1+1",
        "'",
        "日本",
        "\\",
        "#",
    ]
    names = [*odd, *(f"intent {i}" for i in range(77 - len(odd)))]
    rows = numbered(dict.fromkeys(names, 13))
    found = load(write(tmp_path, "train.csv", rows))
    assert set(found.task.labels) == set(names)
    expected = set(rows)
    assert found.task.outputs == 77
    assert sizes(found.split("dev")) == pytest.approx([1.3] * 77, abs=0.8)
    for split in ("train", "dev"):
        part = found.split(split)
        for text, label in zip(part.texts, part.labels.tolist(), strict=True):
            assert (text, found.task.labels[label]) in expected
    assert load(write(tmp_path, "train.jsonl", rows)).split("dev").identity() == found.split("dev").identity()


def test_class_weights(tmp_path: Path) -> None:
    train = write(tmp_path, "train.csv", numbered({"a": 6, "b": 3, "c": 1}))
    found = load(train, train, class_weights=True)
    assert found.task.weights == pytest.approx((10 / 18, 10 / 9, 10 / 3))


def test_notes(tmp_path: Path) -> None:
    rows = [*numbered({"a": 10, "b": 10}), ("c", "c"), ("same", "a"), ("same", "b"), ("same", "b"), ("d", "d")]
    train = write(tmp_path, "train.csv", rows)
    dev = write(tmp_path, "dev.csv", [("a number 1", "a"), ("a number 1", "b"), ("new", "c"), ("x" * 20_001, "a")])
    assert load(train, dev).notes == (
        "train.csv: 3 rows share their texts with others that have another label.",
        "Dev rows whose texts are in train too, which flatters the scores: 2 of 4.",
        "Classes with fewer than 5 train rows: 2 of 4 ('c', 'd').",
        "Classes that are in train but not in dev: 1 of 4 ('d').",
        "Texts of more than 20,000 characters, of which a model reads only the start: 1.",
    )


def test_clean_data_has_no_notes(tmp_path: Path) -> None:
    train = write(tmp_path, "train.csv", numbered({"a": 50, "b": 50}))
    assert load(train).notes == ()


def test_a_note_shows_a_few_classes(tmp_path: Path) -> None:
    train = write(tmp_path, "train.csv", [(str(i), f"c{i}") for i in range(8)])
    assert any("'c0', 'c1', 'c2', 'c3', 'c4' and 3 more)." in note for note in load(train, train).notes)


def test_decimal_commas_of_numbers_are_said(tmp_path: Path) -> None:
    rows = [("a", "1"), ("b", "3,5"), ("c", "-1,250"), ("d", "0,5")]
    train = write(tmp_path, "train.csv", rows)
    found = load(train, train, kind="regression")
    assert found.split("dev").labels.tolist() == [1, 3.5, -1.25, 0.5]
    assert found.notes[:2] == ("train.csv: commas in 'label' are decimal: 3,5 is 3.5.",) * 2
    # Labels are names, so that they stay as they are.
    found = load(train, train)
    assert found.task.labels == ("1", "-1,250", "0,5", "3,5")
    point = write(tmp_path, "point.csv", [*rows, ("e", "1.5")])
    with pytest.raises(DataError, match=r"line 3: the target '3,5' is not a finite number"):
        load(point, kind="regression")


def test_labels_that_may_be_meant_otherwise_are_pointed_out(tmp_path: Path) -> None:
    labels = ["HAM", "ham ", "spam", "['a', 'b']", "cafe\u0301", "caf\u00e9", "ham\u200b", "[red]"]
    train = write(tmp_path, "train.csv", [(f"text {i}", label) for i, label in enumerate(labels * 5)])
    assert load(train, train).notes[:3] == ("train.csv: blanks around 5 of the labels are left off.",) * 2 + (
        "Dev rows whose texts are in train too, which flatters the scores: 40 of 40.",
    )
    notes = load(train).notes
    assert "Different classes that look alike: 5 of 8 ('HAM', 'cafe\u0301', 'caf\u00e9', 'ham', 'ham\\u200b')." in notes
    assert "Classes that are lists, whose labels --labels several would separate: 1 of 8 (\"['a', 'b']\")." in notes
    numbers = write(tmp_path, "numbers.csv", [(f"text {i}", f"{i % 9}.5") for i in range(20)])
    hint = "Most classes are numbers with few rows each: --labels numbers predicts numbers as such."
    assert hint in load(numbers).notes
    assert hint not in notes
    long = write(tmp_path, "long.csv", [("a", "x" * 5000), ("b", "y")])
    assert len("".join(load(long, long).notes)) < 300


@pytest.mark.parametrize("name", ["train.csv", "train.jsonl"])
def test_regression(tmp_path: Path, name: str) -> None:
    targets = [0.1, 2, -3.5e-3, 7, 2.25, 1e3, 4, 5, 6, 7.125]
    train = write(tmp_path, name, [(f"text {i}", target) for i, target in enumerate(targets)])
    found = load(train, train, kind="regression")
    task = found.task
    assert (task.kind, task.labels, task.outputs) == ("regression", (), 1)
    assert task.metrics == ("spearman", "pearson", "mse")
    assert found.labels_count == {}
    labels = found.split("train").labels
    assert labels.dtype == np.float64
    assert labels.tolist() == targets
    assert task.center == pytest.approx(np.mean(targets))
    assert task.scale == pytest.approx(np.std(targets))


def test_regression_split(tmp_path: Path) -> None:
    train = write(tmp_path, "train.csv", [(f"text {i // 2}", i) for i in range(100)])
    found = load(train, kind="regression", dev_fraction=0.2, seed=3)
    first, second = found.split("train"), found.split("dev")
    assert (len(first), len(second)) == (80, 20)
    assert sorted([*first.labels, *second.labels]) == list(range(100))
    assert found.task.center == pytest.approx(first.labels.mean())
    assert found.task.scale == pytest.approx(first.labels.std())
    assert second.identity() == load(train, kind="regression", dev_fraction=0.2, seed=3).split("dev").identity()
    assert found.notes == ("train.csv: 100 rows share their texts with others that have another label.",)


@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "3,500", "1,000.5", "1_000", "high", "1e999", "true"])
def test_targets_must_be_finite_numbers(tmp_path: Path, value: str) -> None:
    train = write(tmp_path, "train.csv", [("a", "1"), ("b", value)])
    with pytest.raises(DataError, match=rf"train\.csv, line 3: the target '{value}' is not a finite number\."):
        load(train, kind="regression")


def test_a_row_with_several_faults_is_one_bad_row(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("text,other,label\n ,,x\na,,y\nb,c,x\n")
    with pytest.raises(DataError, match=r"line 2: the column 'other' is empty \(2 bad rows in all: lines 2, 3\)"):
        load_files(tmp_path / "t.csv", None, text="text", pair="other", label="label")


@pytest.mark.parametrize(
    ("value", "hint"),
    [("7,543", "If 7,543 is 7.543, say --read decimal=comma."), ("high", "Correct it, or leave such rows out with ")],
)
def test_a_target_that_is_no_number_comes_with_what_to_do(tmp_path: Path, value: str, hint: str) -> None:
    train = write(tmp_path, "train.csv", [("a", "1.5"), ("b", value)])
    with pytest.raises(DataError, match=rf"'{value}' is not a finite number\. {hint}"):
        load(train, kind="regression")


def test_targets_that_cannot_be_standardised(tmp_path: Path) -> None:
    same = write(tmp_path, "same.csv", [("a", "0.3"), ("b", "0.3"), ("c", "0.30")])
    with pytest.raises(DataError, match=r"same\.csv: all targets of the train split are 0\.3, so there is nothing to"):
        load(same, kind="regression")
    huge = write(tmp_path, "huge.csv", [("a", "1e308"), ("b", "-1e308"), ("c", "1.7e308")])
    with pytest.raises(DataError, match=r"huge\.csv: the targets are too large or too small to be standardised\."):
        load(huge, huge, kind="regression")
    single = write(tmp_path, "single.csv", [("a", "1"), ("a", "2")])
    with pytest.raises(
        DataError, match=r"No dev split can be made of 2 rows, as there is a single text; give a dev file\."
    ):
        load(single, kind="regression")


@pytest.mark.parametrize(
    ("stem", "name"), [("été & co", "t-co"), ("..", "task"), ("日本", "task"), ("a.b_c-1", "a.b_c-1")]
)
def test_names_are_safe(tmp_path: Path, stem: str, name: str) -> None:
    train = write(tmp_path, f"{stem}.csv", numbered({"a": 5, "b": 5}))
    assert load(train).task.name == name


def test_parquet(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "train.parquet"
    parquet.write_table(pa.table({"text": ["a", "b", "c"], "label": [10, 9, None]}), path)
    with pytest.raises(DataError, match=r"train\.parquet, row 3: the column 'label' is empty\."):
        load(path)
    parquet.write_table(pa.table({"text": ["a", "b", "c", "d"], "label": [10.0, 9.0, 10.0, 9.0]}), path)
    assert load(path).task.labels == ("9.0", "10.0")


def test_a_hundred_thousand_rows_take_seconds(tmp_path: Path) -> None:
    train = write(tmp_path, "train.csv", [(f"a text with a few words {i}", f"c{i % 50}") for i in range(100_000)])
    start = time.process_time()
    found = load(train)
    assert time.process_time() - start < 10
    assert len(found.split("dev")) == 10_000
