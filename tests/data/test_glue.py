from __future__ import annotations

import os
import sys
import time
import types
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from normtune.data.glue import load_glue, survey
from normtune.data.glue_tasks import GLUE
from normtune.data.metrics import METRICS
from normtune.data.suites import SUITES
from normtune.errors import DataError, UnknownNameError

MNLI = "index\tgenre\tsentence1\tsentence2\tlabel1\tgold_label\n"
STSB = "index\tgenre\tsentence1\tsentence2\tscore\n"

# For every task: its files as GLUE publishes them, and by split the first texts, second texts and labels to expect.
FILES: dict[str, dict[str, str]] = {
    "cola": {
        "CoLA/train.tsv": "gj04\t1\t\tIt rains.\ngj04\t0\t*\tRains it the.\n",
        "CoLA/dev.tsv": "gj04\t0\t*\tSing him of.\n",
        "CoLA/test.tsv": "index\tsentence\n0\tBill left.\n",
    },
    "sst2": {
        "SST-2/train.tsv": "sentence\tlabel\na fine film \t1\ndull \t0\n",
        "SST-2/dev.tsv": "sentence\tlabel\ngreat \t1\n",
        "SST-2/test.tsv": "index\tsentence\n0\tuneasy .\n",
    },
    "mrpc": {
        "MRPC/train.tsv": '\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String\n1\t5\t6\tHe said "no\tHe said no\n',
        "MRPC/dev.tsv": "Quality\t#1 ID\t#2 ID\t#1 String\t#2 String\n0\t5\t6\tA b\tC d\n",
        "MRPC/test.tsv": "index\t#1 ID\t#2 ID\t#1 String\t#2 String\n0\t5\t6\tE\tF\n",
    },
    "stsb": {
        "STS-B/train.tsv": STSB + "0\tnews\tA plane.\tAn air plane.\t5.000\n1\tnews\tA man.\tA car.\t0.25\n",
        "STS-B/dev.tsv": STSB + "0\tnews\tA\tB\t3.8\n",
        "STS-B/test.tsv": "index\tgenre\tsentence1\tsentence2\n0\tnews\tC\tD\n",
    },
    "qqp": {
        "QQP/train.tsv": (
            "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n"
            "-\t-\t-\tWho?\tWhat?\t0\n1\t2\t3\tWhy\n1\t2\t3\t\tHow?\t0\n1\t2\t3\tWhere?\tIn what place?\t1\n"
        ),
        "QQP/dev.tsv": "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n1\t2\t3\tA?\tB?\t1\n",
        "QQP/test.tsv": "id\tquestion1\tquestion2\n0\tA?\tB?\n1\t\tC?\n",
    },
    "mnli": {
        "MNLI/train.tsv": MNLI + "0\t-\tA\tB\t-\tentailment\n1\t-\tC\tD\t-\tcontradiction\n",
        "MNLI/dev_matched.tsv": MNLI + "0\t-\tA\tB\tneutral\tneutral\n1\t-\tC\tD\tneutral\t-\n",
        "MNLI/dev_mismatched.tsv": MNLI + "0\t-\tE\tF\tneutral\tcontradiction\n",
        "MNLI/test_matched.tsv": "index\tsentence1\tsentence2\n0\tG\tH\n",
        "MNLI/test_mismatched.tsv": "index\tsentence1\tsentence2\n0\tI\tJ\n",
    },
    "qnli": {
        "QNLI/train.tsv": "index\tquestion\tsentence\tlabel\n0\tWho?\tShe.\tentailment\n1\tWhy?\tNo.\tnot_entailment\n",
        "QNLI/test.tsv": "index\tquestion\tsentence\n0\tWho?\tHe.\n",
    },
    "rte": {
        "RTE/dev.tsv": "index\tsentence1\tsentence2\tlabel\n0\tA\tB\tnot_entailment\n1\tC\tD\tentailment\n",
        "RTE/test.tsv": "index\tsentence1\tsentence2\n0\tE\tF\n",
    },
    "wnli": {"WNLI/train.tsv": "index\tsentence1\tsentence2\tlabel\n0\tA\tB\t1\n1\tC\tD\t0\n"},
    "ax": {"diagnostic/diagnostic.tsv": "index\tsentence1\tsentence2\n0\tA\tB\n"},
}
Expected = tuple[list[str], list[str] | None, list[float] | None]
EXPECTED: dict[str, dict[str, Expected]] = {
    "cola": {
        "train": (["It rains.", "Rains it the."], None, [1, 0]),
        "dev": (["Sing him of."], None, [0]),
        "test": (["Bill left."], None, None),
    },
    "sst2": {
        "train": (["a fine film", "dull"], None, [1, 0]),
        "dev": (["great"], None, [1]),
        "test": (["uneasy ."], None, None),
    },
    "mrpc": {
        "train": (['He said "no'], ["He said no"], [1]),
        "dev": (["A b"], ["C d"], [0]),
        "test": (["E"], ["F"], None),
    },
    "stsb": {
        "train": (["A plane.", "A man."], ["An air plane.", "A car."], [5.0, 0.25]),
        "dev": (["A"], ["B"], [3.8]),
        "test": (["C"], ["D"], None),
    },
    "qqp": {
        "train": (["Who?", "Where?"], ["What?", "In what place?"], [0, 1]),
        "dev": (["A?"], ["B?"], [1]),
        "test": (["A?", ""], ["B?", "C?"], None),
    },
    "mnli": {
        "train": (["A", "C"], ["B", "D"], [0, 2]),
        "dev": (["A"], ["B"], [1]),
        "dev_mismatched": (["E"], ["F"], [2]),
        "test": (["G"], ["H"], None),
        "test_mismatched": (["I"], ["J"], None),
    },
    "qnli": {"train": (["Who?", "Why?"], ["She.", "No."], [0, 1]), "test": (["Who?"], ["He."], None)},
    "rte": {"dev": (["A", "C"], ["B", "D"], [1, 0]), "test": (["E"], ["F"], None)},
    "wnli": {"train": (["A", "C"], ["B", "D"], [1, 0])},
    "ax": {"test": (["A"], ["B"], None)},
}
DROPPED = {"qqp": {"train": 2}, "mnli": {"dev": 1}}


