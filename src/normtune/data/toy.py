"""The toy suite: eight tasks in GLUE's shapes from one small grammar, for tests, examples and machines without data.

It needs no other data and can have any size. It follows the approach of BLiMP (Warstadt et al., 2020), HANS (McCoy et
al., 2019) and CheckList (Ribeiro et al., 2020), with frames and words of its own. Scores on it are not GLUE scores.

A *frame* is an example with gaps. In a frame

- ``{city}`` is a word of that kind (see `toy_words.WORDS`), the same one at each occurrence; ``{city2}`` is another
  one, ``{act.past}`` a form of one; ``{w}``, ``{x}``, ``{y}`` and ``{z}`` are people;
- ``[a|b]`` has one part for each label, in the order of the class numbers;
- ``(a/b)`` is any of its parts;
- ``>`` stands between the two texts of a pair.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np

from normtune.data.glue_tasks import GLUE
from normtune.data.task import Split, Task, TaskData
from normtune.data.toy_words import APART, ELSEWHERE, WORDS, Word
from normtune.errors import DataError, known

T = TypeVar("T")

#: Sizes of the splits, and the seed that they are generated with.
TRAIN, DEV, SEED = 2000, 500, 0
# After this many draws in a row without a new example, a frame counts as exhausted.
_PATIENCE = 1000
# One word in this many of each kind in `APART` is dev's; the others are train's.
_DEV_EVERY = 3

#: The frames of each task, one a line; the second text may be on the next line. For similarity see `_marked`.
FRAMES: Mapping[str, str] = {
    "cola": """
        the {x} {near} the {y}s [were|was] {mood} {time}
        the {x}s {near} the {y} [was|were] {mood} {time}
        the {x} who {deed.past} the {y}s [have|has] {move.past} again in {city}
        the {x}s who {deed.past} the {y} [has|have] {move.past} again in {city}
        {name} {act.past} (these/those/many/several) {adjective} {thing}[|s] {time}
        {name} {act.past} (this/that/every/one) {adjective} {thing}[s|] {time}
        {man} said that {woman} {deed.past} [himself|herself] in {city}
        {woman} heard that {man} {deed.past} [herself|himself] in {city}
        {name} {act.past}[| the {adjective} {thing}] {time} in {city}
        {name} {move.past}[ the {adjective} {thing}|] {time} in {city}
        what did {name} {act}[ the {adjective} {thing}|] in {city}?
        did {name} {act}[| the {adjective} {thing}] in {city}?
        [the {x} that no|no {x} that the] {y} {deed.past} has ever {move.past} in {city}
        {name} {act.past} the [{thing} {adjective}|{adjective} {thing}] in {city}
        [{name} the {act.past}|{name} {act.past} the] {adjective} {thing} [{city} in|in {city}] {time}
        [{act.past} {name} in|{name} {act.past}] the {adjective} {thing} [{city}|in {city}]
        the {x} in {city} [{mood} was|was {mood}] and {act.past} [{thing} the|the {thing}]
        """,
    "sst2": """
        (this {work}/the {work} that {name} chose) is (truly/really/simply/quite) {good}
        the {aspect} of (this {work}/the {work} that {name} chose) is {good} and the rest is {good2}
        I {loved} (this {work}/the {work} that {name} chose), so {good} is the {aspect}
        what a {good} {work}, and how {good2} the {aspect} is
        this {work} is {good} and {good2}, and so is its {aspect}
        since the {aspect} of this {work} was {good}, I {loved} it
        {name} told us about a {good} {work}, and I {loved} it
        (this {work}/the {work} that {name} chose) (is anything but/is by no means/is not at all/was never) {bad}
        there is nothing {bad} about (this {work}/the {work} that {name} chose)
        although the {aspect} is {bad}, (this {work}/the {work} that {name} chose) is {good}
        for all its {bad} moments, (this {work}/the {work} that {name} chose) is {good}
        the {aspect} of this {work} is {bad}, but I {loved} it
        {name} expected a {bad} {work} and found a {good} one
        every other {work} I know is less {good} than this one
        (this {work}/the {work} that {name} chose) is less {bad} than any other I know
        {critics} find this {work} {good}, and they are right
        {critics} find this {work} {bad}, but they are wrong
        """,
    "mrpc": """
        the {x} {deed.past} the {y} in {city} {time} > {time}, the {[x|y]} was {deed.past} by the {[y|x]} in {city}
        the {x} was {deed.past} by the {y} in {city} > in {city}, the {[x|y]} {deed.past} the {[y|x]}
        the {x} {act.past} the {thing} {time} > {time}, the {x} {act.[opposite|same].past} the {thing}
        the {x} in {city} {act.[opposite|same].past} the {thing} > the {thing} was {act.past} by the {x} in {city}
        the {x} {act.past} {amount} {thing}s {time} > {time}, the {x} {act.past} {amount[2|].same} {thing}s
        the {x} [forgot|remembered] to {act} the {thing} {time} > {time}, the {x} did not forget to {act} the {thing}
        the {x} [remembered|forgot] to {act} the {thing} {time} > {time}, the {x} did not remember to {act} the {thing}
        the {x} {move.past} after the {y} had left > the {y} had left [after|before] the {x} {move.past}
        before the {x} {move.past}, the {y} {act.past} the {thing}
            > the {x} {move.past} [before|after] the {y} {act.past} it
        the {x} {act.past} the {thing} in {city} {time} > it was the {x[2|]} who {act.past} the {thing} {time} in {city}
        in {city}, the {x} {act.past} the {thing} > the {[y|x]} in {city} {act.past} the {thing[2|]}
        the {x} {move.past} in {city} {time} > {time}, it was the {x} in {city} who [{act.past} the {thing}|{move.past}]
        """,
    "stsb": """
        the {x} is {act.ing} the {thing} {where} {when} > {where*}, the {x*} is {act*.ing} the {thing*} {when*}
        the {x} is {act.ing} the {thing} {where} {when} > {when*}, the {x*} is {act*.ing} the {thing*} {where*}
        {where}, the {x} is {act.ing} the {thing} {when} > {when*}, the {x*} is {act*.ing} the {thing*} {where*}
        the {x} is {act.ing} the {thing} {where} {when} > it is the {x*} who is {act*.ing} the {thing*} {where*} {when*}
        the {x} is {act.ing} the {thing} {where} {when} > the {thing*} is being {act*.past} by the {x*} {where*} {when*}
        {when}, the {x.same} is {act.same.ing} the {thing} {where}
            > the {x*} is {act*.ing} the {thing*} {where*} {when*}
        the {x} is {act.ing} the {thing} {where} {when}
            > {when*.same}, the {x*} is {act*.ing} the {thing*.same} {where*.same}
        """,
    "qqp": """
        how can I learn {hobby} in {city}? > what is the best way to learn {hobby[2|]} in {city}?
        how do people in {city} get good at {hobby}? > what must I do in {city} to become good at {hobby[2|]}?
        is {hobby} hard for beginners in {city}?
            > [why do beginners enjoy {hobby}|how difficult is it to begin with {hobby}] in {city}?
        is there a club for {hobby} in {city}?
            > where can I [buy a book on {hobby} in|meet others who like {hobby} in] {city}?
        what do lessons in {hobby} cost in {city}?
            > what [is the weather like|do I pay for lessons in {hobby}] in {city}?
        how many people lived in {city} in {year}? > what was the population of {city[2|]} in {year}?
        is it safe to walk around {city} {when}? > how dangerous is {city[2|]} {when}?
        what should I see in {city} {when}?
            > which [hotels|sights] of {city} are worth a visit {when}?
        how do I get from {city} to {city2}? > what is the best way from {city[2|]} to {city[|2]}?
        how much is a ticket from {city} to {city2}? > what does a ticket to {city[|2]} from {city[2|]} cost?
        is {city} {scale} than {city2}? > would you say that {city2} is {scale[|.opposite]} than {city}?
        is {city} {scale} than {city2}? > would you say that {city} is {scale[.opposite|]} than {city2}?
        why should I take up {hobby} in {city}? > what are good reasons [not to|to] take up {hobby} in {city}?
        why should I not take up {hobby} in {city}? > what are good reasons [to|not to] take up {hobby} in {city}?
        who was born in {city} before {year}? > who was born in {city} [later|earlier] than {year}?
        who was born in {city} after {year}? > who was born in {city} [earlier|later] than {year}?
        """,
    "mnli": """
        the {x} and the {y} {move.past} {time} > the {y} [{move.past}|{move.past} with {name}|never {move.past} {time}]
        the {x} {act.past} this {thing} in {city}
            > [somebody {act.past} this {thing}|{name} {move.past}|nobody {act.past} this {thing}] in {city}
        in {city}, the {x} {move.past} {time}
            > the {[x|y|x]} [{move.past} {time}|{move.past} again|did not {move}] in {city}
        the {x} {act.past} the {thing} in {city}
            > the {x} [{act.past} the {thing}|{act2.past} the {thing2}|did not {act} the {thing}]
        the {x} and {name} {act.past} the {thing} > {name} [{act.past}|{act.past}|did not {act}] the {thing[|2|]}
        the {x}, who was very {mood}, {move.past} in {city} > the {x} was {mood[.same|2|.opposite]}
        [all|some|none] of the {x}s {move.past} in {city} > [some|all|some] of the {x}s {move.past} in {city}
        most of the {x}s {move.past} in {city} > [some|all|none] of the {x}s {move.past} in {city}
        the {x} {act.past} (six/seven/eight/nine) {thing}s
            > the {x} {act.past} [more than four|some old|less than four] {thing}s
        the {x} {move.past} before the {y} did > the {y} {move.past} [after the {x}|before the {z}|before the {x}] did
        the {x} {move.past} after the {y} did > the {y} {move.past} [before the {x}|after the {z}|after the {x}] did
        the {x} [noticed|hoped|noticed] that the {y} {move.past} > the {y} [{move.past}|{move.past}|did not {move}]
        the {x} [knew|said|knew] that the {y} did not {move} > the {y} [did not {move}|did not {move}|{move.past}]
        it is not true that the {x} {move.past} in {city}
            > the {x} [did not {move}|{move.past} with {name}|{move.past}] in {city}
        [both|one|neither] of the two {x}s {move.past} in {city} > the (younger/older) {x} {move.past} in {city}
        """,
    "qnli": """
        who {job.past} the {surname} {site}? > it was {name} who {job.past} the {surname[|2]} {site[|2]} in {year}
        when was the {surname} {site} {job.past}? > {name} {job.past} the {surname[|2]} {site[|2]} in {year}
        why was the {surname} {site} {job.past}? > the {surname[|2]} {site[|2]} was {job.past} by {name} {reason}
        who {job.past} the {surname} {site}? > the {surname} {site} was {job.past} [by {name}|in {year}]
        when was the {surname} {site} {job.past}? > the {surname} {site} was {job.past} [in {year}|by {name}]
        where is the {surname} {site}?
            > the {surname} {site} (lies/stands) [in the middle of {city}|beside the old {site2}]
        how old is the {surname} {site}? > the {surname} {site} (is/has) {number} [years old|{part}s]
        who {job.past} the {surname} {site}?
            > the {surname} {site} was {job[2|].past} in {year} and {job[|2].past} by {name}
        when was the {surname} {site} {job.past}?
            > the {surname} {site} was {job[2|].past} by {name} and {job[|2].past} in {year}
        why was the {surname} {site} {job.past}?
            > the {surname} {site} was {job[|2].past} {reason} and {job[2|].past} in {year}
        where is the {surname} {site}?
            > {name} [{job.past} the {surname} {site} in {city}|from {city} {job.past} the {surname} {site}]
        how many {part}s does the {surname} {site} have?
            > the {surname} {site} has {number} {part[|2]}s and many {part[2|]}s
        what did {name} {surname} {job}? > the {surname2} {site} was {job[|2].past} by {name} {surname} in {year}
        """,
    "rte": """
        the {x} {deed.past} the {y}, and the {z} {move.past} > the [{x}|{w}] {deed.past} the {y}
        the {x} {deed.past} the {y} {time} > the {x} {[deed|act].past} the {[y|thing]}
        {time}, the {x} [once more {deed.past}|refused to {deed}] the {y} > the {x} {deed.past} the {y}
        the {x} [managed to|did not] {deed} the {y} {time} > the {x} {deed.past} the {y}
        in {city}, the {x} [and|or] the {y} {move.past} > the {y} {move.past}
        the {x} {near} the {y} {deed.past} the {z} > the {[x|y]} {deed.past} the {z}
        the {x} {near} the {y} {move.past} {time} > the {[x|y]} {move.past}
        the {x} who {deed.past} the {y} {move.past} {time} > the {[x|y]} {move.past}
        the {x} that the {y} {deed.past} {move.past} {time} > the {[y|x]} {deed.past} the {[x|y]}
        the {x} {deed.past} the {y} who {deed2.past} the {z} > the {[y|x]} {deed2.past} the {z}
        the {x} was {deed.past} by the {y} in {city} > the {[y|x]} {deed.past} the {[x|y]}
        the {x} {deed.past} the {y} in {city} > the {[y|x]} was {deed.past} by the {[x|y]}
        the {x} and the {y} {deed.past} the {z} > the {[y|z]} {deed.past} the {[z|y]}
        the {x} {move.past} [because|if] the {y} {deed.past} the {z} > the {y} {deed.past} the {z}
        [although|unless] the {x} {deed.past} the {y}, the {z} {move.past} > the {x} {deed.past} the {y}
        """,
}
TOY: Mapping[str, Task] = {name: GLUE[name] for name in FRAMES}


def load_toy(name: str, _: Path | None) -> TaskData:
    """Generate a task, a key of `TOY`, at the suite's own size; no folder is read."""
    return generate(name, train=TRAIN, dev=DEV, seed=SEED)


