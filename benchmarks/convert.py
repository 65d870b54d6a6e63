"""Gives records from before the identities of today, so that their runs are known and not made again.

Run ``python benchmarks/convert.py FOLDER``, as often as you like. Records from before are read as they are; they
need today's identity, which names their file, only to be found. Suite and norms are filled in too.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from normtune.config import RunConfig, fingerprint
from normtune.data.suites import known_task
from normtune.errors import ModelError
from normtune.models.base import skeleton
from normtune.models.families import norms_of
from normtune.records.run import Norms, Record, identity

#: Fields that protocols had, with their defaults, which an identity left out.
_GONE = {
    "dropout_generator": "torch",
    "prefix": False,
    "inference_products": "float32",
    "layers": "torch",
    "together": 1,
}


def convert(folder: Path) -> int:
    """Convert the records of runs in a folder.

    A record is left alone where its old identity does not follow from what it says: with class weights or a scaled
    target, mixed precision, several processes, or a rate that was dropped early; and where another record has today's
    identity already, or products were in bfloat16. Such a run is made again when it is asked for.

    Args:
        folder: Holds ``ID.json`` files.

    Returns:
        How many were converted.

    Raises:
        DataError: If a record is damaged; those before it are converted by then.
    """
    norms: dict[str, Norms] = {}
    done = 0
    for file in sorted(folder.glob("*.json")):
        old = Record.load(file)
        if old.id != _identity_before(json.loads(file.read_bytes())) or _in_bfloat16(old):
            continue
        model, task = old.config.model, old.config.task
        if model not in norms:
            norms[model] = _norms(model)
        facts = old.data.model_copy(update={"suite": "glue" if known_task(task) else ""})
        new = old.model_copy(update={"id": _identity(old), "norms": norms[model], "data": facts})
        path = folder / f"{new.id}.json"
        if not path.exists():
            new.save(path)
            done += 1
        if Record.load(path) == new:  # also where a conversion was stopped before this
            file.unlink()
    return done


def _in_bfloat16(record: Record) -> bool:
    """Whether anything was computed in bfloat16, which picks the epoch too today, and did so by choice before."""
    return record.config.protocol.products == "bfloat16" or "evaluation in bfloat16" in record.ways


def _identity(record: Record) -> str:
    return identity(
        record.config,
        base=record.base_identity,
        trains=record.trains,
        data=record.data.identity,
        machine=record.machine,
    )


def _identity_before(raw: Mapping[str, Any]) -> str | None:
    """The identity that a plain run had before; None for a record of today."""
    if "selection" not in raw:
        return None
    protocol = dict(raw["config"]["protocol"])
    ways = {name: protocol.pop(name, default) for name, default in _GONE.items()}
    config = RunConfig.model_validate({**raw["config"], "protocol": protocol}).model_dump(
        mode="json", exclude_defaults=True
    )
    config["protocol"] |= {name: value for name, value in ways.items() if value != _GONE[name]}
    machine = {name: raw["machine"][name] for name in ("device", "threads", "linear") if name in raw["machine"]}
    return fingerprint({
        "schema": 1,
        "config": config,
        "base": raw["base_identity"],
        "selection": raw["selection"],
        "data": raw["data"]["identity"],
        "precision": "no",
        "processes": 1,
        **machine,
    })


def _norms(model: str) -> Norms:
    try:
        return norms_of(skeleton(model))
    except ModelError:
        return Norms()  # a model that is no longer where it was


if __name__ == "__main__":
    for name in sys.argv[1:]:
        print(f"{convert(Path(name))} records converted in {name}")
