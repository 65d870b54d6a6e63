from __future__ import annotations

import csv
import io
import json
import sys
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from normtune.data.rows import READERS, Rows, as_text, read_rows
from normtune.errors import DataError

TABLES = {
    "a.csv": 'text,label\r\n"He said ""no"", twice",1\r\nplain,0\r\n',
    "a.tsv": 'text\tlabel\n"He said ""no"", twice"\t1\nplain\t0\n',
    "a.jsonl": '{"text": "He said \\"no\\", twice", "label": 1}\n{"text": "plain", "label": 0.0}\n',
}


def write(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("name", TABLES)
def test_text_formats(tmp_path: Path, name: str, bom: bytes) -> None:
    path = write(tmp_path, name, bom + TABLES[name].encode())
    rows = read_rows(path)
    assert rows.source == str(path)
    assert rows.columns == ("text", "label")
    assert rows.column("text") == ['He said "no", twice', "plain"]
    assert rows.column("label") == ["1", "0"]
    assert rows.lines == ([1, 2] if name == "a.jsonl" else [2, 3])
    assert len(rows) == 2
    assert rows.place(1) == f"{path}, line {rows.lines[1]}"


def test_plain_text_keeps_odd_separators(tmp_path: Path) -> None:
    rows = read_rows(write(tmp_path, "a.txt", 'one\u2028two\r\n\n , "x\n  \nlast'))
    assert rows.column("text") == ["one\u2028two", ' , "x', "last"]
    assert rows.lines == [1, 3, 5]


def test_parquet(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    table = pa.table({
        "text": ["é\n\0", "b"],
        "label": pa.array([3.0, None]),
        "flag": [True, False],
        "kind": pa.array(["x", "y"]).dictionary_encode(),
        "price": [Decimal("1.50"), Decimal("2.25")],
        "meta": [[1], [2]],
        "when": pa.array([1, 2], pa.timestamp("us")),
        "raw": [b"a", b"b"],
    })
    path = tmp_path / "a.parquet"
    parquet.write_table(table, path)
    rows = read_rows(path)
    assert rows.columns == tuple(table.schema.names)
    assert rows.column("text") == ["é\n\0", "b"]
    assert rows.column("label") == ["3", ""]
    assert rows.column("flag") == ["true", "false"]
    assert rows.column("kind") == ["x", "y"]
    assert rows.column("price") == ["1.50", "2.25"]
    assert rows.place(1) == f"{path}, row 2"
    for name in ("meta", "when", "raw"):
        with pytest.raises(
            DataError, match=f"row 1: the column '{name}' holds a value of type .*, not a text or a number"
        ):
            rows.column(name)


def test_parquet_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pa = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    path = write(tmp_path, "a.parquet", "no parquet at all")
    with pytest.raises(DataError, match=r"a\.parquet is not a readable Parquet file: "):
        read_rows(path)
    parquet.write_table(pa.table([[1], [2]], names=["x", "x"]), path)
    with pytest.raises(DataError, match=r"2 columns have the name 'x'"):
        read_rows(path)
    parquet.write_table(pa.table({"x": pa.array([], pa.string())}), path)
    with pytest.raises(DataError, match=r"a\.parquet has no rows\."):
        read_rows(path)
    parquet.write_table(pa.table({"x": [[1], [2]]}), path)
    assert read_rows(path).rows == [{}, {}]
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(DataError, match="pip install pyarrow"):
        read_rows(path)


def test_lines_are_where_a_row_starts(tmp_path: Path) -> None:
    rows = read_rows(write(tmp_path, "a.csv", 'text,n\n"a\nb\r\nc",1\n\n"d",2\r\n"e\n",3'))
    assert rows.column("text") == ["a\nb\r\nc", "d", "e\n"]
    assert rows.lines == [2, 6, 7]


def test_long_cells_leave_the_csv_limit_alone(tmp_path: Path) -> None:
    before = csv.field_size_limit()
    assert read_rows(write(tmp_path, "a.csv", "text\n" + "x" * 300_000)).column("text") == ["x" * 300_000]
    assert csv.field_size_limit() == before


def test_unnamed_index_column_and_spaces_in_the_header(tmp_path: Path) -> None:
    assert read_rows(write(tmp_path, "a.csv", ", text \n0,hi\n")).columns == ("", "text")


def test_jsonl_columns_are_the_keys_of_all_rows(tmp_path: Path) -> None:
    rows = read_rows(write(tmp_path, "a.ndjson", '{"a": "x"}\n\n{"b": true, "a": null}\r\n{"a": NaN, "c": {"d": 1}}\n'))
    assert rows.columns == ("a", "b", "c")
    assert rows.column("a") == ["x", "", ""]
    assert rows.column("b") == ["", "true", ""]
    with pytest.raises(
        DataError, match=r"a\.ndjson, line 4: the column 'c' holds a value of type dict, not a text or a number\."
    ):
        rows.column("c")


def test_as_text() -> None:
    cells = [None, float("nan"), "3.0", 3, 3.0, -0.0, 0.1, 1e300, float("inf"), True, False, " a "]
    expected = ["", "", "3.0", "3", "3", "0", "0.1", "1e+300", "inf", "true", "false", " a "]
    assert [as_text(cell) for cell in cells] == expected


ERRORS = [
    ("a.csv", "", r"a\.csv is empty\."),
    ("a.csv", "\ufeff \n", r"a\.csv is empty\."),
    ("a.txt", "\n\n", r"a\.txt is empty\."),
    ("a.csv", "text,label\n", r"a\.csv has no rows\."),
    ("a.tsv", "text\tlabel", r"a\.tsv has no rows\."),
    ("a.csv", b"text\nok\n\xff\n", r"a\.csv, line 3: not UTF-8 \(byte 8 of the file\)"),
    ("a.jsonl", b'{"a": "\xe9"}', r"a\.jsonl, line 1: not UTF-8"),
    ("a.csv", "text\nok\n".encode("utf-16"), r"a\.csv, line 1: not UTF-8"),
    ("a.csv", "text\nok\n".encode("utf-16-le"), r"a\.csv, line 1: there is a NUL character"),
    ("a.csv", "text\nx\ny\0\n", r"a\.csv, line 3: there is a NUL character"),
    (
        "a.csv",
        'a,b\n"x\ny",1\n1,2,3\n',
        r"a\.csv, line 4: the row has 3 of 2 cells \(is there a separator in a text without quotes\?\)\.",
    ),
    ("a.tsv", "a\tb\n1\t2\t3\n", r"a\.tsv, line 2: the row has 3 of 2 cells \(is there a separator"),
    ("a.csv", "a,b\n1\n", r"a\.csv, line 2: the row has 1 of 2 cells\."),
    ("a.csv", 'a,b\n1,2\n"x,3\n4,5\n', r"a\.csv, line 3: broken quotes \(unexpected end of data\); a cell"),
    (
        "a.csv",
        'a,b\n"x"y,3\n',
        r"a\.csv, line 2: broken quotes \(.*\); a cell that opens with a quote must close with one",
    ),
    ("a.csv", "\na,b, a\n1,2,3\n", r"a\.csv, line 2: 2 columns have the name 'a'\."),
    ("a.jsonl", '{"a": 1}\n{"a": }\n', r"a\.jsonl, line 2: not valid JSON \(Expecting value, at character 7\)\."),
    ("a.jsonl", '{"a": 1}\n[1]\n', r"a\.jsonl, line 2: not a JSON object, but list\."),
    ("a.jsonl", '{"a": "\\ud83d"}', r"a\.jsonl, line 1: not usable JSON \(.*surrogates not allowed\)\."),
    ("a.jsonl", '{"a": ' + "9" * 5000 + "}", r"a\.jsonl, line 1: not usable JSON"),
    ("a.jsonl", '{"a":' + "[" * 100_000, r"a\.jsonl, line 1: .*JSON"),
    ("a.xlsx", "x", r"a\.xlsx ends in '\.xlsx', which is none of: \.csv, \.tsv, \.jsonl, \.ndjson, \.parquet, \.txt\."),
    ("a", "x", r"a ends in 'nothing', which is none of"),
]


@pytest.mark.parametrize(("name", "content", "message"), ERRORS)
def test_errors(tmp_path: Path, name: str, content: str | bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_rows(write(tmp_path, name, content))


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gone\.csv cannot be read: No such file"):
        read_rows(tmp_path / "gone.csv")
    (tmp_path / "b.csv").mkdir()
    with pytest.raises(DataError, match=r"b\.csv cannot be read: Is a directory\."):
        read_rows(tmp_path / "b.csv")


@pytest.mark.parametrize(
    ("asked", "hint"), [("texts", " Did you mean 'Text'\\?"), ("LABEL", " Did you mean 'label'\\?"), ("zzz", "")]
)
def test_missing_column(asked: str, hint: str) -> None:
    rows = Rows("a.csv", ("Text", "label"), [{"Text": "x", "label": "1"}], [2])
    with pytest.raises(DataError, match=rf"^a\.csv has no column '{asked}'\.{hint} It has: Text, label\.$"):
        rows.column(asked)


def test_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    # It may believe in another encoding than UTF-8.
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("dé\n".encode()), encoding="ascii"))
    rows = read_rows(None)
    assert rows.source == "standard input"
    assert rows.column("text") == ["dé"]
    with pytest.raises(DataError, match=r"standard input is empty\."):
        read_rows(None)


def test_every_ending_is_read_whatever_its_case(tmp_path: Path) -> None:
    for ending in set(READERS) - {".parquet"}:
        content = '{"text": "x"}' if "json" in ending else "text\nx"
        assert read_rows(write(tmp_path, f"a{ending.upper()}", content)).column("text")[-1] == "x"


# Any text but halves of surrogate pairs, which UTF-8 cannot write, and NUL, which is refused.
TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
PAIRS = st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=8)


@given(PAIRS, st.sampled_from([",", "\t"]))
def test_delimited_round_trip(pairs: list[tuple[str, str]], delimiter: str) -> None:
    stream = io.StringIO(newline="")
    csv.writer(stream, delimiter=delimiter).writerows([("text", "other"), *pairs])
    rows = READERS[".csv" if delimiter == "," else ".tsv"]("a", stream.getvalue().encode())
    assert list(zip(rows.column("text"), rows.column("other"), strict=True)) == pairs


@given(PAIRS, st.booleans())
def test_json_round_trip(pairs: list[tuple[str, str]], ascii_only: bool) -> None:
    lines = [json.dumps({"text": a + "\0", "other": b}, ensure_ascii=ascii_only) + "\n" for a, b in pairs]
    rows = READERS[".jsonl"]("a", "".join(lines).encode())
    assert rows.rows == [{"text": a + "\0", "other": b} for a, b in pairs]
    assert rows.lines == list(range(1, len(pairs) + 1))
