"""A delta: what training changed or added, the head, and the identity of the base model.

It stores values, not differences, so that restoring is exact. It is one safetensors file: ``values/NAME``, a vector,
for each parameter with selected entries and for each added parameter; for a parameter that was not selected whole also
the positions, as ``mask/NAME`` (packed bits) or ``index/NAME`` (int32), whichever is shorter; ``head/NAME``; and
``statistics/NAME`` for running statistics that training updated. Its header carries the metadata as JSON.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import Field, FiniteFloat
from torch import Tensor, nn

from normtune.config import Strict
from normtune.data.kind import KindName
from normtune.data.kinds import KINDS
from normtune.data.task import PAIR, PICTURE, SENTENCE, TEXT, Task
from normtune.errors import DeltaError, ModelError, SelectionError, UnknownNameError, refusing
from normtune.files import read_tensors, refuse_existing, write_tensors
from normtune.methods.method import read
from normtune.methods.positions import PACKED, pack, unpack
from normtune.methods.selection import Selection
from normtune.methods.trainable import Spec, Trainable, check_free, copy_values
from normtune.models.base import APPLIED, NO_BASE, Base
from normtune.models.head import HeadSpec, check_head
from normtune.models.identity import tensors_identity
from normtune.models.layout import statistics as running
from normtune.versions import versions

FORMAT = 1
FILE = "delta.safetensors"
_KEY = "normtune"


class DeltaInfo(Strict):
    """The metadata of a delta.

    Attributes:
        format: Version of the file's layout.
        base: Name of the base model, as its user called it.
        base_revision: Its commit or package version, where there is one.
        base_identity: Its content hash; the delta is refused on any other.
        base_config: Hash of what its configuration computes; empty in older deltas.
        base_tokenizer: Hash of its tokenizer or image processor; empty where it had none, and in older deltas.
        layout: Fingerprint of the base's parameter names and shapes.
        method: The method or expression, for display.
        added: What was added to the model (`normtune.methods.trainable.Spec.describe`); None where the model's
            own entries were trained.
        task: The task's name.
        suite: The task's suite; empty for files of the user's own, and in older deltas.
        kind: Name of the kind of task (`normtune.data.kinds.KINDS`).
        labels: Label names in class order.
        max_length: Limit in tokens that it was trained with.
        pair: Whether it reads pairs of texts.
        picture: Whether it reads pictures.
        center: For regression, what is added to the head's output after multiplication by `scale`.
        scale: For regression, what the head's output is multiplied by.
        columns: In the user's own files, the names of the text, pair (if there is one) and label columns.
        note: The run that it comes from, or what its author says of it.
        versions: Versions of the libraries that wrote it.
        content: Hash over all tensors; set when the delta is saved.
    """

    format: int = FORMAT
    base: str
    base_revision: str | None = None
    base_identity: str
    base_config: str = ""
    base_tokenizer: str = ""
    layout: str
    method: str = ""
    added: dict[str, Any] | None = Field(default=None, exclude_if=lambda value: value is None)
    task: str = ""
    suite: str = Field(default="", exclude_if=lambda value: not value)
    kind: KindName
    labels: tuple[str, ...] = ()
    max_length: Annotated[int, Field(ge=5)] = 128  # a pair and its special tokens, one token of each text
    pair: bool = False
    picture: bool = Field(default=False, exclude_if=lambda value: not value)
    center: FiniteFloat = 0.0
    scale: FiniteFloat = 1.0
    columns: tuple[str, ...] = ()
    note: str = ""
    versions: dict[str, str] = Field(default_factory=dict)
    content: str = ""

    @property
    def head(self) -> HeadSpec:
        """What the delta's head answers."""
        return HeadSpec(self.kind, self.labels)

    @property
    def as_task(self) -> Task:
        """The task that the delta answers, as far as the delta itself knows it."""
        asks, text = KINDS[self.kind], PAIR if self.pair else TEXT
        return Task(
            name=self.task,
            title=self.task,
            kind=self.kind,
            labels=self.labels,
            metrics=asks.metrics(self.labels),
            inputs=PICTURE if self.picture else SENTENCE if asks.words else text,
            center=self.center,
            scale=self.scale,
        )


