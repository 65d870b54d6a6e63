"""A manifest: many tasks of one's own, in one YAML file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import Field, ValidationError

from normtune.config import Strict
from normtune.errors import ConfigError, DataError


class Entry(Strict):
    """One task of a manifest.

    Attributes:
        name: Name of the task and of its output folder.
        train: File of training examples, relative to the manifest.
        dev: File of dev examples; without it a seeded, stratified slice of `train` is split off.
        text: Column of the texts.
        pair: Column of their pairs.
        label: Column of the labels.
        regression: Whether the labels are numbers to be predicted.
        class_weights: Whether rare classes weigh more.
    """

    name: Annotated[str, Field(pattern=r"^[\w][\w.-]*$")]
    train: Path
    dev: Path | None = None
    text: str = "text"
    pair: str | None = None
    label: str = "label"
    regression: bool = False
    class_weights: bool = False


class Manifest(Strict):
    """Many tasks and how all of them are trained.

    Attributes:
        model: Hub id, folder or packaged name.
        method: A method's name or an expression.
        protocol: ``paper``, ``held-out`` or ``small``.
        epochs: Instead of the protocol's.
        lr: A rate, ``auto``, or None for the method's own.
        seed: The seed.
        tasks: The tasks; their names differ.
    """

    model: str = "minilm"
    method: str = "layernorm"
    protocol: str = "paper"
    epochs: Annotated[int, Field(ge=1)] | None = None
    lr: float | str | None = None
    seed: Annotated[int, Field(ge=0)] = 0
    tasks: Annotated[tuple[Entry, ...], Field(min_length=1)]


def read_manifest(path: Path) -> Manifest:
    """Read a manifest; the files that it names are taken relative to its folder.

    Raises:
        DataError: If there is no such file, or it is no YAML.
        ConfigError: If a key is unknown, a value does not fit, or two tasks have one name.
    """
    try:
        raw: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"There is no manifest at {path}.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise DataError(f"The manifest {path} is no YAML: {' '.join(str(error).split())}.") from error
    try:
        manifest = Manifest.model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the whole"
        raise ConfigError(f"The manifest {path} does not fit at {where!r}: {first['msg']}.") from error
    repeated = sorted({e.name for e in manifest.tasks if sum(o.name == e.name for o in manifest.tasks) > 1})
    if repeated:
        raise ConfigError(f"The manifest {path} names a task twice: {', '.join(repeated)}.")
    here = path.parent
    tasks = tuple(
        entry.model_copy(update={"train": here / entry.train, "dev": None if entry.dev is None else here / entry.dev})
        for entry in manifest.tasks
    )
    return manifest.model_copy(update={"tasks": tasks})
