"""Word lists and name makers of the built-in world. Nothing here refers to a real person or place."""

from __future__ import annotations

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

_FIRST_STARTS = """Al Ar Bel Ber Bran Cal Cor Dal Dor El Em Fen Fin Gar Gil Hal Hel Il Jan Jor Kel Kor Lan Lor Mar Mel
Mir Nel Nor Ol Or Pel Per Quin Ral Ros Sal Sel Tal Ter Tol Ul Val Ver Wil Yar Zan Zel""".split()
_FIRST_ENDS = "a an as en eth ia ian ic ina ine is ith o on or ra rick us wen wyn".split()
_LAST_STARTS = """Ash Bar Beck Birch Black Bram Bridge Brook Cald Carn Cart Clay Cold Cray Dark Deer Dun East Elder Fair
Fern Flint Fox Glen Gold Grant Green Hart Hazel Heath High Holl Kirk Lang Lark Long Marsh Mill Moss North Oak Pem Pine
Red Rook Sand Shep Stan Stone Swan Thorn Under Wad West Wild Win Wood""".split()
_LAST_ENDS = "bank born bury by croft dale den ell field ford gate ham hurst ing land ley low man mere more ridge shaw side sley stead stock ter thorpe ton vale ward well wick win worth".split()  # noqa: E501
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


def _spread(rng: Random, starts: list[str], ends: list[str], count: int, join: str = "") -> list[str]:
    """`count` distinct start-end combinations in random order."""
    every = [f"{start}{join}{end}" for start in starts for end in ends]
    return rng.sample(every, count)


def make_cities(rng: Random, count: int) -> list[str]:
    return _spread(rng, _CITY_STARTS, _CITY_ENDS, count)


def make_countries(rng: Random, count: int) -> list[str]:
    return _spread(rng, _CITY_STARTS, _COUNTRY_ENDS, count)


def make_companies(rng: Random, count: int) -> list[str]:
    return _spread(rng, _COMPANY_STARTS, _COMPANY_ENDS, count, " ")


def make_people(rng: Random, count: int, taken: set[str] = frozenset()) -> list[str]:
    """`count` distinct full names, none of them in `taken`."""
    names: dict[str, None] = {}
    while len(names) < count:
        first = rng.choice(_FIRST_STARTS) + rng.choice(_FIRST_ENDS)
        last = rng.choice(_LAST_STARTS) + rng.choice(_LAST_ENDS)
        name = f"{first} {last}"
        if name not in taken:
            names[name] = None
    return list(names)


def unfamiliar_word(rng: Random) -> str:
    """A pronounceable word nobody has seen: one to three random syllables."""
    syllables = rng.choice((1, 2, 2, 2, 3))
    return "".join(rng.choice(_ONSETS) + rng.choice(_VOWELS) + rng.choice(_CODAS) for _ in range(syllables))


def unfamiliar_name(rng: Random) -> str:
    """A name in one of the shapes real names have: "Brond", "Quit Snarlp", "UniFlax", "AKT", "Tark-Moss"."""
    shape = rng.random()
    word = unfamiliar_word(rng).capitalize()
    if shape < 0.40:
        return word
    if shape < 0.75:
        return f"{word} {unfamiliar_word(rng).capitalize()}"
    if shape < 0.82:
        return f"{word} {unfamiliar_word(rng).capitalize()} {unfamiliar_word(rng).capitalize()}"
    if shape < 0.89:
        return word + unfamiliar_word(rng).capitalize()
    if shape < 0.93:
        return "".join(rng.choice("ABCDEFGHIJKLMNOPQRSTUVWXYZ") for _ in range(rng.choice((2, 3, 4))))
    if shape < 0.97:
        return f"the {rng.choice(ADJECTIVES)} {rng.choice(NOUNS)}"
    return f"{word}-{unfamiliar_word(rng).capitalize()}"


def unfamiliar_value(rng: Random) -> str:
    """What a fact about something unfamiliar may answer: mostly a name, sometimes a number, year or date."""
    shape = rng.random()
    if shape < 0.80:
        return unfamiliar_name(rng)
    if shape < 0.90:
        return str(rng.randint(1500, 2025))
    if shape < 0.95:
        return str(rng.randint(2, 9999))
    month = rng.choice("January March May July August October December".split())
    return f"{rng.randint(1, 28)} {month} {rng.randint(1800, 2025)}"
