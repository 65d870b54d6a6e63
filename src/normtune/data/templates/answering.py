"""Question-answer inference in QNLI's shape: does the sentence answer the question?

A sentence that does not always has something of the right sort: the right thing in the wrong relation, or the right
relation of the wrong thing.
"""

from __future__ import annotations

from normtune.data.templates.draw import Draw
from normtune.data.templates.grammar import Verb, phrases, question, sentence, verbs
from normtune.data.templates.lexicon import SURNAMES

_SITES = phrases(
    """Museum|Library|Theatre|Hotel|Bridge|Hospital|Tower|Gallery|School|Station|Palace|Stadium|Brewery|Chapel"""
    "|Garden|College|Institute|Market|Castle"
)
_WORKS = verbs(
    """restore buy/bought sell/sold reopen extend paint describe photograph inspect inherit finance rename close clean
    decorate insure"""
)
_PARTS = phrases(
    """rooms|paintings|windows|lifts|statues|steps|lamps|doors|guards|employees|archives|balconies|clocks|chairs"""
)
_REASONS = phrases(
    "because of a flood|because the roof was leaking|as a result of a strike|because it had become too small"
    "|on account of its age|because the money had run out|owing to a fire|because nobody came any more"
    "|due to a change in the law|because the walls had cracked"
)
_SCENES = phrases(
    "lies close to|stands opposite|shares a courtyard with|is often mistaken for|is smaller than|was modelled on"
)


def _sites(draw: Draw, count: int) -> list[str]:
    """Different places, each with a name of this side."""
    surnames = draw.several(draw.own(SURNAMES), count)
    return [f"the {surname} {site}" for surname, site in zip(surnames, draw.several(_SITES, count), strict=True)]


def _year(draw: Draw) -> str:
    return str(draw.between(1790, 2015))


def _years(draw: Draw) -> tuple[str, str]:
    """A year and a later one."""
    year = draw.between(1790, 1950)
    return str(year), str(year + draw.between(2, 65))


def _done(draw: Draw, site: str, verb: Verb, who: str, when: str) -> str:
    """That somebody did something to a place, with a time or without."""
    return draw.pick((
        f"{site} was {verb.participle} by {who} {when}",
        f"{who} {verb.past} {site} {when}",
        f"it was {who} who {verb.past} {site} {when}",
    ))


def who(draw: Draw, no: float) -> tuple[str, ...]:
    """The question asks who did it."""
    site, other = _sites(draw, 2)
    verb, second = draw.several(_WORKS, 2)
    one, two = draw.full_names(2)
    year, later = (f"in {year}" for year in _years(draw))
    asked = question(draw.pick(("who", "which person")), verb.past, site)
    if not no:
        rest = draw.pick(("", f"and {second.participle} {later}", f"and {second.participle} by {two}"))
        told = draw.pick((f"{site} was {verb.participle} by {one} {year} {rest}", _done(draw, site, verb, one, year)))
        also = f"{site}, which {two} {second.past}, was {verb.participle} by {one}"
        return asked, sentence(draw.pick((told, told, also)).strip())
    wrong = draw.pick((
        f"{site} was {verb.participle} {year} and {second.participle} by {one} {later}",
        _done(draw, site, second, one, year),
        f"{site}, which was {verb.participle} {year}, {draw.pick(_SCENES)} {other}, which {one} {verb.past}",
        f"{site} {draw.pick(_SCENES)} {other}, which was {verb.participle} by {one} {year}",
    ))
    return asked, sentence(wrong)


def when(draw: Draw, no: float) -> tuple[str, ...]:
    """The question asks for the time."""
    site, other = _sites(draw, 2)
    verb, second = draw.several(_WORKS, 2)
    one, two = draw.full_names(2)
    year, later = (f"in {year}" for year in _years(draw))
    asked = draw.pick((
        question("when was", site, verb.participle),
        question("in which year was", site, verb.participle),
    ))
    if not no:
        right = draw.pick((
            _done(draw, site, verb, one, year),
            f"{site} was {verb.participle} {year} and {second.participle} by {two}",
            f"{site}, which was {second.participle} by {two}, was {verb.participle} {year}",
            f"{year}, {one} {verb.past} {site}",
        ))
        return asked, sentence(right)
    wrong = draw.pick((
        f"{site} was {verb.participle} by {one} and {second.participle} {year}",
        f"{one}, who {verb.past} {site}, was born {year}",
        f"{site}, which {one} {verb.past}, was {second.participle} by {two} {later}",
        f"{one} {verb.past} {site} and, {year}, {second.past} {other}",
    ))
    return asked, sentence(wrong)


def where(draw: Draw, no: float) -> tuple[str, ...]:
    """The question asks for the place."""
    site, other = _sites(draw, 2)
    verb, (one,) = draw.pick(_WORKS), draw.full_names(1)
    city, elsewhere = draw.cities(2)
    asked = draw.pick((
        question("where is", site),
        question("in which city is", site),
        question("in which town does one find", site),
    ))
    year = f"in {_year(draw)}"
    age = draw.pick(("is older than", "was modelled on", "is often compared with"))
    right = (
        f"{site} in {city} was {verb.participle} by {one} {year}",
        f"{one}, who was born in {elsewhere}, {verb.past} {site} in {city}",
        f"{site}, which {age} {other}, lies in the middle of {city}",
        f"visitors to {city} often walk from {other} to {site} nearby",
        f"in {elsewhere}, hardly anyone has heard of {site} in {city}, which {one} {verb.past}",
    )
    wrong = (
        f"{site} was {verb.participle} {year} by {one}, who lived in {city}",
        f"{one}, who was born in {city}, {verb.past} {site} {year}",
        f"{other}, which {age} {site}, lies in the middle of {city}",
        f"visitors to {site} often walk to {other} nearby when they come from {city}",
        f"in {city}, hardly anyone has heard of {site}, which {one} {verb.past}",
    )
    return asked, sentence(draw.pick(wrong if no else right))


