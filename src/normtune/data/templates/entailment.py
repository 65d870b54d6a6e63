"""Entailment in RTE's shape: does the second sentence follow from the first?

Mostly all words of the second sentence occur in the first, whether it follows or not.
"""

from __future__ import annotations

from normtune.data.templates.draw import Draw
from normtune.data.templates.grammar import phrases, sentence
from normtune.data.templates.lexicon import DEEDS

_NEAR = phrases("near|behind|beside|next to|opposite|with the brother of|in front of")
# Whether a clause after these words is so.
_HOLDS = phrases("because|after|since|as soon as|although|now that")
_OPEN = phrases("if|unless|assuming that|whether or not|in the event that|provided that")


def _cast(draw: Draw, count: int) -> list[str]:
    """Different people, by name or by occupation."""
    occupations = [f"the {person.singular}" for person in draw.people(count)]
    names = [name.text for name in draw.names(count)]
    return [names[i] if draw.chance(0.25) else occupations[i] for i in range(count)]


def _scene(draw: Draw, premise: str, hypothesis: str) -> tuple[str, ...]:
    """The two sentences, the first with circumstances that have no bearing on the second."""
    time, city = draw.time(), draw.city()
    told = draw.pick((
        sentence(premise),
        sentence(premise, time),
        sentence(f"{time},", premise),
        sentence(f"in {city},", premise),
    ))
    return told, sentence(hypothesis)


def overlap(draw: Draw, no: float) -> tuple[str, ...]:
    """Who does it to whom, in a clause with a third person in it."""
    one, two, three = _cast(draw, 3)
    past, near = draw.deed().past, draw.pick(_NEAR)
    premise = draw.pick((f"{one} {near} {three} {past} {two}", f"{one} {past} {two} {near} {three}"))
    wrong = (f"{two} {past} {one}", f"{three} {past} {one}", f"{two} {past} {three}")
    return _scene(draw, premise, draw.pick(wrong) if no else f"{one} {past} {two}")


def subsequence(draw: Draw, no: float) -> tuple[str, ...]:
    """A string of the premise that looks like a clause of its own, and may be one."""
    one, two, three = _cast(draw, 3)
    past, move = draw.deed().past, draw.move().past
    plain = (
        (f"{one} and {two} {move}", f"{two} {move}"),
        (f"{one} {past} {two}, and {three} {move}", f"{three} {move}"),
        (f"{three}, together with {two}, {past} {one}", f"{three} {past} {one}"),
    )
    broken = (
        (f"{one} {draw.pick(_NEAR)} {two} {move}", f"{two} {move}"),
        (f"the friend of {one} who {past} {two} {move}", f"{two} {move}"),
        (f"{one} or {two} {move}", f"{two} {move}"),
        (f"a friend of {three} {past} {two}", f"{three} {past} {two}"),
    )
    return _scene(draw, *draw.pick(broken if no else plain))


def constituent(draw: Draw, no: float) -> tuple[str, ...]:
    """A whole clause of the premise, under a word that asserts it or leaves it open, beside the opposite or alone."""
    one, two, three, four = _cast(draw, 4)
    past = draw.deed().past
    inner = draw.pick((f"{one} {past} {two}", f"{one} {draw.move().past}"))
    outer = f"{three} {draw.move().past}"
    firm, open_ = draw.pick(_HOLDS), draw.pick(_OPEN)
    asked, beside = (open_, firm) if no else (firm, open_)
    alone = (f"{asked} {inner}, {outer}", f"{outer} {asked} {inner}")
    other = f"{beside} {four} {draw.move().past}"
    both = draw.shuffled((f"{outer} {asked} {inner}", f"{draw.name().text} {draw.move().past} {other}"))
    return _scene(draw, draw.pick((*alone, ", but ".join(both))), inner)


def passive(draw: Draw, no: float) -> tuple[str, ...]:
    """Active from passive, or passive from active, with the roles kept or exchanged."""
    one, two, three = _cast(draw, 3)
    verb, move = draw.deed(), draw.move().past
    active, voiced = f"{one} {verb.past} {two}", f"{two} was {verb.participle} by {one}"
    turned, wrong = f"{two} {verb.past} {one}", f"{one} was {verb.participle} by {two}"
    extra = draw.pick(("", f", and {three} {move}"))
    if draw.chance():
        return _scene(draw, f"{voiced}{extra}", turned if no else active)
    return _scene(draw, f"{active}{extra}", wrong if no else voiced)


