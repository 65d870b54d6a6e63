"""Seeded random damage to a file: to its bytes, or to the values that it holds."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator
from random import Random
from typing import Any

import yaml

#: Becomes a thousand brackets once the values are text again.
_DEEP = "a thousand brackets"
#: Values that readers stumble over.
HOSTILE: tuple[Any, ...] = (
    *(
        None,
        True,
        False,
        0,
        1,
        -1,
        7,
        2**31,
        2**63,
        10**18,
        10**30,
        -(10**9),
        0.5,
        -0.0,
        1e308,
        float("nan"),
        float("inf"),
    ),
    *(
        "",
        " ",
        "x",
        "0",
        "../x",
        "/",
        "\x00",
        "\x1b[2J",
        "\u202e",
        "\U0001f642",
        "x" * 5_000,
        "9" * 5_000,
        "float8_e4m3fn",
    ),
    *([], {}, [[]], [None], {"": ""}, {"x": {"x": []}}, [0] * 1_000, _DEEP),
)
#: Texts that YAML reads as something else, or fails to.
YAMLS = (
    "2020-13-45",
    "!!timestamp abc",
    "!!bool abc",
    "!!int abc",
    "!!float x",
    "0b",
    "&a [*a]",
    "*b",
    "!!python/name:os.x",
    "? [a]",
)


def damaged(rng: Random, raw: bytes, form: str) -> bytes:
    """A file's content with one to three damages.

    Args:
        rng: Draws the damages.
        raw: The content.
        form: ``bytes``, ``json``, ``yaml``, or ``tensors`` for safetensors.
    """
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        change = _bytes if form == "bytes" or rng.random() < 0.5 else _FORMS[form]
        try:
            raw = change(rng, raw)
        except (LookupError, AttributeError, TypeError, ValueError, RecursionError, struct.error, yaml.YAMLError):
            raw = _bytes(rng, raw)  # it holds no values any more
    return raw


def _bytes(rng: Random, raw: bytes) -> bytes:
    start = rng.randrange(len(raw) + 1)
    end = min(len(raw), start + rng.choice((1, 1, 2, 8, 100, 10_000)))
    flipped = bytes([raw[start] ^ 1 << rng.randrange(8)]) if start < len(raw) else b"\x00"
    return rng.choice((
        raw[:start] + flipped + raw[start + 1 :],
        raw[:start] + flipped + raw[start + 1 :],
        raw[:start] + rng.randbytes(end - start) + raw[end:],
        raw[:start] + bytes(end - start) + raw[end:],
        raw[:start] + raw[end:],
        raw[:end] + raw[start:],
        raw[:start] + rng.choice((b'"', b"{", b"[", b"\n", b",", b"\xff", b"\x00", b"[" * 100_000)) + raw[start:],
        raw[:start],
        b"" if rng.random() < 0.1 else raw + rng.randbytes(8),
    ))


def _json(rng: Random, raw: bytes) -> bytes:
    deep = "[" * 1_000 + "]" * 1_000
    return json.dumps(_changed(rng, json.loads(raw))).replace(json.dumps(_DEEP), deep).encode()


def _yaml(rng: Random, raw: bytes) -> bytes:
    text = yaml.safe_dump(_changed(rng, yaml.safe_load(raw)), allow_unicode=True)
    return text.replace(_DEEP, rng.choice((*YAMLS, "[" * 1_000 + "]" * 1_000))).encode()


def _tensors(rng: Random, raw: bytes) -> bytes:
    """Change the header of a safetensors file, or the JSON in it; the tensors stay."""
    (size,) = struct.unpack("<Q", raw[:8])
    header, metadata = json.loads(raw[8 : 8 + size]), json.loads(raw[8 : 8 + size]).get("__metadata__", {})
    held = [key for key, text in metadata.items() if text.startswith("{")]
    if held and rng.random() < 0.7:
        key = rng.choice(held)
        header["__metadata__"][key] = _json(rng, metadata[key].encode()).decode()
    else:
        header = _changed(rng, header)
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + raw[8 + size :]


_FORMS: dict[str, Callable[[Random, bytes], bytes]] = {"json": _json, "yaml": _yaml, "tensors": _tensors}


def _changed(rng: Random, tree: Any) -> Any:
    """`tree` with one of its values replaced, removed, renamed, or put in another's place."""
    places = [*_places(tree)]
    if not places:
        return rng.choice(HOSTILE)
    holder, key = rng.choice(places)
    value, what = holder[key], rng.randrange(5)
    if what == 0:
        del holder[key]
    elif what == 1 and isinstance(holder, dict):
        del holder[key]
        holder[rng.choice((f"{key}x", str(key).upper(), "", "hidden_size", "format"))] = value
    elif what == 2:
        other, there = rng.choice(places)
        holder[key], other[there] = other[there], value
    elif what == 3 and isinstance(value, int | float):
        holder[key] = rng.choice((value + 1, value - 1, -value, value * 2, value / 2, value * 10**6))
    else:
        holder[key] = rng.choice(HOSTILE)
    return tree


def _places(tree: Any) -> Iterator[tuple[Any, Any]]:
    for key, value in [
        *(tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ())
    ]:
        yield tree, key
        yield from _places(value)
