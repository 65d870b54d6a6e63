"""Deltas on the hub: what is uploaded, uploading it, and fetching one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, constants, errors, snapshot_download

from normtune.deltas.delta import FILE, Delta
from normtune.errors import DeltaError, OutputError

#: All that is ever uploaded of a delta's folder: the delta, its record, model card and curve.
FILES = (FILE, "record.json", "README.md", "curve.csv")

# The hub's client raises its HTTP library's errors too, whose name has changed: it names their base for its own use.
_HTTP_ERROR: type[Exception] = errors.HTTPError  # type: ignore[attr-defined]
_FAILURES = (OSError, _HTTP_ERROR, errors.HFValidationError)


def prepare_push(folder: str | Path) -> list[Path]:
    """The files of a delta's folder that `push` uploads, and nothing else that may lie there.

    Args:
        folder: The folder of a delta.

    Returns:
        Their paths: the delta first, then record, model card and curve, as far as they are there.

    Raises:
        DeltaError: If there is no delta in the folder, or it is damaged.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DeltaError(f"There is no folder {folder}; push takes the folder of a delta.")
    Delta.load(folder)
    return [folder / name for name in FILES if (folder / name).is_file()]


def push(folder: str | Path, repo: str, *, private: bool = False, token: str | None = None) -> str:
    """Upload the delta in `folder` to the hub.

    Args:
        folder: The folder of a delta.
        repo: Where to: ``USER/NAME``; it is made where it is missing.
        private: Make a new repository private; one that is there stays as it is.
        token: A token that may write, unless one is stored by ``hf auth login`` or in HF_TOKEN.

    Returns:
        The repository's address.

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
    """Where the delta called `name` lies: a local folder or file as it is, else downloaded from the hub.

    Args:
        name: A folder, a file, or a hub id.
        revision: Commit, tag or branch on the hub.

    Returns:
        A folder or a file for `Delta.load`.

    Raises:
        DeltaError: If there is none, saying where it was looked for.
    """
    path = Path(name).expanduser()
    if path.exists():
        return path
    text = str(name)
    if text.startswith((".", "/", "~")) or text.count("/") != 1 or path.suffix == ".safetensors":
        raise DeltaError(f"There is no delta at {text}.")
    try:
        return Path(snapshot_download(text, revision=revision, allow_patterns=list(FILES)))
    except (*_FAILURES, ValueError) as error:
        where = f"in the hub cache {constants.HF_HUB_CACHE}" + ("" if constants.HF_HUB_OFFLINE else " and on the hub")
        raise DeltaError(
            f"There is no delta {text!r}: looked for a folder or file of that name, and {where}: {_why(error)}"
        ) from error


def _why(error: Exception) -> str:
    """The reason in a few words; the hub's own messages run over several lines."""
    response: Any = getattr(error, "response", None)
    if isinstance(error, errors.HFValidationError):
        return "it is no name of a repository, which is USER/NAME."
    if isinstance(error, errors.OfflineModeIsEnabled):
        return "the environment forbids it (HF_HUB_OFFLINE)."
    if isinstance(error, errors.RepositoryNotFoundError):
        return "it is not there, or hidden from you (hf auth login, or HF_TOKEN)."
    if isinstance(error, errors.LocalTokenNotFoundError) or getattr(response, "status_code", None) in {401, 403}:
        return "the hub refuses without a token that may do it (hf auth login, or HF_TOKEN)."
    if isinstance(error, errors.LocalEntryNotFoundError):
        return "it is not in the cache and the hub cannot be reached."
    text = str(error).strip().splitlines()
    return f"{text[0].rstrip('.') if text else type(error).__name__}."