def write(folder: Path, files: Mapping[str, str]) -> Path:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode())
    return folder


@pytest.mark.parametrize("name", GLUE)
def test_every_task_is_read(tmp_path: Path, name: str) -> None:
    data = load_glue(name, write(tmp_path, FILES[name]))
    assert data.task is GLUE[name]
    assert list(data) == list(EXPECTED[name])
    for split, (texts, pairs, labels) in EXPECTED[name].items():
        found = data.splits[split]
        assert found.texts == tuple(texts)
        assert found.pairs == (None if pairs is None else tuple(pairs))
        if labels is None:
            assert found.labels is None
        else:
            assert found.labels is not None
            assert found.labels.tolist() == labels
            assert found.labels.dtype == (np.float64 if name == "stsb" else np.int64)
    assert data.dropped == DROPPED.get(name, {})
    assert data.source == str(tmp_path / next(iter(FILES[name])).split("/")[0])


def test_tasks_are_consistent() -> None:
    assert list(GLUE) == ["cola", "sst2", "mrpc", "stsb", "qqp", "mnli", "qnli", "rte", "wnli", "ax"]
    for name, task in GLUE.items():
        assert task.name == name
        assert set(task.metrics) <= set(METRICS)
        assert task.about
        assert ("macro_f1" in task.metrics) == (task.kind == "classification")
    primary = {name: task.primary for name, task in GLUE.items()}
    assert [name for name in primary if primary[name] == "f1"] == ["mrpc", "qqp"]
    assert [name for name in primary if primary[name] == "matthews"] == ["cola", "ax"]
    assert primary["stsb"] == "spearman"
    assert [name for name in primary if primary[name] == "accuracy"] == ["sst2", "mnli", "qnli", "rte", "wnli"]
    assert [name for name, task in GLUE.items() if not task.pair] == ["cola", "sst2"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("SST-2", "sst2"),
        ("sst2", "sst2"),
        ("STS-B", "stsb"),
        ("STSB", "stsb"),
        ("CoLA", "cola"),
        ("MNLI-m", "mnli"),
        ("mnli-MM", "mnli"),
        ("mnli_mismatched", "mnli"),
        ("AX", "ax"),
        ("Rte", "rte"),
    ],
)
def test_names(name: str, expected: str) -> None:
    assert SUITES["glue"].resolve(name) == expected


@pytest.mark.parametrize("name", ["", "rtee", "snli"])
def test_unknown_names(tmp_path: Path, name: str) -> None:
    with pytest.raises(UnknownNameError, match="Unknown GLUE task"):
        load_glue(name, tmp_path)


