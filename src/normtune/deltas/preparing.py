"""Texts made ready for a bank: checked, and tokenized within their own task's limit."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from threading import Lock

from transformers import PreTrainedTokenizerBase

from normtune.data.encode import Encoded, encode, padding
from normtune.deltas.answers import Text, examples
from normtune.deltas.entry import Entry, Prepared
from normtune.errors import DataError


class Preparer:
    """A tokenizer that several threads can use.

    Args:
        tokenizer: The tokenizer; it keeps the limit that it cuts at as a state of its own, hence the lock.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer, self._lock = tokenizer, Lock()
        self._pad, self._side = padding(tokenizer), tokenizer.padding_side

    def prepare(self, texts: Sequence[Text], entries: Sequence[Entry]) -> list[Prepared]:
        """Check and tokenize each text for its entry.

        Raises:
            DataError: If a text is empty, or a pair where its task reads single texts, or the other way round.
        """
        alike: dict[tuple[bool, int], list[int]] = defaultdict(list)
        for number, (text, entry) in enumerate(zip(texts, entries, strict=True)):
            examples([text], entry.task)
            parts = (text,) if isinstance(text, str) else text
            if not all(part.strip() for part in parts):
                raise DataError(f"Text {number + 1} of {len(texts)} is empty.")
            alike[entry.task.pair, entry.info.max_length].append(number)
        prepared: dict[int, Prepared] = {}
        for (_, limit), numbers in alike.items():
            split = examples([texts[number] for number in numbers], entries[numbers[0]].task)
            with self._lock:
                encoded = encode(split, self._tokenizer, limit)
            cut = set(encoded.cut)
            for at, number in enumerate(numbers):
                fields = {name: values[at] for name, values in encoded.fields.items()}
                prepared[number] = Prepared(entries[number], fields, at in cut)
        return [prepared[number] for number in range(len(texts))]

    def together(self, prepared: Sequence[Prepared]) -> Encoded:
        """What was prepared, as one set of examples."""
        fields = {name: tuple(one.fields[name] for one in prepared) for name in prepared[0].fields}
        return Encoded(fields, None, sum(one.truncated for one in prepared), self._pad, self._side)
