"""Acceptability in CoLA's shape: is the sentence good English?

Most phenomena are minimal contrasts of structure: the same words occur on both sides, and only how they go together
differs.
"""

from __future__ import annotations

from normtune.data.templates.draw import Draw, Name
from normtune.data.templates.grammar import question, sentence, verbs
from normtune.data.templates.lexicon import ALWAYS_TRANSITIVE, MOODS, NEVER_TRANSITIVE

_PLACED = ("near", "behind", "beside", "next to", "opposite", "in front of")
_SELF_DEEDS = verbs(
    """praise blame hurt/hurt cut/cut introduce describe defend criticise photograph encourage comfort protect
    embarrass admire"""
)
# What takes a mind, so that no thing can do it.
_PERSONAL = verbs(
    "apologise complain hesitate gossip lie/lied resign pray whisper giggle frown faint smile sneeze blush laugh yawn"
)
# Adjectives for persons and for things.
_EITHER = ("old", "strange", "large", "ordinary", "beautiful", "new")
_KIN = (("brother", False), ("sister", True), ("uncle", False), ("aunt", True), ("father", False), ("mother", True))
_SINGULAR_DETERMINERS = ("this", "that", "every", "each", "one", "another")
_PLURAL_DETERMINERS = ("these", "those", "many", "several", "few", "both")


def agreement(draw: Draw, good: float) -> tuple[str, ...]:
    """The verb agrees with its subject, or with the noun that stands between them."""
    head, other = draw.people(2)
    plural, other_plural = draw.chance(), draw.chance()
    between = draw.pick((
        f"{draw.pick(_PLACED)} the {other.form(other_plural)}",
        f"who {draw.deed().past} the {other.form(other_plural)}",
        f"that the {other.form(other_plural)} {draw.deed().past}",
        "",
    ))
    return (sentence("the", head.form(plural), between, _predicate(draw, plural == bool(good))),)


def _predicate(draw: Draw, plural: bool) -> str:
    mood, move, time = draw.pick(MOODS), draw.move(), draw.time()
    return draw.pick((
        f"{'are' if plural else 'is'} {mood}",
        f"{'were' if plural else 'was'} {mood} {time}",
        f"{'have' if plural else 'has'} {draw.pick(NEVER_TRANSITIVE).participle} again",
        f"always {move.present(plural)} in {draw.city()}",
    ))


def determiner(draw: Draw, good: float) -> tuple[str, ...]:
    """The determiner fits the number of its noun, across an adjective."""
    plural = draw.chance()
    shown = draw.pick(_PLURAL_DETERMINERS if plural else _SINGULAR_DETERMINERS)
    noun = draw.thing().form(plural == bool(good))
    name, act, person = draw.name().text, draw.act(), draw.people(1)[0]
    phrase = f"{shown} {draw.adjective()} {noun}"
    return draw.pick((
        (sentence(name, act.past, phrase, draw.time()),),
        (sentence("the", person.form(draw.chance()), "will", act.base, phrase, "in", draw.city()),),
        (sentence(name, "wanted to", act.base, phrase),),
    ))


def reflexive(draw: Draw, good: float) -> tuple[str, ...]:
    """The reflexive agrees with the subject of its own clause, not with another person named before it."""
    verb = draw.pick(_SELF_DEEDS)
    outer, inner = draw.couple()
    ending = draw.pick((f"in {draw.city()}", draw.time()))
    kin, kin_female = draw.pick(_KIN)
    pronoun = draw.pick((("I", "myself"), ("we", "ourselves"), ("they", "themselves")))
    swapped = draw.pick([own for own in ("myself", "ourselves", "themselves") if own != pronoun[1]])
    by_name = inner.reflexive if good else outer.reflexive
    by_kin = Name(kin, kin_female == bool(good)).reflexive
    claim = draw.pick(("said", "thought", "believed", "heard"))
    return draw.pick((
        (sentence(outer.text, claim, "that", inner.text, verb.past, by_name, ending),),
        (sentence(inner.text, verb.past, by_name, ending),),
        (sentence(f"{outer.text}'s {kin}", verb.past, by_kin, ending),),
        (sentence(outer.text, claim, "that", pronoun[0], verb.past, pronoun[1] if good else swapped, ending),),
    ))


