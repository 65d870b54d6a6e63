"""The words of the toy suite."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence


class Word(str):
    """A noun, a verb or any phrase, with its forms, which are all regular."""

    _others: Sequence[str] = ()

    @classmethod
    def read(cls, written: str) -> Word:
        """Parse a word with, after equals signs, its synonym and opposite if it has them: ``raise=lift=lower``."""
        word, *others = " ".join(written.split()).split("=")
        made = cls(word)
        made._others = others
        return made

    @property
    def past(self) -> Word:
        """The past tense of a verb, and its participle."""
        return Word(self + ("d" if self.endswith("e") else "ed"))

    @property
    def ing(self) -> Word:
        """The verb in *-ing*."""
        return Word(self.removesuffix("e") + "ing")

    @property
    def same(self) -> Word:
        """A synonym; the word itself where it has none."""
        return Word(self._others[0]) if self._others else self

    @property
    def opposite(self) -> Word:
        """The opposite."""
        return Word(self._others[1])


def _words(text: str) -> dict[str, tuple[Word, ...]]:
    """The words of each kind: a line has a kind, a colon and its words; an indented line continues the one before."""
    lines = (line.partition(":") for line in re.split(r"\n(?=\w)", text.strip()))
    return {kind: tuple(map(Word.read, words.split("|"))) for kind, _, words in lines}


#: Kinds whose words differ between train and dev. Every sentence has a word of one of these kinds.
APART = ("woman", "man", "person", "city", "surname", "hobby", "work")

#: The words of each kind. A sentence may use any word of a kind, so that all of them must fit wherever the kind does:
#: ``act`` is done to things, by verbs that need an object; ``deed`` to people, and ``move`` without an object.
WORDS: Mapping[str, tuple[Word, ...]] = {
    "year": tuple(Word(str(year)) for year in range(1820, 2016)),
    "number": tuple(Word(str(number)) for number in range(12, 480)),
    **_words("""
woman: Anna|Maria|Julia|Clara|Nora|Emma|Sophie|Laura|Helen|Alice|Grace|Ruth|Diana|Martha|Rosa|Ingrid|Lucy|Irene|Eva
  |Paula|Sarah|Hannah|Olivia|Claire|Monica|Vera|Edith|Judith|Carmen|Elena|Amelia|Sylvia|Teresa|Margaret|Joan|Isabel
  |Agnes|Linda|Carol|Susan|Janet|Barbara|Emily|Charlotte|Victoria|Rebecca|Rachel|Angela
man: Tom|Peter|David|Oscar|Henry|Simon|Victor|Daniel|Martin|George|Frank|Leo|Arthur|Paul|Walter|Hugo|Adam|Felix|Ivan
  |Karl|Edward|Samuel|Oliver|Patrick|Marcus|Philip|Ernest|Gilbert|Diego|Stefan|Albert|Roland|Theodore|Richard|Jack
  |Miguel|Bruno|Louis|Steven|Kevin|Robert|Gregory|William|Charles|Vincent|Benjamin|Matthew|Andrew
surname: Berg|Moreau|Castell|Novak|Ferris|Lindqvist|Okafor|Petrov|Hartley|Mbeki|Sato|Delgado|Winter|Halloran|Rossi
  |Nakamura|Fischer|Abbott|Larsen|Quigley|Vance|Ibarra|Kowalski|Thornton|Mendes|Ashby|Dufour|Keller|Osei|Brandt|Marlow
  |Santoro|Wells|Yilmaz|Prescott|Aldridge|Bianchi|Calloway|Dray|Eklund|Farrow|Granger|Holm|Iversen
