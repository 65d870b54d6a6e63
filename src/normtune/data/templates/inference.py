"""Three-way inference in MNLI's shape: does the second sentence follow, contradict, or neither?

Labels are those of logic: *some* does not exclude *all*.
"""

from __future__ import annotations

from normtune.data.templates import genres
from normtune.data.templates.draw import Draw
from normtune.data.templates.genres import Genre
from normtune.data.templates.grammar import Noun, Verb, article, phrases, sentence
from normtune.data.templates.lexicon import DAYS, NUMBERS

ENTAILMENT, NEUTRAL, CONTRADICTION = 0, 1, 2
# A word, one that means the same of a person, and the opposite; words of different lines have no bearing on each other.
_QUALITIES = tuple(
    phrases(line)
    for line in (
        "happy|glad|unhappy",
        "rich|wealthy|poor",
        "tired|weary|wide awake",
        "clever|smart|stupid",
        "brave|courageous|cowardly",
        "polite|courteous|rude",
        "silent|quiet|noisy",
        "ill|sick|healthy",
        "elderly|old|young",
        "slim|thin|fat",
        "cautious|careful|careless",
        "diligent|hard-working|lazy",
        "well-known|famous|unknown",
        "starving|hungry|well fed",
    )
)
_SURE = phrases(
    "knows that|realised that|remembered that|is glad that|regrets that|noticed that|found out that|forgot that"
)
_STILL_SURE = phrases(
    "does not know that|did not notice that|is not aware that|never found out that|does not regret that"
)
_UNSURE = phrases(
    """thinks that|hopes that|claims that|believes that|fears that|heard that|doubts that|did not say that|is not sure
    that"""
    "|dreamt that|expects to hear that"
)
# What follows from *<quantifier> of the cooks left*, as far as quantifiers of the same kind go.
_QUANTIFIED: dict[tuple[str, str], int] = {
    **dict.fromkeys((("all", "some"), ("all", "most"), ("most", "some"), ("many", "some")), ENTAILMENT),
    **dict.fromkeys(
        (("none", "not all"), ("few", "not all"), ("none", "not many"), ("not many", "not all")), ENTAILMENT
    ),
    **dict.fromkeys((("some", "all"), ("some", "most"), ("many", "all"), ("many", "most"), ("most", "all")), NEUTRAL),
    **dict.fromkeys((("not all", "none"), ("not all", "few"), ("not all", "most"), ("not many", "none")), NEUTRAL),
    **dict.fromkeys((("all", "none"), ("most", "none"), ("some", "none"), ("all", "not all")), CONTRADICTION),
    **dict.fromkeys(
        (("none", "some"), ("none", "many"), ("few", "most"), ("not all", "all"), ("most", "few")), CONTRADICTION
    ),
}


def _genre(draw: Draw) -> Genre:
    return draw.pick(genres.MISMATCHED if draw.shifted else genres.MATCHED)


def _roles(draw: Draw, genre: Genre, count: int) -> list[Noun]:
    return draw.several(draw.own(genre.roles), count)


def _act(draw: Draw, genre: Genre) -> Verb:
    """A verb phrase that is complete: with an object, or one that needs none."""
    if draw.chance():
        return draw.pick(genre.moves)
    verb, noun = draw.pick(genre.deeds), draw.pick(draw.pick(genre.kinds)[1])
    rest = f" {draw.pick(('the', 'this'))} {noun.singular}"
    return Verb(verb.base + rest, verb.past + rest, verb.participle + rest)


def _varied(draw: Draw, *parts: str) -> str:
    """The sentence, now and then under words that add nothing to what it says."""
    return sentence(draw.pick(("", "", "", "it is true that", "it is a fact that")), *parts)


def monotonicity(draw: Draw, label: float) -> tuple[str, ...]:
    """From the special to the general, and under a negation the other way."""
    genre = _genre(draw)
    who, verb = f"the {_roles(draw, genre, 1)[0].singular}", draw.pick(genre.deeds)
    general, specials = draw.pick(genre.kinds)
    special = draw.pick(specials)
    positive = draw.chance()
    narrow, wide = _had(who, verb, special, positive), _had(who, verb, general, positive)
    if label == CONTRADICTION:
        opposed = (_had(who, verb, special, True), _had(who, verb, general, False))
        return tuple(sentence(text) for text in draw.shuffled(opposed))
    strong, weak = (narrow, wide) if positive else (wide, narrow)
    first, second = (strong, weak) if label == ENTAILMENT else (weak, strong)
    return sentence(first), sentence(second)


