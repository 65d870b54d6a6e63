"""Plain text as a task: its lines, its dev part, and blocks of tokens."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from normtune.config import protocol
from normtune.data.encode import encode
from normtune.data.lines import is_running_text, load_lines
from normtune.data.reading import Reading
from normtune.data.task import Split
from normtune.errors import ConfigError
from normtune.training.splits import parts_of

ROWS = [f"the cat sees dog {number}" for number in range(20)]


def text(tmp_path: Path, content: str) -> Path:
    path = tmp_path / "my book.txt"
    path.write_bytes(content.encode())
    return path


def test_the_end_of_a_text_is_kept_for_scoring(tmp_path: Path) -> None:
    data = load_lines(text(tmp_path, "\r\n".join([*ROWS[:3], "", *ROWS[3:]]) + "\n\n"), None)
    train, dev = (data.splits[name].columns["lines"] for name in ("train", "dev"))
    assert (*train, *dev) == tuple(f"{row}\n" for row in [*ROWS[:3], "", *ROWS[3:]])  # inner blank lines stay
    assert len(dev) == 2
    assert data.task.name == "my-book"
    assert data.task.primary == "log_likelihood"


def test_samples_and_held_out_parts_are_pieces(tmp_path: Path) -> None:
    data = load_lines(text(tmp_path, "\n".join(ROWS)), None)
    whole = data.splits["train"]
    drawn = {whole.sample(4, seed).columns["lines"] for seed in range(8)}
    assert all(own == whole.columns["lines"][(at := whole.columns["lines"].index(own[0])) : at + 4] for own in drawn)
    assert len(drawn) > 1
    parts = parts_of(data, protocol("held-out"))
    assert (*parts.train.columns["lines"], *parts.pick.columns["lines"]) == whole.columns["lines"]


def test_blocks_are_the_whole_text_in_pieces(tmp_path: Path, tiny_tokenizer) -> None:
    split = load_lines(text(tmp_path, "\n".join(ROWS)), None).splits["train"]
    encoded = encode(split, tiny_tokenizer, 10)
    ids = tiny_tokenizer("".join(split.columns["lines"]), add_special_tokens=False)["input_ids"]
    assert [length for length in encoded.lengths[:-1] if length != 10] == []
    assert np.concatenate([own[1:-1] for own in encoded.fields["input_ids"]]).tolist() == ids
    assert {(int(own[0]), int(own[-1])) for own in encoded.fields["input_ids"]} == {(2, 3)}  # [CLS] and [SEP]
    assert encoded.labels is not None
    assert len(encoded.labels) == len(encoded)
    single = replace(split, columns={"lines": ("a",)}, labels=np.zeros(1))
    assert len(encode(single, tiny_tokenizer, 10)) == 1


@pytest.mark.parametrize("start", [True, False])
def test_a_last_token_alone_is_a_block_where_a_start_token_precedes_it(tiny_tokenizer, start: bool) -> None:
    tokenizer = deepcopy(tiny_tokenizer)
    if not start:
        tokenizer.backend_tokenizer.post_processor = None
    size = 10 if start else 8
    nine = Split({"lines": ("a " * 9,)}, np.zeros(1))
    assert encode(nine, tokenizer, size).lengths.tolist() == ([10, 3] if start else [8])


def test_of_how_it_is_read_plain_text_has_the_encoding_alone(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="plain text, for which --read takes only the encoding"):
        load_lines(text(tmp_path, "\n".join(ROWS)), None, reading=Reading.of("labels=bar"))


def test_which_files_are_plain_text() -> None:
    assert [is_running_text(Path(name)) for name in ("a.txt", "a.TXT.gz", "a.csv", "txt")] == [True, True, False, False]