city: Oslo|Lisbon|Vienna|Dublin|Prague|Helsinki|Madrid|Rome|Cairo|Nairobi|Tokyo|Seoul|Lima|Quito|Boston|Denver|Chicago
  |Toronto|Montreal|Sydney|Melbourne|Athens|Berlin|Hamburg|Munich|Paris|Lyon|Brussels|Geneva|Zurich|Milan|Naples|Venice
  |Warsaw|Budapest|Istanbul|Ankara|Mumbai|Delhi|Bangkok|Jakarta|Manila|Havana|Santiago|Bogota|Dallas|Seattle|Portland
  |Edinburgh|Glasgow|Cardiff|Bristol|Copenhagen|Stockholm|Riga|Vilnius|Tallinn|Sofia
person: doctor=physician|nurse|lawyer=attorney|baker|farmer|sailor=seaman|plumber|singer|reporter=journalist|dancer
  |painter|barber=hairdresser|tailor|gardener|novelist=writer|banker|butcher|chemist=pharmacist|carpenter|clerk
  |trainer=coach|dentist|driver|manager=boss|editor|engineer|cook=chef|guard|guide|umpire=referee|librarian|magician
  |translator=interpreter|mechanic|minister|detective=investigator|musician|photographer|teacher=instructor|poet|potter
  |student=pupil|professor|sculptor|tourist=sightseer|senator|shepherd|soldier|surgeon|shopkeeper=storekeeper|waiter
  |miner|robber=thief|porter|optician|author|cashier|builder|broker|composer|critic|curator|designer|electrician|pilot
  |judge
thing: bike=bicycle|lamp=light|sofa=couch|rug=carpet|bucket=pail|bag=sack|jumper=sweater|present=gift|flashlight=torch
  |parcel=package|mirror=looking glass|violin=fiddle|phone=telephone|photo=photograph|television=TV set|chair|clock
  |radio|basket|blanket|bottle|camera|candle|coat|comb|cup|curtain|drum|envelope|fan|guitar|hammer|hat|helmet|jacket|jar
  |kettle|ladder|letter|magazine|map|necklace|notebook|painting|pencil|pillow|plate|puzzle|ring|rope|ruler|shirt|shovel
  |spoon|stool|suitcase|table|ticket|towel|toy|trumpet|umbrella|vase|wallet|whistle|cushion
adjective: broken|heavy|old|expensive|cheap|wooden|red|blue|green|yellow|dusty|clean|tiny|huge|shiny|useful|ugly|elegant
  |fragile|small|large|dirty|new|strange|plain|damaged|beautiful|ordinary|rare|worn|grey|black|white
act: repair=mend=wreck|damage=harm=protect|discard=dump=retain|examine=inspect=ignore|gather=collect=scatter
  |raise=lift=lower|order=request=refuse|select=pick=reject|locate=discover=misplace|obtain=acquire=abandon
  |conceal=cover=display|purchase=obtain=borrow|praise=commend=criticise
deed: thank|praise|help|call|visit|follow|admire|blame|warn|greet|invite|interview|advise|push|tease|watch|trust
  |criticise|defend|rescue|hire|photograph|applaud|congratulate|interrupt|question|scold|comfort|encourage|support
  |contact|describe|ignore|chase|protect|impress|surprise|amuse|embarrass|frighten|mock|notice|phone
move: laugh|smile|cough|sneeze|wait|arrive|yawn|blush|hesitate|faint|snore|tremble|vanish|shiver|giggle|frown|disappear
  |complain|apologise|sigh|stumble|relax|resign|weaken|mumble
mood: happy=glad=sad|rich=wealthy=poor|tired=weary=wide awake|clever=smart=stupid|brave=courageous=cowardly
  |polite=courteous=rude|silent=quiet=noisy|ill=sick=healthy|elderly=old=young|slim=thin=fat|cautious=careful=careless
  |diligent=hard-working=lazy|well-known=famous=unknown|starving=hungry=well fed
near: near|behind|beside|next to|opposite|in front of
time: on Monday|on Tuesday|on Wednesday|on Thursday|on Friday|on Saturday|on Sunday|last week|last month|last year
  |yesterday|this morning|two days ago|an hour ago|last summer|last winter|in spring|in May|in June|in October
