from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma
import resource
import sys
import zipfile
from collections.abc import Iterator
from datetime import date
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from normtune.data.reading import Reading
from normtune.data.rows import READERS, read_rows
from normtune.data.table import Rows
from normtune.errors import DataError

TABLES = {
    "a.csv": 'text,label\r\n"He said ""no"", twice",1\r\nplain,0\r\n',
    "a.tsv": 'text\tlabel\n"He said ""no"", twice"\t1\nplain\t0\n',
    "a.jsonl": '{"text": "He said \\"no\\", twice", "label": 1}\n{"text": "plain", "label": 0}\n',
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
    assert tuple(rows.columns) == ("text", "label")
    assert rows.notes == ()
    assert rows.column("text") == ['He said "no", twice', "plain"]
    assert rows.column("label") == ["1", "0"]
    assert rows.lines == ([1, 2] if name == "a.jsonl" else [2, 3])
    assert len(rows) == 2
    assert rows.place(1) == f"{path}, line {rows.lines[1]}"


def test_plain_text_keeps_odd_separators(tmp_path: Path) -> None:
    rows = read_rows(write(tmp_path, "a.txt", 'one\u2028two\r\n\n , "x\n  \nlast'))
    assert rows.column("text") == ["one\u2028two", ' , "x', "last"]
    assert rows.lines == [1, 3, 5]
    assert rows.notes == (f"{tmp_path / 'a.txt'}: 2 blank lines are left out: lines 2, 4.",)
    assert read_rows(write(tmp_path, "a.txt", "one\n\ntwo\n\n\n")).notes == (
        f"{tmp_path / 'a.txt'}: 1 blank line is left out: line 2.",
    )


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
    assert [*rows.columns] == table.schema.names
    assert rows.column("text") == ["é\n\0", "b"]
    # As pandas writes them into CSV.
    assert rows.column("label") == ["3.0", ""]
    assert rows.column("flag") == ["true", "false"]
    assert rows.column("kind") == ["x", "y"]
    assert rows.column("price") == ["1.50", "2.25"]
    assert rows.place(1) == f"{path}, row 2"
    for name in ("meta", "when", "raw"):
        with pytest.raises(DataError, match=f"row 1: the column '{name}' holds a value of type .*, not a text"):
            rows.column(name)


def test_parquet_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pa = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    path = write(tmp_path, "a.parquet", "no parquet at all")
    with pytest.raises(DataError, match=r"a\.parquet is not a readable Parquet file: "):
        read_rows(path)
    parquet.write_table(pa.table([[1], [2]], names=["x", "x"]), path)
    with pytest.raises(DataError, match=r"is not a readable Parquet file: columns have the same name: x, x\."):
        read_rows(path)
    parquet.write_table(pa.table({"x": pa.array([], pa.string())}), path)
    with pytest.raises(DataError, match=r"a\.parquet has no rows\."):
        read_rows(path)
    parquet.write_table(pa.table({"x": [1, 2]}), path)
    assert read_rows(path).column("x") == ["1", "2"]
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


def test_columns_without_a_name(tmp_path: Path) -> None:
    rows = read_rows(write(tmp_path, "a.csv", ", text ,,\n7,hi,,\n9,ho,,\n"))
    assert [*rows.columns] == ["text"]
    assert rows.notes == (f"{tmp_path}/a.csv: the first column has no name and is left out, as it only counts.",)
    rows = read_rows(write(tmp_path, "a.csv", ",text\nrte,hi\n"))
    assert ([*rows.columns], rows.notes) == (["", "text"], ())


def test_jsonl_columns_are_the_keys_of_all_rows(tmp_path: Path) -> None:
    rows = read_rows(write(tmp_path, "a.ndjson", '{"a": "x"}\n\n{"b": true, "a": null}\r\n{"a": NaN, "c": [1]}\n'))
    assert [*rows.columns] == ["a", "b", "c"]
    assert rows.column("a") == ["x", "", ""]
    assert rows.column("b") == ["", "true", ""]  # as JSON writes it
    with pytest.raises(
        DataError, match=r"a\.ndjson, line 4: the column 'c' holds a value of type list, not a text or a number"
    ):
        rows.column("c")


def test_json_numbers_stay_as_written_and_objects_within_have_columns(tmp_path: Path) -> None:
    content = '{"a": 1.0, "b": {"c": {"d": 1e5}, "e": "x"}}\n{"a": 1, "b": {"e": false}}\n{"a": 007}'.replace(
        "007", "-0"
    )
    rows = read_rows(write(tmp_path, "a.jsonl", content + "9" * 0))
    assert rows.column("a") == ["1.0", "1", "-0"]
    assert rows.column("b.c.d") == ["1e5", "", ""]
    assert rows.column("b.e") == ["x", "false", ""]


def table(between: str) -> str:
    return f'body{between}n\n"Où{between} là"{between}007\nYes{between}1.0\n'


SEMICOLON = "is separated by ';', as its header is."
WESTERN = "line 2: not UTF-8 (byte 9 of the file); it is read as Windows-1252."
# One table in the formats that people have: file name, bytes, delimiter, and the notes on it.
FOUND = [
    ("a.csv", table(";").encode(), ";", (SEMICOLON,)),
    ("a.csv", table("\t").encode(), "\t", ("is separated by '\\t', as its header is.",)),
    ("a.csv", table("|").encode(), "|", ("is separated by '|', as its header is.",)),
    ("a.csv", table(";").encode("utf-16"), ";", (SEMICOLON,)),
    ("a.csv", table(";").encode("cp1252"), ";", (WESTERN, SEMICOLON)),
    ("a.csv", table(",").replace("body", '"bo;d;y"').encode(), ",", ()),
    ("a.csv", table(",").replace("\n", ",,\n").encode() + b",,,\n", ",", ("1 blank row is left out: line 4.",)),
    ("a.csv", b"sep=;\r\n" + table(";").encode(), ";", ()),
    ("a.tsv", b"\xef\xbb\xbfsep=;\n" + table(";").encode(), ";", ()),
    ("a.tsv", table("\t").encode(), "\t", ()),
    ("a.csv.gz", gzip.compress(table(",").encode()), ",", ()),
    ("a.CSV.BZ2", bz2.compress(table(";").encode()), ";", (SEMICOLON,)),
    ("a.csv.xz", lzma.compress(table(",").encode()), ",", ()),
]


@pytest.mark.parametrize(("name", "content", "between", "notes"), FOUND, ids=range(len(FOUND)))
def test_a_table_as_people_have_it(
    tmp_path: Path, name: str, content: bytes, between: str, notes: tuple[str, ...]
) -> None:
    rows = read_rows(write(tmp_path, name, content))
    body, *others = rows.columns
    assert (body in {"body", "bo;d;y"}, others) == (True, ["n"])
    assert rows.column(body) == [f"Où{between} là", "Yes"]
    assert rows.column("n") == ["007", "1.0"]
    assert rows.lines == ([3, 4] if b"sep=" in content else [2, 3])
    assert [note.removeprefix(f"{tmp_path}/{name}").lstrip(":, ") for note in rows.notes] == [*notes]


def test_lines_may_end_as_on_an_old_mac(tmp_path: Path) -> None:
    assert read_rows(write(tmp_path, "a.csv", "text;label\rone, two, three;x\r")).column("text") == ["one, two, three"]
    assert read_rows(write(tmp_path, "a.conll", "a B-X\rb O\r\rc O\r")).columns["text"] == [["a", "b"], ["c"]]


def test_two_fields_of_one_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"line 1: not usable JSON \(the key 'meta.label' stands twice\)"):
        read_rows(write(tmp_path, "a.jsonl", '{"text": "x", "meta.label": "p", "meta": {"label": "q"}}'))


