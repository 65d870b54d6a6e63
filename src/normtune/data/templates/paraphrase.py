"""Paraphrase in MRPC's shape: do two sentences of the news say the same?

Both sentences of a pair tell the same circumstances in different places, so that overlap of words says little.
"""

from __future__ import annotations

from normtune.data.templates.draw import Draw
from normtune.data.templates.grammar import phrases, sentence, verb
from normtune.data.templates.lexicon import MONTHS

# A verb, one that means the same of such an object, and a near one that does not.
_TRIPLES = tuple(
    (tuple(verb(word) for word in triple.split()), kind)
    for kind, triples in (
        (
            "thing",
            """buy/bought purchase sell/sold|hide/hid/hidden conceal display|choose/chose/chosen select reject |damage
            harm protect|throw_away/threw_away/thrown_away discard keep/kept|find/found locate lose/lost |examine
            inspect ignore|collect gather scatter|get/got obtain sell/sold|return give_back/gave_back/given_back
            keep/kept |destroy wreck save|raise lift lower|order request refuse|repair fix break/broke/broken""",
        ),
        (
            "event",
            """postpone delay cancel|call_off cancel postpone|organise arrange disrupt|attend go_to/went_to/gone_to
            miss |film record interrupt|start begin/began/begun end|finish end open|announce advertise conceal
            |photograph take_pictures_of/took_pictures_of/taken_pictures_of avoid""",
        ),
        (
            "plan",
            """approve endorse reject|support back oppose|drop abandon pursue|praise commend criticise |draft
            draw_up/drew_up/drawn_up tear_up/tore_up/torn_up|change alter keep/kept|reject turn_down accept |reveal
            disclose conceal|examine study ignore|improve enhance spoil""",
        ),
    )
    for triple in triples.split("|")
)
_EVENTS = phrases(
    """meeting|concert|festival|trial|match|exhibition|conference|wedding|ceremony|race|tournament|auction|lecture"""
    "|debate|banquet|workshop|rehearsal"
)
_PLANS = phrases(
    "plan|proposal|budget|reform|merger|agreement|contract|offer|treaty|design|report|law|strategy|timetable|policy"
)
_AMOUNTS = tuple(
    phrases(group)
    for group in (
        "twelve|a dozen|12",
        "six|half a dozen|6",
        "twenty-four|two dozen|24",
        "a hundred|one hundred|100",
        "thirty-six|three dozen|36",
        "fifty|50|half a hundred",
        "ten|10",
        "two thousand|2,000",
        "fifteen|15",
        "twenty|20|a score of",
    )
)
_SPANS = tuple(
    phrases(group)
    for group in (
        "two weeks|fourteen days|a fortnight",
        "a week|seven days",
        "half an hour|thirty minutes",
        "a quarter of an hour|fifteen minutes",
        "two days|forty-eight hours",
        "half a day|twelve hours",
        "three weeks|twenty-one days",
        "an hour and a half|ninety minutes",
        "a day|twenty-four hours",
        "an hour|sixty minutes",
    )
)
# Ways to say that something was done, and ways to say that it was not.
_OUTCOMES = tuple(
    (phrases(done), phrases(undone))
    for done, undone in (
        ("remembered to|did not forget to", "forgot to|did not remember to"),
        ("managed to|did not fail to", "failed to|did not manage to"),
        ("agreed to|did not refuse to", "refused to|did not agree to"),
        ("was able to|was in a position to", "was unable to|was not able to"),
        ("was willing to|was ready to", "was unwilling to|was not ready to"),
    )
)


def _reported(draw: Draw, first: str, second: str, time: str = "") -> tuple[str, ...]:
    """The two statements under the same circumstances, in random order."""
    time, city = time or draw.time(), draw.city()
    return tuple(_placed(draw, core, time, city) for core in draw.shuffled((first, second)))


def _placed(draw: Draw, core: str, time: str, city: str) -> str:
    return draw.pick((
        sentence(core, f"in {city}", time),
        sentence(f"{time},", core, f"in {city}"),
        sentence(f"in {city},", core, time),
        sentence(core, f"{time} in {city}"),
    ))


def _actors(draw: Draw) -> list[str]:
    """Two people, by name or by occupation."""
    if draw.chance():
        return draw.full_names(2)
    return [f"the {person.singular}" for person in draw.people(2)]


def voice(draw: Draw, same: float) -> tuple[str, ...]:
    """Active and passive, with the roles kept or exchanged."""
    one, two = _actors(draw)
    verb = draw.deed()
    doer, done = (one, two) if same else (two, one)
    active, again = f"{one} {verb.past} {two}", f"{doer} {verb.past} {done}"
    return _reported(draw, active, draw.pick((f"{done} was {verb.participle} by {doer}",) * 2 + (again,)))


