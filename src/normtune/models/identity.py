"""The identity of a base model: a hash of its encoder's tensors as stored, and hashes of what it does with them."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from safetensors import safe_open
from torch import Tensor
from transformers import BaseImageProcessor, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.core_model_loading import revert_weight_conversion

from normtune.config import fingerprint
from normtune.errors import ModelError, refusing
from normtune.files import add_tensors
from normtune.models.layout import Layout, statistics

# Names of LayerNorm's weight and bias in old checkpoints.
_OLD_LEAVES = {"gamma": "weight", "beta": "bias"}


def canonical_name(stored: str, prefix: str) -> str:
    """A stored tensor's name as the encoder itself calls it: no base prefix, no outdated leaf."""
    path, _, leaf = stored.removeprefix(f"{prefix}.").rpartition(".")
    leaf = _OLD_LEAVES.get(leaf, leaf)
    return f"{path}.{leaf}" if path else leaf


def encoder_tensors(model: PreTrainedModel, places: Layout, device: str | None = None) -> dict[str, Tensor]:
    """The tensors that make up a base's identity, by canonical name; on the device ``meta`` where names are enough.

    They are as transformers stores them: it splits or renames the tensors of some families (mixtures of experts).
    """
    own = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    names = [*(place.parameter for place in places.body), *statistics(model)]
    found = revert_weight_conversion(model, {n: own[n].detach().to(device or own[n].device) for n in names})
    return {canonical_name(name, model.base_model_prefix): value for name, value in found.items()}


def tensors_identity(tensors: Mapping[str, Tensor]) -> str:
    """Hash of `tensors` by canonical name, dtype, shape and bytes, whatever their order (hexadecimal SHA-256)."""
    return _identity(tensors, tensors.__getitem__)


def checkpoint_identity(files: Iterable[Path], prefix: str, own: Iterable[str]) -> str:
    """Hash of the encoder's tensors as safetensors files store them, independent of the dtype they are loaded in.

    `own` are the canonical names of the loaded encoder's parameters and norm statistics; `prefix` is the family's base
    prefix (``bert``).

    Raises:
        ModelError: If a file cannot be read.
    """
    where: dict[str, tuple[Path, str]] = {}
    for file in files:
        with refusing(ModelError, f"Cannot read the checkpoint {file}"), safe_open(file, "pt") as stored:
            where.update({canonical_name(name, prefix): (file, name) for name in stored.keys()})  # noqa: SIM118
    wanted = set(own)
    # If the loader renames or fuses tensors, names differ from the checkpoint's: then the whole checkpoint is hashed.
    names = [name for name in where if name in wanted] if wanted <= where.keys() else list(where)

    def read(name: str) -> Tensor:
        file, key = where[name]
        with refusing(ModelError, f"Cannot read the checkpoint {file}"), safe_open(file, "pt") as stored:
            tensor: Tensor = stored.get_tensor(key)
        return tensor

    return _identity(names, read)


def _identity(names: Iterable[str], read: Callable[[str], Tensor]) -> str:
    digest = hashlib.sha256()
    add_tensors(digest, names, read)
    return digest.hexdigest()


# What a model computes with the same tensors depends on its configuration and its tokenizer.

#: Fields of a configuration that change no answer: names, settings for training, and the form of outputs.
_NO_MATTER = re.compile(
    r"_.*|architectures|.*dtype|.*version|id2label|label2id|num_labels|problem_type|return_dict|use_cache|output_attentions"
    r"|output_hidden_states|.*drop.*|initializer_.*|gradient_checkpointing|chunk_size_feed_forward|tie_word_embeddings"
)
#: Texts that tokenizers with the same vocabulary may split in different ways.
_PROBES = ("Ça, c'est l'Été: don't  MIX Ünïcode - or 3.50 $!", "a_b-c\tnaïve\nx²  ﬁn 日本語 🙂 unbelievably", "the")


def config_identity(config: PreTrainedConfig) -> str:
    """Hash of the fields that change what a model computes and differ from its family's defaults.

    Empty for a custom configuration class that has no defaults.
    """
    try:
        own, usual = config.to_dict(), type(config)().to_dict()
    except (TypeError, ValueError):
        return ""
    # A token id that is None by default is set by whoever loads the model.
    names = [name for name in usual if not (name.endswith("_token_id") and usual[name] is None)]
    changed = {name: own.get(name) for name in names if not _NO_MATTER.fullmatch(name) and own.get(name) != usual[name]}
    return fingerprint({"type": config.model_type, **changed})


def tokenizer_identity(tokenizer: PreTrainedTokenizerBase) -> str:
    """Hash of a tokenizer's vocabulary, and of how it encodes texts that are hard to split.

    Raises:
        ModelError: If it cannot encode them.
    """
    texts = ((list(_PROBES),), (list(_PROBES), list(_PROBES[::-1])))
    with refusing(ModelError, "The tokenizer is damaged"):
        split = [tokenizer(*each, verbose=False) for each in texts]
    seen = [each[name] for each in split for name in sorted({*each} & {"input_ids", "token_type_ids"})]
    return fingerprint({"vocabulary": tokenizer.get_vocab(), "seen": seen})


def processor_identity(processor: BaseImageProcessor) -> str:
    """Hash of an image processor's settings."""
    own = {name: value for name, value in processor.to_dict().items() if not name.startswith("_")}
    return fingerprint(json.loads(json.dumps(own, default=str)))
