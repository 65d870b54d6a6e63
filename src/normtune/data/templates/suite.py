"""The embedded suite: eight tasks in GLUE's shapes, generated from grammars of our own.

It needs no data from elsewhere, has any size, and breaks down by *phenomenon*: every example tests one named thing. The
manner is that of BLiMP (Warstadt et al., 2020), HANS (McCoy et al., 2019) and CheckList (Ribeiro et al., 2020); the
grammars and the words are not theirs. Scores on it are not GLUE scores.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np

from normtune.data.glue_tasks import GLUE
from normtune.data.task import Split, Task, TaskData
from normtune.data.templates import (
    acceptability,
    answering,
    duplicates,
    entailment,
    inference,
    paraphrase,
    sentiment,
    similarity,
)
from normtune.data.templates.draw import Draw
from normtune.errors import ConfigError, DataError, UnknownNameError

SOURCE = "templates"
# So many draws in a row without a new example mean that a phenomenon has hardly any left.
_PATIENCE = 1_000

Maker = Callable[[Draw, float], tuple[str, ...]]


@dataclass(frozen=True)
class Grammar:
    """How the examples of a task are made.

    Attributes:
        task: What is asked.
        phenomena: For each phenomenon a function that draws the texts of an example with a given label.
        targets: The labels, of which every phenomenon gives equally many.
        common: Phenomena that come once more in a round for every time that they stand here: the plain ones, with
            which learning begins.
        shifted: Whether there is a second dev split, on topics that train has not.
    """

    task: Task
    phenomena: Mapping[str, Maker]
    targets: tuple[float, ...] = (0, 1)
    common: tuple[str, ...] = ()
    shifted: bool = False


def _grammar(
    name: str,
    phenomena: Mapping[str, Maker],
    about: str,
    *,
    targets: tuple[float, ...] = (0, 1),
    common: tuple[str, ...] = (),
    shifted: bool = False,
) -> Grammar:
    return Grammar(replace(GLUE[name], about=about), phenomena, targets, common, shifted)


_LIST = (
    _grammar(
        "cola",
        acceptability.PHENOMENA,
        "Is the sentence good English?",
        common=("order", "order", "phrase", "selection"),
    ),
    _grammar("sst2", sentiment.PHENOMENA, "Does the reviewer like it?"),
    _grammar("mrpc", paraphrase.PHENOMENA, "Do two sentences of the news say the same?", common=("event", "action")),
    _grammar("stsb", similarity.PHENOMENA, "How alike are two sentences, from 0 to 5?", targets=(0, 1, 2, 3, 4, 5)),
    _grammar("qqp", duplicates.PHENOMENA, "Do two questions ask the same?", common=("topic", "entity")),
    _grammar(
        "mnli",
        inference.PHENOMENA,
        "Does the second sentence follow, contradict, or neither?",
        targets=(0, 1, 2),
        common=("content", "addition"),
        shifted=True,
    ),
    _grammar("qnli", answering.PHENOMENA, "Does the sentence answer the question?", common=("topic", "kind")),
    _grammar(
        "rte", entailment.PHENOMENA, "Does the second sentence follow from the first?", common=("content", "denial")
    ),
)
GRAMMARS: Mapping[str, Grammar] = {grammar.task.name: grammar for grammar in _LIST}
TEMPLATES: Mapping[str, Task] = {name: grammar.task for name, grammar in GRAMMARS.items()}
PHENOMENA: Mapping[str, tuple[str, ...]] = {name: tuple(grammar.phenomena) for name, grammar in GRAMMARS.items()}


def generate(name: str, *, train: int, dev: int, seed: int) -> TaskData:
    """Makes a task's data in memory.

    The same arguments give the same examples on every platform. A smaller train split is a prefix of a larger one.
    Every phenomenon gives equally many examples of every label, and every label is right. No sentence of train occurs
    in a dev split: names and other words are divided between them. Texts are distinct within a split (pairs as pairs).

    Args:
        name: A key of `TEMPLATES`.
        train: Number of train examples.
        dev: Number of examples in each dev split.
        seed: Seed of all draws.

    Returns:
        The task with ``train`` and ``dev``, for ``mnli`` also ``dev_mismatched``; tags name the phenomena.

    Raises:
        UnknownNameError: If the suite has no such task.
        ConfigError: If a size is negative.
    """
    if name not in GRAMMARS:
        raise UnknownNameError("task of the embedded suite", name, GRAMMARS)
    if min(train, dev) < 0:
        raise ConfigError(f"The sizes of splits cannot be negative: train {train}, dev {dev}.")
    return build(GRAMMARS[name], train=train, dev=dev, seed=seed)


def build(grammar: Grammar, *, train: int, dev: int, seed: int) -> TaskData:
    """Makes the data of any grammar; see `generate`.

    Args:
        grammar: How examples are made.
        train: Number of train examples.
        dev: Number of examples in each dev split.
        seed: Seed of all draws.

    Returns:
        The task with its splits.
    """
    taken: set[str] = set()
    splits = {"train": _split(grammar, "train", train, seed, taken)}
    taken.update(_sentences(splits["train"]))
    splits["dev"] = _split(grammar, "dev", dev, seed, taken)
    if grammar.shifted:
        splits["dev_mismatched"] = _split(grammar, "dev_mismatched", dev, seed, taken)
    return TaskData(grammar.task, splits, f"{SOURCE} (seed {seed})")


def _split(grammar: Grammar, split: str, size: int, seed: int, taken: set[str]) -> Split:
    """So many distinct examples, none of them with a sentence in `taken`.

    Raises:
        DataError: If the grammar cannot give so many.
    """
    key = f"{grammar.task.name}/{split}/{seed}"
    draw = Draw(key, held_out=split != "train", shifted=split == "dev_mismatched")
    seen: set[tuple[str, ...]] = set()
    examples: list[tuple[tuple[str, ...], float, str]] = []
    for (phenomenon, target), _ in zip(_cells(grammar, Draw(f"{key}/order")), range(size), strict=False):
        texts = _fresh(grammar.phenomena[phenomenon], draw, target, seen, taken)
        if texts is None:
            raise DataError(
                f"The {split!r} split of the embedded {grammar.task.name!r} cannot have {size:,} examples: "
                f"phenomenon {phenomenon!r} gives no more after {len(examples):,}; ask for at most that many."
            )
        examples.append((texts, target, phenomenon))
    return _gathered(grammar.task, examples)


def _cells(grammar: Grammar, draw: Draw) -> Iterator[tuple[str, float]]:
    """All pairs of a phenomenon and a label, round after round in a new order, so that any prefix is balanced.

    The common phenomena come more than once in a round.

    Yields:
        A phenomenon and a label, without end.
    """
    cells = [(phenomenon, target) for phenomenon in (*grammar.phenomena, *grammar.common) for target in grammar.targets]
    while True:
        yield from draw.shuffled(cells)


def _fresh(
    make: Maker, draw: Draw, target: float, seen: set[tuple[str, ...]], taken: set[str]
) -> tuple[str, ...] | None:
    """Texts that are not in `seen`, to which they are added, or None where none are found."""
    for _ in range(_PATIENCE):
        texts = make(draw, target)
        folded = tuple(text.casefold() for text in texts)
        if folded not in seen and len(set(folded)) == len(folded) and taken.isdisjoint(folded):
            seen.add(folded)
            return texts
    return None


def _gathered(task: Task, examples: list[tuple[tuple[str, ...], float, str]]) -> Split:
    return Split(
        texts=tuple(texts[0] for texts, _, _ in examples),
        pairs=tuple(texts[1] for texts, _, _ in examples) if task.pair else None,
        labels=np.array(
            [target for _, target, _ in examples], dtype=np.int64 if task.kind == "classification" else np.float64
        ),
        tags=tuple(phenomenon for _, _, phenomenon in examples),
    )


def _sentences(split: Split) -> Iterator[str]:
    for column in (split.texts, split.pairs or ()):
        yield from (text.casefold() for text in column)