def how_many(draw: Draw, no: float) -> tuple[str, ...]:
    """The question asks for a number."""
    site, other = _sites(draw, 2)
    part, second = draw.several(_PARTS, 2)
    count, more = str(draw.between(12, 480)), str(draw.between(12, 480))
    year, (one,) = _year(draw), draw.full_names(1)
    asked = question("how many", part, draw.pick((f"does {site} have", f"are there in {site}")))
    right = (
        f"{site} has {count} {part} and {more} {second}",
        f"besides its {more} {second}, {site} has {count} {part}",
        f"there are {count} {part} in {site}, more than in {other}",
        f"{site}, which {one} visited in {year}, has {count} {part}",
    )
    wrong = (
        f"{site} has {count} {second} and a lot of {part}",
        f"besides its {part}, {site} has {count} {second}",
        f"there are {count} {part} in {other}, more than in {site}",
        f"{one} saw all the {part} of {site} in {year} within {count} minutes",
        f"{other}, which {one} compared with {site}, has {count} {part}",
    )
    return asked, sentence(draw.pick(wrong if no else right))


def what(draw: Draw, no: float) -> tuple[str, ...]:
    """The question asks for the thing to which it was done."""
    site, other = _sites(draw, 2)
    verb, second = draw.several(_WORKS, 2)
    one, two = draw.full_names(2)
    year, later = _years(draw)
    asked = draw.pick((question("what did", one, verb.base), question("which place did", one, verb.base)))
    right = (
        _done(draw, site, verb, one, f"in {year}"),
        f"{site}, which {two} {second.past} in {later}, was {verb.participle} by {one}",
        f"{one} and {two} {verb.past} {site} in {year}",
        f"{one} {second.past} {other} in {year} and {verb.past} {site} in {later}",
    )
    wrong = (
        _done(draw, site, second, one, f"in {year}"),
        f"{site}, which {one} {second.past} in {later}, was {verb.participle} by {two}",
        f"{one} {second.past} {site} in {year}, the year in which {two} {verb.past} {other}",
        f"{two}, a friend of {one}, {verb.past} {site} in {year}",
    )
    return asked, sentence(draw.pick(wrong if no else right))


def why(draw: Draw, no: float) -> tuple[str, ...]:
    """The question asks for the reason."""
    site, other = _sites(draw, 2)
    verb, second = draw.several(_WORKS, 2)
    one, _ = draw.full_names(2)
    reason, year = draw.pick(_REASONS), _year(draw)
    asked = draw.pick((
        question("why was", site, verb.participle),
        question("for what reason was", site, verb.participle),
    ))
    right = (
        f"{site} was {verb.participle} in {year} {reason}",
        f"{reason}, {site} was {verb.participle} by {one}",
        f"{site}, which was {second.participle} in {year}, was {verb.participle} {reason}",
        f"it was {reason} that {one} {verb.past} {site}",
    )
    wrong = (
        f"{site} was {verb.participle} in {year} and {second.participle} later {reason}",
        f"{reason}, {site} was {second.participle} by {one}",
        f"{site}, which was {verb.participle} in {year}, was {second.participle} {reason}",
        f"{one}, who {verb.past} {site}, also {verb.past} {other} {reason}",
        f"{site} was {verb.participle} in {year}, and nobody remembers why",
    )
    return asked, sentence(draw.pick(wrong if no else right))


_ASKED = (who, when, where, how_many, what, why)


def topic(draw: Draw, no: float) -> tuple[str, ...]:
    """The sentence answers, or it answers a question about something else."""
    asked, answer = draw.pick(_ASKED)(draw, 0)
    named = {word.strip("?,.") for word in asked.split()} & set(SURNAMES)
    while no and any(name in answer for name in named):
        _, answer = draw.pick(_ASKED)(draw, 0)
    return asked, answer


def kind(draw: Draw, no: float) -> tuple[str, ...]:
    """The sentence answers, or it is of the right place but has nothing of the sort that was asked for."""
    (site,) = _sites(draw, 1)
    (one,), city, year = draw.full_names(1), draw.city(), _year(draw)
    verb, count, part = draw.pick(_WORKS), str(draw.between(12, 480)), draw.pick(_PARTS)
    facts = {
        question("who", verb.past, site): sentence(site, "was", verb.participle, "by", one),
        question("when was", site, verb.participle): sentence(site, "was", verb.participle, "in", year),
        question("where is", site): sentence(site, "lies in", city),
        question("how many", part, "does", site, "have"): sentence(site, "has", count, part),
        question("why was", site, verb.participle): sentence(site, "was", verb.participle, draw.pick(_REASONS)),
        question("how old is", site): sentence(site, "is", count, "years old"),
    }
    asked = draw.pick(list(facts))
    return asked, facts[draw.other(list(facts), asked) if no else asked]


PHENOMENA = {
    "topic": topic,
    "kind": kind,
    "who": who,
    "when": when,
    "where": where,
    "how-many": how_many,
    "what": what,
    "why": why,
}
