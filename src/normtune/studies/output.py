"""The output folder of a training: read its state, claim it, and write a run into it."""

from __future__ import annotations

import re
import shutil
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from normtune.config import fingerprint
from normtune.deltas.card import model_card
from normtune.deltas.delta import FILE, Delta
from normtune.errors import DeltaError, OutputError
from normtune.files import claim_folder, write_atomically
from normtune.records.run import Record

RECORD, CARD = "record.json", "README.md"
#: Folder for the state of an unfinished training, the file in it that names the training, and that file's name beside
#: the results afterwards.
UNFINISHED, _TRAINING, _FINISHED = ".unfinished", "training", ".training"

#: Limit in bytes of a name in a path.
_LONGEST = 100


@dataclass(frozen=True)
class FolderState:
    """What an output folder holds.

    Attributes:
        kind: ``empty`` (or missing); ``unfinished``; ``finished``; or ``foreign`` (its content is not ours).
        id: If unfinished, the training's identity, where known; if finished, the run's, where it is a single run.
        training: If finished, the training's identity, where known.
    """

    kind: Literal["empty", "unfinished", "finished", "foreign"]
    id: str = ""
    training: str = field(default="", compare=False)


def read_state(folder: Path) -> FolderState:
    """What an output folder holds; a training killed during its clean-up counts as unfinished or finished.

    Raises:
        OutputError: If it cannot be read.
        DataError: If its record is damaged.
    """
    aside = folder / UNFINISHED
    try:
        if (aside / _TRAINING).is_file():
            return FolderState("unfinished", (aside / _TRAINING).read_text(encoding="utf-8"))
        done = folder / _FINISHED
        training = done.read_text(encoding="utf-8") if done.is_file() else ""
        if training or (folder / RECORD).is_file():
            return FolderState(
                "finished", Record.load(folder / RECORD).id if (folder / RECORD).is_file() else "", training
            )
        if aside.is_dir() and all(inside == aside for inside in folder.iterdir()):
            return FolderState("unfinished")
        if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
            return FolderState("empty")
    except OSError as error:
        raise OutputError(f"Cannot use the folder {folder}: {error.strerror or error}.") from error
    return FolderState("foreign")


def check_replaceable(folder: Path) -> None:
    """Check that the folder for one run of a training holds no other training, finished or begun.

    Raises:
        OutputError: If it does.
    """
    state, aside = read_state(folder), folder / UNFINISHED
    begun = aside.is_dir() and any(file.name != _TRAINING for file in aside.iterdir())
    if begun or state.training not in {"", state.id}:
        raise OutputError(f"{folder} holds a training of its own: move it, or choose another place.")


def claim(folder: Path, training: str, runs: Collection[str] = (), *, overwrite: bool = False) -> bool:
    """Claim a folder for a training.

    Args:
        folder: The folder.
        training: The training's identity.
        runs: Identities of runs; a finished one of these in the folder counts as the training's result.
        overwrite: Whether it may hold another training, whose results stay until the new ones are written.

    Returns:
        Whether the folder holds state of this very training to continue from.

    Raises:
        OutputError: If something else is in the folder.
    """
    state = read_state(folder)
    other = "holds another training: choose another place, or replace it with --overwrite"
    if state.kind == "unfinished" and state.id not in {"", training} and not overwrite:
        done = folder / _FINISHED
        if done.is_file() and done.read_text(encoding="utf-8") == training:
            held = f"{folder} holds this training, but another was begun over it and is not finished"
            raise OutputError(f"{held}: repeat this one with --overwrite, or use what is there.")
        raise OutputError(f"The output {folder} {other}. It is not finished; its own command finishes it.")
    if state.kind == "finished":
        if state.training == training or state.id in runs:
            if not lost(folder):
                return False
        elif not overwrite:
            raise OutputError(f"The output {folder} {other}.")
    if state.kind in {"empty", "foreign"}:
        claim_folder(folder)
    write_atomically(folder / UNFINISHED / _TRAINING, training)
    return state.id == training and any(file.name != _TRAINING for file in (folder / UNFINISHED).iterdir())


def clear(folder: Path, keep: Collection[Path]) -> None:
    """Remove the results of trainings from a folder of ours and from the run folders inside, except those in `keep`.

    Raises:
        DataError: If a record is damaged.
    """
    for inside in (folder, *folder.glob("*"), *folder.glob("*/*/*")):
        ours = inside.is_dir() and not inside.is_symlink() and inside not in keep
        if not ours or (state := read_state(inside)).kind not in {"unfinished", "finished"}:
            continue
        if inside != folder and state.training not in {"", state.id}:
            continue  # not a run of this training, but a training of its own that somebody put inside
        for name in (FILE, CARD, *(() if inside == folder else (_FINISHED,)), RECORD):
            (inside / name).unlink(missing_ok=True)
        if inside != folder:
            shutil.rmtree(inside / UNFINISHED, ignore_errors=True)
        while inside != folder and not any(inside.iterdir()):
            inside.rmdir()
            inside = inside.parent


def lost(folder: Path) -> bool:
    """Whether the delta of a run that was finished in a folder is missing or damaged."""
    if not (folder / RECORD).is_file():
        return False
    try:
        Delta.load(folder / FILE)
    except DeltaError:
        return True
    return False


def finish(folder: Path) -> None:
    """Remove the state of an unfinished training, and keep a file that names the training of the results."""
    if (folder / UNFINISHED / _TRAINING).is_file():
        (folder / UNFINISHED / _TRAINING).replace(folder / _FINISHED)
    shutil.rmtree(folder / UNFINISHED, ignore_errors=True)


def write(folder: Path, record: Record, delta: Delta) -> None:
    """Write a run's delta, model card and, last, its record, over another run's; the folder is then finished.

    Raises:
        OutputError: If something that is not ours is in the folder.
    """
    if read_state(folder).kind == "foreign":
        claim_folder(folder)
    if not (folder / UNFINISHED / _TRAINING).exists():
        write_atomically(folder / UNFINISHED / _TRAINING, record.id)
    for name in (RECORD, FILE):
        (folder / name).unlink(missing_ok=True)
    delta.save(folder)
    write_atomically(folder / CARD, model_card(delta.info, record))
    record.save(folder / RECORD)
    finish(folder)


def safe(name: str) -> str:
    """A name that is safe in a path: without special characters, and not too long."""
    plain = re.sub(r"[^\w.,@+-]+", "_", name).strip("_.") or "run"
    if len(plain.encode()) <= _LONGEST:
        return plain
    return f"{plain.encode()[:_LONGEST].decode(errors='ignore')}-{fingerprint({'name': name})}"