def _had(who: str, verb: Verb, noun: Noun, positive: bool) -> str:
    if positive:
        return f"{who} {verb.past} {article(noun.singular)}"
    return f"{who} did not {verb.base} {article(f'single {noun.singular}')}"


def negation(draw: Draw, label: float) -> tuple[str, ...]:
    """What is denied, once or twice, and how much of it."""
    genre = _genre(draw)
    who, act = f"the {_roles(draw, genre, 1)[0].singular}", _act(draw, genre)
    yes, no = f"{who} {act.past}", f"{who} did not {act.base}"
    if label == NEUTRAL:
        day = f"on {draw.pick(DAYS)}"
        denied = draw.pick((f"{no} {day}", f"it is not true that {yes} {day}", f"{no} with {draw.name().text}"))
        return sentence(denied), sentence(draw.pick((yes, no)))
    twice = draw.chance()
    denied = draw.pick(("it is not true that", "it is false that", "it is not the case that"))
    first = f"{denied} {no if twice else yes}"
    return sentence(first), sentence(yes if twice == (label == ENTAILMENT) else no)


def quantifiers(draw: Draw, label: float) -> tuple[str, ...]:
    """All, most, many, some, few, none."""
    genre = _genre(draw)
    roles, act = _roles(draw, genre, 1)[0].plural, _act(draw, genre)
    first, second = draw.pick([pair for pair, told in _QUANTIFIED.items() if told == label])
    return tuple(_varied(draw, word, "of the", roles, act.past) for word in (first, second))


def numbers(draw: Draw, label: float) -> tuple[str, ...]:
    """At least, more than, fewer than, exactly."""
    genre = _genre(draw)
    role, act = _roles(draw, genre, 1)[0], _act(draw, genre)
    low, middle, high = sorted(draw.several(range(3, len(NUMBERS)), 3))
    least, most = draw.pick(("at least", "more than")), draw.pick(("at most", "fewer than"))
    cases = {
        ENTAILMENT: (
            ("exactly", middle, "more than", low),
            (least, high, "more than", low),
            (most, low, "fewer than", high),
        ),
        NEUTRAL: (
            (least, low, least, high),
            (most, high, most, low),
            (least, low, "exactly", high),
            (most, high, least, low),
        ),
        CONTRADICTION: (
            ("exactly", middle, "more than", high),
            (least, high, most, low),
            (most, low, least, high),
            ("exactly", low, "exactly", high),
        ),
    }
    first, count, second, other = draw.pick(cases[int(label)])
    return (
        sentence(first, NUMBERS[count], role.plural, act.past),
        sentence(second, NUMBERS[other], role.plural, act.past),
    )


def time(draw: Draw, label: float) -> tuple[str, ...]:
    """Before and after."""
    genre = _genre(draw)
    one, two, three = (f"the {role.singular}" for role in _roles(draw, genre, 3))
    act = _act(draw, genre).past
    earlier, later = draw.shuffled((one, two))
    premise = draw.pick(_ordered(earlier, later, act))
    if label == NEUTRAL:
        sooner, afterwards = draw.shuffled((draw.pick((one, two)), three))
        unordered = f"both {one} and {two} {act}"
        return draw.pick((
            (sentence(premise), sentence(draw.pick(_ordered(sooner, afterwards, act)))),
            (sentence(unordered), sentence(premise)),
            (
                sentence(earlier, act, "before", three, "and", later, "did"),
                sentence(draw.pick(_ordered(three, later, act))),
            ),
        ))
    if draw.chance(0.4):
        premise = f"{earlier} {act} before {three} did, and {later} {act} after {three} did"
    pair = (earlier, later) if label == ENTAILMENT else (later, earlier)
    return sentence(premise), sentence(draw.pick([text for text in _ordered(*pair, act) if text != premise]))


def _ordered(earlier: str, later: str, act: str) -> list[str]:
    return [
        f"{earlier} {act} before {later} did",
        f"{later} {act} after {earlier} did",
        f"{earlier} {act} earlier than {later}",
    ]


