"""The errors a user can meet.

Every one of them carries a single sentence that says what is wrong and, where it helps, what to do;
the command line prints that sentence and exits with a non-zero status, never a traceback.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

from pydantic import ValidationError

Name = TypeVar("Name", bound=str)


class NormtuneError(Exception):
    """Base of every error that normtune raises on purpose."""


class ConfigError(NormtuneError):
    """An option or a configuration value that cannot be used."""


class UnknownNameError(ConfigError):
    """A name of some kind (``"task"``) that is not among the known ones; it lists them and guesses what was meant."""

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        self.kind, self.name, self.known = kind, name, sorted(known)
        close = difflib.get_close_matches(name, self.known, n=1)
        guess = f" Did you mean {close[0]!r}?" if close else ""
        listed = ", ".join(self.known[:_LISTED]) or "none"
        more = f" and {len(self.known) - _LISTED:,} more" if len(self.known) > _LISTED else ""
        super().__init__(f"Unknown {kind} {name!r}.{guess} Known: {listed}{more}.")


def known(kind: str, name: str, among: Iterable[Name]) -> Name:
    """Return the name in `among` that equals `name`.

    Raises:
        UnknownNameError: If there is none; `kind` says what they are names of.
    """
    among = tuple(among)
    for each in among:
        if each == name:
            return each
    raise UnknownNameError(kind, name, among)


#: Names that a message lists; a bank may know thousands.
_LISTED = 50


class GuessWarning(UserWarning):
    """A guess about a model, or a text that it cannot read; the command line prints it as a note."""


@contextmanager
def refusing(error: type[NormtuneError], sentence: str) -> Iterator[None]:
    """Turn whatever a library raises over its input into an error of ours.

    Libraries also raise what their authors did not foresee: a `RecursionError` over a thousand brackets, a `KeyError`,
    a `MemoryError`, or a Rust panic, which is no `Exception`. Our own errors, and those that stop the program, pass.

    Args:
        error: The class to raise instead.
        sentence: What is wrong and where; the library's message is appended.

    Raises:
        NormtuneError: If anything else is raised inside.
    """
    try:
        yield
    except NormtuneError:
        raise
    except BaseException as bad:
        if not isinstance(bad, Exception) and type(bad).__name__ != "PanicException":
            raise
        where, said = "", " ".join(str(bad).split())[:_LONGEST].rstrip(".") or type(bad).__name__
        if isinstance(bad, ValidationError):
            (first, *_) = bad.errors(include_url=False, include_context=False, include_input=False)
            where, said = ".".join(map(str, first["loc"])), found_wrong(first)
        raise error(f"{sentence}{where and f' at {where}'}: {said}.") from bad


def found_wrong(fault: Mapping[str, Any]) -> str:
    """What pydantic finds wrong with a value, from one of its `errors`, as a sentence without a full stop."""
    said: str = _WORDS.get(fault["type"]) or re.sub(r"^\w+ (?=should )", "it ", fault["msg"])
    return said[:_LONGEST]


#: Our words for errors of pydantic, by their type.
_WORDS = {
    **dict.fromkeys(("bool_parsing", "bool_type"), "it should be true or false"),
    **dict.fromkeys(("float_parsing", "float_type"), "it should be a number"),
    **dict.fromkeys(("int_parsing", "int_type", "int_from_float"), "it should be a whole number"),
    **dict.fromkeys(("list_type", "tuple_type"), "it should be a list"),
    **dict.fromkeys(("dict_type", "model_type", "model_attributes_type"), "it should be keys with values"),
    **dict.fromkeys(("string_type", "path_type"), "it should be a text"),
    **dict.fromkeys(("too_short", "string_too_short"), "it is empty"),
    "missing": "it is missing",
    "extra_forbidden": "there is no such key",
}
#: The most characters quoted from a library's message.
_LONGEST = 300


class DataError(NormtuneError):
    """Data that is missing or that cannot be read; the message names the file and the line."""


class ModelError(NormtuneError):
    """A base model that cannot be loaded, or that a request does not fit."""


class SelectionError(NormtuneError):
    """A selection that cannot be made, or that does not fit the model."""


class DeltaError(NormtuneError):
    """A delta that is damaged, or that belongs to another base model."""


class AnswerError(DeltaError):
    """Outputs of a task that are not finite, and so no answer."""


class OutputError(NormtuneError):
    """An output folder that is in use, or a file that cannot be written."""


class TrainingError(NormtuneError):
    """A training that cannot go on, such as one whose loss stopped being finite."""


class ImportanceError(NormtuneError):
    """An importance that cannot be computed, such as Fisher information where a gradient is not finite."""
