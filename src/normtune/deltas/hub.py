"""Finds the deltas that a user lists, and fetches deltas from the hub and pushes them to it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, constants, errors, snapshot_download

from normtune.deltas.delta import FILE, Delta
from normtune.errors import ConfigError, DeltaError, OutputError
from normtune.files import expanded

#: The files of a delta's folder that are uploaded: the delta, its record and model card.
FILES = (FILE, "record.json", "README.md")

# The hub's client also raises errors of its HTTP library, and exports their base class under this name.
_HTTP_ERROR: type[Exception] = errors.HTTPError  # type: ignore[attr-defined]
_FAILURES = (OSError, _HTTP_ERROR, errors.HFValidationError)


def named_places(listed: Iterable[str]) -> dict[str, str]:
    """Where the delta of each task is.

    Args:
        listed: Deltas (each a folder, a file or a hub id) or folders of deltas; ``NAME=PLACE`` names the task of a
            delta. Otherwise it is called after its folder, its file (without ``.safetensors``) or its repository.

    Returns:
        By name of the task, a place for `fetch`; nothing is read yet.

    Raises:
        ConfigError: If two deltas have the same name.
        DeltaError: If a folder holds no delta, or a place neither exists nor can be a hub id.
    """
    places: dict[str, str] = {}
    for text in listed:
        for name, place in _places(text):
            if places.setdefault(name, place) != place:
                raise ConfigError(
                    f"Two deltas are called {name!r}: {places[name]} and {place}. Rename one of them with NAME=PLACE."
                )
    return places


def _places(text: str) -> list[tuple[str, str]]:
    name, equals, place = text.partition("=")
    if equals and name and "/" not in name and not Path(text).exists():
        return [(name, place)]
    path = expanded(text)
    if not path.exists() and not _on_hub(text):
        raise DeltaError(f"There is no delta at {text}.")
    if not path.is_dir() or (path / FILE).is_file():
        return [(_name(path), text)]
    inside = [child for child in sorted(path.iterdir()) if (child / FILE).is_file() or child.suffix == ".safetensors"]
    if not inside:
        raise DeltaError(f"There is no delta in the folder {text}.")
    return [(_name(child), str(child)) for child in inside]


def _on_hub(text: str) -> bool:
    """Whether a text can be an id on the hub."""
    return not text.startswith((".", "/", "~")) and text.count("/") == 1 and not text.endswith(".safetensors")


def _name(path: Path) -> str:
    if path.name == FILE:
        return _name(path.parent)
    if path.suffix == ".safetensors":
        return path.stem
    return path.resolve().name if path.name in {"", ".."} else path.name  # a link is called by its own name


def prepare_push(folder: str | Path) -> list[Path]:
    """The files of a delta's folder that `push` uploads: the delta, and its record and card if present.

    Raises:
        DeltaError: If there is no delta in the folder, or it is damaged.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DeltaError(f"There is no folder {folder}; push takes the folder of a delta.")
    Delta.load(folder)
    return [folder / name for name in FILES if (folder / name).is_file()]


def push(folder: str | Path, repo: str, *, private: bool = False, token: str | None = None) -> str:
    """Upload the delta in `folder` to the hub, and return the repository's address.

    Args:
        folder: The folder of a delta.
        repo: The repository, ``USER/NAME``; it is created if it is missing.
        private: Make a new repository private; an existing one stays as it is.
        token: A token with write access; by default that of ``hf auth login`` or HF_TOKEN.

    Raises:
        OutputError: If the hub cannot be reached or refuses.
    """
    files = prepare_push(folder)
    api = HfApi(token=token)
    try:
        url = api.create_repo(repo, private=private, exist_ok=True)
        api.upload_folder(
            repo_id=url.repo_id,
            folder_path=folder,
            allow_patterns=[file.name for file in files],
            commit_message="Upload a normtune delta",
        )
    except _FAILURES as error:
        raise OutputError(f"Cannot push to {repo!r}: {_why(error)}") from error
    return str(url)


def fetch(name: str | Path, revision: str | None = None) -> Path:
    """The folder or file of a delta for `Delta.load`; a hub id is downloaded, at `revision`, a commit, tag or branch.

    Raises:
        DeltaError: If there is none; the message says where it was looked for.
    """
    path = expanded(name)
    if path.exists():
        return path
    text = str(name)
    if not _on_hub(text):
        raise DeltaError(f"There is no delta at {text}.")
    try:
        return Path(snapshot_download(text, revision=revision, allow_patterns=list(FILES)))
    except (*_FAILURES, ValueError) as error:
        where = f"in the hub cache {constants.HF_HUB_CACHE}" + ("" if constants.HF_HUB_OFFLINE else " and on the hub")
        raise DeltaError(
            f"There is no delta {text!r}: looked for a folder or file of that name, and {where}: {_why(error)}"
        ) from error


def _why(error: Exception) -> str:
    """The reason in a few words; the hub's own messages have several lines."""
    response: Any = getattr(error, "response", None)
    if isinstance(error, errors.HFValidationError):
        return "a repository is called USER/NAME."
    if isinstance(error, errors.OfflineModeIsEnabled):
        return "the environment forbids it (HF_HUB_OFFLINE)."
    if isinstance(error, errors.RepositoryNotFoundError):
        return "it is not there, or hidden from you (log in with hf auth login, or set HF_TOKEN)."
    if isinstance(error, errors.LocalTokenNotFoundError) or getattr(response, "status_code", None) in {401, 403}:
        return "the hub refuses without a token that allows it (log in with hf auth login, or set HF_TOKEN)."
    if isinstance(error, errors.LocalEntryNotFoundError):
        return "it is not in the cache and the hub cannot be reached."
    text = str(error).strip().splitlines()
    return f"{text[0].rstrip('.') if text else type(error).__name__}."
