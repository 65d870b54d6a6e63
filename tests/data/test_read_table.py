from __future__ import annotations

from pathlib import Path

import pytest

from normtune.data.glue import read_table
from normtune.errors import DataError


def write(folder: Path, content: str | bytes) -> Path:
    path = folder / "train.tsv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_columns_are_found_by_name_and_stripped(tmp_path: Path) -> None:
    path = write(tmp_path, "id\tlabel\ttext\n7\t1\t one \n8\t0\ttwo\n")
    assert read_table(path, ["text", "label"]) == ([(2, ("one", "1")), (3, ("two", "0"))], 0)


def test_a_file_without_header(tmp_path: Path) -> None:
    rows, _ = read_table(write(tmp_path, "a\tb\nc\td"), ["second"], header=["first", "second"])
    assert rows == [(1, ("b",)), (2, ("d",))]


@pytest.mark.parametrize("end", ["", "\n", "\r\n", "\n\n\n"])
def test_blank_lines_at_the_end_are_no_rows(tmp_path: Path, end: str) -> None:
    path = write(tmp_path, "text\tlabel\none\t1" + end)
    assert read_table(path, ["text"])[0] == [(2, ("one",))]


def test_windows_line_ends_and_a_byte_order_mark(tmp_path: Path) -> None:
    path = write(tmp_path, b"\xef\xbb\xbf" + "text\tlabel\r\ncafé\t1\r\n".encode())
    assert read_table(path, ["text", "label"])[0] == [(2, ("café", "1"))]


def test_quotes_and_unicode_separators_are_text(tmp_path: Path) -> None:
    texts = ('"open', "a\u2028b", "a\x85b", 'say "x" "')
    path = write(tmp_path, "text\tlabel\n" + "".join(f"{text}\t1\n" for text in texts))
    assert [row[0] for _, row in read_table(path, ["text"])[0]] == list(texts)


def test_a_row_that_is_too_short(tmp_path: Path) -> None:
    path = write(tmp_path, "text\tlabel\none\t1\ntwo\n")
    with pytest.raises(DataError, match=r"train\.tsv, line 3: the row has 1 of 2 columns"):
        read_table(path, ["text", "label"])


def test_a_row_that_is_too_long(tmp_path: Path) -> None:
    path = write(tmp_path, "label\ttext\n1\tone\t\n1\ttwo\trest of two\n")
    with pytest.raises(DataError, match="line 3: the row has 3 of 2 columns"):
        read_table(path, ["text", "label"])


def test_ragged_rows_are_counted_on_request(tmp_path: Path) -> None:
    path = write(tmp_path, "text\tlabel\none\t1\ntwo\nthree\t0\tmore\n")
    assert read_table(path, ["text", "label"], ragged=True) == ([(2, ("one", "1")), (4, ("three", "0"))], 1)


def test_a_column_that_is_missing(tmp_path: Path) -> None:
    path = write(tmp_path, "text\tlabel\none\t1\n")
    with pytest.raises(DataError, match="line 1: the header has no column 'score'; it has: text, label"):
        read_table(path, ["score"])


def test_a_file_that_is_not_utf8(tmp_path: Path) -> None:
    path = write(tmp_path, b"text\tlabel\none\t1\ncaf\xe9\t1\n")
    with pytest.raises(DataError, match=r"train\.tsv, line 3: not UTF-8 \(byte 20 of the file\)"):
        read_table(path, ["text"])


@pytest.mark.parametrize("content", ["", "\n\n", "\ufeff"])
def test_an_empty_file(tmp_path: Path, content: str) -> None:
    with pytest.raises(DataError, match=r"train\.tsv is empty"):
        read_table(write(tmp_path, content), ["text"])


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere\.tsv cannot be read: No such file"):
        read_table(tmp_path / "nowhere.tsv", ["text"])
