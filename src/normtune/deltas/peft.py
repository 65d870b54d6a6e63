"""PEFT's LN-tuning adapters: exports a delta of whole norms as one, and imports any of them as a delta.

An adapter is a safetensors file and a JSON file, so PEFT itself is not needed here. Its values are absolute, as in a
delta.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save as serialise
from torch import Tensor
from transformers import AutoModelForCausalLM

from normtune.data.kinds import KINDS
from normtune.deltas.delta import Delta, DeltaInfo
from normtune.deltas.merge import is_scaled
from normtune.errors import DeltaError, SelectionError, known, refusing
from normtune.files import fresh_folder
from normtune.methods.selection import Selection
from normtune.models.base import Base
from normtune.models.head import HeadSpec
from normtune.models.language import language_model_of
from normtune.models.sources import PACKAGED

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
#: The file beside PEFT's for the exported delta's metadata, and the fields that an import takes from it.
INFO, _KEPT = "normtune.json", {"task", "suite", "kind", "labels", "max_length", "pair", "columns"}
_PREFIX, _INFIX = "base_model.model.", ".ln_tuning_layers."

# Names that PEFT takes for the head of any sequence classifier.
_PEFT_HEADS = ("classifier", "score")


def export_peft(delta: Delta, base: Base, folder: str | Path) -> None:
    """Write `delta` as an LN-tuning adapter, which gives the same logits in ``peft.PeftModel.from_pretrained``.

    PEFT wraps exactly the selected norms. Values are written in float32.

    Args:
        delta: A delta of whole norms, weight and bias.
        base: Its base model.
        folder: Where to write: absent or empty; written whole or not at all.

    Raises:
        DeltaError: If `base` is another model, or the delta is a regression whose answers have a scale.
        SelectionError: If PEFT's LN tuning cannot express the selection.
        OutputError: If something is in the folder, or it cannot be written.
    """
    norms = _norms(delta.selection(base), base)
    _check_heads(base, norms)
    if is_scaled(delta.info):
        raise DeltaError(
            "PEFT has no field for a regression's center and scale, so the adapter would answer on another scale."
            " Merge the delta instead."
        )
    config = {
        "base_model_name_or_path": str(base.model.config._name_or_path) or None,
        "revision": None if base.name in PACKAGED else base.revision,
        "peft_type": "LN_TUNING",
        "task_type": task_type(delta, base),
        "inference_mode": True,
        "modules_to_save": list(dict.fromkeys([*base.roots, *_PEFT_HEADS])),
        "target_modules": norms,
    }
    with fresh_folder(Path(folder)) as aside:
        (aside / WEIGHTS).write_bytes(serialise(_to_peft(delta, base), {"format": "pt"}))
        (aside / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        (aside / INFO).write_text(delta.info.model_dump_json(indent=2) + "\n", encoding="utf-8")


def task_type(delta: Delta, base: Base) -> str | None:
    """What PEFT calls the delta's kind of task; None for pictures and masked language models."""
    if base.reads == "picture":
        return None
    if delta.info.kind == "language":
        return "CAUSAL_LM" if language_model_of(base.model.config) is AutoModelForCausalLM else None
    return "TOKEN_CLS" if KINDS[delta.info.kind].words else "SEQ_CLS"


def import_peft(folder: str | Path, base: Base, **info: object) -> Delta:
    """Read an LN-tuning adapter, PEFT's own or exported, as a delta of `base`.

    Args:
        folder: A folder that PEFT's ``save_pretrained`` or `export_peft` wrote.
        base: The model that the adapter was trained on; its head may have any number of labels.
        **info: Fields of `DeltaInfo` that PEFT's format lacks: ``task``, ``labels``, ``pair``, ... Those not
            given come from the exported delta, if it is one; otherwise labels are called LABEL_0, LABEL_1, ...

    Raises:
        DeltaError: If there is no such adapter, it is damaged or of another kind, has no head, or is not of `base` or
            does not fit it; or if `base` carries a delta.
    """
    folder = Path(folder)
    own = exported(folder)
    _check_kind(folder, own)
    if not base.layout.head:
        raise DeltaError(
            f"{base.name!r} is a language model; normtune imports adapters of classifiers and taggers only."
        )
    if own is not None:
        Delta(own, {}, {}, {}).check(base)
    body, head = _from_peft(folder, base)
    outputs = len(head[base.layout.head[-1].parameter])  # the last layer's
    spec = HeadSpec("regression") if outputs == 1 else HeadSpec.numbered(outputs)
    fields: dict[str, Any] = {"method": "peft-ln-tuning", "kind": spec.kind, "labels": spec.labels}
    fields |= ({} if own is None else own.model_dump(include=_KEPT)) | info
    selection = Selection(base.layout, dict.fromkeys(body))
    named = KINDS[known("kind", fields["kind"], KINDS)].outputs(fields["labels"])
    if named != outputs:
        raise DeltaError(f"The adapter's head has {outputs} outputs, but {named} labels are named.")
    delta = Delta.of(base, selection, {name: value.reshape(-1) for name, value in body.items()}, head, **fields)
    with delta.apply(base):  # applying it refuses a head whose parts do not fit together
        return delta


