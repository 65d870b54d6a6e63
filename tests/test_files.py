"""Files of ours: whole or not at all, one writer a folder, nothing left by a kill, and no damage unnoticed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from normtune import files
from normtune.config import Strict
from normtune.errors import DataError, OutputError
from normtune.files import claim_folder, fresh_folder, hold, read_tensors, write_atomically, write_tensors
from normtune.records.saved import Saved

OURS = ".normtune-0123456789abcdef"


class Note(Strict):
    format: int = 1
    text: str
    scale: float = 1.0
    names: tuple[str, ...] = ()


class Kept(Saved):
    text: str
    scores: dict[str, float]


NOTE = Note(text="où est “le” chat", scale=2.5, names=("no", "yes"))
TENSORS = {"a": torch.tensor([1.5, -2.0]), "b/c": torch.tensor([[3, 4]]), "none": torch.empty(0, dtype=torch.uint8)}


def read(file: Path) -> tuple[Note, dict[str, torch.Tensor]]:
    return read_tensors(file, "note", "key", Note, DataError)


def python(code: str, *arguments: object) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, check=False, capture_output=True, timeout=60)


KILLED_AS_IT_WRITES = """
import os, signal, sys
from pathlib import Path
from normtune.files import fresh_folder, write_atomically
os.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL)
place = Path(sys.argv[2])
if sys.argv[1] == "file":
    write_atomically(place, "x" * 1000)
with fresh_folder(place) as aside:
    (aside / "model").mkdir()
    (aside / "model" / "weights").write_text("many")
    os.fsync(0)