def test_lines_of_words_end_at_line_feeds_alone_and_bad_texts_may_be_left_out(tmp_path: Path) -> None:
    path = write(tmp_path, "a.conll", "EU\tB-ORG\n\x0cGerman\tO\n\nrejects\tO\n\nthe\tX\tO\nend\tO\n")
    with pytest.raises(DataError, match="line 6: the line has 3 of 2 columns"):
        read_rows(path)
    rows = read_rows(path, Reading(skip=True))
    assert (rows.columns["text"], rows.lines, rows.bad) == ([["EU", "German"], ["rejects"]], [1, 4], (6,))


def test_rows_without_data_are_left_out_and_told(tmp_path: Path) -> None:
    rows = read_rows(write(tmp_path, "a.csv", 'text\na\n""\n\nb\n" "\n'))
    assert (rows.column("text"), rows.lines) == (["a", "b"], [2, 5])
    assert rows.notes == (f"{tmp_path / 'a.csv'}: 2 blank rows are left out: lines 3, 6.",)


def test_archives(tmp_path: Path) -> None:
    zstandard = pytest.importorskip("zstandard")
    path = write(tmp_path, "a.csv.zst", zstandard.compress(b"text\nx\n"))
    assert read_rows(path).column("text") == ["x"]
    path = tmp_path / "a.jsonl.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("inner.jsonl", '{"text": "x"}')
    assert read_rows(path).column("text") == ["x"]
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("other.jsonl", '{"text": "x"}')
    with pytest.raises(DataError, match=r"a\.jsonl\.zip is not a readable compressed file: Multiple files found"):
        read_rows(path)
    for ending in ("gz", "bz2", "xz", "zst", "zip"):
        with pytest.raises(DataError, match=rf"b\.csv\.{ending} is not a readable compressed file: "):
            read_rows(write(tmp_path, f"b.csv.{ending}", "text\nx\n"))


