"""Duplicate questions in QQP's shape: do two questions ask the same?"""

from __future__ import annotations

from normtune.data.templates.draw import Draw
from normtune.data.templates.grammar import phrases, question, verbs
from normtune.data.templates.lexicon import MONTHS

_SKILLS = verbs(
    """play_the_guitar bake_bread swim/swam/swum draw_portraits/drew_portraits/drawn_portraits
    speak_Spanish/spoke_Spanish/spoken_Spanish repair_bikes juggle write_poems/wrote_poems/written_poems play_chess
    ride_a_horse/rode_a_horse/ridden_a_horse cook_curry sail speak_Japanese/spoke_Japanese/spoken_Japanese
    dance_tango grow_tomatoes/grew_tomatoes/grown_tomatoes keep_bees/kept_bees ski build_websites/built_websites
    train_a_dog play_the_piano knit_jumpers make_cheese/made_cheese climb drive_a_lorry/drove_a_lorry/driven_a_lorry
    carve_wood sing_opera/sang_opera/sung_opera type_fast brew_beer read_music/read_music paint_walls surf
    speak_Polish/spoke_Polish/spoken_Polish edit_videos play_the_drums cut_hair/cut_hair make_pottery/made_pottery
    do_magic_tricks/did_magic_tricks/done_magic_tricks fly_a_drone/flew_a_drone/flown_a_drone fix_clocks sew_dresses
    meditate fence speak_Arabic/spoke_Arabic/spoken_Arabic tune_a_piano roast_coffee"""
)
# Wordings of the same question, by what is asked of a skill.
_SKILL_ASKED = tuple(
    phrases(group)
    for group in (
        "how can I learn to {base}|what is the best way to learn to {base}|how do people get good at {ing}",
        "how long does it take to learn to {base}|how much time will I need to learn to {base}"
        "|how many months of practice does {ing} take",
        """how much does it cost to learn to {base}|what will I have to pay for lessons in {ing}|how expensive is it to
        take up {ing}""",
        """is it hard to learn to {base}|how difficult is {ing} for a beginner|would you say that {ing} is difficult to
        learn""",
        "why do people like to {base}|what is so much fun about {ing}|for what reasons do people enjoy {ing}",
        """can I make a living by {ing}|is it possible to earn enough money by {ing}|do people who {base} earn enough
        to live on""",
    )
)
_CITY_ASKED = tuple(
    phrases(group)
    for group in (
        "how many people live in {city}|what is the population of {city}|how many inhabitants does {city} have",
        "how expensive is life in {city}|what does it cost to live in {city}|is living in {city} expensive",
        "is it safe to walk around {city} at night|how dangerous is {city} after dark|how safe is {city} at night",
        """what is the weather like in {city} in {month}|how is the climate of {city} in {month}|what weather should I
        expect in {city} in {month}""",
        "what should I see in {city}|what are the sights of {city}|which places are worth a visit in {city}",
        """how do I find a flat in {city}|what is the best way to find a place to live in {city}|how can I get an
        apartment in {city}""",
        "who is the mayor of {city}|who governs {city}|what is the name of the mayor of {city}",
    )
)
_TRIPS = phrases(
    "how do I get from {a} to {b}|what is the best way to travel from {a} to {b}|how can I get to {b} from {a}"
    "|what is the best way to reach {b} if I start in {a}"
)
_FARES = phrases(
    """how much is a ticket from {a} to {b}|what does a ticket to {b} from {a} cost|what do I pay to travel from {a} to
    {b}"""
)
_SCALES = tuple(
    phrases(pair)
    for pair in (
        "bigger|smaller",
        "warmer|colder",
        "older|younger",
        "cheaper|more expensive",
        "safer|more dangerous",
        "richer|poorer",
    )
)
_CHOICES = verbs(
    """buy_a_house/bought_a_house get_a_dog/got_a_dog quit_my_job/quit_my_job work_at_night
    eat_meat/ate_meat/eaten_meat drink_coffee/drank_coffee/drunk_coffee study_law move_abroad
    have_children/had_children lend_money_to_friends/lent_money_to_friends go_vegan/went_vegan/gone_vegan
    sell_my_car/sold_my_car wear_a_uniform/wore_a_uniform/worn_a_uniform use_a_password_manager learn_Latin
    invest_in_gold keep_a_diary/kept_a_diary rent_a_flat/rented_a_flat run_a_marathon/ran_a_marathon/run_a_marathon
    read_the_news/read_the_news wake_up_early/woke_up_early/woken_up_early
    take_vitamins/took_vitamins/taken_vitamins join_a_gym cook_at_home shave_my_head get_a_tattoo/got_a_tattoo
    teach_children/taught_children grow_a_beard/grew_a_beard/grown_a_beard trust_my_boss travel_alone"""
)
_FOR = phrases(
    """why should I {base}|what speaks in favour of {ing}|what are the advantages of {ing}|what are good reasons to
    {base}"""
)
_AGAINST = phrases(
    """why should I not {base}|what speaks against {ing}|what are the disadvantages of {ing}|what are good reasons not
    to {base}"""
)


