"""From examples to batches: encoded once, bucketed by length, padded only to the longest of each batch."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedTokenizerBase

from normtune.data.images import Pixels, Reader
from normtune.data.task import Split
from normtune.data.tokens import NONE
from normtune.errors import DataError, GuessWarning, refusing
from normtune.modes import unwatched


@dataclass(frozen=True)
class Encoded:
    """A split as a model reads it.

    Attributes:
        fields: The model's inputs by name (``input_ids``, ``token_type_ids``, ...), a tensor for each example. For
            texts it is a vector of int64 with an entry for each token; other tensors have one shape for all examples,
            and may be computed on access.
        labels: Class numbers (int64) or targets (float64), or None.
        pad: The padding value of each field of vectors.
        side: The side that is padded, ``right`` or ``left``: some families read their answer off the last token.
        cut: Positions of the examples that were longer than the limit.
        firsts: If each word has an answer, the positions of the words' first pieces among each example's tokens.
    """

    fields: Mapping[str, Sequence[Tensor]]
    labels: Tensor | None
    pad: dict[str, int]
    side: str = "right"
    cut: tuple[int, ...] = ()
    firsts: tuple[Tensor, ...] | None = None

    def __len__(self) -> int:
        return len(next(iter(self.fields.values())))

    @cached_property
    def lengths(self) -> np.ndarray:
        """Number of tokens of each example; a picture counts one for each 16 by 16 pixels."""
        first = next(iter(self.fields.values()))
        if first[0].ndim > 1:
            return np.full(len(first), max(1, first[0][0].numel() // _PATCH), dtype=np.int64)
        return np.array([len(values) for values in first], dtype=np.int64)

    @unwatched
    def batch(self, indices: Sequence[int] | np.ndarray, device: torch.device | str = "cpu") -> dict[str, Tensor]:
        """The model's inputs for the examples at `indices`; for texts of shape (len(indices), longest text)."""
        return {
            name: pad_sequence(
                [values[i] for i in indices],
                batch_first=True,
                padding_value=self.pad.get(name, 0),
                padding_side=self.side,
            ).to(device)
            for name, values in self.fields.items()
        }

    @unwatched
    def answered(self, outputs: Tensor, indices: Sequence[int] | np.ndarray) -> Tensor:
        """The outputs that are answers to the examples at `indices`: all, or those of the words' first pieces.

        Args:
            outputs: Of shape (examples, outputs) or, for words, (examples, tokens, outputs).
            indices: The examples.

        Returns:
            The outputs; for words of shape (examples, most words, outputs), with zeros after an example's last word.
        """
        if self.firsts is None:
            return outputs
        firsts = [self.firsts[i] for i in indices]
        places = pad_sequence(firsts, batch_first=True, padding_value=-1).to(outputs.device)[..., None]
        found = outputs.gather(1, places.clamp(min=0).expand(-1, -1, outputs.shape[-1]))
        return found.masked_fill(places < 0, 0.0)

    def own(self, outputs: np.ndarray, index: int) -> np.ndarray:
        """The outputs of the example at `index`, without the padding after its last word."""
        return outputs if self.firsts is None else outputs[: len(self.firsts[index])]

    @property
    def truncated(self) -> int:
        """How many examples were longer than the limit."""
        return len(self.cut)

    @property
    def words(self) -> tuple[int, ...]:
        """The most words of an example, as a tuple of one, if each word has an answer; otherwise empty."""
        return () if self.firsts is None else (max(map(len, self.firsts)),)


#: Pixels that count as a token.
_PATCH = 256