def bombs(folder: Path) -> Iterator[Path]:
    """Small files of many bytes, cells or rows, a text that many rows share, or a cell in a sheet's last corner."""
    pa = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    openpyxl = pytest.importorskip("openpyxl")
    yield write(folder, "bytes.csv.gz", gzip.compress(b"text\n" + b"x" * 2**26, 1))
    yield write(folder, "cells.csv.gz", gzip.compress(b"a,b\n" + b",\n" * 2_100_000, 1))
    yield write(folder, "lines.jsonl.gz", gzip.compress(b"{}\n" * 4_300_000, 1))
    yield write(folder, "keys.jsonl", "\n".join(f'{{"k{i}": 0}}' for i in range(2_100)))
    parquet.write_table(pa.table({"text": pa.nulls(60_000_000, pa.string())}), folder / "rows.parquet")
    yield folder / "rows.parquet"
    shared = pa.DictionaryArray.from_arrays(pa.array([0] * 1_000, pa.int8()), ["x" * 100_000])
    for name, column in (("typed", shared), ("plain", shared.cast(pa.string()))):
        parquet.write_table(pa.table({"text": column}), folder / f"{name}.parquet")
        yield folder / f"{name}.parquet"
    book = openpyxl.Workbook()
    book.worksheets[0].cell(1_048_576, 16_384, "x")
    book.save(folder / "corner.xlsx")
    yield folder / "corner.xlsx"


