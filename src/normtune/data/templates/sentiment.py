"""Sentiment in SST-2's shape: does the reviewer like it?"""

from __future__ import annotations

from dataclasses import dataclass

from normtune.data.templates.draw import Draw
from normtune.data.templates.grammar import article, phrases, sentence, words

_GOOD = words(
    """superb wonderful charming delightful excellent brilliant lovely splendid terrific marvellous impressive
    magnificent outstanding pleasant enjoyable satisfying refreshing stunning fantastic memorable inspired admirable
    exquisite first-rate likeable fabulous graceful thoughtful rewarding flawless"""
)
_BAD = words(
    """dull dreadful terrible awful tedious boring shoddy disappointing mediocre clumsy horrible lousy unpleasant
    dismal sloppy annoying pathetic bland forgettable dire lifeless uninspired irritating poor careless appalling
    frustrating second-rate tasteless hopeless"""
)
_LIKED = phrases(
    "loved it|enjoyed every minute|was delighted|came away happy|would recommend it to anyone|want more of it"
)
_HATED = phrases(
    "hated it|regretted every minute|was appalled|came away angry|would warn anyone off it|want my money back"
)
_JUDGES = phrases(
    """critics|most reviewers|my friends|the neighbours|my colleagues|the papers|the locals|my parents|the experts|some
    people"""
)
_SURE = ("truly", "really", "simply", "utterly", "quite", "rather", "frankly")


@dataclass(frozen=True)
class _Domain:
    """Things of a kind that one reviews, and what there is to judge in them."""

    targets: tuple[str, ...]
    aspects: tuple[str, ...]


_DOMAINS = tuple(
    _Domain(phrases(targets), phrases(aspects))
    for targets, aspects in (
        (
            "film|thriller|comedy|drama|documentary|western|musical|sequel|remake",
            "acting|plot|dialogue|music|camerawork|ending",
        ),
        (
            "novel|memoir|biography|cookbook|textbook|poem|short story|travel guide|fairy tale",
            "writing|opening|structure|style|last chapter|translation",
        ),
        (
            "restaurant|cafe|bistro|pizzeria|canteen|bakery|tea room|steakhouse|snack bar",
            "food|service|menu|wine list|atmosphere|coffee",
        ),
        (
            "hotel|hostel|guest house|campsite|resort|inn|cottage|holiday flat|motel",
            "breakfast|staff|view|bathroom|location|swimming pool",
        ),
        (
            "phone|laptop|tablet|camera|printer|keyboard|speaker|headset|smart watch",
            "screen|battery|design|sound|manual|case",
        ),
        (
            "course|seminar|workshop|lecture|evening class|training day|webinar|summer school|tutorial",
            "teacher|material|pace|room|handout|final session",
        ),
        (
            "concert|opera|ballet|festival|play|circus|cabaret|recital|puppet show",
            "cast|stage|lighting|sound|second half|programme",
        ),
        (
            "museum|gallery|zoo|theme park|castle|aquarium|planetarium|botanical garden|theatre",
            "guide|exhibition|gift shop|layout|tour|map",
        ),
    )
)


def _subject(draw: Draw) -> tuple[str, str, str]:
    """A target of this side, and two aspects of its kind."""
    domain = draw.pick(_DOMAINS)
    aspect, other = draw.several(domain.aspects, 2)
    return draw.pick(draw.own(domain.targets)), aspect, other


def _words(draw: Draw, liked: float) -> tuple[str, str, str, str]:
    """Two adjectives that say what the review says, and two that say the opposite."""
    same, opposite = (_GOOD, _BAD) if liked else (_BAD, _GOOD)
    return (*draw.several(same, 2), *draw.several(opposite, 2))  # type: ignore[return-value]


def _spot(draw: Draw, target: str) -> str:
    """The target, told apart from its like."""
    name = draw.name().text
    told = draw.pick(("recommended", "chose", "told us about", "mentioned"))
    return draw.pick((f"this {target}", f"the {target} that {name} {told}", f"the {target} {name} {told}"))


def plain(draw: Draw, liked: float) -> tuple[str, ...]:
    """A judgement in so many words."""
    target, aspect, _ = _subject(draw)
    same, also, _, _ = _words(draw, liked)
    return draw.pick((
        (sentence(_spot(draw, target), "is", draw.pick(_SURE), same),),
        (sentence("the", aspect, "of", _spot(draw, target), "is", same, "and the rest is", also),),
        (sentence("what", article(f"{same} {target}"), ", and how", also, "the", aspect, "is"),),
    ))


def negation(draw: Draw, liked: float) -> tuple[str, ...]:
    """The opposite judgement, denied."""
    target, aspect, _ = _subject(draw)
    same, _, opposite, more = _words(draw, liked)
    spot = _spot(draw, target)
    deny = draw.pick(("is anything but", "is by no means", "is not at all", "is never", "was far from"))
    return draw.pick((
        (sentence(spot, deny, opposite),),
        (sentence("nobody could call", spot, opposite),),
        (sentence("there is nothing", opposite, "about the", aspect, "of", spot),),
        (sentence(spot, draw.pick(("is neither", "was neither")), opposite, "nor", more),),
        (sentence("it is not true that", spot, "is", opposite, ";", "it is", same).replace(" ;", ";"),),
    ))