def encode(split: Split, processor: Any, limit: int) -> Encoded:
    """Encode `split` by its kind of input (`Split.kind`).

    `processor` is the base model's tokenizer, or its `normtune.data.images.Reader`; `limit` is the most tokens that an
    example may have, and no more than the model takes (`normtune.models.base.Base.encode`).

    Raises:
        DataError: If there are no examples, or one cannot be encoded.
    """
    if not len(split):
        raise DataError("There are no examples.")
    with refusing(DataError, f"The {'model' if split.kind == 'picture' else 'tokenizer'} cannot encode the examples"):
        encoded = ENCODERS[split.kind](split, processor, limit)
    labels = encoded.labels
    if labels is None and split.labels is not None:
        labels = torch.from_numpy(split.labels)
    if labels is not None and encoded.firsts is not None:  # a word that is cut off has no answer
        seen = torch.tensor([len(own) for own in encoded.firsts])
        labels = labels.masked_fill(torch.arange(labels.shape[1]) >= seen[:, None], NONE)
    return replace(encoded, labels=labels)


def _encode_texts(split: Split, tokenizer: PreTrainedTokenizerBase, limit: int) -> Encoded:
    """Tokenize texts or pairs, truncated to `limit` tokens.

    Special tokens count; the longer text of a pair is cut first.

    Raises:
        DataError: If a text is empty.
    """
    for number, text in enumerate(split.texts):
        if not text.strip() or (split.pairs is not None and not split.pairs[number].strip()):
            raise DataError(f"{split.place(number)} is empty.")
    pairs = None if split.pairs is None else list(split.pairs)
    # Tokenize without truncation first, to know which are too long.
    masked = {"return_attention_mask": True}  # without it, the model would attend to padding
    whole = tokenizer(list(split.texts), pairs, truncation=False, verbose=False, **masked)
    long = [i for i, ids in enumerate(whole["input_ids"]) if len(ids) > limit]
    if long:
        cut = tokenizer(
            [split.texts[i] for i in long],
            None if pairs is None else [pairs[i] for i in long],
            truncation=True,
            max_length=limit,
            **masked,
        )
        for name, values in cut.items():
            for i, value in zip(long, values, strict=True):
                whole[name][i] = value
    special = {*tokenizer.all_special_ids}
    unread = [i for i, ids in enumerate(whole["input_ids"]) if special.issuperset(ids)]
    if unread:
        more = f" ({len(unread)} such texts in all)" if unread[1:] else ""
        warnings.warn(
            f"{split.place(unread[0])}: the tokenizer knows nothing of the text, so the model reads it as empty{more}.",
            GuessWarning,
            stacklevel=2,
        )
    pad = padding(tokenizer)
    return Encoded(
        fields={name: tuple(torch.tensor(v) for v in values) for name, values in whole.items() if name in pad},
        labels=None,
        pad=pad,
        side=tokenizer.padding_side,
        cut=tuple(long),
    )


def _encode_lines(split: Split, tokenizer: PreTrainedTokenizerBase, limit: int) -> Encoded:
    """Cut the running text of all lines into blocks of `limit` tokens, each with the special tokens of a text.

    The last block may be shorter; transformers' run_clm leaves it out.
    """
    text = "".join(split.columns["lines"])
    tokens = tokenizer(text, add_special_tokens=False, truncation=False, verbose=False)["input_ids"]
    alone, whole = (tokenizer("a", add_special_tokens=special)["input_ids"] for special in (False, True))
    start = next(i for i in range(len(whole)) if whole[i : i + len(alone)] == alone)
    before, after = whole[:start], whole[start + len(alone) :]
    size = limit - len(before) - len(after)
    blocks = [tokens[i : i + size] for i in range(0, len(tokens), size)]
    if not before and len(blocks) > 1 and len(blocks[-1]) == 1:
        del blocks[-1]  # without a start token, nothing precedes a single token
    ids = [torch.tensor([*before, *block, *after]) for block in blocks]
    fills = {"input_ids": None, "attention_mask": 1, "token_type_ids": 0}
    fields = {
        name: tuple(ids if fill is None else [torch.full_like(own, fill) for own in ids])
        for name, fill in fills.items()
        if name in {"input_ids", "attention_mask", *tokenizer.model_input_names}
    }
    return Encoded(fields, torch.zeros(len(ids)), padding(tokenizer), tokenizer.padding_side)


