"""The topics of the inference task: five for train and the matched dev, four that only the mismatched dev has."""

from __future__ import annotations

from dataclasses import dataclass

from normtune.data.templates.grammar import Noun, Verb, nouns, verbs


@dataclass(frozen=True)
class Genre:
    """A topic with its words.

    Attributes:
        name: What it is called in the column *genre*.
        roles: People.
        kinds: For each kind of thing the general word and the special ones; whatever is one of these is one of those.
        deeds: What people do to such things.
        moves: What people do, without an object.
    """

    name: str
    roles: tuple[Noun, ...]
    kinds: tuple[tuple[Noun, tuple[Noun, ...]], ...]
    deeds: tuple[Verb, ...]
    moves: tuple[Verb, ...]


def _genre(name: str, roles: str, kinds: str, deeds: str, moves: str) -> Genre:
    groups = (nouns(kind) for kind in kinds.split("|"))
    return Genre(name, nouns(roles), tuple((group[0], group[1:]) for group in groups), verbs(deeds), verbs(moves))


MATCHED = (
    _genre(
        "kitchen",
        "cook waiter baker butcher dishwasher grocer chef caterer pastry_cook brewer waitress kitchen_porter",
        """pot saucepan stockpot frying_pan casserole|cake cheesecake sponge_cake fruit_cake|fruit pear plum apricot
        mango"""
        "|dish pie stew omelette risotto",
        "order buy/bought weigh drop sell/sold return choose/chose/chosen carry",
        "arrive leave_early/left_early/left_early whistle sit_down/sat_down/sat_down sneeze complain_about_the_heat",
    ),
    _genre(
        "office",
        """clerk manager secretary accountant typist director receptionist auditor intern programmer cleaner adviser""",
        """document memo contract invoice report|device printer scanner telephone projector|seat stool armchair
        swivel_chair"""
        "|container folder box drawer",
        "move order check need/needed label replace sell/sold find/found",
        "resign go_home/went_home/gone_home yawn work_late take_a_break/took_a_break/taken_a_break"
        " speak_at_the_meeting/spoke_at_the_meeting/spoken_at_the_meeting",
    ),
    _genre(
        "hospital",
        """doctor nurse surgeon patient dentist visitor midwife/midwives paramedic chemist optician therapist
        ward_sister""",
        "drug painkiller antibiotic sedative|instrument scalpel stethoscope thermometer syringe|bandage sling plaster"
        "|flower rose tulip lily",
        "order drop find/found bring/brought lose/lost borrow take_away/took_away/taken_away ask_for",
        "sleep_well/slept_well/slept_well arrive faint recover smile wait_in_the_hall",
    ),
    _genre(
        "school",
        "teacher pupil librarian caretaker head tutor student governor trainee parent sports_coach exchange_student",
        "book novel dictionary atlas textbook|game puzzle card_game board_game|insect beetle butterfly wasp ant"
        "|drawing portrait landscape cartoon",
        "buy/bought describe mention lose/lost choose/chose/chosen study bring_along/brought_along/brought_along",
        """pass_the_exam sing_in_the_choir/sang_in_the_choir/sung_in_the_choir arrive_late laugh
        run_across_the_yard/ran_across_the_yard/run_across_the_yard stay_for_lunch""",
    ),
    _genre(
        "travel",
        "tourist driver guide passenger pilot porter conductor traveller steward cyclist hiker tour_leader",
        "vehicle van lorry motorbike taxi|bag suitcase rucksack handbag|building castle church museum lighthouse"
        "|souvenir postcard fridge_magnet snow_globe",
        "photograph look_for see/saw/seen draw/drew/drawn mention describe point_at",
        "miss_the_train sleep_on_the_bus/slept_on_the_bus/slept_on_the_bus get_lost/got_lost/got_lost arrive_on_time"
        " return_at_night swim_in_the_lake/swam_in_the_lake/swum_in_the_lake",
    ),
)
MISMATCHED = (
    _genre(
        "farm",
        """farmer shepherd vet milkmaid beekeeper blacksmith fruit_picker gardener stable_boy farmhand landowner
        goatherd""",
        "animal goat donkey cow sheep/sheep|tool rake shovel pitchfork spade|bird goose/geese duck turkey hen"
        "|vegetable turnip carrot cabbage leek",
        "sell/sold look_for count buy/bought steal/stole/stolen find/found weigh",
        """get_up_at_dawn/got_up_at_dawn/got_up_at_dawn rest_in_the_shade work_in_the_rain
        ride_to_market/rode_to_market/ridden_to_market sleep_in_the_barn/slept_in_the_barn/slept_in_the_barn""",
    ),
    _genre(
        "theatre",
        "actor dancer singer prompter dresser critic composer conductor puppeteer juggler set_painter stagehand",
        """instrument violin trumpet cello flute|garment coat dress cloak shirt|weapon sword dagger pistol|hat bowler
        bonnet top_hat""",
        "hide/hid/hidden bring/brought lose/lost borrow repair hold_up/held_up/held_up",
        """bow step_onto_the_stage forget_the_lines/forgot_the_lines/forgotten_the_lines
        weep_in_public/wept_in_public/wept_in_public"""
        " leave_by_the_back_door/left_by_the_back_door/left_by_the_back_door",
    ),
    _genre(
        "harbour",
        """sailor captain fisherman/fishermen diver docker smuggler ferryman/ferrymen boatbuilder pirate
        customs_officer navigator angler""",
        """boat canoe ferry yacht trawler|fish/fish eel/eels trout/trout herring cod/cod|rope hawser towline|lamp
        lantern torch searchlight""",
        "see/saw/seen buy/bought photograph point_at sell/sold watch",
        """swim_ashore/swam_ashore/swum_ashore fall_overboard/fell_overboard/fallen_overboard
        sing_at_the_wheel/sang_at_the_wheel/sung_at_the_wheel wait_on_the_pier drown""",
    ),
    _genre(
        "court",
        """judge lawyer witness juror bailiff thief/thieves prosecutor stenographer forger policeman/policemen burglar
        notary""",
        """jewel ruby diamond emerald sapphire|document will deed passport|lock padlock bolt|coin penny/pennies dime
        sovereign""",
        "examine describe find/found hide/hid/hidden steal/stole/stolen mention draw/drew/drawn",
        """lie/lied tell_the_truth/told_the_truth/told_the_truth appeal_to_the_public stand_up/stood_up/stood_up
        leave_the_room/left_the_room/left_the_room""",
    ),
)
