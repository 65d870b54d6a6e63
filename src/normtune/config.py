"""Configurations: frozen, validated, with a fingerprint of all that changes a number."""

from __future__ import annotations

import hashlib
import json
import math
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from normtune.errors import ConfigError, found_wrong, known


class Strict(BaseModel):
    """A frozen value that refuses unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")


#: A component's sub-component.
Sub = Literal["weight", "bias"]

#: What the products of frozen linear layers are computed in (`normtune.fast.linear`).
Products = Literal["float32", "bfloat16"]

#: Whether BatchNorm's running statistics stay as they are in training, or follow the data (`Protocol.statistics`).
Statistics = Literal["keep", "update"]

#: What is kept for the backward pass: what torch keeps, or little, with more computed again.
Memory = Literal["plain", "low"]


class Protocol(Strict):
    """What a run learns, and on what data its rate and epoch are picked; not how fast it is computed.

    What the paper does not state is fixed here: batch size, lengths, warm-up, decay, schedule.

    Attributes:
        name: Its name.
        epochs: Passes over the training data; the rate decays linearly to zero over all of them.
        batch_size: Examples a step.
        max_length: Limit in tokens; longer texts are cut.
        warmup_fraction: Part of all steps over which the rate rises linearly from zero.
        weight_decay: AdamW's decay on weights; norms and biases have none.
        clip: Largest norm of the gradient.
        dropout: Whether the model's own dropout is on in training.
        products: What the products of frozen linear layers are computed in, in training and for the scores that pick
            the best epoch; ``bfloat16`` rounds their inputs and outputs, nothing else. The score of a record is
            computed in float32 always.
        statistics: In models with BatchNorm: ``keep`` normalises by the running statistics and leaves them alone;
            ``update`` normalises by each batch and lets them follow, as torch trains, and the delta holds them.
        held_out: Part of the training data, a seeded slice, on which rate and epoch are picked; 0 picks them on dev,
            as the paper does.
        max_train: Largest number of training examples, a seeded sample; None takes all.
        max_dev: Largest number of dev examples, a seeded sample; None takes all.
        rates: How many rates of the method's grid a search tries.
        sample_seed: Seeds the samples and the slice; the same for every run, so that runs are paired.
    """

    name: str
    epochs: Annotated[int, Field(ge=1)] = 20
    batch_size: Annotated[int, Field(ge=1)] = 32
    max_length: Annotated[int, Field(ge=8)] = 128
    warmup_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.06
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    clip: Annotated[float, Field(gt=0)] = 1.0
    dropout: bool = True
    products: Products = "float32"
    statistics: Statistics = "keep"
    held_out: Annotated[float, Field(ge=0, le=0.5)] = 0.0
    max_train: Annotated[int, Field(ge=1)] | None = None
    max_dev: Annotated[int, Field(ge=1)] | None = None
    rates: Annotated[int, Field(ge=1, le=4)] = 4
    sample_seed: int = 0


PROTOCOLS: dict[str, Protocol] = {
    "paper": Protocol(name="paper"),
    "held-out": Protocol(name="held-out", held_out=0.1),
    "reduced": Protocol(name="reduced", epochs=10, max_train=5000, max_dev=2000, rates=3, dropout=False),
    "small": Protocol(name="small", epochs=3, max_train=2000, dropout=False, rates=3),
    "own": Protocol(name="own", epochs=10, batch_size=16, dropout=False, rates=3),
}


def protocol(name: str, **changes: Any) -> Protocol:
    """The protocol called `name`, with the fields in `changes` that are not None changed.

    A changed protocol is called ``small*``, so that its numbers are never taken for the protocol's own.

    Raises:
        UnknownNameError: If there is no such protocol or field.
        ConfigError: If a value does not fit.
    """
    given = {key: value for key, value in changes.items() if value is not None}
    return _changed(PROTOCOLS[known("protocol", name, PROTOCOLS)], given)


def _changed(base: Protocol, fields: dict[str, Any]) -> Protocol:
    names = [name for name in Protocol.model_fields if name != "name"]
    for field in fields:
        known("field of a protocol", field, names)
    try:
        changed = Protocol.model_validate({**base.model_dump(), **fields})
    except ValidationError as error:
        first = error.errors()[0]
        field, why = str(first["loc"][0]), f"{found_wrong(first)} (fields: {', '.join(names)})"
        raise ConfigError(f"The protocol's {field} cannot be {fields[field]!r}: {why}.") from error
    return base if changed == base else changed.model_copy(update={"name": f"{base.name}*"})


def read_protocol(text: str, **changes: Any) -> Protocol:
    """The `protocol` that ``NAME[,FIELD=VALUE...]`` describes, such as ``small,epochs=1,max_train=none``.

    Raises:
        UnknownNameError: If there is no such protocol or field.
        ConfigError: If a field is given twice, or its value does not fit.
    """
    name, *parts = (part.strip() for part in text.split(","))
    fields = [field for field in Protocol.model_fields if field != "name"]
    given = {field: value for field, value in changes.items() if value is not None}
    for part in parts:
        field, _, value = (each.strip() for each in part.partition("="))
        if known("field of a protocol", field, fields) in given:
            raise ConfigError(f"The protocol's {field} is given twice; leave out one of the two.")
        given[field] = None if value == "none" else value
    return _changed(protocol(name), given)


class Pruning(Strict):
    """When a clearly lost rate of a search is dropped early (`normtune.studies.pruning`).

    Attributes:
        margin: How far behind a rate must be, as a fraction like the scores.
        after: Part of a run's epochs that every rate is trained for.
    """

    margin: Annotated[float, Field(ge=0)] = 0.05
    after: Annotated[float, Field(ge=0, le=1)] = 0.25

    def first(self, epochs: int) -> int:
        """The first epoch after which a run of `epochs` may be dropped."""
        return max(1, math.ceil(self.after * epochs))


class RunConfig(Strict):
    """One training: everything that a user chooses.

    Attributes:
        model: Hub id, folder or packaged name.
        revision: Commit on the hub or version of the package, where there is one.
        dtype: Dtype of the frozen part.
        task: The task's name.
        method: A method's name or an expression; the training itself sees only the selection made from it.
        rate: Peak learning rate.
        seed: Seeds the head, the order of the data, dropout, and the draw of `random`.
        protocol: How it is trained.
        mask: Where the selection was given rather than made from `method`, the start of its fingerprint; `method` is
            then its name.
    """

    model: str
    revision: str | None = None
    dtype: str = "float32"
    task: str
    method: str
    rate: Annotated[float, Field(gt=0)]
    seed: Annotated[int, Field(ge=0)] = 0
    protocol: Protocol
    mask: str | None = None


def fingerprint(value: BaseModel | dict[str, Any]) -> str:
    """A hash of `value` as canonical JSON (16 hexadecimal digits of SHA-256)."""
    plain = value.model_dump(mode="json") if isinstance(value, BaseModel) else value
    text = json.dumps(plain, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