@dataclass(frozen=True)
class Delta:
    """What training changed.

    Attributes:
        info: Its metadata.
        indices: For each parameter with selected entries their positions in the flattened parameter, or None for all;
            empty where parameters were added instead.
        values: Float32 vectors by name: the new values of the selected entries, or the values of added parameters.
        head: The head's values: float32, by parameter name.
        statistics: Running statistics of BatchNorm, by buffer name, where training moved them; otherwise empty.
    """

    info: DeltaInfo
    indices: Mapping[str, np.ndarray | None]
    values: Mapping[str, Tensor]
    head: Mapping[str, Tensor]
    statistics: Mapping[str, Tensor] = field(default_factory=dict)

    @classmethod
    def capture(cls, trainable: Trainable, **info: object) -> Delta:
        """The delta of a model as trained so far: a copy of those trained values that the method keeps.

        Args:
            trainable: The model in training.
            **info: Fields of `DeltaInfo` that the model does not know: ``task``, ``pair``, ``note``, ... By default
                ``max_length`` is the model's limit; if it has none, no text is cut.

        Raises:
            ModelError: If the method is not done (see `Trainable.result`).
            DeltaError: If a value is not finite, or the head or a field is invalid.
        """
        base, (spec, values) = trainable.base, trainable.result()
        known: dict[str, object] = {"method": trainable.method}
        if base.reads == "text" and base.tokenizer is not None:
            known["max_length"] = base.limit(LONGEST, spec.positions)
        found = cls.of(base, spec, values, trainable.head_values(), **{**known, **info})
        found = replace(found, statistics=trainable.statistics_values())
        if name := found._not_finite():
            raise DeltaError(f"A value of {name} is not finite, so no delta is made of it; lower the learning rate.")
        return found

    @classmethod
    def of(
        cls, base: Base, spec: Spec, values: Mapping[str, Tensor], head: Mapping[str, Tensor], **info: object
    ) -> Delta:
        """A delta of the values that `Trainable.values` and `Trainable.head_values` gave for `spec`.

        Raises:
            DeltaError: If the head or a field of `info` is invalid.
        """
        answers, (config, tokenizer) = base.head, base.computes
        fields = {
            "base": base.name,
            "base_revision": base.revision,
            "base_identity": base.identity,
            "base_config": config,
            "base_tokenizer": tokenizer,
            "layout": base.layout.fingerprint,
            "added": spec.describe(),
            "kind": answers.kind,
            "labels": answers.labels,
            "picture": base.reads == "picture",
            "versions": versions(),
        }
        indices = dict(spec.chosen) if isinstance(spec, Selection) else {}
        with refusing(DeltaError, "A delta cannot have this metadata"):
            made = DeltaInfo.model_validate({**fields, **info})
        check_head(head, base.meta_head(made.head.outputs))
        return cls(made, indices, dict(values), dict(head))

    def spec(self, base: Base) -> Spec:
        """Check the whole delta against `base` and return what was trained; every use of a delta comes through here.

        Raises:
            DeltaError: If `base` is another model, the delta is of a method that this version does not know, values or
                head do not fit, or a value is not finite.
            SelectionError: If the delta's positions lie outside its parameters.
        """
        self.check(base)
        try:
            added = self.info.added
            spec = Selection(base.layout, self.indices) if added is None else read(base.layout, added)
        except UnknownNameError as error:
            raise DeltaError(f"This delta needs another version of normtune: {error}") from error
        names = {**self.indices, **self.values}
        for name, entries in ((name, spec.count(name)) for name in names) if isinstance(spec, Selection) else ():
            if (found := self.values[name].numel() if name in self.values else 0) != entries:
                raise DeltaError(f"The delta is damaged: it has {found} values for {entries} entries of {name}.")
        check_head(self.head, base.meta_head(self.info.head.outputs))
        own = {name: base.model.get_buffer(name) for name in running(base.model, counted=True)}
        for name, values in self.statistics.items():
            if name not in own or own[name].shape != values.shape:
                raise DeltaError(f"The delta is damaged: {name} is no running statistic of {base.name!r}.")
        if odd := self._not_finite():
            raise DeltaError(f"The delta is damaged: a value of {odd} is not finite.")
        return spec

    def _not_finite(self) -> str | None:
        """Name of the first tensor with a value that is not finite."""
        tensors = (*self.values.items(), *self.head.items(), *self.statistics.items())
        return next((name for name, values in tensors if not bool(values.isfinite().all())), None)

    def selection(self, base: Base) -> Selection:
        """The trained entries of `base`, which must be the delta's base.

        Raises:
            DeltaError: If it is another model, or parameters were added instead.
        """
        spec = self.spec(base)
        if not isinstance(spec, Selection):
            raise DeltaError(f"This delta adds parameters of its own ({self.info.method}), so it is no selection.")
        return spec

    @property
    def entries(self) -> int:
        """Number of values beside the head."""
        return sum(value.numel() for value in self.values.values())

    @property
    def body_bytes(self) -> int:
        """Bytes of the tensors beside the head and the metadata."""
        tensors = self._tensors()
        return sum(t.numel() * t.element_size() for name, t in tensors.items() if not name.startswith("head/"))

    def check(self, base: Base) -> None:
        """Check that `base` is this delta's base, and computes the same.

        Raises:
            DeltaError: If it is another model, or has another head, configuration or tokenizer.
        """
        if KINDS[self.info.kind].models != KINDS[base.head.kind].models:
            raise DeltaError(
                f"This delta is for {KINDS[self.info.kind].models[0]}, and {base.name!r} was loaded for another head;"
                " in Python: load_base(NAME, delta.info.head)."
            )
        own = repr(self.info.base[:200])
        if self.info.base_identity != base.identity:
            same = " Was it trained before it was wrapped, or is a part of it drawn when it is loaded?"
            raise DeltaError(
                f"This delta belongs to the base model {own} ({self.info.base_identity[:12]}),"
                f" not to {base.name!r} ({base.identity[:12]}).{same if self.info.base == base.name else ''}"
            )
        if self.info.layout != base.layout.fingerprint:
            raise DeltaError(
                f"This delta was trained on {own} with other parameters than {base.name!r} has here, such as those of"
                " another version of transformers."
            )
        reader = "image processor" if self.info.picture else "tokenizer"
        known = (("config.json", self.info.base_config), (reader, self.info.base_tokenizer))
        for (what, wanted), found in zip(known, base.computes, strict=True):
            if wanted and found and wanted != found:
                raise DeltaError(
                    f"This delta was trained on {own} with another {what}: {base.name!r} has the same"
                    f" weights, but would answer otherwise. Use the {what} that it was trained with."
                )

    def apply(self, base: Base, *, merge: bool = False) -> AppliedDelta:
        """Put the delta on `base`, in place: its values, the head, its labels and its problem type.

        With `merge`, added parameters are merged into the base's own, so that modules and names stay the same.

        Returns:
            A handle whose `remove` puts back what was there, to the bit.

        Raises:
            DeltaError: If `base` is another model, carries a delta already, or the delta does not fit it.
            ModelError: If `base` is no `Base`, or is being tuned.
        """
        return AppliedDelta(base, self, merge=merge)

    def save(self, path: str | Path) -> Path:
        """Write the delta to `path`, a folder (as ``delta.safetensors``) or a file, whole or not at all.

        Raises:
            OutputError: If the file exists, or cannot be written.
        """
        file = _file(Path(path))
        refuse_existing(file)
        tensors = self._tensors()
        info = self.info.model_copy(update={"content": tensors_identity(tensors)})
        write_tensors(file, _KEY, info, tensors)
        return file

    @classmethod
    def load(cls, path: str | Path) -> Delta:
        """Read a delta from a folder or a file.

        Raises:
            DeltaError: If there is none, or it is truncated, damaged or of a later version.
        """
        file = _file(Path(path))
        info, tensors = read_tensors(file, "delta", _KEY, DeltaInfo, DeltaError)
        if info.content != tensors_identity(tensors):
            raise DeltaError(f"The delta {file} is damaged: its values do not match the hash that it carries.")
        try:
            return _unpack(info, tensors)
        except SelectionError as error:
            raise DeltaError(f"The delta {file} is damaged: {error}") from error

    def _tensors(self) -> dict[str, Tensor]:
        tensors = {f"head/{name}": value.contiguous() for name, value in self.head.items()}
        tensors |= {f"statistics/{name}": value.contiguous() for name, value in self.statistics.items()}
        for name, value in self.values.items():
            tensors[f"values/{name}"] = value.reshape(-1).contiguous()
            indices = self.indices.get(name)
            if indices is not None:
                tensors.update(pack(name, indices))
        return tensors