def polarity(draw: Draw, good: float) -> tuple[str, ...]:
    """*Ever* and *any* stand within the reach of a negation, or beside one that does not reach them."""
    one, two = (person.singular for person in draw.people(2))
    verb, name, city = draw.deed(), draw.name().text, draw.city()
    no, some = draw.pick(("no", "not a single", "not one")), draw.pick(("the", "this"))
    first, second = (no, some) if good else (some, no)
    act, things = draw.act(), draw.thing().plural
    did, does = (verb.past, f"did not {act.base}") if good else (f"did not {verb.base}", act.past)
    return draw.pick((
        (sentence(first, one, "that", second, two, verb.past, "has ever visited", city),),
        (
            sentence(
                first, one, "has ever", act.participle, draw.pick(("this", "the")), draw.thing().singular, "in", city
            ),
        ),
        (sentence(name, ", who", did, "the", two, ",", does, "any", draw.adjective(), things),),
        (sentence("the", one, "who", did, name, does, "any", things),),
    ))


def argument(draw: Draw, good: float) -> tuple[str, ...]:
    """A verb has the object that it needs, and none that it cannot have."""
    # Verbs of either kind are on both sides, though not equally often, so that there is something easy to begin with.
    transitive = draw.chance(0.75 if good else 0.25)
    verb = draw.pick(ALWAYS_TRANSITIVE if transitive else NEVER_TRANSITIVE)
    thing = f"the {draw.adjective()} {draw.thing().singular}" if transitive == bool(good) else ""
    subject = draw.pick((draw.name().text, f"the {draw.people(1)[0].singular}"))
    where = f"in {draw.city()}"
    return draw.pick((
        (sentence(subject, verb.past, thing, draw.time()),),
        (sentence(subject, "has", verb.participle, thing, where),),
        (sentence(subject, "wants to", verb.base, thing, where),),
    ))


def gap(draw: Draw, good: float) -> tuple[str, ...]:
    """A question word has one gap to fill, and the gap is in a place from which it can be asked."""
    one, two = (name.text for name in draw.names(2))
    verb, idle, thing = draw.pick(ALWAYS_TRANSITIVE), draw.pick(NEVER_TRANSITIVE), f"the {draw.thing().singular}"
    asks = draw.chance()
    filler = thing if asks != bool(good) else ""
    when, claim = draw.pick(("after", "before", "while", "because")), draw.pick(("say", "think", "believe", "claim"))
    island = (
        f"what did {one} {verb.base} {when} {two} {idle.past}"
        if good
        else f"what did {one} {idle.base} {when} {two} {verb.past}"
    )
    return draw.pick((
        (question(island),),
        (question("what did" if asks else "did", one, claim, "that", two, verb.past, filler),),
        (sentence(thing, "that", one, verb.past, "" if good else "it", draw.time(), "belongs to", two),),
        (sentence(one, "knows", "what" if asks else "that", two, verb.past, filler, "in", draw.city()),),
    ))


def selection(draw: Draw, good: float) -> tuple[str, ...]:
    """What only a person can do is done by a person, not by a thing."""
    doer = f"{draw.pick(_EITHER)} {(draw.people(1)[0] if good else draw.thing()).singular}"
    whose, move = draw.name().text, draw.pick(_PERSONAL)
    return draw.pick((
        (sentence(f"{whose}'s", doer, move.past, draw.time()),),
        (sentence("the", doer, "that", whose, "mentioned has", move.participle, "in", draw.city()),),
    ))


def order(draw: Draw, good: float) -> tuple[str, ...]:
    """The words of a simple sentence stand in their order, or in none."""
    words = _simple(draw).split()
    if good:
        return (sentence(*words),)
    place = words.index("the")
    fits = words[place + 1 : place + 3]
    shuffled = draw.shuffled(words)
    # Whatever the order, it is bad English if neither the adjective nor the noun comes after the article.
    while shuffled[(shuffled.index("the") + 1) % len(words)] in fits:
        shuffled = draw.shuffled(words)
    return (sentence(*shuffled),)


def phrase(draw: Draw, good: float) -> tuple[str, ...]:
    """The sentence goes on to its end, and nothing is left out or said twice on the way."""
    told = _simple(draw)
    if good:
        return (sentence(told),)
    words = told.split()
    place = words.index("the")
    wrong = (
        words[: place + 1],
        [*words[: place - 1], *words[place:]],
        [*words[:place], *words[place + 1 :]],
        [*words[:place], draw.act().past, *words[place:]],
        [*words[: place + 1], "a", *words[place + 1 :]],
        [*words[:place], "a", *words[words.index("in") :]],
    )
    return (sentence(*draw.pick(wrong)),)


def _simple(draw: Draw) -> str:
    name, verb, thing = draw.name().text, draw.act().past, f"the {draw.adjective()} {draw.thing().singular}"
    return f"{name} {verb} {thing} in {draw.city()} {draw.time()}"


PHENOMENA = {
    "selection": selection,
    "order": order,
    "phrase": phrase,
    "agreement": agreement,
    "determiner": determiner,
    "reflexive": reflexive,
    "polarity": polarity,
    "argument": argument,
    "gap": gap,
}
