"""What ``--read`` says: how a file is read, and rows that are left out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from normtune.data.files import load_files, read_split
from normtune.data.reading import RECOGNISED, Reading
from normtune.data.rows import read_rows
from normtune.errors import ConfigError, DataError


def test_what_is_said_is_read() -> None:
    whole = Reading.of(" delimiter=semicolon, encoding=cp1252 ,decimal=comma,skip-bad-rows")
    assert whole == Reading(delimiter=";", encoding="cp1252", decimal="comma", skip=True)
    signs = ("comma", "tab", "\\t", "bar", "space", ";", "~", "\x01")
    assert [Reading.of(f"delimiter={sign}").delimiter for sign in signs] == [
        ",",
        "\t",
        "\t",
        "|",
        " ",
        ";",
        "~",
        "\x01",
    ]
    assert Reading.of("") == Reading.of("  ") == RECOGNISED


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("delimiter=,", "has an empty part; a comma as delimiter is delimiter=comma"),
        ("delimiter=", "takes delimiter=VALUE, such as delimiter=semicolon; got 'delimiter='"),
        ("decimal", "takes decimal=VALUE, such as decimal=comma; got 'decimal'"),
        ("skip-bad-rows=yes", "takes skip-bad-rows; got 'skip-bad-rows=yes'"),
        ("delimiter=;;", "A delimiter is one sign, or one of comma,"),
        ("delimiter=x", "A delimiter is one sign"),
        ("encoding=klingon", "There is no encoding 'klingon'; try utf-8, utf-16,"),
        ("encoding=base64", "There is no encoding 'base64'"),
        ("decimal=;", "Unknown decimal sign ';'. Known: comma, point."),
        ("seperator=;", "Unknown field of --read 'seperator'."),
        ("decimal=comma,decimal=point", "--read has decimal twice"),
    ],
)
def test_what_cannot_be_said(text: str, said: str) -> None:
    with pytest.raises(ConfigError) as error:
        Reading.of(text)
    assert said in str(error.value)


def test_delimiter_and_encoding_overrule_what_is_recognised(tmp_path: Path) -> None:
    file = tmp_path / "t.csv"
    file.write_bytes("text~label;x\n«a;b»~ja\n'c'~nein\n".encode("cp850"))
    rows = read_rows(file, Reading.of("delimiter=~,encoding=cp850"))
    assert {**rows.columns} == {"text": ["«a;b»", "'c'"], "label;x": ["ja", "nein"]}
    assert rows.notes == ()
    file.write_text("sep=;\ntext,label\na;b,1\n")  # a spreadsheet's first line is no row, whatever the delimiter
    assert {**read_rows(file, Reading.of("delimiter=comma")).columns} == {"text": ["a;b"], "label": ["1"]}
    file.write_bytes("text,label\na,ä\n".encode("utf-16-le"))
    assert {**read_rows(file, Reading.of("encoding=utf-16-le")).columns} == {"text": ["a"], "label": ["ä"]}
    file.write_bytes(b"text,label\nfine,x\n\xff\xfe\xfd,y\n")
    with pytest.raises(DataError, match=r"t\.csv, line 3: not gb18030 \(byte .*\); is it in another encoding\?$"):
        read_rows(file, Reading.of("encoding=gb18030"))


def test_the_decimal_sign_overrules_what_is_recognised(tmp_path: Path) -> None:
    def targets(cells: str, reading: str = "") -> list[float]:
        rows = "".join(f"text {i};{cell}\n" for i, cell in enumerate(cells.split()))
        (tmp_path / "t.csv").write_text(f"text;label\n{rows}")
        options = {"text": "text", "pair": None, "label": "label", "names": (), "kind": "regression"}
        split, _ = read_split(tmp_path / "t.csv", **options, reading=Reading.of(reading))  # type: ignore[arg-type]
        assert split.labels is not None
        return split.labels.tolist()

    assert targets("1,500 2,250", "decimal=comma") == [1.5, 2.25]  # three digits are ambiguous without the option
    with pytest.raises(DataError, match="line 2: the target '1,500' is not a finite number"):
        targets("1,500 2,250")
    assert targets("1,5 2 3") == targets("1,5 2 3", "decimal=comma") == [1.5, 2, 3]
    with pytest.raises(DataError, match="line 2: the target '1,5' is not a finite number"):
        targets("1,5 2", "decimal=point")
    with pytest.raises(DataError, match=r"line 3: the target '1\.500' is not a finite number with a decimal comma"):
        targets("1,5 1.500", "decimal=comma")
    with pytest.raises(ConfigError, match="Only labels that are numbers have a decimal sign"):
        load_files(tmp_path / "t.csv", None, text="text", label="label", reading=Reading.of("decimal=comma"))


@pytest.mark.parametrize(
    ("name", "field"),
    [
        ("t.jsonl", "delimiter=;"),
        ("t.txt", "decimal=comma"),
        ("t.parquet", "encoding=cp1252"),
        ("t.xlsx.gz", "delimiter=;"),
    ],
)
def test_what_a_file_does_not_have_cannot_be_chosen(tmp_path: Path, name: str, field: str) -> None:
    what = field.partition("=")[0]
    with pytest.raises(ConfigError, match=f"has no {what} to choose; leave {what} out of --read"):
        read_rows(tmp_path / name, Reading.of(field))


def _csv(folder: Path) -> Path:
    rows = "a 1,x\nb 1,y\n,x\na 2,x,odd\nb 2, \na 3,x\nshort\nb 3,y\n"
    (folder / "t.csv").write_text(f"text,label\n{rows}")
    return folder / "t.csv"


def _jsonl(folder: Path) -> Path:
    lines = ('{"text": "a 1", "label": "x"}', '{"text": "b 1", "label": "y"}', '{"text": "", "label": "x"}', "{", "[]")
    more = ('{"text": "a 3", "label": "x"}', '{"text": "b 2"}', '{"text": "b 3", "label": "y"}')
    (folder / "t.jsonl").write_text("\n".join((*lines, *more)) + "\n")
    return folder / "t.jsonl"


@pytest.mark.parametrize(("make", "bad"), [(_csv, "4, 5, 6, 8"), (_jsonl, "3, 4, 5, 7")])
def test_bad_rows_are_left_out_and_counted_if_so_asked(tmp_path: Path, make: Callable[[Path], Path], bad: str) -> None:
    file, columns = make(tmp_path), {"text": "text", "label": "label"}
    with pytest.raises(DataError, match="line"):
        load_files(file, file, **columns)  # type: ignore[arg-type]
    found = load_files(file, file, **columns, reading=Reading.of("skip-bad-rows"))  # type: ignore[arg-type]
    assert found.splits["train"].texts == ("a 1", "b 1", "a 3", "b 3")
    assert found.splits["train"].labels is not None
    assert found.splits["train"].labels.tolist() == [0, 1, 0, 1]
    first = 2 if file.suffix == ".csv" else 1
    assert [*found.splits["dev"].places] == [f"{file}, line {first + i}" for i in (0, 1, 5, 7)]
    assert dict(found.dropped) == {"train": 4, "dev": 4}
    assert f"{file}: 4 bad rows are left out: lines {bad}." in found.notes


def test_targets_that_are_no_numbers_are_bad_rows_and_unknown_labels_are_not(tmp_path: Path) -> None:
    rows = "".join(f"text {i},{cell}\n" for i, cell in enumerate(["1", "none", "2", "inf", "1e999", "3"]))
    (tmp_path / "t.csv").write_text(f"text,label\n{rows}")
    reading = Reading.of("skip-bad-rows")
    split, notes = read_split(
        tmp_path / "t.csv", text="text", pair=None, label="label", names=(), kind="regression", reading=reading
    )
    assert split.labels is not None
    assert split.labels.tolist() == [1, 2, 3]
    assert notes == (f"{tmp_path / 't.csv'}: 3 bad rows are left out: lines 3, 5, 6.",)
    with pytest.raises(DataError, match="line 3: the label 'none' does not occur in"):
        read_split(tmp_path / "t.csv", text="text", pair=None, label="label", names=("1", "2"), reading=reading)
    (tmp_path / "t.csv").write_text("text,label\na,x\nb,y\n")
    with pytest.raises(DataError, match="has no rows that can be used; all 2 are bad"):
        read_split(
            tmp_path / "t.csv", text="text", pair=None, label="label", names=(), kind="regression", reading=reading
        )