def coordination(draw: Draw, label: float) -> tuple[str, ...]:
    """And, or, neither, but not."""
    genre = _genre(draw)
    one, two = (f"the {role.singular}" for role in _roles(draw, genre, 2))
    act = _act(draw, genre)
    asked = draw.pick((one, two))
    did = draw.chance()
    if label == NEUTRAL:
        start = draw.pick((f"{one} or {two}", f"either {one} or {two}", f"at least one of the two, {one} or {two},"))
        return _varied(draw, start, act.past), _claim(asked, act, did)
    both = f"both {one} and {two} {act.past}"
    neither = f"neither {one} nor {two} {act.past}"
    if draw.chance():
        premise, truth = draw.pick(((both, True), (neither, False)))
        return _varied(draw, premise), _claim(asked, act, truth == (label == ENTAILMENT))
    other = two if asked == one else one
    denied = f"{other if did else asked} did not"
    premise = draw.pick((
        f"{one} or {two} {act.past}, and {denied}",
        f"one of the two, {one} or {two}, {act.past}, but {denied}",
    ))
    return sentence(premise), _claim(asked, act, did == (label == ENTAILMENT))


def _claim(who: str, act: Verb, did: bool) -> str:
    return sentence(who, act.past if did else f"did not {act.base}")


def factivity(draw: Draw, label: float) -> tuple[str, ...]:
    """What is known, even by a negated verb of knowing, is so; what is thought may be or not."""
    genre = _genre(draw)
    one, two = (f"the {role.singular}" for role in _roles(draw, genre, 2))
    act, did = _act(draw, genre), draw.chance()
    frame = draw.pick(_UNSURE if label == NEUTRAL else draw.pick((_SURE, _STILL_SURE)))
    premise = sentence(one, frame, two, act.past if did else f"did not {act.base}")
    return premise, _claim(two, act, draw.chance() if label == NEUTRAL else did == (label == ENTAILMENT))


def content(draw: Draw, label: float) -> tuple[str, ...]:
    """Part of what was said, something else, or the denial of it."""
    genre = _genre(draw)
    one, two = (f"the {role.singular}" for role in _roles(draw, genre, 2))
    act, other = _act(draw, genre), _act(draw, genre)
    extra = draw.pick((f"on {draw.pick(DAYS)}", f"together with {draw.name().text}", "once again"))
    premise = sentence(one, act.past, extra)
    if label == ENTAILMENT:
        return premise, sentence(one, act.past)
    if label == NEUTRAL:
        return premise, sentence(two, other.past, draw.pick(("", extra)))
    return premise, sentence(
        draw.pick((f"{one} did not {act.base} {extra}", f"nobody {act.past} {extra}", f"{one} never {act.past}"))
    )


def addition(draw: Draw, label: float) -> tuple[str, ...]:
    """Less than was said, more than was said, or the contrary."""
    genre = _genre(draw)
    one, two = (f"the {role.singular}" for role in _roles(draw, genre, 2))
    act, day, name = _act(draw, genre), f"on {draw.pick(DAYS)}", draw.name().text
    premise = draw.pick((f"{one} and {two} {act.past} {day}", f"{day}, both {one} and {two} {act.past}"))
    more = draw.pick((
        f"in order to please {name}",
        f"because {name} had asked for it",
        "for the first time in many years",
    ))
    told = {
        ENTAILMENT: draw.pick((f"{two} {act.past}", f"{one} {act.past} {day}", f"somebody {act.past}")),
        NEUTRAL: draw.pick((f"{two} {act.past} {more}", f"{one} {act.past} {day} {more}")),
        CONTRADICTION: draw.pick((
            f"nobody {act.past} {day}",
            f"{two} never {act.past}",
            f"{one} did not {act.base} {day}",
        )),
    }
    return sentence(premise), sentence(told[int(label)])


def quality(draw: Draw, label: float) -> tuple[str, ...]:
    """A word that means the same, a word for something else, or the opposite."""
    genre = _genre(draw)
    one, _ = (f"the {role.singular}" for role in _roles(draw, genre, 2))
    group = draw.pick(_QUALITIES)
    word, same, opposite = group
    unrelated = draw.pick(draw.pick([other for other in _QUALITIES if other != group]))
    asked = {ENTAILMENT: same, NEUTRAL: unrelated, CONTRADICTION: opposite}[int(label)]
    act, city = draw.pick(genre.moves).past, draw.city()
    premise = draw.pick((f"{one}, who was very {word}, {act}", f"{one} in {city} was {word} and {act}"))
    return sentence(premise), sentence(one, "was", asked)


PHENOMENA = {
    "content": content,
    "addition": addition,
    "quality": quality,
    "monotonicity": monotonicity,
    "negation": negation,
    "quantifiers": quantifiers,
    "numbers": numbers,
    "time": time,
    "coordination": coordination,
    "factivity": factivity,
}