def contrast(draw: Draw, liked: float) -> tuple[str, ...]:
    """Something is granted to the other side, and the verdict goes against it."""
    target, aspect, other = _subject(draw)
    same, _, opposite, more = _words(draw, liked)
    spot, verdict = _spot(draw, target), draw.pick(_LIKED if liked else _HATED)
    granted = f"the {aspect} is {opposite}"
    return draw.pick((
        (sentence("although", granted, ",", spot, "as a whole is", same),),
        (sentence(spot, "as a whole is", same, ", although", granted),),
        (sentence(f"the {aspect} of", spot, "is", opposite, f"and the {other} is", more, ", but I", verdict),),
        (sentence("for all its", opposite, "moments,", spot, "is", same),),
        (sentence(f"however {opposite} the", aspect, "of", spot, "may be, I", verdict),),
    ))


def comparison(draw: Draw, liked: float) -> tuple[str, ...]:
    """The target is set against others of its kind, and comes out above or below them."""
    target, aspect, _ = _subject(draw)
    good, bad = draw.pick(_GOOD), draw.pick(_BAD)
    spot = _spot(draw, target)
    praise, more, less = (good, "more", "less") if draw.chance() else (bad, "less", "more")
    own, others = (more, less) if liked else (less, more)
    return draw.pick((
        (sentence(spot, "is", own, praise, "than any other", target, "I know"),),
        (sentence("every other", target, "I know is", others, praise, "than", spot),),
        (sentence("rarely have I known the", aspect, "of", article(target), "to be", own, praise, "than in", spot),),
        (
            sentence(
                "next to",
                spot,
                ", even",
                article(f"{bad if not liked else good} {target}"),
                "looks",
                good if not liked else bad,
            ),
        ),
    ))


def opinion(draw: Draw, liked: float) -> tuple[str, ...]:
    """Somebody else's judgement, which the reviewer shares or does not."""
    target, aspect, _ = _subject(draw)
    same, _, opposite, _ = _words(draw, liked)
    judges, spot = draw.pick(_JUDGES), _spot(draw, target)
    agree, theirs = draw.pick(((True, same), (False, opposite)))
    closing = draw.pick(
        ("and they are right", "and so do I", "and I could not agree more")
        if agree
        else ("but they are wrong", "but I do not", "but I could not disagree more")
    )
    return draw.pick((
        (sentence(judges, "find", spot, theirs, ",", closing),),
        (sentence(judges, "call the", aspect, "of", spot, theirs, ",", closing),),
        (sentence("whoever says that", spot, "is", theirs, "has", "understood it" if agree else "not understood it"),),
    ))


def change(draw: Draw, liked: float) -> tuple[str, ...]:
    """What it was, or was expected to be, and what it is."""
    target, aspect, _ = _subject(draw)
    same, also, opposite, _ = _words(draw, liked)
    spot = _spot(draw, target)
    return draw.pick((
        (sentence(spot, "used to be", opposite, "and is now", same),),
        (sentence(spot, "is now", same, "where it used to be", opposite),),
        (sentence("I expected", article(f"{opposite} {target}"), "and found", article(f"{same} one")),),
        (sentence("nothing is left of the", opposite, aspect, "that", spot, "once had; it is", also, "these days"),),
        (sentence("I took", spot, "for", article(f"{opposite} one"), "until I saw how", same, "it is"),),
    ))


def wish(draw: Draw, liked: float) -> tuple[str, ...]:
    """What is said to be so only in another world, so that in this one it is not."""
    target, aspect, _ = _subject(draw)
    same, _, opposite, _ = _words(draw, liked)
    spot = _spot(draw, target)
    feel = ("glad", "relieved") if liked else ("sorry", "sad")
    return draw.pick((
        (sentence("if", spot, "were", opposite, ", I would", "complain" if liked else "praise it", ", but it is not"),),
        (sentence(spot, "could so easily have been", opposite),),
        (sentence("I am", draw.pick(feel), "that the", aspect, "of", spot, "did not turn out", opposite),),
        (sentence("had the", aspect, "been less", same, ",", spot, "would have been", "spoilt" if liked else "saved"),),
    ))


def verdict(draw: Draw, liked: float) -> tuple[str, ...]:
    """What the reviewer did or felt."""
    target, _, _ = _subject(draw)
    same, _, _, _ = _words(draw, liked)
    spot, felt = _spot(draw, target), draw.pick(_LIKED if liked else _HATED)
    return draw.pick((
        (sentence("I gave", spot, "a try and", felt),),
        (sentence(f"I {felt}:", spot, "is", same),),
        (sentence("after", f"{spot},", "I", f"{felt};", "it was", same),),
    ))


def details(draw: Draw, liked: float) -> tuple[str, ...]:
    """Several judgements that agree."""
    target, aspect, other = _subject(draw)
    same, also, _, _ = _words(draw, liked)
    spot = _spot(draw, target)
    return draw.pick((
        (sentence("the", aspect, "of", spot, "is", same, ", and the", other, "is", also, "too"),),
        (sentence(spot, "is", same, ", with its", also, aspect, "and its equally", same, other),),
        (sentence(spot, "is", same, "and", also, ", and so is its", aspect),),
    ))


def reason(draw: Draw, liked: float) -> tuple[str, ...]:
    """A verdict and what it rests on."""
    target, aspect, other = _subject(draw)
    same, also, _, _ = _words(draw, liked)
    spot, felt = _spot(draw, target), draw.pick(_LIKED if liked else _HATED)
    return draw.pick((
        (sentence("since the", aspect, "of", spot, "was", same, "and the", other, also, ", I", felt),),
        (sentence("I", felt, "because the", aspect, "of", spot, "was", same),),
    ))


PHENOMENA = {
    "verdict": verdict,
    "details": details,
    "reason": reason,
    "plain": plain,
    "negation": negation,
    "contrast": contrast,
    "comparison": comparison,
    "opinion": opinion,
    "change": change,
    "wish": wish,
}
