"""normtune: fine-tune a transformer by training only a chosen sliver of it.

The public names are loaded when they are first used, so that importing the package is cheap and changes nothing::

    import normtune as nt

    base = nt.load_base("minilm", head=2)
    tuning = nt.tune(base, "layernorm")
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

_PUBLIC = {
    "Bank": "deltas.bank",
    "Base": "models.base",
    "Delta": "deltas.delta",
    "HeadSpec": "models.head",
    "METHODS": "methods.method",
    "NormtuneError": "errors",
    "PROTOCOLS": "config",
    "Picture": "data.images",
    "Prediction": "deltas.answers",
    "Predictor": "deltas.answers",
    "Record": "records.run",
    "Selection": "methods.selection",
    "Session": "training.session",
    "Split": "data.task",
    "Task": "data.task",
    "TaskData": "data.task",
    "Trainable": "methods.trainable",
    "load_base": "models.base",
    "load_glue": "data.glue",
    "protocol": "config",
    "select": "methods.expression",
    "skeleton": "models.base",
    "tune": "methods.expression",
    "wrap": "models.base",
}

__all__ = sorted(_PUBLIC)

if TYPE_CHECKING:
    from normtune.config import PROTOCOLS as PROTOCOLS
    from normtune.config import protocol as protocol
    from normtune.data.glue import load_glue as load_glue
    from normtune.data.images import Picture as Picture
    from normtune.data.task import Split as Split
    from normtune.data.task import Task as Task
    from normtune.data.task import TaskData as TaskData
    from normtune.deltas.answers import Prediction as Prediction
    from normtune.deltas.answers import Predictor as Predictor
    from normtune.deltas.bank import Bank as Bank
    from normtune.deltas.delta import Delta as Delta
    from normtune.errors import NormtuneError as NormtuneError
    from normtune.methods.expression import select as select
    from normtune.methods.expression import tune as tune
    from normtune.methods.method import METHODS as METHODS
    from normtune.methods.selection import Selection as Selection
    from normtune.methods.trainable import Trainable as Trainable
    from normtune.models.base import Base as Base
    from normtune.models.base import load_base as load_base
    from normtune.models.base import skeleton as skeleton
    from normtune.models.base import wrap as wrap
    from normtune.models.head import HeadSpec as HeadSpec
    from normtune.records.run import Record as Record
    from normtune.training.session import Session as Session


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'normtune' has no attribute {name!r}")
    return getattr(import_module(f"normtune.{_PUBLIC[name]}"), name)


def __dir__() -> list[str]:
    return __all__
