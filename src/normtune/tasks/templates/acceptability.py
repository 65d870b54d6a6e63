"""Acceptability in CoLA's shape: is the sentence good English?

Every phenomenon is a minimal contrast of structure: the words that occur are the same on both sides, and only how they
go together differs.
"""

from __future__ import annotations

from normtune.tasks.templates.draw import Draw, Name
from normtune.tasks.templates.grammar import Verb, question, sentence, verbs
from normtune.tasks.templates.lexicon import ALWAYS_TRANSITIVE, MOODS, NEVER_TRANSITIVE

_PLACED = ("near", "behind", "beside", "next to", "opposite", "in front of")
_SELF_DEEDS = verbs(
    """praise blame hurt/hurt cut/cut introduce describe defend criticise photograph encourage comfort protect
    embarrass admire"""
)
# Their past is not their participle, so that the wrong one shows.
_STRONG = verbs(
    """break/broke/broken choose/chose/chosen steal/stole/stolen take/took/taken hide/hid/hidden draw/drew/drawn
    throw/threw/thrown see/saw/seen shake/shook/shaken give_away/gave_away/given_away"""
)
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
    no, some = draw.pick(("no", "not a single", "not one")), draw.pick(("the", "this", "that"))
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
    transitive = draw.chance()
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


def verb_form(draw: Draw, good: float) -> tuple[str, ...]:
    """After an auxiliary comes the form of the verb that it asks for."""
    verb = draw.pick(_STRONG)
    right: dict[str, str] = {
        "has": verb.participle,
        "had": verb.participle,
        "did not": verb.base,
        "will": verb.base,
        "is": verb.gerund,
        "was": verb.gerund,
        "": verb.past,
    }
    auxiliary, form = draw.pick(list(right.items()))
    if not good:
        form = draw.other(_finite_forms(verb), form, *([verb.third] if not auxiliary else []))
    adverb = "" if auxiliary in {"did not", ""} else draw.pick(("", "", "probably", "quietly"))
    thing = f"{draw.pick(('the', 'his', 'her', 'this'))} {draw.thing().singular}"
    return (sentence(draw.name().text, auxiliary, adverb, form, thing, "in", draw.city()),)


def _finite_forms(verb: Verb) -> list[str]:
    return [verb.base, verb.third, verb.past, verb.participle, verb.gerund]


def inversion(draw: Draw, good: float) -> tuple[str, ...]:
    """Subject and auxiliary change places in a direct question, and keep them in an indirect one."""
    verb, name, person = draw.move().base, draw.name().text, draw.people(1)[0]
    subject, aux = f"the {person.form(draw.chance())}", draw.pick(("will", "can", "should", "must", "would"))
    where, ask = f"in {draw.city()}", draw.pick(("when", "where", "why", "how", "how often"))
    inverted, straight = f"{aux} {subject} {verb}", f"{subject} {aux} {verb}"
    if ask == "where":
        where = draw.pick(("tomorrow", "next week", "in the morning"))
    knows = draw.pick(("knows", "asked", "wonders", "forgot", "told me"))
    return draw.pick((
        (question(ask, inverted if good else straight, where),),
        (sentence(name, knows, ask, straight if good else inverted, where),),
    ))


PHENOMENA = {
    "agreement": agreement,
    "determiner": determiner,
    "reflexive": reflexive,
    "polarity": polarity,
    "argument": argument,
    "gap": gap,
    "verb-form": verb_form,
    "inversion": inversion,
}