where: in the shop=in the store|in the street=on the road|in the forest=in the woods|in the cellar=in the basement
  |in the cinema=in the movie theatre|at the harbour=at the port|in the flat=in the apartment|in the pub=in the bar
  |in the lift=in the elevator|on the pavement=on the sidewalk|in the kitchen|on a bridge|at the station|in a tent
when: at noon=at midday|at dawn=at sunrise|at dusk=at sunset|in autumn=in the fall|at the moment=right now
  |during a storm=during a thunderstorm|during the holidays=during the vacation|at midnight|after lunch|in winter
amount: twelve=a dozen|six=half a dozen|forty=two score|a hundred=one hundred|2,000=two thousand|ten=10
work: film|thriller|comedy|drama|documentary|western|musical|sequel|remake|novel|memoir|biography|poem|short story
  |fairy tale|play|opera|concert|ballet|puppet show|series|cartoon|romance|tragedy|album|sitcom|essay
aspect: plot|style|opening|music|ending|language|humour|pace|mood|title|message|middle part|last act
good: superb|wonderful|charming|delightful|excellent|brilliant|lovely|splendid|terrific|marvellous|impressive
  |magnificent|outstanding|pleasant|enjoyable|satisfying|refreshing|stunning|fantastic|memorable|inspired|admirable
  |exquisite|first-rate|likeable|fabulous|graceful|thoughtful|rewarding|flawless
bad: dull|dreadful|terrible|awful|tedious|boring|shoddy|disappointing|mediocre|clumsy|horrible|lousy|unpleasant|dismal
  |sloppy|annoying|pathetic|bland|forgettable|dire|lifeless|uninspired|irritating|poor|careless|appalling|frustrating
  |second-rate|tasteless|hopeless
loved: loved|enjoyed|adored|want more of|would recommend|came home happy after
hated: hated|loathed|regret|was bored by|would warn you off|came home angry after
critics: critics|most reviewers|my friends|the neighbours|my colleagues|the papers|my parents
hobby: chess|Spanish|pottery|sailing|juggling|yoga|Japanese|tango|beekeeping|skiing|knitting|Latin|surfing|Polish
  |carpentry|painting|karate|Arabic|fencing|meditation|the guitar|the piano|the violin|the drums|magic tricks
  |ice skating|rock climbing|ballroom dancing|opera singing|sign language
scale: bigger==smaller|warmer==colder|older==younger|safer==more dangerous|richer==poorer
site: Museum|Library|Theatre|Hotel|Bridge|Hospital|Tower|Gallery|School|Station|Palace|Stadium|Chapel|Garden|Castle
job: restore|reopen|extend|paint|describe|photograph|inspect|inherit|finance|rename|close|clean|decorate
part: room|window|lift|statue|lamp|door|guard|employee|clock|chair|poster|fireplace
reason: because of a flood|because the roof leaked|as a result of a strike|on account of its age|owing to a fire
  |because nobody came any more|due to a change in the law|because the walls had cracked
"""),
}

#: The words of these kinds in MNLI's second dev split: topics that train and the first dev split do not have.
ELSEWHERE: Mapping[str, tuple[Word, ...]] = _words("""
person: milkmaid|beekeeper|blacksmith|fruit picker|stable boy|farmhand|landowner|goatherd|captain|diver|docker|smuggler
  |boatbuilder|pirate|navigator|angler|prompter|puppeteer|stagehand|juggler|actor|conductor|juror|bailiff|burglar
  |prosecutor|forger|notary|wizard
thing: goat|donkey|cow|rake|pitchfork|spade|turkey|turnip|carrot|cabbage|canoe|yacht|trawler|lantern|anchor|cello|flute
  |cloak|bonnet|sword|dagger|pistol|diamond|emerald|passport|padlock|coin|deed|will
move: gallop|perform|harvest|drown|bow|rehearse|confess|appeal|protest|whistle|march|gamble
""")
