from __future__ import annotations

import pytest

from normtune.errors import DataError, ModelError, refusing
from normtune.records.run import Norms


class PanicException(BaseException):
    """Named like the exception of a Rust panic, which no module exports."""


def deep() -> None:
    deep()


def validate() -> None:
    Norms.model_validate({"closing": [1]})


@pytest.mark.parametrize(
    ("failure", "said"),
    [
        (lambda: {}["x"], "x: 'x'."),
        (lambda: int("a\n b"), "x: invalid literal for int() with base 10: 'a\\n b'."),
        (deep, "x: maximum recursion depth exceeded"),
        (lambda: (_ for _ in ()).throw(NotImplementedError()), "x: NotImplementedError."),
        (lambda: (_ for _ in ()).throw(PanicException("at\n the end.")), "x: at the end."),
        (lambda: (_ for _ in ()).throw(MemoryError()), "x: MemoryError."),
        (lambda: (_ for _ in ()).throw(ValueError("y" * 1000)), f"x: {'y' * 300}."),
        (validate, "x at closing.0: it should be a text."),
    ],
)
def test_whatever_a_library_raises_is_one_sentence(failure, said) -> None:
    with pytest.raises(DataError) as raised, refusing(DataError, "x"):
        failure()
    assert str(raised.value).startswith(said)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("error", [ModelError("mine"), KeyboardInterrupt(), SystemExit(3)])
def test_our_own_errors_and_stops_pass(error) -> None:
    with pytest.raises(type(error)) as raised, refusing(DataError, "x"):
        raise error
    assert raised.value is error
