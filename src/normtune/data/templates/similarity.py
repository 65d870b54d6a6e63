"""Similarity in STS-B's shape: how alike are two sentences, from 0 to 5?

A sentence tells who does what to what, where and when: five slots. The score is the number of slots that mean the same;
opposite polarity costs two, and a slot that only one sentence fills counts one half.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Any

from normtune.data.templates.draw import Draw
from normtune.data.templates.grammar import Verb, article, phrases, sentence, verb

SLOTS = ("who", "deed", "what", "where", "when")


def _variants(words: str) -> tuple[tuple[str, ...], ...]:
    return tuple(tuple(phrases(group.replace("=", "|"))) for group in words.split("|"))


_WHO = _variants(
    """doctor=physician|child=kid|nurse|lawyer=attorney|cook=chef|farmer|author=writer|cyclist=bike rider|soldier
    |reporter=journalist|shopkeeper=storekeeper|dancer|thief=robber|taxi driver=cab driver|butcher|infant=baby
    |sailor=seaman|priest|barber=hairdresser|policeman=police
    officer|pilot|grandmother=granny|instructor=trainer|painter
    |tourist=sightseer|fireman=firefighter|student|boss=manager|physicist|gardener|father=dad|mother=mum|baker
    |clown|jeweller|plumber|waitress|carpenter|beggar|magician|tailor|monk|sculptor|miner|widow"""
)
_WHERE = _variants(
    """in the shop=in the store|in the street=on the road|in the forest=in the woods|in the cellar=in the basement |in
    the garden=in the yard|in the cinema=in the movie theatre|at the harbour=at the port|in the flat=in the
    apartment |in the pub=in the bar|at the chemist's=at the pharmacy|in the lift=in the elevator|on the pavement=on
    the sidewalk |in the kitchen|on the beach=on the seashore|on a bridge|in the office|at the station|in a
    tent|behind the school"""
)
_WHEN = _variants(
    """at noon=at midday|at dawn=at sunrise|at dusk=at sunset|after lunch|at midnight|in autumn=in the fall |at the
    moment=right now|in winter|during a storm=during a thunderstorm|during the holidays=during the vacation|before
    breakfast|at night"""
)


@dataclass(frozen=True)
class _Scene:
    """Deeds that may be done to the same kind of things."""

    deeds: tuple[tuple[Verb, ...], ...]
    things: tuple[tuple[str, ...], ...]


_SCENES = tuple(
    _Scene(
        tuple(tuple(verb(word.strip().replace(" ", "_")) for word in group) for group in _variants(deeds)),
        _variants(things),
    )
    for deeds, things in (
        (
            """repair=fix|buy/bought=purchase|hide/hid/hidden=conceal|examine=inspect|lift=raise |throw away/threw
            away/thrown away=discard|look for=seek/sought|paint|draw/drew/drawn=sketch|steal/stole/stolen=pinch
            |wrap=wrap up|sell/sold""",
            """bike=bicycle|television=TV set|phone=telephone|sofa=couch|bag=sack|rug=carpet|bucket=pail|lamp=light
            |rock=stone|jumper=sweater|present=gift|parcel=package|torch=flashlight|mirror=looking
            glass|violin=fiddle|chair |clock|ladder|guitar|hammer""",
        ),
        (
            """eat/ate/eaten=consume|cook=prepare|taste=sample|order=ask for|serve=dish
            up|cut/cut=chop|peel|share|smell""",
            """courgette=zucchini|aubergine=eggplant|biscuit=cookie|pudding=dessert|steak|omelette|carrot|pumpkin|potato
            |pancake|sausage|tomato|pizza|cauliflower|fish""",
        ),
        (
            """write/wrote/written=compose|read/read=look through|translate|copy=duplicate|sign|tear up/tore up/torn
            up=rip up |correct=revise|publish=bring out/brought out/brought out|memorise=learn by heart""",
            """letter|essay|poem|contract=agreement|novel|article|report|diary=journal|speech=address|song|recipe""",
        ),
        (
            """feed/fed|wash=clean|stroke=pet|chase=pursue|brush=groom|watch=observe|photograph=snap|rescue=save""",
            """dog=hound|cat|horse|rabbit=bunny|goat|sheep|donkey|parrot|pig=hog|hen|camel|monkey|elephant|hedgehog""",
        ),
    )
)


@dataclass(frozen=True)
class _Event:
    """What a sentence tells: for each slot the words that may say it, and whether it is denied."""

    who: tuple[str, ...]
    deed: tuple[Verb, ...]
    what: tuple[str, ...]
    where: tuple[str, ...]
    when: tuple[str, ...]
    denied: bool = False

    def tell(
        self, *, synonyms: bool = False, passive: bool = False, cleft: bool = False, front: str = "", bare: bool = False
    ) -> str:
        """The sentence, in the wording that is asked for."""
        at = -1 if synonyms else 0
        where, when = ("", "") if bare else (self.where[at], self.when[at])
        core = self._core(at, passive=passive, cleft=cleft)
        if front == "where":
            return sentence(f"{where},", core, when)
        if front == "when":
            return sentence(f"{when},", core, where)
        return sentence(core, where, when)

    def _core(self, at: int, *, passive: bool, cleft: bool) -> str:
        who, what, deed = article(self.who[at]), article(self.what[at]), self.deed[at]
        be = "is not" if self.denied else "is"
        if passive:
            return f"{what} {be} being {deed.participle} by {who}"
        return f"{'it is ' if cleft else ''}{who}{' who' if cleft else ''} {be} {deed.gerund} {what}"


def _pair(draw: Draw, kept: Collection[str]) -> tuple[_Event, _Event]:
    """Two events that share the slots in `kept`."""
    scene = draw.pick(_SCENES)
    other = scene if "deed" in kept or "what" in kept else draw.other(_SCENES, scene)
    choices = {
        "who": (draw.own(_WHO), draw.own(_WHO)),
        "deed": (scene.deeds, other.deeds),
        "what": (scene.things, other.things),
        "where": (_WHERE, _WHERE),
        "when": (_WHEN, _WHEN),
    }
    first: dict[str, Any] = {slot: draw.pick(here) for slot, (here, _) in choices.items()}
    second = {
        slot: first[slot] if slot in kept else draw.other(there, first[slot]) for slot, (_, there) in choices.items()
    }
    return _Event(**first), _Event(**second)


def _sharing(draw: Draw, same: float) -> tuple[_Event, _Event]:
    """Two events that share `same` slots, whichever."""
    return _pair(draw, draw.several(SLOTS, int(same)))


def _front(draw: Draw) -> str:
    """Which circumstance comes first, if any."""
    return draw.pick(("where", "when", ""))


def slots(draw: Draw, score: float) -> tuple[str, ...]:
    """The same words in the slots that are the same, now in this order and now in that."""
    first, second = _sharing(draw, score)
    return first.tell(front=_front(draw)), second.tell(front=_front(draw))


def synonyms(draw: Draw, score: float) -> tuple[str, ...]:
    """Other words in all slots, whether they mean the same or not."""
    first, second = _sharing(draw, score)
    return first.tell(), second.tell(synonyms=True)


def focus(draw: Draw, score: float) -> tuple[str, ...]:
    """One sentence brings out who does it."""
    first, second = _sharing(draw, score)
    one, two = draw.shuffled((first.tell(front=_front(draw)), second.tell(cleft=True)))
    return one, two


def voice(draw: Draw, score: float) -> tuple[str, ...]:
    """The second sentence is in the passive."""
    first, second = _sharing(draw, score)
    return first.tell(), second.tell(passive=True, synonyms=draw.chance(0.3))


def negation(draw: Draw, score: float) -> tuple[str, ...]:
    """One is denied, which costs two, or both are, which costs nothing."""
    opposed = score <= 3 and draw.chance(0.6)
    first, second = _sharing(draw, score + 2 * opposed)
    denied = draw.shuffled((True, False)) if opposed else [True, True]
    first, second = replace(first, denied=denied[0]), replace(second, denied=denied[1])
    return first.tell(front=_front(draw)), second.tell(front=_front(draw))


def detail(draw: Draw, score: float) -> tuple[str, ...]:
    """One sentence leaves out where and when, at half a point each; at the ends of the scale both or none do."""
    if score in {0, 5}:
        first, second = _sharing(draw, score)
        return first.tell(), second.tell(front="where")
    kept = draw.several(SLOTS[:3], int(score) - 1)
    first, second = _pair(draw, (*kept, *SLOTS[3:]))
    one, two = draw.shuffled((first.tell(), second.tell(bare=True)))
    return one, two


PHENOMENA = {
    "slots": slots,
    "synonyms": synonyms,
    "voice": voice,
    "focus": focus,
    "negation": negation,
    "detail": detail,
}
