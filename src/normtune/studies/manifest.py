"""Tasks in the user's own files, as plain values that any process can load, and a manifest of many of them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import Field

from normtune.config import Strict
from normtune.data.files import load_files
from normtune.data.images import COLUMN
from normtune.data.kind import KindName
from normtune.data.kinds import KINDS
from normtune.data.lines import is_running_text, load_lines
from normtune.data.reading import Reading
from normtune.data.task import PICTURE, TaskData
from normtune.errors import ConfigError, DataError, known, refusing

#: Limit in bytes of a task's name, which becomes a folder's name.
_LONGEST = 100


class OwnFiles(Strict):
    """A task in the user's own files.

    Attributes:
        name: The task's name; by default that of the file.
        train: File of training examples, folder of pictures, or plain text (``.txt``) for a language model.
        dev: File of dev examples; without it a seeded, stratified slice of `train` is split off.
        text: Column of the texts.
        pair: Column of their pairs.
        label: Column of the labels.
        kind: What the labels are.
        class_weights: Whether rare classes weigh more.
        seed: Seeds the split.
        read: How the files are read (`normtune.data.reading.Reading.of`).
    """

    name: str | None = None
    train: Path
    dev: Path | None = None
    text: str = "text"
    pair: str | None = None
    label: str = "label"
    kind: KindName = "classification"
    class_weights: bool = False
    seed: int = 0
    read: str = ""

    def model_post_init(self, _: object) -> None:
        """Check `name`, which becomes a folder's name, and `read`.

        Raises:
            ConfigError: If the name is too long or has other characters than a task's name may, or `read` does not fit.
        """
        Reading.of(self.read)
        name = "task" if self.name is None else self.name
        size = len(name.encode())
        if size > _LONGEST:
            raise ConfigError(f"The name of a task has at most {_LONGEST} bytes; {name[:20]!r}... has {size}.")
        if name.endswith(".safetensors"):
            raise ConfigError(f"The name of a task, which becomes a folder, cannot end in .safetensors; got {name!r}.")
        if not re.fullmatch(r"\w[\w .,+@-]*", name):
            raise ConfigError(
                "The name of a task has letters, digits, _ and any of ' .,+@-', and begins with one of the first three;"
                f" got {name!r}."
            )

    @property
    def asks(self) -> KindName:
        """The kind of the task: ``language`` for plain text, which has no labels, else `kind`."""
        return "language" if is_running_text(self.train) else self.kind

    def load(self) -> TaskData:
        """Read the files.

        Returns:
            The task with its data, its columns, and notes on the files for their author.
        """
        reading = Reading.of(self.read)
        if self.asks == "language":
            return load_lines(self.train, self.dev, name=self.name, reading=reading)
        asked = self.model_dump(exclude={"read", "kind"})
        found = load_files(**asked, kind=self.asks, reading=reading)
        text = COLUMN if found.task.inputs == PICTURE else self.text
        columns = (text, *([self.pair] if self.pair else []), self.label)
        return replace(found, task=replace(found.task, columns=columns))


def one_kind(of: Iterable[KindName]) -> KindName:
    """One kind to load the model with, for tasks of these kinds on one model.

    Raises:
        ConfigError: If they need models of different classes.
    """
    kinds: list[KindName] = sorted({*of})
    if len({KINDS[kind].models for kind in kinds}) > 1:
        raise ConfigError(f"Tasks of the kinds {' and '.join(kinds)} need different heads; train them apart.")
    return kinds[0] if kinds else "classification"


class Manifest(Strict):
    """Many tasks and how all of them are trained.

    Attributes:
        model: Hub id, folder or packaged name.
        method: A method's name or an expression.
        protocol: The protocol's name.
        epochs: Epochs, instead of the protocol's.
        lr: A rate, several separated by commas, ``auto``, or None for the method's own.
        seed: The seed.
        tasks: The tasks; each has a name of its own.
    """

    model: str = "minilm"
    method: str = "layernorm"
    protocol: str = "paper"
    epochs: Annotated[int, Field(ge=1)] | None = None
    lr: float | str | None = None
    seed: Annotated[int, Field(ge=0)] = 0
    tasks: Annotated[tuple[OwnFiles, ...], Field(min_length=1)]


def read_manifest(
    path: Path, given: Mapping[str, Any], columns: Mapping[str, Any], model: str | None = None
) -> Manifest:
    """Read a manifest; the files that it names are taken relative to its folder.

    Args:
        path: The file.
        given: Values of the keys that the manifest leaves out.
        columns: Values of the keys that a task leaves out.
        model: The only model that the manifest may name, or None for any.

    Returns:
        The manifest.

    Raises:
        DataError: If there is no such file, or it is no YAML.
        ConfigError: If a key is unknown, a value does not fit, names are missing or repeated, or the model is another.
    """
    if not path.is_file():
        raise DataError(f"There is no manifest at {path}.")
    with refusing(DataError, f"The manifest {path} is no YAML"):
        raw: Any = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    try:
        with refusing(ConfigError, "it does not fit"):
            manifest = Manifest.model_validate(_completed(raw, given, columns))
    except ConfigError as error:
        raise ConfigError(f"The manifest {path}: {error}") from error
    if "model" in manifest.model_fields_set and model not in {None, manifest.model}:
        raise ConfigError(f"The manifest {path} says that its model is {manifest.model}; give that as --model.")
    count = Counter(task.name for task in manifest.tasks)
    if None in count:
        raise ConfigError(f"The manifest {path} has a task without a name.")
    repeated = sorted(str(name) for name, times in count.items() if times > 1)
    if repeated:
        raise ConfigError(f"The manifest {path} names a task twice: {', '.join(repeated)}.")
    here = path.parent
    tasks = tuple(
        task.model_copy(update={"train": here / task.train, "dev": None if task.dev is None else here / task.dev})
        for task in manifest.tasks
    )
    return manifest.model_copy(update={"tasks": tasks})


class _Loader(yaml.SafeLoader):
    """Reads YAML in which no key stands twice: PyYAML would keep the last one and drop the others."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        for at, key in enumerate(keys):
            if any(key.value == other.value for other in keys[:at]):
                raise yaml.constructor.ConstructorError(None, None, f"{key.value!r} stands twice", key.start_mark)
        return super().construct_mapping(node, deep)


def _completed(raw: Any, given: Mapping[str, Any], columns: Mapping[str, Any]) -> Any:
    """The manifest's content, with missing keys filled in from `given` and `columns`."""
    if not isinstance(raw, dict):
        return raw
    whole = {**given, **raw}
    for key in raw:
        known("key of a manifest", str(key), Manifest.model_fields)
    tasks = whole.get("tasks")
    if isinstance(tasks, list) and all(isinstance(task, dict) for task in tasks):
        for key in chain.from_iterable(tasks):
            if key == "labels":
                raise ConfigError(f"A task of a manifest has a 'kind' in place of 'labels': {', '.join(KINDS)}.")
            known("key of a task", str(key), OwnFiles.model_fields)
        whole["tasks"] = [{**columns, **task} for task in tasks]
    return whole