def test_what_is_in_a_small_file_is_looked_at_before_it_is_made(tmp_path: Path) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for path in bombs(tmp_path):
        assert path.stat().st_size < 2_000_000
        with pytest.raises(DataError, match=r"holds [0-9,]+ cells|unpacks to more than [0-9,]+ bytes"):
            read_rows(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**20  # in KiB


def test_excel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    openpyxl = pytest.importorskip("openpyxl")
    book = openpyxl.Workbook()
    table = [
        (),
        ("text", "label", None, "when"),
        ("a\nb", 1),
        (" ", None, ""),
        ("007", 2.5, None, date(2020, 1, 2)),
        ("x", True),
    ]
    for row in table:
        book.active.append(row)
    path = tmp_path / "a.xlsx"
    book.save(path)
    rows = read_rows(path)
    blank = f"{path}: 1 blank row is left out: row 4."
    assert ([*rows.columns], rows.notes) == (["text", "label", "when"], (blank,))
    assert rows.column("text") == ["a\nb", "007", "x"]
    assert rows.column("label") == ["1", "2.5", "true"]
    assert rows.place(1) == f"{path}, row 5"
    with pytest.raises(DataError, match=r"row 5: the column 'when' holds a value of type datetime"):
        rows.column("when")
    book.create_sheet("more")
    book.save(path)
    assert read_rows(path).notes == (f"{path}: of 2 sheets the first, 'Sheet', is read.", blank)
    openpyxl.Workbook().save(path)
    with pytest.raises(DataError, match=r"a\.xlsx has no rows\."):
        read_rows(path)
    with pytest.raises(DataError, match=r"a\.xlsx is not a readable Excel file: "):
        read_rows(write(tmp_path, "a.xlsx", "text"))
    monkeypatch.setitem(sys.modules, "openpyxl", None)
    with pytest.raises(DataError, match="pip install openpyxl"):
        read_rows(path)


# Lines as GLUE has them. A sentence of a dialogue opens a quote that another line closes.
DIALOGUE = 'text\tlabel\nHe said:\tno\n"I came.\tyes\nI saw."\tno\n'


def test_every_line_of_a_tsv_is_a_row_where_quotes_would_join_lines(tmp_path: Path) -> None:
    path = write(tmp_path, "a.tsv", DIALOGUE)
    note = (f"{path}: quotes are read as part of the texts, since only then every line is a row.",)
    rows = read_rows(path)
    assert (rows.column("text"), rows.notes) == (["He said:", '"I came.', 'I saw."'], note)
    rows = read_rows(write(tmp_path, "a.tsv", DIALOGUE + '"Why" not?\tno\n'))
    assert (rows.column("text")[-1], rows.lines[-1], rows.notes) == ('"Why" not?', 5, note)
    # Line breaks and a tab within quotes, where lines alone are no rows.
    rows = read_rows(write(tmp_path, "a.tsv", 'text\tlabel\n"a\tb\n\nc\nd"\tyes\n"d ""e"""\tno\n'))
    assert (rows.column("text"), rows.lines, rows.notes) == (["a\tb\n\nc\nd", 'd "e"'], [2, 6], ())
    with pytest.raises(DataError, match=r"a\.tsv, line 5: broken quotes"):
        read_rows(write(tmp_path, "a.tsv", DIALOGUE + '"Why\tnot\tno\n'))


ERRORS = [
    ("a.csv", "", r"a\.csv has no rows\."),
    ("a.csv", "\ufeff \n", r"a\.csv has no rows\."),
    ("a.txt", "\n\n", r"a\.txt has no rows\."),
    ("a.jsonl", "", r"a\.jsonl has no rows\."),
    ("a.csv", "text,label\n", r"a\.csv has no rows\."),
    ("a.tsv", "text\tlabel", r"a\.tsv has no rows\."),
    (
        "a.csv",
        b"text\nok\n\xff \xc3\xa9\n",
        r"a\.csv, line 3: not UTF-8 \(byte 8 of the file\); save it as UTF-8, or say ",
    ),
    ("a.jsonl", b'{"a": "\x81"}', r"a\.jsonl, line 1: not UTF-8"),
    ("a.csv", "text\nok\n".encode("utf-16")[:-1], r"a\.csv, line 2: not UTF-16"),
    ("a.csv", "text\nok\n".encode("utf-16-le"), r"a\.csv, line 1: there is a NUL character"),
    ("a.csv", "text\nx\ny\0\n", r"a\.csv, line 3: there is a NUL character"),
    (
        "a.csv",
        'a,b\n"x\ny",1\n1,2,3\n',
        r"a\.csv, line 4: the row has 3 of 2 cells \(is there a separator in a text without quotes\?\)\.",
    ),
    ("a.tsv", "a\tb\n1\t2\t3\n", r"a\.tsv, line 2: the row has 3 of 2 cells \(is there a separator"),
    ("a.csv", "a,b\n1\n", r"a\.csv, line 2: the row has 1 of 2 cells; complete it\."),
    ("a.csv", 'a,b\n1,2\n"x,3\n4,5\n', r"a\.csv, line 3: broken quotes \(unexpected end of data\); a cell"),
    (
        "a.csv",
        'a,b\n"x"y,3\n',
        r"a\.csv, line 2: broken quotes \(.*\); a cell that opens with a quote must close with one",
    ),
    ("a.csv", "\na,b, a\n1,2,3\n", r"a\.csv, line 2: 2 columns have the name 'a'; rename one\."),
    ("a.jsonl", '{"a": 1}\n{"a": }\n', r"a\.jsonl, line 2: not valid JSON \(Expecting value, at character 7\)\."),
    ("a.jsonl", '{"a": 1}\n[1]\n', r"a\.jsonl, line 2: not a JSON object, but list; write one object a line\."),
    ("a.jsonl", '{"a": 1, "b": {"c": 1, "c": 2}}', r"a\.jsonl, line 1: not usable JSON \(the key 'c' stands twice\)\."),
    ("a.jsonl", '{"a": "\\ud83d"}', r"a\.jsonl, line 1: not usable JSON \(.*surrogates not allowed\)\."),
    ("a.jsonl", '{"a":' + "[" * 100_000, r"a\.jsonl, line 1: .*JSON"),
    (
        "a.xls",
        "x",
        r"a\.xls ends in none of: \.csv, \.tsv, \.jsonl, .*, also with \.gz, .* behind it\.",
    ),
    ("a.zip", "x", r"a\.zip ends in none of"),
    ("a", "x", r"a ends in none of"),
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
    rows = Rows("a.csv", {"Text": ["x"], "label": ["1"]}, [2])
    with pytest.raises(DataError, match=rf"^a\.csv has no column '{asked}'\.{hint} It has: Text, label\.$"):
        rows.column(asked)


def test_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    # Its encoding may not be UTF-8.
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("dé\n".encode()), encoding="ascii"))
    rows = read_rows(None)
    assert rows.source == "standard input"
    assert rows.column("text") == ["dé"]
    with pytest.raises(DataError, match=r"standard input has no rows\."):
        read_rows(None)