def conjunction(draw: Draw, no: float) -> tuple[str, ...]:
    """Which subject goes with which verb and which object."""
    one, two, three = _cast(draw, 3)
    verb, other = (deed.past for deed in draw.several(DEEDS, 2))
    move = draw.move().past
    cases = (
        (f"{one} and {two} {verb} {three}", f"{two} {verb} {three}", f"{one} {verb} {two}"),
        (f"{one} {verb} {two} and {three}", f"{one} {verb} {three}", f"{two} {verb} {three}"),
        (f"{one} {verb} {two} and {other} {three}", f"{one} {other} {three}", f"{two} {other} {three}"),
        (f"{one} {verb} {two}, and {three} {move}", f"{three} {move}", f"{two} {move}"),
        (f"{one} {move}, and {two} {verb} {three}", f"{two} {verb} {three}", f"{one} {verb} {three}"),
    )
    premise, right, wrong = draw.pick(cases)
    return _scene(draw, premise, wrong if no else right)


def relative(draw: Draw, no: float) -> tuple[str, ...]:
    """Who does what in a relative clause, and who in the main clause."""
    one, two, three = (f"the {person.singular}" for person in draw.people(3))
    verb, other, move = draw.deed().past, draw.deed().past, draw.move().past
    cases = (
        (
            f"{one} who {verb} {two} {move}",
            (f"{one} {verb} {two}", f"{one} {move}"),
            (f"{two} {move}", f"{two} {verb} {one}"),
        ),
        (
            f"{one} that {two} {verb} {move}",
            (f"{two} {verb} {one}", f"{one} {move}"),
            (f"{two} {move}", f"{one} {verb} {two}"),
        ),
        (
            f"{one} {other} {two} who {verb} {three}",
            (f"{two} {verb} {three}",),
            (f"{one} {verb} {three}", f"{three} {verb} {two}"),
        ),
        (
            f"{one} {other} {two} that {three} {verb}",
            (f"{three} {verb} {two}",),
            (f"{two} {verb} {three}", f"{one} {verb} {three}"),
        ),
    )
    premise, right, wrong = draw.pick(cases)
    return _scene(draw, premise, draw.pick(wrong if no else right))


def content(draw: Draw, no: float) -> tuple[str, ...]:
    """Part of what was said, or something of which nothing was said."""
    one, two, three, four = _cast(draw, 4)
    told = f"{one} {draw.deed().past} {two}"
    premise = f"{told}, and {three} {draw.move().past}"
    wrong = draw.pick((f"{four} {draw.move().past}", f"{four} {draw.deed().past} {three}"))
    return _scene(draw, premise, wrong if no else told)


def detail(draw: Draw, no: float) -> tuple[str, ...]:
    """Less than was said, or something else of the same event."""
    one, two = _cast(draw, 2)
    kinds = (f"in {draw.city()}", draw.time(), f"in order to please {draw.name().text}", "more than once")
    said, other = draw.several(kinds, 2)
    told = f"{one} {draw.deed().past} {two}"
    if no:
        return sentence(told, said), sentence(told, other)
    both = draw.chance()
    return sentence(told, said, other if both else ""), sentence(told, draw.pick((said, other)) if both else "")


def denial(draw: Draw, no: float) -> tuple[str, ...]:
    """What was done, or what was not."""
    one, two = _cast(draw, 2)
    verb = draw.deed()
    done = draw.pick((f"did indeed {verb.base}", f"managed to {verb.base}", f"once more {verb.past}"))
    undone = draw.pick((f"did not {verb.base}", f"refused to {verb.base}", f"never {verb.past}"))
    return _scene(draw, f"{one} {undone if no else done} {two}", f"{one} {verb.past} {two}")


PHENOMENA = {
    "content": content,
    "detail": detail,
    "denial": denial,
    "overlap": overlap,
    "subsequence": subsequence,
    "constituent": constituent,
    "passive": passive,
    "conjunction": conjunction,
    "relative": relative,
}