def generate(name: str, *, train: int, dev: int, seed: int) -> TaskData:
    """Generate a task, a key of `TOY`, in memory, with this many examples in train and in each dev split.

    The same arguments give the same examples on every platform. A smaller train split is the start of a larger one.
    Every frame gives equally many examples of every label. No sentence of train is in a dev split: names and other
    words are divided between them. Texts are distinct within a split (pairs as pairs).

    Raises:
        UnknownNameError: If there is no such task.
        DataError: If the frames cannot give so many examples.
    """
    known("task of the toy suite", name, TOY)
    sizes = {"train": train, "dev": dev, **({"dev_mismatched": dev} if name == "mnli" else {})}
    splits = {split: _split(TOY[name], split, size, seed) for split, size in sizes.items()}
    return TaskData(TOY[name], splits, f"toy (seed {seed})")


def _split(task: Task, split: str, size: int, seed: int) -> Split:
    """Generate `size` distinct examples."""
    draw, words = Draw(f"toy/{task.name}/{split}/{seed}"), _words_of(split)
    examples: dict[tuple[str, ...], int] = {}
    for (frame, label), _ in zip(_cells(task, draw), range(size), strict=False):
        made = (_fill(frame, label, draw, words) for _ in range(_PATIENCE))
        texts = next((texts for texts in made if texts not in examples), None)
        if texts is None:
            raise DataError(
                f"The {split!r} split of the toy suite's {task.name!r} cannot have {size:,} examples: a frame gives no "
                f"more after {len(examples):,}; ask for at most that many."
            )
        examples[texts] = label
    columns = {name: tuple(texts[i] for texts in examples) for i, name in enumerate(task.inputs)}
    return Split(columns, np.array([*examples.values()], dtype=task.asks.dtype))


