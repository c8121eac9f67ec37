"""The small world that the questions are about: things of five kinds and what is true of them."""

from dataclasses import dataclass
from functools import cache


@dataclass(frozen=True)
class Entity:
    """A thing with a name, a kind, and one word for each of the kind's attributes."""

    name: str
    kind: str
    facts: dict[str, str]


_TABLES = {
    "country": """
        name     capital   language   continent dish
        france   paris     french     europe    bread
        spain    madrid    spanish    europe    ham
        italy    rome      italian    europe    pasta
        germany  berlin    german     europe    sausage
        portugal lisbon    portuguese europe    cod
        greece   athens    greek      europe    olives
        poland   warsaw    polish     europe    dumplings
        norway   oslo      norwegian  europe    salmon
        finland  helsinki  finnish    europe    porridge
        turkey   ankara    turkish    asia      kebab
        japan    tokyo     japanese   asia      sushi
        china    beijing   chinese    asia      noodles
        vietnam  hanoi     vietnamese asia      soup
        thailand bangkok   thai       asia      curry
        egypt    cairo     arabic     africa    beans
        kenya    nairobi   swahili    africa    maize
        morocco  rabat     arabic     africa    flatbread
        peru     lima      spanish    america   potatoes
        brazil   brasilia  portuguese america   rice
        cuba     havana    spanish    america   plantains
    """,
    "animal": """
        name     colour home     food     sound
        cat      gray   houses   fish     purrs
        dog      brown  yards    bones    barks
        cow      white  meadows  grass    moos
        lion     golden savannas zebras   roars
        tiger    orange jungles  deer     growls
        wolf     gray   forests  rabbits  howls
        horse    brown  stables  hay      neighs
        frog     green  ponds    flies    croaks
        owl      brown  barns    mice     hoots
        crow     black  towns    seeds    caws
        duck     white  lakes    snails   quacks
        bee      yellow gardens  nectar   buzzes
        pig      pink   farms    acorns   grunts
        sheep    white  hills    clover   bleats
        elephant gray   plains   leaves   trumpets
        snake    green  deserts  eggs     hisses
        bear     black  mountains berries grumbles
        parrot   red    trees    nuts     talks
    """,
    "fruit": """
        name       colour taste  season  use
        apple      red    crisp  autumn  cider
        lemon      yellow sour   winter  tea
        banana     yellow soft   summer  milkshakes
        cherry     red    sweet  june    cakes
        plum       purple juicy  august  jam
        apricot    orange tangy  august  juice
        pear       green  mild   october tarts
        grape      purple sweet  september wine
        lime       green  sharp  spring  cocktails
        peach      pink   juicy  july    pies
        mango      orange rich   may     chutney
        coconut    white  nutty  summer  oil
        strawberry red    sweet  june    cream
        blueberry  blue   mild   july    muffins
    """,
    "instrument": """
        name    family   material played  music
        violin  string   spruce   bowed   symphonies
        cello   string   maple    bowed   sonatas
        guitar  string   cedar    plucked ballads
        harp    string   willow   plucked lullabies
        flute   wind     silver   blown   serenades
        clarinet wind    ebony    blown   rags
        trumpet brass    copper   blown   fanfares
        tuba    brass    tin      blown   marches
        drum    percussion leather struck parades
        gong    percussion bronze struck  ceremonies
        piano   keyboard ivory    pressed waltzes
        organ   keyboard lead     pressed hymns
    """,
    "sport": """
        name      place  gear    players skill
        tennis    court  racket  two     speed
        football  field  boots   eleven  teamwork
        basketball arena sneakers five   height
        volleyball beach net     six     timing
        golf      course clubs   four    patience
        hockey    rink   stick   six     balance
        rowing    river  oars    eight   rhythm
        climbing  wall   rope    two     strength
        swimming  pool   goggles four    breathing
        archery   range  bow     three   focus
        rugby     stadium helmet fifteen courage
        curling   ice    broom   four    precision
    """,
}


@cache
def entities() -> tuple[Entity, ...]:
    """Return everything there is in the world, in a fixed order."""
    all_entities = []
    for kind, table in _TABLES.items():
        header, *rows = (line.split() for line in table.strip().splitlines())
        for name, *values in rows:
            all_entities.append(Entity(name, kind, dict(zip(header[1:], values, strict=True))))
    return tuple(all_entities)