def _encode_words(split: Split, tokenizer: PreTrainedTokenizerBase, limit: int) -> Encoded:
    """Tokenize texts and find each word's first piece, whose outputs are the word's."""
    texts = [" ".join(text.split()) for text in split.columns["sentence"]]
    if not tokenizer.is_fast:
        raise DataError("Tagging words needs a fast tokenizer; add tokenizer.json to the model's folder.")
    encoded = _encode_texts(replace(split, columns={"text": tuple(texts)}), tokenizer, limit)
    options = {"truncation": True, "max_length": limit, "return_offsets_mapping": True}
    firsts = []
    for number, (text, offsets) in enumerate(zip(texts, tokenizer(texts, **options)["offset_mapping"], strict=True)):
        # A first piece may include the blank before its word, so the end of a piece tells its word.
        of = np.cumsum([sign == " " for sign in text])
        words = [int(of[end - 1]) if end > start and text[end - 1] != " " else -1 for start, end in offsets]
        places = {word: place for place, word in reversed([*enumerate(words)]) if word >= 0}
        lost = [word for word in range(of[-1] + 1) if word not in places]
        if lost and (number not in encoded.cut or lost[0] < max(places, default=-1)):
            gone = text.split()[lost[0]]
            raise DataError(f"{split.place(number)}: the tokenizer has no piece for the word {gone!r}; leave it out.")
        firsts.append(torch.tensor([places[word] for word in sorted(places)]))
    return replace(encoded, side="right", firsts=tuple(firsts))


def _encode_pictures(split: Split, reader: Reader, _: int) -> Encoded:
    """Encode pictures as pixels; an unreadable picture raises a `DataError`."""
    return Encoded({"pixel_values": Pixels(split.columns["picture"], reader)}, None, {})


#: How each kind of input is encoded, by the name of its first column.
ENCODERS: dict[str, Callable[[Split, Any, int], Encoded]] = {
    "text": _encode_texts,
    "lines": _encode_lines,
    "sentence": _encode_words,
    "picture": _encode_pictures,
}


def padding(tokenizer: PreTrainedTokenizerBase) -> dict[str, int]:
    """The padding value of each model input."""
    return {
        "input_ids": int(tokenizer.pad_token_id or 0),
        "token_type_ids": int(tokenizer.pad_token_type_id),
        "attention_mask": 0,
    }


def buckets(lengths: np.ndarray, size: int, *, seed: int, epoch: int) -> list[np.ndarray]:
    """The batches of one training epoch, as positions: every example once, similar lengths together, in random order.

    Examples are shuffled, sorted by length within pools of `POOL` batches, cut into batches of `size` (one may be
    smaller), and the batches shuffled.
    """
    generator = np.random.default_rng([seed, epoch, 0xB0C])
    pools = _cut(generator.permutation(len(lengths)), size * POOL)
    batches = [own for pool in pools for own in _cut(pool[np.argsort(lengths[pool], kind="stable")], size)]
    return [batches[i] for i in generator.permutation(len(batches))]


#: Batches per pool; examples are sorted by length within a pool.
POOL = 64


def by_length(lengths: np.ndarray, size: int) -> list[np.ndarray]:
    """Batches for evaluation, sorted by length: the longest first, so that memory runs out at once or never."""
    return _cut(np.argsort(-lengths, kind="stable"), size)


def by_tokens(lengths: np.ndarray, budget: int, padding: float = np.inf) -> list[np.ndarray]:
    """Batches, the longest examples first: as many as fit in `budget` tokens, of which at most `padding` are padding.

    An example of more than `budget` tokens is a batch by itself.
    """
    order, start = np.argsort(-lengths, kind="stable"), 0
    batches: list[np.ndarray] = []
    while start < len(order):
        own = order[start : start + max(1, budget // int(lengths[order[start]]))]
        wasted = (lengths[own[0]] - lengths[own]).cumsum()
        batches.append(own[: int(np.searchsorted(wasted, padding, side="right"))])
        start += len(batches[-1])
    return batches


def _cut(order: np.ndarray, size: int) -> list[np.ndarray]:
    return [order[start : start + size] for start in range(0, len(order), size)]