def _cells(task: Task, draw: Draw) -> Iterator[tuple[str, int]]:
    """All pairs of a frame and a label, in a new order each round, so that any prefix is balanced.

    Yields:
        A frame and a label, without end.
    """
    frames = [" ".join(frame.split()) for frame in re.split(r"\n(?!\s*>)", FRAMES[task.name].strip())]
    targets = range(len(task.labels) or 6)
    while True:
        yield from draw.shuffled([(frame, target) for frame in frames for target in targets])


def _fill(frame: str, label: int, draw: Draw, words: Mapping[str, Sequence[Word]]) -> tuple[str, ...]:
    """The texts of an example."""
    if "*" in frame:
        frame = _marked(frame, label, draw)
    frame = re.sub(r"\[(.*?)\]", lambda parts: parts[1].split("|")[label], frame)
    frame = re.sub(r"\((.*?)\)", lambda parts: draw.pick(parts[1].split("/")), frame)
    if label == 0 and "{good" in frame:
        words = {**words, "good": words["bad"], "bad": words["good"], "loved": words["hated"]}
    return tuple(_sentence(text) for text in frame.format_map(_Gaps(draw, words)).split(" > "))


def _marked(frame: str, label: int, draw: Draw) -> str:
    """Replace the stars of a similarity frame, which follow the five gaps of its second sentence.

    As many gaps as `label` says take the words of the first sentence, the others take other words.
    """
    for mark in draw.shuffled([""] * label + ["2"] * (5 - label)):
        frame = frame.replace("*", mark, 1)
    return frame