def test_every_ending_is_read_whatever_its_case(tmp_path: Path) -> None:
    for ending in set(READERS) - {".parquet", ".xlsx"}:
        content = '{"text": "x"}' if "json" in ending else "text\nx"
        assert read_rows(write(tmp_path, f"a{ending.upper()}", content)).cells("text")[-1] in ("x", ["text", "x"])


# Any text without lone surrogates, which UTF-8 cannot encode, and NUL, which is refused.
TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
PAIRS = st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=8)


@given(PAIRS, st.sampled_from([",", "\t"]))
def test_delimited_round_trip(pairs: list[tuple[str, str]], delimiter: str) -> None:
    stream = io.StringIO(newline="")
    csv.writer(stream, delimiter=delimiter).writerows([("text", "other"), *pairs])
    rows = READERS[".csv" if delimiter == "," else ".tsv"]("a", stream.getvalue().encode())
    # A row of blanks holds no data.
    assert list(zip(rows.column("text"), rows.column("other"), strict=True)) == [
        p for p in pairs if any(map(str.strip, p))
    ]


@given(PAIRS, st.booleans())
def test_json_round_trip(pairs: list[tuple[str, str]], ascii_only: bool) -> None:
    lines = [json.dumps({"text": a + "\0", "other": b}, ensure_ascii=ascii_only) + "\n" for a, b in pairs]
    rows = READERS[".jsonl"]("a", "".join(lines).encode())
    assert list(zip(rows.column("text"), rows.column("other"), strict=True)) == [(a + "\0", b) for a, b in pairs]
    assert rows.lines == list(range(1, len(pairs) + 1))