def synonym(draw: Draw, same: float) -> tuple[str, ...]:
    """The verb is replaced by one that means the same, or by one that is merely near."""
    (word, equal, near), kind = draw.pick(_TRIPLES)
    # The near word has its share of the pairs that say the same, lest it alone tell.
    if same and draw.chance(0.4):
        word = equal = near
    other = equal if same else near
    what = _object(draw, kind)
    actor = _actors(draw)[0]
    return _reported(draw, f"{actor} {word.past} the {what}", _focused(draw, actor, f"{other.past} the {what}"))


def clause_order(draw: Draw, same: float) -> tuple[str, ...]:
    """Two events with the same order of time, or with the opposite one, whichever is told first."""
    one, two = _actors(draw)
    earlier = f"{one} {draw.act().past} the {draw.thing().singular}"
    later = f"{two} {draw.pick((draw.move().past, f'left {draw.city()}'))}"
    first, second = draw.several(_sequences(earlier, later), 2)
    if not same:
        second = draw.pick(_sequences(later, earlier))
    return tuple(sentence(text) for text in draw.shuffled((first, second)))


def _sequences(earlier: str, later: str) -> list[str]:
    return [
        f"{later} after {earlier}",
        f"after {earlier}, {later}",
        f"{earlier} before {later}",
        f"before {later}, {earlier}",
    ]


def amount(draw: Draw, same: float) -> tuple[str, ...]:
    """A number or a length of time in other words, or another one."""
    groups = draw.pick((_AMOUNTS, _SPANS))
    group = draw.pick(groups)
    first, second = draw.several(group, 2)
    if not same:
        second = draw.pick(draw.other(groups, group))
    actor = _actors(draw)[0]
    if groups is _AMOUNTS:
        act, things = draw.act(), draw.thing().plural
        return _reported(draw, f"{actor} {act.past} {first} {things}", f"{actor} {act.past} {second} {things}")
    event = draw.pick(_EVENTS)
    host = draw.pick(("organised by", "led by", "planned by"))
    told = f"the {event} {host} {actor}"
    # In a month, since a week that began *an hour ago* cannot be over.
    return _reported(draw, f"{told} lasted {first}", f"{told} went on for {second}", f"in {draw.pick(MONTHS)}")


def outcome(draw: Draw, same: float) -> tuple[str, ...]:
    """Whether it was done, told with a negation or with a word that has one inside."""
    sides = draw.shuffled(draw.pick(_OUTCOMES))
    first, second = draw.several(sides[0], 2)
    if not same:
        second = draw.pick(sides[1])
    actor, action = _actors(draw)[0], f"{draw.act().base} the {draw.thing().singular}"
    return _reported(draw, f"{actor} {first} {action}", f"{actor} {second} {action}")


def event(draw: Draw, same: float) -> tuple[str, ...]:
    """The same event is told again, or another one of the same place and time."""
    first, second = (_told(draw, who) for who in _actors(draw))
    return _reported(draw, _focused(draw, *first), _focused(draw, *(first if same else second)))


def actor(draw: Draw, same: float) -> tuple[str, ...]:
    """The same person does it, or another one."""
    one, two = _actors(draw)
    _, done = _told(draw, one)
    return _reported(draw, _focused(draw, one, done), _focused(draw, one if same else two, done))


def action(draw: Draw, same: float) -> tuple[str, ...]:
    """The same person does the same, or something else."""
    one, _ = _actors(draw)
    (_, first), (_, second) = _told(draw, one), _told(draw, one)
    while first.split()[-1] == second.split()[-1]:  # of the same thing, another verb could mean the same
        _, second = _told(draw, one)
    return _reported(draw, _focused(draw, one, first), _focused(draw, one, first if same else second))


def _focused(draw: Draw, who: str, done: str) -> str:
    return draw.pick((f"{who} {done}", f"it was {who} who {done}"))


def _told(draw: Draw, who: str) -> tuple[str, str]:
    """Somebody, and what they did."""
    forms, kind = draw.pick(_TRIPLES)
    return who, f"{draw.pick(forms).past} the {_object(draw, kind)}"


def _object(draw: Draw, kind: str) -> str:
    return {"thing": draw.thing().singular, "event": draw.pick(_EVENTS), "plan": draw.pick(_PLANS)}[kind]


PHENOMENA = {
    "event": event,
    "actor": actor,
    "action": action,
    "voice": voice,
    "synonym": synonym,
    "clause-order": clause_order,
    "amount": amount,
    "outcome": outcome,
}
