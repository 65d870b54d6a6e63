"""normtune: fine-tune a transformer by training only a chosen sliver of it.

The public names are loaded when they are first used, so that importing the package is cheap and changes nothing::

    import normtune as nt

    base = nt.load_base("minilm", head=2)
    tuning = nt.tune(base, "layernorm")
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

#: The public names, by module.
_NAMES = {
    "config": "PROTOCOLS protocol",
    "data.glue": "load_glue",
    "data.images": "Picture",
    "data.task": "Split Task TaskData",
    "deltas.answers": "Prediction Predictor",
    "deltas.bank": "Bank",
    "deltas.delta": "Delta",
    "errors": "NormtuneError",
    "methods.expression": "select tune",
    "methods.method": "METHODS",
    "methods.selection": "Selection",
    "methods.trainable": "Trainable",
    "models.base": "Base load_base skeleton wrap",
    "models.head": "HeadSpec",
    "records.run": "Record",
    "training.session": "Session",
}
_PUBLIC = {name: module for module, names in _NAMES.items() for name in names.split()}

__all__ = sorted(_PUBLIC)

if TYPE_CHECKING:
    from normtune.config import PROTOCOLS as PROTOCOLS, protocol as protocol
    from normtune.data.glue import load_glue as load_glue
    from normtune.data.images import Picture as Picture
    from normtune.data.task import Split as Split, Task as Task, TaskData as TaskData
    from normtune.deltas.answers import Prediction as Prediction, Predictor as Predictor
    from normtune.deltas.bank import Bank as Bank
    from normtune.deltas.delta import Delta as Delta
    from normtune.errors import NormtuneError as NormtuneError
    from normtune.methods.expression import select as select, tune as tune
    from normtune.methods.method import METHODS as METHODS
    from normtune.methods.selection import Selection as Selection
    from normtune.methods.trainable import Trainable as Trainable
    from normtune.models.base import Base as Base, load_base as load_base, skeleton as skeleton, wrap as wrap
    from normtune.models.head import HeadSpec as HeadSpec
    from normtune.records.run import Record as Record
    from normtune.training.session import Session as Session


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'normtune' has no attribute {name!r}")
    return getattr(import_module(f"normtune.{_PUBLIC[name]}"), name)


def __dir__() -> list[str]:
    return __all__
