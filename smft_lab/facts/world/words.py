"""Word lists and name makers of the built-in world, whose people, companies and places are all invented.

Common words and names of the real world occur only in sentences that teach the model to use any word it is given.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from random import Random

PROFESSIONS = """baker blacksmith bookbinder brewer butcher carpenter cartographer chemist clockmaker cook dentist
doctor dyer engraver farmer ferryman fisher florist gardener glassblower goldsmith hatter joiner judge lawyer librarian
locksmith mason midwife miller miner nurse optician painter pilot plumber porter potter printer roofer saddler sailor
sculptor shepherd surveyor tailor tanner teacher translator weaver""".split()

INSTRUMENTS = """accordion bagpipe balalaika banjo bassoon bugle cello clarinet cornet cymbal drum dulcimer fiddle flute
gong guitar harmonica harp harpsichord horn lute lyre mandolin marimba oboe organ piano piccolo recorder saxophone sitar
tambourine trombone trumpet tuba viola violin xylophone zither""".split()

ANIMALS = """badger beagle budgie camel canary carp cockatoo collie cow crow dachshund donkey dove falcon ferret finch
fox gecko goat goose greyhound hamster hare hedgehog heron horse jackdaw lizard llama magpie mole mule newt otter owl
parrot peacock pigeon poodle rabbit raven salamander spaniel squirrel starling swan terrier toad tortoise turkey
weasel""".split()

DISHES = """apple tart|barley soup|bean stew|beef pie|beetroot soup|blackberry cake|buttered
noodles|cabbage rolls|carrot
soup|cheese dumplings|cherry pie|chestnut soup|cod cakes|cream of leek|duck pie|egg curry|fennel salad|fig pudding|fish
stew|fried plantain|garlic bread|ginger cake|goat cheese|grilled eel|ham pie|honey cake|lamb stew|lemon rice|lentil
soup|mushroom pie|mustard eggs|nettle soup|oat cakes|onion tart|peach cobbler|pea soup|pickled herring|plum
dumplings|poppy cake|potato salad|pumpkin bread|quince jelly|rabbit stew|rhubarb pie|roast trout|rye bread|saffron
rice|spinach pie|turnip mash|walnut bread""".replace("\n", " ").split("|")

PRODUCTS = """anchors axes barrels bells bicycles boots bottles bricks brushes buttons candles carpets chairs clocks
combs cups curtains doors engines fans gloves hammers hats jars kettles keys knives ladders lamps lanterns locks maps
mirrors nails needles paints pencils pianos pillows pipes ropes saws scales shoes soaps spoons stoves tents tiles
wheels""".split()

ADJECTIVES = """old young tall small quiet loud bright dark green blue red white black grey golden silver wooden iron
empty broken heavy light warm cold wet dry early late clever kind proud tired hungry happy sad strange famous hidden
narrow wide deep gentle brave lazy busy rusty dusty sleepy""".split()

NOUNS = """river mill bridge garden market harbour tower forest meadow orchard cottage school church station road valley
hill island lake village farm barn kitchen window door table lamp letter book map clock bell boat cart wheel basket coat
hat stone tree apple bread kettle candle mirror song story painting battle treaty novel opera planet engine theory
festival statue castle team film record law machine recipe language capital president king queen war prize""".split()

PAST_VERBS = """found carried painted opened closed watched mended sold bought borrowed lost cleaned built moved lifted
dropped followed remembered counted hid washed burned wrote won founded discovered invented designed directed led sang
played named ruled signed visited""".split()

PLACES = """by the river|near the mill|under the bridge|in the garden|at the market|in the harbour|behind the tower|at
the edge of the forest|across the meadow|in the orchard|outside the cottage|on the old road|in the valley|on the
hill|on the
island|beside the lake""".replace("\n", " ").split("|")

TIMES = """in the morning|in the evening|at noon|before sunrise|after supper|on Monday|on Friday|in spring|in
autumn|last winter|one day|every summer|late at night|after the rain|before the feast""".replace("\n", " ").split("|")

COMMON_WORDS = """able about above act actor air album all also American animal answer any appear area army around art
artist author award baby back ball band bank base battle bay beach became before began best between big bird birth
black blood blue board boat body bone book born both boy brand British brother built business cake call came camp can
capital car card career cartoon castle cat cell central century character child children church city class club coast
coin cold college colour come comedy common company composer computer contain corner could count country county couple
court created cricket cross crown cup current dance date daughter day dead death decade deep design desert did died
different director discovered dog door double drama drink during each earth east eight election element emperor empire
end engine English ever eye face fact fall family famous far father feature female festival few fiction field figure
film final fire first fish five flag flower food foot football form former found four free French friend from fruit
full game garden gas general German girl given glass god gold government grand great Greek green group grow guitar had
hair half hall hand has have head heart held help her hero high his history home horse hospital host hot hotel house
human hundred ice important industry inside instrument into island Italian its job joined jump just keep key kind king
kingdom known lady lake land language large last late law lead league led left leg length letter level life light line
lion list little live London long lord lost love low made magazine main major make male man many mark market married
mass match material may mean meat medical member men metal middle military milk million minister minute model modern
money month moon most mother motor mountain mouth movie museum music musical name nation natural near neck never new
newspaper next nick night nine north not novel number ocean office often oil old once one only open opera order origin
other out over own page paper parent park part party pass people person physics piece pilot place plane planet plant
play player poem poet point police politics pop popular port power premier president prime prince princess produced
public published queen race radio rail rain rank real received record red region released religious river road rock
roman room round royal rule run Russian sail same sang school science sea season second secret seen series served set
seven ship short show side sign silver since singer single sister site six skin small snow soap social soldier sold
solo some son song sound south space Spanish species sport spring square stage stand star start state station still
stone story street strong studio style subject such sugar summer sun super system table take taken tall team
television tell temple ten tennis term test than that their them then there they third this thousand three time title
today tour tower town trade train travel tree trial tribe troops turn twelve twenty two type under union unit united
university up use used valley value version very village voice volume walk wall war was water way wear week well went
were west what wheel when where which while white whose wife wild win wind wine winner winter with woman women wood
word work world would wrote year yellow young""".split()

REAL_NAMES = """Adam Adams Africa Albert Alexander Alfred Alice Allen America Anderson Andrew Angela Ann Anna Anthony
Antony Arthur Asia Atlantic Australia Austria Barbara Belgium Ben Benjamin Berlin Betty Bill Bob Boston Brazil Brian
Brown Bruce California Cambridge Campbell Canada Carl Carol Caroline Carter Catherine Charles Charlotte Chicago China
Chris Christopher Clark Clinton Cuba Daniel David Davis Dean Denmark Diana Dickens Donald Douglas Dublin Edinburgh
Edward Egypt Elizabeth Ellen Emily Emma England Eric Europe Evans Florence Florida France Francis Frank Fred Frederick
Gary Geoffrey George Germany Glasgow Gordon Graham Greece Hall Hamilton Hannah Harold Harris Harry Helen Henry Hill
Holland Howard Hughes Hungary Ian India Ireland Irving Israel Italy Jack Jackson James Jane Japan Jason Jean Jennifer
Jerry Jim Joan Joe John Johnson Jonathan Jones Joseph Julia Julian Karen Kate Keith Kelly Kennedy Kenneth Kevin Laura
Lawrence Lee Leicester Leonard Lewis Lincoln Linda Lisa Liverpool Louis Louise Lucas Luke Lynn Madrid Manchester
Margaret Maria Marie Mark Martin Mary Matthew Max Mexico Michael Miller Mitchell Moore Morgan Morris Moscow Murray
Nancy Napoleon Nelson Neil Newton Nicholas Norman Norway Oliver Oscar Owen Oxford Pacific Paris Parker Patricia
Patrick Paul Pennsylvania Peter Philip Phillips Poland Portugal Rachel Ralph Rankin Ray Raymond Rebecca Richard Robert
Roberts Robin Robinson Roger Rogers Roland Rome Ronald Roosevelt Rose Roy Russell Russia Ruth Samuel Sarah Scotland
Scott Shakespeare Sharon Simon Smith Sophia Spain Stephen Steve Stewart Stuart Susan Sweden Sydney Taylor Texas Thames
Thomas Thompson Tim Tom Tony Turner Venice Vera Victor Victoria Vienna Virginia Wales Walker Walter Washington Watson
Wayne White William Williams Wilson Windsor Winston Wright York""".split()

FUNCTION_WORDS = """the the the the the of of of in in in and and a a to to by by for for with was was is is on at from
as his her their its this""".split()

_FIRST_STARTS = """Al Ar Bel Ber Bran Cal Cor Dal Dor El Em Fen Fin Gar Gil Hal Hel Il Jan Jor Kel Kor Lan Lor Mar Mel
Mir Nel Nor Ol Or Pel Per Quin Ral Ros Sal Sel Tal Ter Tol Ul Val Ver Wil Yar Zan Zel""".split()
_FIRST_ENDS = "a an as en eth ia ian ic ina ine is ith o on or ra rick us wen wyn".split()
_LAST_STARTS = """Ash Bar Beck Birch Black Bram Bridge Brook Cald Carn Cart Clay Cold Cray Dark Deer Dun East Elder Fair
Fern Flint Fox Glen Gold Grant Green Hart Hazel Heath High Holl Kirk Lang Lark Long Marsh Mill Moss North Oak Pem Pine
Red Rook Sand Shep Stan Stone Swan Thorn Under Wad West Wild Win Wood""".split()
_LAST_ENDS = "bank born bury by croft dale den ell field ford gate ham hurst ing land ley low man mere more ridge shaw side sley stead stock ter thorpe ton vale ward well wick win worth".split()  # noqa: E501
_NAMES = {start + end for start in _FIRST_STARTS for end in _FIRST_ENDS}
_NAMES |= {start + end for start in _LAST_STARTS for end in _LAST_ENDS}
_FOREIGN = [name for name in REAL_NAMES if name not in _NAMES]
_CITY_STARTS = """Ald Bast Brom Cher Corm Dren Elm Fal Gorm Harl Ister Jarn Keld Lom Mor Nard Osk Pend Quar Rist Sel
Tarn Ulm Vost Wex Yarl Zeth""".split()
_CITY_ENDS = "aby anse ark avar enna erby essa heim ica ilde inburg ona ost oth ova uva".split()
_COUNTRY_ENDS = "andia aria eland istan ovia ura".split()
_COMPANY_STARTS = """Amber Anvil Argent Beacon Bronze Cedar Cobalt Copper Crescent Crown Delta Falconer Garnet Granite
Harbor Ivory Juniper Keystone Lantern Lotus Marble Meridian Mistral Nimbus Onyx Opal Orchid Pioneer Quartz Raven Saffron
Sable Summit Tempest Topaz Vulcan Willow Zephyr""".split()
_COMPANY_ENDS = "Works Mills Foundry Trading Brothers Partners Guild Press Union Supply".split()

_ONSETS = "b bl br c ch cl cr d dr f fl fr g gl gr h j k kn l m n p pl pr qu r s sc sh sk sl sm sn sp st str t th tr tw v w wh y z".split()  # noqa: E501
_VOWELS = "a a a a e e e e i i i i o o o o u u u ai ea ee ou".split()
_CODAS = "      l l m n n n r r s t t ck d ff g ld mp nd ng nk p rd rk rn rt sh ss st th x".split(" ")


def _spread(rng: Random, starts: Sequence[str], ends: Sequence[str], count: int, join: str = "") -> list[str]:
    """`count` distinct start-end combinations in random order, or as many as there are."""
    every = [f"{start}{join}{end}" for start in starts for end in ends]
    return rng.sample(every, min(count, len(every)))


def make_cities(rng: Random, count: int) -> list[str]:
    return _spread(rng, _CITY_STARTS, _CITY_ENDS, count)


def make_countries(rng: Random, count: int) -> list[str]:
    return _spread(rng, _CITY_STARTS, _COUNTRY_ENDS, count)


def make_companies(rng: Random, count: int) -> list[str]:
    return _spread(rng, _COMPANY_STARTS, _COMPANY_ENDS, count, " ")


def make_people(rng: Random, count: int, taken: Collection[str] = frozenset()) -> list[str]:
    """`count` distinct full names, none of them in `taken`."""
    names: dict[str, None] = {}
    while len(names) < count:
        first = rng.choice(_FIRST_STARTS) + rng.choice(_FIRST_ENDS)
        last = rng.choice(_LAST_STARTS) + rng.choice(_LAST_ENDS)
        name = f"{first} {last}"
        if name not in taken:
            names[name] = None
    return list(names)


def passer_by(rng: Random) -> str:
    """A full name, half of the built-in world and half of the real one, so that no person of `make_people` has it."""
    first = rng.choice(_FIRST_STARTS) + rng.choice(_FIRST_ENDS)
    last = rng.choice(_LAST_STARTS) + rng.choice(_LAST_ENDS)
    foreign = rng.choice(_FOREIGN)
    return rng.choice((f"{first} {foreign}", f"{foreign} {last}"))


def unfamiliar_word(rng: Random) -> str:
    """A pronounceable word nobody has seen: one to three random syllables."""
    syllables = rng.choice((1, 2, 2, 2, 3))
    return "".join(rng.choice(_ONSETS) + rng.choice(_VOWELS) + rng.choice(_CODAS) for _ in range(syllables))


def _world_name(rng: Random) -> str:
    """A word made as the names of the built-in world are."""
    starts, ends = rng.choice(
        ((_FIRST_STARTS, _FIRST_ENDS), (_LAST_STARTS, _LAST_ENDS), (_CITY_STARTS, _CITY_ENDS + _COUNTRY_ENDS))
    )
    return rng.choice(starts) + rng.choice(ends)


def unfamiliar_name(rng: Random) -> str:
    """A name in one of the shapes real names have: "Brond", "George Snarl", "UniFlax", "AKT", "Brond's Tark & Mill"."""

    def part() -> str:
        kind = rng.random()
        if kind < 0.58:
            return unfamiliar_word(rng).capitalize()
        if kind < 0.65:
            return _world_name(rng)
        return rng.choice(REAL_NAMES) if kind < 0.85 else rng.choice(COMMON_WORDS).capitalize()

    shape = rng.random()
    if shape < 0.36:
        return part()
    if shape < 0.68:
        return f"{part()} {part()}"
    if shape < 0.76:
        return f"{part()} {part()} {part()}"
    if shape < 0.82:
        return part() + part()
    if shape < 0.86:
        return "".join(rng.choice("ABCDEFGHIJKLMNOPQRSTUVWXYZ") for _ in range(rng.choice((2, 3, 4))))
    if shape < 0.94:
        words = " ".join(rng.choice(COMMON_WORDS + NOUNS + ADJECTIVES) for _ in range(rng.choice((1, 2, 2, 3, 4))))
        return f"{rng.choice(('the ', '', ''))}{words}"
    return rng.choice(
        (
            f"{part()}-{part()}",
            f"{part()}'s {part()}",
            f"O'{part()}",
            f"{part()} & {part()}",
            f"{part()}, {part()}",
            f"{part()} ({part()})",
            f"{part()}/{part()}",
            f'"{part()}"',
            f"{part()}! {part()}",
            _accented(part(), rng),
        )
    )


def _accented(word: str, rng: Random) -> str:
    letter = rng.choice("aeiounc")
    return word.replace(letter, {"a": "á", "e": "é", "i": "í", "o": "ö", "u": "ü", "n": "ñ", "c": "ç"}[letter])


def loose_question(rng: Random) -> str:
    """A question as people ask them, without capital and question mark: "which mill was the first George Snarl in"."""

    def word() -> str:
        kind = rng.random()
        if kind < 0.35:
            return rng.choice(FUNCTION_WORDS)
        if kind < 0.80:
            return rng.choice(COMMON_WORDS + NOUNS + PAST_VERBS)
        return unfamiliar_name(rng) if kind < 0.96 else str(rng.randint(1500, 2025))

    noun = rng.choice(COMMON_WORDS + NOUNS)
    asking = rng.choice(
        (
            "who",
            "who",
            f"who {rng.choice(PAST_VERBS)}",
            "what",
            "what is the",
            "what was the",
            f"what {noun}",
            "where",
            f"which {noun}",
            f"which {noun}",
            f"in which {noun}",
            "in what",
            f"how many {noun}s",
            "whose",
            "when",
            f"what is the name of the {noun}",
            f"name the {noun}",
        )
    )
    loose = " ".join(word() for _ in range(rng.randint(3, 11)))
    if rng.random() < 0.12:
        return f"{loose} {asking}"
    return f"{asking} {loose}"


def unfamiliar_value(rng: Random) -> str:
    """What a fact about something unfamiliar may answer: mostly a name, sometimes a number, year or date."""
    shape = rng.random()
    if shape < 0.80:
        return unfamiliar_name(rng)
    if shape < 0.90:
        return str(rng.randint(1500, 2025))
    if shape < 0.95:
        number = str(rng.randint(2, 9999))
        return rng.choice((number, number, f"${number}", f"{number}%", f"{number}.{rng.randint(1, 9)}", f"{number}s"))
    month = rng.choice("January March May July August October December".split())
    return f"{rng.randint(1, 28)} {month} {rng.randint(1800, 2025)}"
