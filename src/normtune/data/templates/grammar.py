"""English morphology and typography: the forms of verbs and nouns, articles, and what makes a string a sentence."""

from __future__ import annotations

import re
from dataclasses import dataclass


def words(text: str) -> tuple[str, ...]:
    """Words separated by spaces."""
    return tuple(text.split())


# Verbs of more than one syllable double by stress, which spelling does not show, so doubling is listed, not derived.
_DOUBLING = frozenset(
    words(
        """admit beg begin cancel chat chop clap cut drag drop fit forget get grab grin hit hug jog knit label let mop
        nap pat permit pet pin plan plug pop quit refer regret rip rob rub run set shop shut sip sit skip slip snap
        step stir stop swim tap tip trap travel trim trot wrap"""
    )
)
# Words whose first letter misleads: sounded vowels spelt with a consonant, and the reverse.
_AN_ANYWAY = ("heir", "honest", "honour", "hour")
_A_ANYWAY = ("euro", "one", "uni", "use", "usual", "utensil")


@dataclass(frozen=True)
class Verb:
    """A verb with its forms; of a phrasal verb only the first word is inflected.

    Attributes:
        base: Infinitive without *to*.
        past: Simple past.
        participle: Past participle.
    """

    base: str
    past: str
    participle: str

    @property
    def third(self) -> str:
        """Third person singular of the present."""
        stem, rest = _head(self.base)
        return ("has" if stem == "have" else _sibilant(stem)) + rest

    @property
    def gerund(self) -> str:
        """The form in *-ing*."""
        stem, rest = _head(self.base)
        if stem.endswith("ie"):
            return stem[:-2] + "ying" + rest
        if stem.endswith("e") and not stem.endswith(("ee", "oe", "ye")):
            return stem[:-1] + "ing" + rest
        return stem + (stem[-1] if stem in _DOUBLING else "") + "ing" + rest

    def present(self, plural: bool) -> str:
        """The present form that agrees with a plural or a third-person singular subject."""
        return self.base if plural else self.third


@dataclass(frozen=True)
class Noun:
    """A countable noun.

    Attributes:
        singular: Its singular.
        plural: Its plural.
    """

    singular: str
    plural: str

    def form(self, plural: bool) -> str:
        """The plural if `plural`, else the singular."""
        return self.plural if plural else self.singular


def verbs(text: str) -> tuple[Verb, ...]:
    """Verbs from words like ``thank``, ``throw_away/threw_away/thrown_away`` or ``buy/bought`` (participle = past)."""
    return tuple(verb(word) for word in text.split())


def verb(word: str) -> Verb:
    """One verb, written as `verbs` reads them."""
    forms = [form.replace("_", " ") for form in word.split("/")]
    if len(forms) == 1:
        forms.append(_regular_past(forms[0]))
    return Verb(forms[0], forms[1], forms[-1])


def nouns(text: str) -> tuple[Noun, ...]:
    """Nouns from words like ``doctor``, ``child/children`` or ``train_driver``."""
    return tuple(noun(word) for word in text.split())


def noun(word: str) -> Noun:
    """One noun, written as `nouns` reads them."""
    forms = [form.replace("_", " ") for form in word.split("/")]
    return Noun(forms[0], forms[1] if len(forms) > 1 else _sibilant(forms[0]))


def phrases(text: str) -> tuple[str, ...]:
    """Phrases separated by bars, with the space around them dropped."""
    return tuple(" ".join(phrase.split()) for phrase in text.split("|"))


def article(phrase: str) -> str:
    """`phrase` with *a* or *an* before it, by sound."""
    lower = phrase.lower()
    vowel = lower.startswith(_AN_ANYWAY) or (lower[0] in "aeiou" and not lower.startswith(_A_ANYWAY))
    return f"{'an' if vowel else 'a'} {phrase}"


def listing(items: tuple[str, ...] | list[str], word: str = "and") -> str:
    """Items joined as a list in a sentence: ``a, b and c``."""
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} {word} {items[-1]}"


def sentence(*parts: str, end: str = ".") -> str:
    """Parts joined by single spaces, the empty ones dropped, with a capital first letter and a closing mark."""
    text = re.sub(r" ,", ",", " ".join(part for part in parts if part))
    return text[0].upper() + text[1:] + end


def question(*parts: str) -> str:
    """A sentence that closes with a question mark."""
    return sentence(*parts, end="?")


def _head(base: str) -> tuple[str, str]:
    stem, space, rest = base.partition(" ")
    return stem, space + rest


def _sibilant(stem: str) -> str:
    if re.search(r"[^aeiou]y$", stem):
        return stem[:-1] + "ies"
    return stem + ("es" if stem.endswith(("s", "x", "z", "ch", "sh", "go", "do", "ato")) else "s")


def _regular_past(base: str) -> str:
    stem, rest = _head(base)
    if stem.endswith("e"):
        return stem + "d" + rest
    if re.search(r"[^aeiou]y$", stem):
        return stem[:-1] + "ied" + rest
    return stem + (stem[-1] if stem in _DOUBLING else "") + "ed" + rest