@pytest.mark.parametrize("folder", ["sst2", "SST2", "sst-2", "Sst_2"])
def test_the_spelling_of_folders_and_files_does_not_matter(tmp_path: Path, folder: str) -> None:
    write(tmp_path, {f"{folder}/Dev.tsv": "sentence\tlabel\ngreat\t1\n"})
    assert len(load_glue("sst2", tmp_path).split("dev")) == 1


@pytest.mark.parametrize("path", ["AX/test.tsv", "AX/AX.tsv", "ax/diagnostic.tsv", "diagnostic/diagnostic.tsv"])
def test_places_of_the_diagnostics(tmp_path: Path, path: str) -> None:
    write(tmp_path, {path: FILES["ax"]["diagnostic/diagnostic.tsv"]})
    assert len(load_glue("ax", tmp_path).split("test")) == 1


def test_glue_s_own_spelling_and_a_folder_with_files_go_first(tmp_path: Path) -> None:
    write(tmp_path, {"RTE/notes.txt": "none", **FILES["rte"], "R-T-E/dev.tsv": "broken"})
    assert load_glue("rte", tmp_path).source == str(tmp_path / "RTE")
    for name in ("dev.tsv", "test.tsv"):
        (tmp_path / "RTE" / name).unlink()
    assert survey(tmp_path)["rte"][0] == tmp_path / "R-T-E"


def test_columns_may_stand_in_another_order(tmp_path: Path) -> None:
    write(tmp_path, {"RTE/train.tsv": "label\tsentence2\tindex\tsentence1\nentailment\tB\t0\tA\n"})
    train = load_glue("rte", tmp_path).labelled("train")
    assert (train.texts, train.pairs) == (("A",), ("B",))


def test_labels_of_a_test_file_are_not_read(tmp_path: Path) -> None:
    write(tmp_path, {"RTE/test.tsv": "index\tsentence1\tsentence2\tlabel\n0\tA\tB\tentailment\n"})
    assert load_glue("rte", tmp_path).split("test").labels is None


def test_a_header_alone_is_a_split_without_examples(tmp_path: Path) -> None:
    write(tmp_path, {"RTE/dev.tsv": "index\tsentence1\tsentence2\tlabel\n"})
    data = load_glue("rte", tmp_path)
    assert len(data.split("dev")) == 0
    with pytest.raises(DataError, match="has no examples"):
        data.labelled("dev")


def test_a_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"there is no folder .*nowhere; .*nowhere/RTE/train\.tsv"):
        load_glue("rte", tmp_path / "nowhere")


def test_a_missing_task_names_all_paths(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="No data of MNLI") as caught:
        load_glue("mnli", tmp_path)
    for name in FILES["mnli"]:
        assert str(tmp_path / name) in str(caught.value)


def test_a_folder_without_files_is_named_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "rte").mkdir()
    with pytest.raises(DataError, match=r"/rte/train\.tsv, .*/rte/dev\.tsv, .*/rte/test\.tsv\."):
        load_glue("rte", tmp_path)