def _ask(wording: str, **words: str) -> str:
    return question(wording.format(**words))


def wording(draw: Draw, same: float) -> tuple[str, ...]:
    """The same thing is asked in other words, or another thing is asked of the same skill."""
    skill = draw.pick(draw.own(_SKILLS))
    asked = draw.pick(_SKILL_ASKED)
    first, second = draw.several(asked, 2)
    if not same:
        second = draw.pick(draw.other(_SKILL_ASKED, asked))
    tail = draw.pick(("", f" in {draw.city()}", " as an adult", " as a pensioner"))
    return tuple(_ask(text + tail, base=skill.base, ing=skill.gerund) for text in (first, second))


def entity(draw: Draw, same: float) -> tuple[str, ...]:
    """Another wording, for the same city or for another one."""
    here, there = draw.cities(2)
    month = draw.pick(MONTHS)
    first, second = draw.several(draw.pick(_CITY_ASKED), 2)
    return _ask(first, city=here, month=month), _ask(second, city=here if same else there, month=month)


def direction(draw: Draw, same: float) -> tuple[str, ...]:
    """From here to there, or back."""
    here, there = draw.cities(2)
    first, second = draw.several(draw.pick((_TRIPS, _FARES)), 2)
    start, end = (here, there) if same else (there, here)
    return _ask(first, a=here, b=there), _ask(second, a=start, b=end)


def comparison(draw: Draw, same: float) -> tuple[str, ...]:
    """Both the word and the order are turned round, or only one of them."""
    here, there = draw.cities(2)
    scale = draw.pick(_SCALES)
    word, opposite = draw.shuffled(scale)
    start, again = draw.several(("is", "do you think that", "would you say that"), 2)
    turned = draw.chance()
    first, second = (there, here) if turned else (here, there)
    told = opposite if turned == bool(same) else word
    return _compare(start, here, word, there), _compare(again, first, told, second)


def _compare(start: str, one: str, word: str, two: str) -> str:
    verb = "" if start == "is" else "is"
    return question(start, one, verb, word, "than", two)


def stance(draw: Draw, same: float) -> tuple[str, ...]:
    """Reasons for it, or reasons against it."""
    choice = draw.pick(draw.own(_CHOICES))
    asked, opposed = draw.shuffled((_FOR, _AGAINST))
    first, second = draw.several(asked, 2)
    if not same:
        second = draw.pick(opposed)
    tail = draw.pick(("", f" in {draw.city()}", " as a student", " at my age", " this year"))
    return tuple(_ask(text + tail, base=choice.base, ing=choice.gerund) for text in (first, second))


def time(draw: Draw, same: float) -> tuple[str, ...]:
    """The same time in other words, or another time."""
    year, city = draw.between(1920, 2015), draw.city()
    decade = year // 10 * 10
    what = draw.pick(("which buildings were finished in {}", "who was born in {}", "which films were shot in {}"))
    same_time = draw.pick((
        (f"before {year}", f"earlier than {year}", f"after {year}", f"later than {year}"),
        (f"in {year}", f"during the year {year}", f"before {year}", f"in the years after {year}"),
        tuple(
            f"{part} the {decade}s" for part in ("in the early years of", "at the start of", "late in", "at the end of")
        ),
    ))
    first, second = same_time[:2] if same else (draw.pick(same_time[:2]), draw.pick(same_time[2:]))
    asked = what.format(city)
    return tuple(question(asked, when) for when in draw.shuffled((first, second)))


def topic(draw: Draw, same: float) -> tuple[str, ...]:
    """Another wording, or a question about something else altogether."""
    skill, city, month = draw.pick(draw.own(_SKILLS)), draw.city(), draw.pick(MONTHS)
    of_skill, of_city = draw.several(draw.pick(_SKILL_ASKED), 2), draw.several(draw.pick(_CITY_ASKED), 2)
    about_skill = [_ask(f"{text} in {city}", base=skill.base, ing=skill.gerund) for text in of_skill]
    about_city = [_ask(text, city=city, month=month) for text in of_city]
    if same:
        return tuple(draw.pick((about_skill, about_city)))
    return tuple(draw.shuffled((about_skill[0], about_city[0])))


def subject(draw: Draw, same: float) -> tuple[str, ...]:
    """Another wording, for the same skill or for another one."""
    one, two = draw.several(draw.own(_SKILLS), 2)
    tail = draw.pick(("", f" in {draw.city()}", " as an adult"))
    first, second = (text + tail for text in draw.several(draw.pick(_SKILL_ASKED), 2))
    again = one if same else two
    return _ask(first, base=one.base, ing=one.gerund), _ask(second, base=again.base, ing=again.gerund)


PHENOMENA = {
    "topic": topic,
    "subject": subject,
    "wording": wording,
    "entity": entity,
    "direction": direction,
    "comparison": comparison,
    "stance": stance,
    "time": time,
}