#: More tokens than any text has.
LONGEST = 1 << 31


class AppliedDelta:
    """A delta on its base model, where `Delta.apply` put it; `remove` takes it off."""

    def __init__(self, base: Base, delta: Delta, *, merge: bool = False) -> None:
        if not isinstance(base, Base):
            raise ModelError(NO_BASE.format("apply", type(base).__name__))
        if is_applied(base):
            raise DeltaError("The base model carries a delta already; remove that first.")
        check_free(base.model)
        spec = delta.spec(base)
        self._model = base.model
        with ExitStack() as stack:
            stack.callback(base.put_head(delta.info.head, tensors=delta.head).undo)
            (spec.merge if merge else spec.apply)(base, delta.values, stack)
            own = {name: base.model.get_buffer(name) for name in running(base.model, counted=True)}
            for name, buffer in own.items():  # a model in training mode moves them
                stack.callback(_put_back, base.model, name, buffer.detach().clone())
            for name, values in delta.statistics.items():
                copy_values(own[name], values)
            self._undo = stack.pop_all()
        setattr(base.model.base_model, APPLIED, self)

    def remove(self) -> None:
        """Put back values, head, labels and problem type as they were, to the bit.

        Raises:
            DeltaError: If it was removed before.
        """
        if getattr(self._model.base_model, APPLIED, None) is not self:
            raise DeltaError("This delta is not on the base model.")
        self._undo.close()
        delattr(self._model.base_model, APPLIED)

    def __enter__(self) -> AppliedDelta:
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()


