"""A protocol as it is written on the command line."""

from __future__ import annotations

import pytest

from normtune.config import PROTOCOLS, Protocol, protocol, read_protocol
from normtune.errors import ConfigError


def test_a_name_alone_is_the_protocol() -> None:
    assert all(read_protocol(name) == known for name, known in PROTOCOLS.items())


def test_every_field_but_the_name_can_be_changed() -> None:
    changes = {
        **{"epochs": 1, "batch_size": 16, "max_length": 64, "warmup_fraction": 0.0, "weight_decay": 0.0, "clip": 2.0},
        **{"dropout": True, "products": "bfloat16", "held_out": 0.2, "max_train": 9, "max_dev": 8, "rates": 2},
        **{"sample_seed": 5, "statistics": "update"},
    }
    assert {"name", *changes} == {*Protocol.model_fields}
    text = ", ".join(["small", *(f"{field} = {value}" for field, value in changes.items())])
    assert read_protocol(text) == Protocol(name="small*", **changes) == protocol("small", **changes)
    assert read_protocol("small,max_train=none").max_train is None
    assert read_protocol("small,epochs=3", dropout=None) == PROTOCOLS["small"]
    assert read_protocol("small,epochs=2", dropout=True) == protocol("small", epochs=2, dropout=True)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("tiny,epochs=1", "Unknown protocol 'tiny'"),
        ("small,epoch=1", "Unknown field of a protocol 'epoch'. Did you mean 'epochs'? Known: batch_size, clip,"),
        ("small,name=mine", "Unknown field of a protocol 'name'"),
        ("small,", "Unknown field of a protocol ''"),
        (
            "small,epochs=0",
            "The protocol's epochs cannot be '0': it should be greater than or equal to 1 (fields:",
        ),
        ("small,epochs", "The protocol's epochs cannot be '': it should be a whole number"),
        ("small,epochs=none", "The protocol's epochs cannot be None"),
        ("small,dropout=some", "The protocol's dropout cannot be 'some': it should be true or false"),
        ("small,products=int8", "it should be 'float32' or 'bfloat16'"),
        ("small,epochs=1,epochs=2", "The protocol's epochs is given twice"),
        ("small,dropout=no", "The protocol's dropout is given twice"),
    ],
)
def test_what_does_not_fit_is_one_sentence_that_names_the_fields(text: str, said: str) -> None:
    with pytest.raises(ConfigError) as found:
        read_protocol(text, dropout=True if text == "small,dropout=no" else None)
    assert said in str(found.value)
    assert "\n" not in str(found.value)


@pytest.mark.parametrize(("field", "said"), [("epochs", "epochs cannot be 0: it should"), ("epoch", "mean 'epochs'")])
def test_so_it_is_in_python(field: str, said: str) -> None:
    with pytest.raises(ConfigError) as found:
        protocol("paper", **{field: 0})
    assert said in str(found.value)