def exported(folder: Path) -> DeltaInfo | None:
    """The metadata of a delta that `export_peft` wrote; None for PEFT's own adapters.

    Raises:
        DeltaError: If it is damaged.
    """
    if not (folder / INFO).is_file():
        return None
    with refusing(DeltaError, f"{folder / INFO} is damaged"):
        return DeltaInfo.model_validate_json((folder / INFO).read_text(encoding="utf-8"))


def _norms(selection: Selection, base: Base) -> list[str]:
    """Paths of the selected norms."""
    if any(place.batch for place in selection):
        raise SelectionError("PEFT's LN tuning does not keep BatchNorm's running statistics. Merge the delta instead.")
    norms = list(dict.fromkeys(place.parameter.rpartition(".")[0] for place in selection if place.norm))
    whole = {f"{norm}.{name}" for norm in norms for name, _ in base.model.get_submodule(norm).named_parameters()}
    odd = [name for name in sorted({*selection.chosen} | whole) if name not in whole or not selection.is_whole(name)]
    if odd or not norms:
        raise SelectionError(
            "PEFT's LN tuning takes norms as a whole, weight and bias, and at least one; here"
            f" {f'{odd[0]!r} is not one, or is not selected whole' if odd else 'is none'}. Merge the delta instead."
        )
    return norms


def _check_heads(base: Base, norms: list[str]) -> None:
    """Check that PEFT takes the head, and no other module, for the head.

    PEFT saves a module whole, and wraps no norm in it, if its name ends like a head's.

    Raises:
        SelectionError: If it would take another module for a head.
    """
    ends = {*base.roots, *_PEFT_HEADS}
    heads = tuple(f"{root}." for root in base.roots)
    for path, module in base.model.named_modules():
        caught = any(path.endswith(end) for end in ends) and next(module.parameters(), None) is not None
        if caught and not f"{path}.".startswith(heads):
            raise SelectionError(f"PEFT cannot tell this model's head from its {path!r}. Merge the delta instead.")
    for norm in norms:
        if any(re.match(rf"(^|.*\.){end}($|\..*)", norm) for end in ends):
            raise SelectionError(f"PEFT cannot tell the norm {norm!r} from the head. Merge the delta instead.")


def _to_peft(delta: Delta, base: Base) -> dict[str, Tensor]:
    tensors = {f"{_PREFIX}{name}": value.contiguous() for name, value in delta.head.items()}
    for name, value in delta.values.items():
        module, _, leaf = name.rpartition(".")
        tensors[f"{_PREFIX}{module}{_INFIX}{leaf}"] = value.reshape(base.layout.by_name[name].shape).contiguous()
    return tensors


def _check_kind(folder: Path, own: DeltaInfo | None) -> None:
    if not (folder / CONFIG).is_file():
        raise DeltaError(f"There is no PEFT adapter in {folder}: it holds no {CONFIG}.")
    with refusing(DeltaError, f"{folder / CONFIG} is damaged: it has no peft_type"):
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        kind, task = config["peft_type"], config.get("task_type")
    if kind != "LN_TUNING":
        raise DeltaError(f"{folder} holds a {kind} adapter; normtune imports LN_TUNING only.")
    # Only the metadata of an export names the tags of words; PEFT's own files do not.
    if task not in {None, "SEQ_CLS", "TOKEN_CLS" if own is not None and KINDS[own.kind].words else None}:
        raise DeltaError(f"The adapter in {folder} has the task_type {task}; normtune imports SEQ_CLS only.")


def _from_peft(folder: Path, base: Base) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Values of the body and of the head, float32, by the base's own names."""
    file = folder / WEIGHTS
    if not file.is_file():
        raise DeltaError(f"There is no {WEIGHTS} in {folder}; normtune reads no pickled adapters.")
    with refusing(DeltaError, f"The adapter {file} is truncated or corrupt"):
        stored = load_file(file)
    body: dict[str, Tensor] = {}
    head: dict[str, Tensor] = {}
    for key, tensor in stored.items():
        name = key.removeprefix(_PREFIX).replace(_INFIX, ".")
        place = base.layout.by_name.get(name)
        if place is None:
            raise DeltaError(f"The adapter does not fit {base.name!r}: that has no parameter {name!r}.")
        if not place.head and place.shape != tuple(tensor.shape):
            raise DeltaError(f"The adapter's {name} has shape {tuple(tensor.shape)}, the model's {place.shape}.")
        (head if place.head else body)[name] = tensor.float().contiguous()
    lacking = [place.parameter for place in base.layout.head if place.parameter not in head]
    if lacking:
        raise DeltaError(
            f"The adapter in {folder} holds no {lacking[0]!r} of the head: train it with task_type SEQ_CLS, and with"
            f" modules_to_save={list(base.roots)}."
        )
    return body, head