def _sentence(text: str) -> str:
    """A text with *a* or *an* by sound, a capital letter and a mark at the end."""
    text = re.sub(r"\ba (?=[aeio]|u[^s])", "an ", text)
    return text[0].upper() + text[1:] + ("" if text.endswith("?") else ".")


def _words_of(split: str) -> dict[str, Sequence[Word]]:
    """The words of a split: of every kind in `APART` train has two thirds and dev the rest."""
    found: dict[str, Sequence[Word]] = dict(WORDS)
    for kind in APART:
        held = WORDS[kind][::_DEV_EVERY]
        found[kind] = [word for word in WORDS[kind] if word not in held] if split == "train" else held
    found["name"] = [*found["woman"], *found["man"]]
    return {**found, **ELSEWHERE} if split == "dev_mismatched" else found


class _Gaps(dict[str, Word]):
    """The words in the gaps of a frame: each is drawn at its first lookup, and none twice."""

    def __init__(self, draw: Draw, words: Mapping[str, Sequence[Word]]) -> None:
        self._draw, self._words = draw, words

    def __missing__(self, gap: str) -> Word:
        kind = gap.rstrip("0123456789")
        choices = self._words["person" if kind in {"x", "y", "z", "w"} else kind]
        while (word := self._draw.pick(choices)) in self.values():
            pass
        self[gap] = word
        return word


class Draw:
    """A stream of random choices that is the same on every platform and Python.

    Only `random.Random.random` is used, since it alone is documented never to change for a seed. Streams of different
    keys are independent.
    """

    def __init__(self, key: str) -> None:
        self._random = random.Random(key)

    def pick(self, choices: Sequence[T]) -> T:
        """One of `choices`."""
        return choices[int(self._random.random() * len(choices))]

    def shuffled(self, choices: Sequence[T]) -> list[T]:
        """All of `choices`, in random order."""
        pool = list(choices)
        for i in range(len(pool) - 1):
            j = i + int(self._random.random() * (len(pool) - i))
            pool[i], pool[j] = pool[j], pool[i]
        return pool