@pytest.mark.parametrize(
    ("name", "path", "content", "message"),
    [
        ("cola", "CoLA/train.tsv", "gj04\t1\t\tFine.\ngj04\t1\n", "line 2: the row has 2 of 4 columns"),
        ("sst2", "SST-2/train.tsv", "sentence\tlabel\nfine\t1\nfine\n", "line 3: the row has 1 of 2 columns"),
        ("sst2", "SST-2/train.tsv", "sentence\tlabel\n \t1\n", "line 2: a text is empty"),
        ("sst2", "SST-2/dev.tsv", "sentence\tlabel\nfine\t2\n", "line 2: the label '2' is not one of: 0, 1"),
        ("sst2", "SST-2/test.tsv", "index\tsentence\n0\tfine\n1\t\n", "line 3: a text is empty"),
        ("sst2", "SST-2/train.tsv", "fine\t1\n", "line 1: the header has no column 'sentence'"),
        ("qqp", "QQP/test.tsv", "id\tquestion1\tquestion2\n0\tWho?\n", "line 2: the row has 2 of 3 columns"),
        (
            "rte",
            "RTE/dev.tsv",
            "index\tsentence1\tsentence2\tlabel\n0\tA\tB\t1\n",
            "line 2: the label '1' is not one of: entailment, not_entailment",
        ),
        ("rte", "RTE/dev.tsv", "index\tsentence1\tsentence2\tlabel\n0\tA\t\tentailment\n", "line 2: a text is empty"),
        ("rte", "RTE/dev.tsv", "index\tsentence1\tsentence2\tlabel\n0\tA\tB\t-\n", "line 2: the label '-'"),
        ("stsb", "STS-B/dev.tsv", STSB + "0\t-\tA\tB\t5.1\n", "line 2: the score '5.1' is not a number from 0 to 5"),
        ("stsb", "STS-B/dev.tsv", STSB + "0\t-\tA\tB\t-0.1\n", "line 2: the score '-0.1'"),
        ("stsb", "STS-B/dev.tsv", STSB + "0\t-\tA\tB\tnan\n", "line 2: the score 'nan'"),
        ("stsb", "STS-B/dev.tsv", STSB + "0\t-\tA\tB\tinf\n", "line 2: the score 'inf'"),
        ("stsb", "STS-B/dev.tsv", STSB + "0\t-\tA\tB\thigh\n", "line 2: the score 'high'"),
    ],
)
def test_errors_name_the_file_and_the_line(tmp_path: Path, name: str, path: str, content: str, message: str) -> None:
    write(tmp_path, {path: content})
    with pytest.raises(DataError) as caught:
        load_glue(name, tmp_path)
    assert f"{tmp_path / path}, {message}" in str(caught.value)


def test_a_file_that_is_not_utf8(tmp_path: Path) -> None:
    write(tmp_path, FILES["sst2"])
    (tmp_path / "SST-2" / "dev.tsv").write_bytes("sentence\tlabel\nnaïve\t1\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"dev\.tsv, line 2: not UTF-8"):
        load_glue("sst2", tmp_path)


def test_a_survey(tmp_path: Path) -> None:
    for files in FILES.values():
        write(tmp_path, files)
    found = survey(tmp_path)
    assert list(found) == list(GLUE)
    assert found["cola"][1] == {"train": 2, "dev": 1, "test": 1}
    assert found["qqp"][1] == {"train": 4, "dev": 1, "test": 2}  # before any are dropped
    assert found["ax"][0] == tmp_path / "diagnostic"


@pytest.mark.parametrize("data", [None, Path("nowhere"), Path(__file__)])
def test_a_survey_of_nothing(data: Path | None) -> None:
    assert set(survey(data)) == set(GLUE)
    assert all(found == (None, {}) for found in survey(data).values())


# The hub, faked by a module of the same name.


def hub(monkeypatch: pytest.MonkeyPatch, answer: object) -> list[tuple[str, ...]]:
    asked: list[tuple[str, ...]] = []

    def load_dataset(*names: str) -> object:
        asked.append(names)
        if isinstance(answer, Exception):
            raise answer
        return answer

    module = types.ModuleType("datasets")
    module.load_dataset = load_dataset  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "datasets", module)
    return asked


def test_the_hub_gives_what_the_files_give(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    columns = {"sentence1": ["A plane.", "A man."], "sentence2": ["An air plane.", "A car. "]}
    score = float(np.float32(0.067))
    answer = {
        "train": {**columns, "label": [5.0, score]},
        "validation": {**columns, "label": [5.0, score]},
        "test": {**columns, "label": [-1.0, -1.0]},
    }
    asked = hub(monkeypatch, answer)
    data = load_glue("STS-B", None)
    assert asked == [("nyu-mll/glue", "stsb")]
    assert data.source == "nyu-mll/glue, stsb"
    assert data.split("test").labels is None
    write(tmp_path, {"STS-B/train.tsv": STSB + "0\t-\tA plane.\tAn air plane.\t5.000\n1\t-\tA man.\tA car.\t0.067\n"})
    assert load_glue("stsb", tmp_path).split("train").identity() == data.split("train").identity()


def test_mnli_from_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    columns = {"premise": ["A"], "hypothesis": ["B"]}
    names = ("train", "validation_matched", "validation_mismatched", "test_matched", "test_mismatched")
    hub(monkeypatch, {name: {**columns, "label": [2]} for name in names})
    data = load_glue("mnli", None)
    assert list(data) == ["train", "dev", "dev_mismatched", "test", "test_mismatched"]
    dev = data.labelled("dev_mismatched")
    assert (dev.texts, dev.pairs) == (("A",), ("B",))
    assert dev.labels is not None
    assert dev.labels.tolist() == [2]
    assert data.split("test_mismatched").labels is None


def test_empty_questions_on_the_hub_are_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    split = {"question1": ["A?", "B?"], "question2": ["C?", " "], "label": [1, 0]}
    hub(monkeypatch, dict.fromkeys(("train", "validation", "test"), split))
    data = load_glue("qqp", None)
    assert {name: len(found) for name, found in data.splits.items()} == {"train": 1, "dev": 1, "test": 2}
    assert data.dropped == {"train": 1, "dev": 1}


def test_a_label_of_the_hub_that_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    split = {"sentence": ["fine"], "label": [-1]}
    hub(monkeypatch, dict.fromkeys(("train", "validation", "test"), split))
    with pytest.raises(DataError, match="nyu-mll/glue, sst2, train, row 0: the label '-1' is not one of: 0, 1"):
        load_glue("sst2", None)


def test_a_hub_that_cannot_be_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    hub(monkeypatch, ConnectionError("no\nnetwork."))
    with pytest.raises(DataError, match=r"cannot be read from the hub \(ConnectionError: no network\); name a folder"):
        load_glue("rte", None)


def test_datasets_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DataError, match=r"install normtune\[hub\]"):
        load_glue("rte", None)


