"""The words that the grammars share, all of them chosen so that any may stand in any slot of its kind.

The order of the lists matters: every third word of those that `Draw.own` splits is held out of train.
"""

from __future__ import annotations

from normtune.data.templates.grammar import nouns, phrases, verbs, words

WOMEN = words(
    """Anna Maria Julia Clara Nora Emma Sophie Laura Helen Alice Grace Ruth Diana Martha Rosa Ingrid Lucy Irene Eva
    Paula Sarah Hannah Olivia Claire Monica Vera Edith Judith Carmen Elena Amelia Sylvia Teresa Margaret Joan Isabel
    Agnes Linda Carol Susan Janet Barbara Emily Charlotte Victoria Rebecca Rachel Deborah Angela Veronica"""
)
MEN = words(
    """Tom Peter David Oscar Henry Simon Victor Daniel Martin George Frank Leo Arthur Paul Walter Hugo Adam Felix Ivan
    Karl Edward Samuel Oliver Patrick Marcus Philip Ernest Gilbert Diego Stefan Albert Roland Theodore Richard Jack
    Miguel Bruno Louis Steven Kevin Robert Gregory William Charles Vincent Benjamin Matthew Douglas Andrew Nicholas"""
)
SURNAMES = words(
    """Berg Moreau Castell Novak Ferris Lindqvist Okafor Petrov Hartley Mbeki Sato Delgado Winter Halloran Rossi
    Nakamura Fischer Abbott Larsen Quigley Vance Ibarra Kowalski Thornton Mendes Ashby Dufour Keller Osei Brandt
    Marlow Santoro Wells Yilmaz Prescott Aldridge Bianchi Calloway Dray Eklund Farrow Granger Holm Iversen Jarvis
    Kendrick Lombard Merrick Norwood Orlov Pemberton Radcliffe Sorensen Tanaka Ulrich Valdez Whitlock Zeller Bellamy
    Corrigan Dunmore Everett"""
)
CITIES = words(
    """Oslo Lisbon Vienna Dublin Prague Helsinki Madrid Rome Cairo Nairobi Tokyo Seoul Lima Quito Boston Denver Chicago
    Toronto Montreal Sydney Melbourne Athens Berlin Hamburg Munich Paris Lyon Brussels Geneva Zurich Milan Naples
    Venice Warsaw Budapest Istanbul Ankara Mumbai Delhi Bangkok Jakarta Manila Havana Santiago Bogota Dallas Seattle
    Portland Edinburgh Glasgow Cardiff Bristol Copenhagen Stockholm Bergen Riga Vilnius Tallinn Sofia Belgrade"""
)
PEOPLE = nouns(
    """doctor pilot judge nurse teacher lawyer baker farmer plumber singer dancer painter sailor tailor gardener banker
    barber butcher carpenter chemist clerk coach cook dentist detective diver driver editor engineer firefighter
    florist guard guide jeweller journalist librarian magician manager mechanic minister musician novelist officer
    photographer plasterer poet potter professor reporter sculptor secretary senator shepherd soldier student
    surgeon translator waiter miner umpire trader porter tutor locksmith optician pharmacist politician cashier
    builder broker beekeeper composer critic curator designer electrician"""
)
THINGS = nouns(
    """lamp chair clock radio mirror basket blanket bottle box brush bucket camera candle carpet coat comb cup curtain
    drum envelope fan fork guitar hammer hat helmet jacket jar kettle key knife/knives ladder letter magazine map
    mug necklace notebook painting parcel pen pencil photograph pillow plate pot printer puzzle ring rope ruler
    scarf/scarves shirt shovel skateboard spoon stool suitcase table telescope ticket towel toy tray trophy trumpet
    umbrella vase violin wallet watch whistle apron axe bell cushion"""
)
THING_ADJECTIVES = words(
    """broken heavy old expensive cheap wooden red blue green yellow dusty clean tiny huge shiny useful ugly elegant
    fragile antique small large dirty new strange plain colourful damaged beautiful ordinary rare worn grey black
    white purple pretty fancy sturdy crooked"""
)
MOODS = words(
    """tired happy busy late nervous proud calm polite angry clever hungry lonely famous honest patient rich strong
    young shy careful cheerful curious friendly generous gentle grumpy helpful lazy loud modest quiet rude serious
    stubborn talented thirsty wise anxious bored brave confident impatient jealous sleepy popular"""
)
DEEDS = verbs(
    """thank praise help call visit follow admire blame warn greet invite interview advise push tease watch recognise
    avoid envy trust criticise defend rescue hire photograph applaud congratulate interrupt question scold comfort
    encourage support contact describe ignore chase protect impress surprise annoy amuse embarrass frighten mock
    notice nudge pay/paid phone threaten"""
)
HANDLINGS = verbs(
    """buy/bought sell/sold repair clean carry borrow lose/lost find/found hide/hid/hidden steal/stole/stolen paint
    break/broke/broken drop return examine wrap order choose/chose/chosen bring/brought take/took/taken sketch
    photograph weigh deliver damage replace remove polish label keep/kept inspect collect"""
)
INTRANSITIVES = verbs(
    """sleep/slept laugh smile cough sneeze dance wait shout arrive yawn blush hesitate relax complain apologise faint
    kneel/knelt limp snore swim/swam/swum tremble vanish weep/wept wink shiver giggle frown sigh stumble resign
    gossip disappear listen whisper pray travel"""
)
# Without an object these are ill-formed; with one, the words of NEVER_TRANSITIVE are.
ALWAYS_TRANSITIVE = verbs(
    """repair find/found fetch destroy discover inspect describe remove replace damage locate mention obtain mend
    possess bring/brought polish own need"""
)
NEVER_TRANSITIVE = verbs(
    """sleep/slept arrive sneeze yawn blush hesitate faint snore vanish kneel/knelt shiver giggle frown disappear
    complain apologise tremble cough sigh smile stumble gossip wait laugh"""
)
DAYS = phrases("Monday|Tuesday|Wednesday|Thursday|Friday|Saturday|Sunday")
MONTHS = phrases("January|February|March|April|May|June|July|August|September|October|November|December")
PAST_TIMES = (
    *(f"on {day}" for day in DAYS),
    *(f"in {month}" for month in MONTHS),
    *phrases("yesterday|last week|last month|last year|this morning|two days ago|an hour ago|last summer|last winter"),
)
NUMBERS = phrases(
    "zero|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|thirteen|fourteen|fifteen|sixteen|seventeen"
    "|eighteen|nineteen|twenty"
)
