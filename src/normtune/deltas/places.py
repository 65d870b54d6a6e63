"""The names of tasks and the places of their deltas, from what a user lists."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from normtune.deltas.delta import FILE
from normtune.errors import ConfigError, DeltaError


def named_places(listed: Iterable[str]) -> dict[str, str]:
    """Where the delta of each task is.

    Args:
        listed: Deltas (a folder, a file or a hub id each), or folders of deltas, or any delta as ``NAME=PLACE``. A
            delta is called after its folder, its file (without ``.safetensors``) or its repository.

    Returns:
        For each task's name a place for `normtune.deltas.hub.fetch`; nothing is read yet.

    Raises:
        ConfigError: If two deltas have the same name.
        DeltaError: If a folder holds no delta.
    """
    places: dict[str, str] = {}
    for text in listed:
        for name, place in _deltas(text).items():
            if name in places and places[name] != place:
                raise ConfigError(
                    f"Two deltas are called {name!r}: {places[name]} and {place}; call one of them NAME=PLACE."
                )
            places[name] = place
    return places


def _deltas(text: str) -> dict[str, str]:
    name, equals, place = text.partition("=")
    if equals and name and "/" not in name and not Path(text).exists():
        return {name: place}
    path = Path(text).expanduser()
    if not path.is_dir() or (path / FILE).is_file():
        return {_name(path): text}
    inside = [child for child in sorted(path.iterdir()) if (child / FILE).is_file() or child.suffix == ".safetensors"]
    if not inside:
        raise DeltaError(f"There is no delta in the folder {text}.")
    return {_name(child): str(child) for child in inside}


def _name(path: Path) -> str:
    if path.name == FILE:
        return path.resolve().parent.name
    return path.stem if path.suffix == ".safetensors" else path.resolve().name