"""


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_what_a_killed_writer_left_is_removed_by_the_next_one(tmp_path: Path, kind: str) -> None:
    for _ in range(2):
        assert python(KILLED_AS_IT_WRITES, kind, tmp_path / "new").returncode == -signal.SIGKILL
        assert len([*tmp_path.glob(".normtune-*")]) == 1
    write_atomically(tmp_path / "other", "fine")
    assert {path.name for path in tmp_path.iterdir()} - {"new"} == {"other"}


def test_what_is_not_ours_or_is_being_written_stays(tmp_path: Path) -> None:
    for name in (".normtune-mine", ".normtune-0123", ".delta.safetensors.abcd1234", "notes"):
        (tmp_path / name).write_text("dear")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / OURS).symlink_to(tmp_path / "elsewhere")
    before = {path.name for path in tmp_path.iterdir()}
    with fresh_folder(tmp_path / "model") as aside:
        (aside / "weights").write_text("many")
        write_atomically(tmp_path / "beside", "x")
        assert (aside / "weights").read_text() == "many"
    assert {path.name for path in tmp_path.iterdir()} == before | {"beside", "model"}


def test_a_home_that_is_not_there_stays_as_it_is() -> None:
    assert files.expanded("~nosuchuser/x") == Path("~nosuchuser/x")
    assert files.expanded("~/x") == Path.home() / "x"


def test_a_folder_with_nothing_but_a_stray_is_free(tmp_path: Path) -> None:
    (tmp_path / OURS).write_text("half")
    claim_folder(tmp_path)
    assert not [*tmp_path.iterdir()]


def test_writers_at_once_do_not_take_each_other_for_strays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)

    def write(number: int) -> None:
        for _ in range(50):
            write_atomically(tmp_path / f"{number}", f"{number}")

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, range(4)))
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {str(n): str(n) for n in range(4)}


def test_a_stray_of_a_race_is_given_up_for_a_new_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own, made = files._locked, []

    @contextmanager
    def late(path: Path, flags: int = 0) -> Iterator[bool | None]:
        made.append(path)
        if len(made) < 3:
            path.unlink()  # a sweeper was faster
        with own(path, flags) as mine:
            yield mine

    monkeypatch.setattr(files, "_locked", late)
    write_atomically(tmp_path / "file", "whole")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert len(made) == 3


HOLDS = """
import sys, time
from pathlib import Path
from normtune.files import hold
with hold(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_folder_has_one_holder_and_a_dead_process_holds_nothing(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "out"
    with subprocess.Popen([sys.executable, "-c", HOLDS, str(out)], stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(OutputError, match=r"Another command is writing to .*out; wait until it ends"), hold(out):
            raise AssertionError
        other.kill()
    for _ in range(100):  # the system soon releases a dead process's lock
        try:
            with hold(out):
                break
        except OutputError:
            time.sleep(0.05)
    else:
        raise AssertionError


def test_a_folder_made_to_be_held_goes_if_nothing_came_into_it(tmp_path: Path) -> None:
    with hold(tmp_path / "made"):
        assert (tmp_path / "made").is_dir()
    (tmp_path / "mine").mkdir()
    with hold(tmp_path / "mine"):
        pass
    with hold(tmp_path / "used"):
        (tmp_path / "used" / "file").write_text("x")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "used"]
    with pytest.raises(OutputError, match="Cannot make the folder"), hold(tmp_path / "used" / "file"):
        raise AssertionError


# The hash.


def test_equal_content_is_equal_bytes_and_comes_back(tmp_path: Path) -> None:
    for number in range(8):
        write_tensors(tmp_path / f"{number}", "key", NOTE, TENSORS)
    assert len({file.read_bytes() for file in tmp_path.iterdir()}) == 1
    info, tensors = read(tmp_path / "0")
    assert info == NOTE
    assert tensors.keys() == TENSORS.keys()
    assert all(torch.equal(tensors[name], TENSORS[name]) for name in TENSORS)


def flipped(file: Path) -> Iterator[None]:
    """Write the file with one bit flipped, two bits of each of its bytes in turn."""
    good = file.read_bytes()
    for at in range(len(good)):
        for bit in (at % 8, (at + 3) % 8):
            damaged = bytearray(good)
            damaged[at] ^= 1 << bit
            file.write_bytes(damaged)
            yield


def test_no_flipped_bit_gives_other_content(tmp_path: Path) -> None:
    file = tmp_path / "file"
    write_tensors(file, "key", NOTE, TENSORS)
    for _ in flipped(file):
        try:
            info, tensors = read(file)
        except DataError:
            continue
        assert info == NOTE
        assert all(torch.equal(tensors[name], TENSORS[name]) for name in TENSORS)


def test_no_flipped_bit_gives_another_record(tmp_path: Path) -> None:
    file, record = tmp_path / "record.json", Kept(text="naïve", scores={"f1": 0.1 + 0.2, "tiny": 1e-7})
    record.save(file)
    for _ in flipped(file):
        with suppress(DataError):
            assert Kept.load(file) == record


def test_a_record_that_was_laid_out_anew_is_the_same(tmp_path: Path) -> None:
    import json

    file, record = tmp_path / "record.json", Kept(text="a", scores={"f1": 1e-05, "accuracy": 1.0})
    record.save(file)
    file.write_text(json.dumps(json.loads(file.read_bytes()), indent=4, sort_keys=True))
    assert Kept.load(file) == record


@pytest.mark.parametrize("tensors", [{"a": TENSORS["a"]}, {**TENSORS, "more": torch.ones(1)}, {}])
def test_tensors_that_came_or_went_are_noticed(tmp_path: Path, tensors: dict[str, torch.Tensor]) -> None:
    write_tensors(tmp_path / "file", "key", NOTE, TENSORS)
    header = {"key": files.sealed(NOTE, TENSORS)}
    save_file(tensors, tmp_path / "other", header)
    with pytest.raises(DataError, match=r"^The note .*other is damaged: its content does not match the hash"):
        read(tmp_path / "other")
    save_file(load_file(tmp_path / "file"), tmp_path / "same", header)
    assert read(tmp_path / "same")[0] == NOTE


def test_what_carries_no_hash_is_refused(tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / "file", {"key": NOTE.model_dump_json()})
    with pytest.raises(DataError, match=r"^The note .*file is damaged: it carries no hash of its content"):
        read(tmp_path / "file")
    (tmp_path / "old.json").write_text('{"text": "a", "scores": {}}')
    with pytest.raises(DataError, match=r"old\.json is damaged: it carries no hash of its content"):
        Kept.load(tmp_path / "old.json")


@pytest.mark.parametrize("text", ["{", "[" * 100_000, "[]", "nothing", '{"format": 2}', '{"format": 1, "hash": "a"}'])
def test_a_header_that_is_not_ours_is_one_sentence(tmp_path: Path, text: str) -> None:
    save_file(TENSORS, tmp_path / "file", {"key": text})
    with pytest.raises(DataError) as caught:
        read(tmp_path / "file")
    assert "\n" not in str(caught.value)
