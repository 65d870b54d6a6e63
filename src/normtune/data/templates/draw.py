"""Seeded draws of words, where the words of train and dev are kept apart."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from normtune.data.templates import lexicon
from normtune.data.templates.grammar import Noun, Verb

T = TypeVar("T")

_HELD_OUT_EVERY = 3


@dataclass(frozen=True)
class Name:
    """A given name.

    Attributes:
        text: The name.
        female: Whether it is a woman's.
    """

    text: str
    female: bool

    @property
    def subject(self) -> str:
        """*she* or *he*."""
        return "she" if self.female else "he"

    @property
    def possessive(self) -> str:
        """*her* or *his*."""
        return "her" if self.female else "his"

    @property
    def reflexive(self) -> str:
        """*herself* or *himself*."""
        return "herself" if self.female else "himself"


_NAMES = tuple(
    Name(text, female)
    for pair in zip(lexicon.WOMEN, lexicon.MEN, strict=True)
    for text, female in zip(pair, (True, False), strict=True)
)


class Draw:
    """A stream of random choices that is the same on every platform and Python.

    Only `random.Random.random` is used, since it alone is documented never to change for a seed.

    Args:
        key: The seed; streams of different keys are independent.
        held_out: Whether `own` gives the words that are held out of train.
        shifted: Whether topics are those that occur in neither train nor the matched dev.
    """

    def __init__(self, key: str, *, held_out: bool = False, shifted: bool = False) -> None:
        self._random = random.Random(key)
        self.held_out = held_out
        self.shifted = shifted

    def chance(self, probability: float = 0.5) -> bool:
        """True with `probability`."""
        return self._random.random() < probability

    def between(self, low: int, high: int) -> int:
        """A whole number from `low` to `high`, both included."""
        return low + int(self._random.random() * (high - low + 1))

    def pick(self, choices: Sequence[T]) -> T:
        """One of `choices`."""
        return choices[self.between(0, len(choices) - 1)]

    def several(self, choices: Sequence[T], count: int) -> list[T]:
        """`count` of `choices` at different places, in random order."""
        pool = list(choices)
        for i in range(count):
            j = self.between(i, len(pool) - 1)
            pool[i], pool[j] = pool[j], pool[i]
        return pool[:count]

    def other(self, choices: Sequence[T], *than: T) -> T:
        """One of `choices` that is none of `than`."""
        return self.pick([choice for choice in choices if choice not in than])

    def shuffled(self, items: Sequence[T]) -> list[T]:
        """The items in random order."""
        return self.several(items, len(items))

    def own(self, words: Sequence[T]) -> Sequence[T]:
        """The words of `words` that belong to this side: two thirds for train, every third one for dev."""
        last = _HELD_OUT_EVERY - 1
        return [word for i, word in enumerate(words) if (i % _HELD_OUT_EVERY == last) == self.held_out]

    def names(self, count: int) -> list[Name]:
        """Different given names of this side."""
        pairs = self.several(self.own(range(len(_NAMES) // 2)), count)
        return [_NAMES[2 * pair + self.between(0, 1)] for pair in pairs]

    def name(self) -> Name:
        """A given name of this side."""
        return self.names(1)[0]

    def couple(self) -> tuple[Name, Name]:
        """A woman's and a man's name, in random order."""
        one, two = self.several(self.own(range(len(_NAMES) // 2)), 2)
        first, second = self.shuffled((_NAMES[2 * one], _NAMES[2 * two + 1]))
        return first, second

    def people(self, count: int) -> list[Noun]:
        """Different occupations of this side."""
        return self.several(self.own(lexicon.PEOPLE), count)

    def cities(self, count: int) -> list[str]:
        """Different cities of this side."""
        return self.several(self.own(lexicon.CITIES), count)

    def city(self) -> str:
        """A city of this side."""
        return self.cities(1)[0]

    def full_names(self, count: int) -> list[str]:
        """Given names with surnames, all different."""
        surnames = self.several(self.own(lexicon.SURNAMES), count)
        return [f"{name.text} {surname}" for name, surname in zip(self.names(count), surnames, strict=True)]

    def thing(self) -> Noun:
        """An object that can be carried, of either side."""
        return self.pick(lexicon.THINGS)

    def adjective(self) -> str:
        """An adjective for a thing."""
        return self.pick(lexicon.THING_ADJECTIVES)

    def deed(self) -> Verb:
        """A verb for what one person does to another, which does not hold the other way round by itself."""
        return self.pick(lexicon.DEEDS)

    def act(self) -> Verb:
        """A verb for what a person does to a thing."""
        return self.pick(lexicon.HANDLINGS)

    def move(self) -> Verb:
        """A verb that takes no object."""
        return self.pick(lexicon.INTRANSITIVES)

    def time(self) -> str:
        """When something in the past happened."""
        return self.pick(lexicon.PAST_TIMES)
