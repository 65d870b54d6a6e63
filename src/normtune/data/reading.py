"""Options for reading a user's file, in place of what is recognised from the file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

from normtune.errors import ConfigError, known

#: Names of delimiters, since a comma separates the fields of --read, and a shell strips blanks.
_NAMED = {"comma": ",", "semicolon": ";", "tab": "\t", "\\t": "\t", "bar": "|", "space": " "}


@dataclass(frozen=True)
class Reading:
    """How a file is read; empty fields are recognised from the file (`normtune.data.rows.read_rows`).

    Attributes:
        delimiter: What separates the cells of CSV and TSV.
        encoding: The text's encoding, by its name in Python.
        decimal: The decimal sign of targets written as text: ``point`` or ``comma``.
        labels: What separates the labels of a cell that has several.
        skip: Whether rows that cannot be used are left out and counted. By default they are refused.
    """

    delimiter: str = ""
    encoding: str = ""
    decimal: str = ""
    labels: str = ""
    skip: bool = False

    @classmethod
    def of(cls, text: str) -> Self:
        """Parse fields such as ``delimiter=;,encoding=cp1252,decimal=comma,skip-bad-rows``; an empty text sets none.

        Raises:
            ConfigError: If a field is empty or occurs twice, or its value does not fit.
            UnknownNameError: If there is no such field.
        """
        given, parts = dict[str, str](), [part.strip() for part in text.split(",")] if text.strip() else []
        if not all(parts):
            raise ConfigError(f"--read {text!r} has an empty part; a comma as delimiter is delimiter=comma.")
        for part in parts:
            name, equals, value = (each.strip() for each in part.partition("="))
            field = known("field of --read", name, (*_FIELDS, "skip-bad-rows"))
            if field in given:
                raise ConfigError(f"--read has {field} twice; leave out one of the two.")
            if bool(equals) == (field == "skip-bad-rows") or (equals and not value):
                wanted = field if field == "skip-bad-rows" else f"{field}=VALUE, such as {field}={_FIELDS[field][0]}"
                raise ConfigError(f"--read takes {wanted}; got {part!r}.")
            given[field] = value
        skip = given.pop("skip-bad-rows", None) is not None
        return cls(**{field: _FIELDS[field][1](value) for field, value in given.items()}, skip=skip)


#: Everything is recognised, and a bad row is refused.
RECOGNISED = Reading()


def _delimiter(value: str) -> str:
    found = _NAMED.get(value, value)
    if len(found) != 1 or found.isalnum() or found in "\"'\r\n":
        raise ConfigError(f"A delimiter is one sign, or one of {', '.join(_NAMED)}; got {value!r}.")
    return found


def _encoding(value: str) -> str:
    try:
        "".encode(value)
    except (LookupError, ValueError) as error:
        raise ConfigError(f"There is no encoding {value!r}; try utf-8, utf-16, cp1252 or gb18030.") from error
    return value


#: The fields with values: an example of a value, and the function that checks one.
_FIELDS: dict[str, tuple[str, Callable[[str], str]]] = {
    "delimiter": ("semicolon", _delimiter),
    "encoding": ("cp1252", _encoding),
    "decimal": ("comma", lambda value: known("decimal sign", value, ("point", "comma"))),
    "labels": ("bar", _delimiter),
}