def is_applied(base: Base) -> bool:
    """Whether `base` carries a delta."""
    return hasattr(base.model.base_model, APPLIED)


def _put_back(model: nn.Module, name: str, values: Tensor) -> None:
    copy_values(model.get_buffer(name), values)  # on whatever device the model is by now


def _file(path: Path) -> Path:
    return path if path.suffix == ".safetensors" else path / FILE


def _unpack(info: DeltaInfo, tensors: dict[str, Tensor]) -> Delta:
    parts: dict[str, dict[str, Tensor]] = {"values": {}, "head": {}, "statistics": {}}
    packed: dict[str, np.ndarray] = {}
    for key, tensor in tensors.items():
        part, _, name = key.partition("/")
        if part in PACKED:
            packed[name] = unpack(part, tensor, tensors[f"values/{name}"].numel() if f"values/{name}" in tensors else 0)
        elif part in parts:
            counts = part == "statistics" and tensor.dtype == torch.int64
            if not (tensor.dtype == torch.float32 or counts) or (part == "values" and tensor.ndim != 1):
                kind = f"{str(tensor.dtype).removeprefix('torch.')} of {tensor.ndim} dimensions"
                raise DeltaError(f"The delta is damaged: its {key} is {kind}, and no vector of float32.")
            parts[part][name] = tensor
        else:
            raise DeltaError(f"The delta holds a tensor {key!r} that this version does not know.")
    whole = dict.fromkeys(parts["values"]) if info.added is None else {}
    return Delta(info, {**whole, **packed}, **parts)