# The real data, where there is a copy.


def real_data() -> Path | None:
    named = os.environ.get("NORMTUNE_DATA")
    folder = Path(named) if named else Path(__file__).parents[3] / "shared" / "glue"
    return folder if folder.is_dir() else None


needs_data = pytest.mark.skipif(real_data() is None, reason="no GLUE folder: set NORMTUNE_DATA")

SIZES: dict[str, dict[str, int]] = {
    "cola": {"train": 8551, "dev": 1043, "test": 1063},
    "sst2": {"train": 67349, "dev": 872, "test": 1821},
    "mrpc": {"train": 3668, "dev": 408, "test": 1725},
    "stsb": {"train": 5749, "dev": 1500, "test": 1379},
    "rte": {"train": 2490, "dev": 277, "test": 3000},
    "qnli": {"dev": 5463, "test": 5463},
    "mnli": {"dev": 9815},
    "qqp": {},
}
FIRST: dict[str, tuple[str, float]] = {
    "cola": ("Our friends won't buy this analysis, let alone the next one we propose.", 1),
    "sst2": ("hide new secretions from the parental units", 0),
    "mrpc": ('Amrozi accused his brother , whom he called " the witness " , of deliberately distorting his ', 1),
    "stsb": ("A plane is taking off.", 5.0),
    "rte": ("No Weapons of Mass Destruction Found in Iraq Yet.", 1),
}


@needs_data
@pytest.mark.parametrize("name", SIZES)
def test_real_data(name: str) -> None:
    folder = real_data()
    assert folder is not None
    place, listed = survey(folder)[name]
    if place is None:
        pytest.skip(f"the folder has no {name}")
    start = time.perf_counter()
    data = load_glue(name, folder)
    assert time.perf_counter() - start < 10  # well under 1 s on a quiet machine
    sizes = {split: len(found) for split, found in data.splits.items()}
    assert {split: size + data.dropped.get(split, 0) for split, size in sizes.items()} == listed
    assert {split: size for split, size in sizes.items() if split in SIZES[name]} == SIZES[name]
    train = data.labelled("train")
    assert set(train.labels.tolist()) <= {0, 1, 2} or name == "stsb"  # type: ignore[union-attr]
    if name in FIRST:
        text, label = FIRST[name]
        assert train.texts[0].startswith(text)
        assert train.labels[0] == label  # type: ignore[index]


@needs_data
def test_the_samples_that_lie_beside_the_project() -> None:
    folder = real_data()
    assert folder is not None
    sizes = {name: listed for name, (_, listed) in survey(folder).items()}
    if sizes["qnli"].get("train", 0) > 20_000 or not sizes["qqp"] or not sizes["mnli"]:
        pytest.skip("another copy of GLUE")
    assert (sizes["qnli"]["train"], sizes["mnli"]["train"]) == (12_096, 10_471)
    assert sizes["qqp"] == {"train": 8999, "dev": 8642}
    assert load_glue("qqp", folder).dropped == {}
    assert load_glue("mnli", folder).dropped == {}
