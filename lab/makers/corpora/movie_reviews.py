"""Film reviews: neutral telling, with opinions scattered in it that lean one way per review."""

from collections.abc import Mapping

import numpy as np

from tokengym.lab.makers.corpora import movie_words
from tokengym.lab.makers.corpora.grammar import Alternatives, Dice, Grammar, mend_articles

OPINION_SENTENCES = 0.7
"""Probability that a sentence judges; the others only tell."""
SENTENCES = (6, 8)
"""Fewest and most sentences of a review."""


def write_reviews(count: int, rng: np.random.Generator) -> list[str]:
    """Return film reviews as words and punctuation marks joined by single spaces.

    Each review draws how likely its opinions are to praise from Beta(0.8, 0.8), so that most lean
    clearly one way and some are of two minds.

    Args:
        count: How many.
        rng: Where every choice comes from.
    """
    dice = Dice(rng)
    return [_write_review(dice) for _ in range(count)]


def _write_review(dice: Dice) -> str:
    praise = dice.beta(0.8, 0.8)

    def resolve(name: str) -> str:
        return f"good_{name}" if dice.chance(praise) else f"bad_{name}"

    sentences = []
    for _ in range(dice.integer(*SENTENCES)):
        kind = "opinion" if dice.chance(OPINION_SENTENCES) else "telling"
        sentences.append(GRAMMAR.write(kind, dice, resolve))
    return " ".join(mend_articles(" ".join(sentences).split()))


def _opinion_rules(side: str, words: Mapping[str, Alternatives], other: str) -> dict:
    """Return the rules of one side; "not" before a word of the other side belongs to this one."""
    return {f"{side}_{kind}": list(choices) for kind, choices in words.items()} | {
        f"{side}_quality": {
            f"{{{side}_adjective}}": 10,
            f"{{raising}} {{{side}_adjective}}": 4,
            f"{{lowering}} {{{side}_adjective}}": 2,
            f"{{negation}} {{{other}_adjective}}": 2,
            f"not {{raising}} {{{other}_adjective}}": 1,
        },
    }


GRAMMAR = Grammar(
    _opinion_rules(
        "good",
        {
            "adjective": movie_words.GOOD_ADJECTIVES,
            "noun": movie_words.GOOD_NOUNS,
            "verb": movie_words.GOOD_VERBS,
            "feeling": movie_words.GOOD_FEELINGS,
        },
        other="bad",
    )
    | _opinion_rules(
        "bad",
        {
            "adjective": movie_words.BAD_ADJECTIVES,
            "noun": movie_words.BAD_NOUNS,
            "verb": movie_words.BAD_VERBS,
            "feeling": movie_words.BAD_FEELINGS,
        },
        other="good",
    )
    | {
        "raising": list(movie_words.RAISING),
        "lowering": list(movie_words.LOWERING),
        "negation": list(movie_words.NEGATIONS),
        "sentence": ["{opinion}", "{telling}"],
        "opinion": {
            "the {aspect} {was} {~quality} .": 4,
            "the {aspect} {was} {~quality} {circumstance} .": 3,
            "the {aspect} {was} {~quality} and the {aspect} {was} {~quality} .": 4,
            "the {aspect} {was} {~quality} , but the {aspect} {was} {~quality} .": 2,
            "the {aspect} of this {genre} {was} {~quality} , {comparison} .": 3,
            "{critic} {found} the {aspect} {~quality} {circumstance} .": 5,
            "{actor} gives a {~adjective} performance as {figure} .": 4,
            "{actor} brings a {~adjective} {gesture} to the part of {figure} .": 3,
            "as {figure} , {actor} {was} {~quality} {circumstance} .": 3,
            "{critic} {~feeling} the {aspect} and {~feeling} the {aspect} .": 3,
            "{critic} {~feeling} the {aspect} {circumstance} .": 4,
            "the {aspect} {~verb} {circumstance} .": 4,
            "{actor} {~verb} as {figure} {place} .": 2,
            "it is a {~adjective} {genre} with a {~adjective} {aspect} .": 4,
            "what a {~adjective} {genre} , and what a {~adjective} {aspect} .": 2,
            "for {listener} this {genre} was a {~noun} .": 2,
            "{actor} is a {~noun} in the scenes with {figure} .": 2,
            "the scene {place} {was} {~quality} , {comparison} .": 3,
            "{circumstance} the {aspect} turns {~adjective} .": 2,
        },
        "telling": {
            "the {genre} follows a {trait} {job} who {pursues} {quarry} {place} .": 5,
            "a {trait} {job} and a {trait} {job} {meet} {place} {when} .": 5,
            "{when} {figure} {discovers} {secret} {place} .": 6,
            "{critic} watched it {viewing} with my {companion} .": 3,
            "i saw this {genre} {viewing} and wrote these lines {viewing} .": 2,
            "the {film} was shot {place} over {number} {seasons} .": 3,
            "it runs for {number} hours and ends {place} {when} .": 2,
            "the {film} is based on a {source} about {quarry} .": 3,
            "{actor} plays {figure} who {pursues} {quarry} .": 5,
            "{actor} and {actor} play the {relation} of {figure} .": 3,
            "the camera {moves} {place} while {figure} {waits} .": 4,
            "in the {ordinal} act {figure} {pursues} {quarry} {when} .": 4,
            "there is a talk about {secret} between {figure} and {figure} .": 3,
            "the {film} opens {place} {when} .": 3,
            "{when} {figure} travels to {city} to look for {quarry} .": 4,
            "the director made a {genre} about {secret} {years} ago .": 2,
            "nobody {place} knows who {lost} {quarry} {when} .": 3,
            "my {companion} asked me about {secret} {place} .": 2,
            "{figure} {waits} {place} and {waits} {place} .": 3,
        },
        "figure": {"the {job}": 3, "the {trait} {job}": 2, "a {job} from {city}": 1},
        "critic": {"i": 6, "my {companion}": 3, "the {job} next to me": 1},
        "listener": {"me": 2, "my {companion}": 1},
        "found": "found,called,considered,thought".split(","),
        "gesture": "voice,face,smile,silence,accent,laugh,energy,presence".split(","),
        "lost": "lost,sent,painted,sold,stole,hid,owned,bought".split(","),
        "comparison": (
            "like the {aspect},unlike the {aspect},as in the novel,as in the remake,"
            "as my {companion} said,with the {aspect} of a {genre}"
        ).split(","),
        "aspect": (
            "story,plot,script,dialogue,acting,cast,music,score,soundtrack,photography,lighting,"
            "editing,pacing,ending,opening,direction,wardrobe,scenery,humor,romance,"
            "mystery,tension,finale,cinematography,narration,chemistry,atmosphere,premise,makeup,framing,rhythm,prologue,epilogue"
        ).split(","),
        "was": {"was": 6, "is": 5, "seemed": 2, "felt": 3, "looked": 1, "remains": 1},
        "film": "film,movie,picture,feature".split(","),
        "genre": (
            "film,movie,drama,comedy,thriller,western,musical,romance,mystery,fable,sequel,remake,"
            "documentary,cartoon"
        ).split(","),
        "actor": (
            "anna,bruno,clara,david,elena,felix,greta,hugo,irene,jonas,karla,louis,maria,nadia,pedro,quentin,rosa,simon,"
            "oscar,paula,robert,sofia,thomas,vera"
        ).split(","),
        "job": (
            "detective,teacher,sailor,baker,doctor,lawyer,painter,soldier,farmer,pilot,singer,"
            "nurse,thief,priest,judge,gardener,butcher,driver,writer,clerk,spy,banker,miner,"
            "dancer,waiter,engineer,librarian,cook,tailor,guard,mayor,monk,widow,barber,smuggler"
        ).split(","),
        "trait": (
            "young,old,retired,lonely,quiet,famous,poor,rich,foreign,stubborn,shy,curious,former,"
            "blind,homeless,married,divorced,nameless,local,wandering"
        ).split(","),
        "pursues": (
            "hunts,follows,hides,paints,buys,sells,steals,guards,studies,describes,remembers,"
            "chases,watches,draws,carries,collects"
        ).split(","),
        "quarry": (
            "a stolen painting,a missing child,a box of letters,an old map,a white horse,"
            "a silver ring,the last train,a group of strangers,a bag of money,a secret door,"
            "two brothers,a foreign spy,the night ferry,a brass clock,a rare book,"
            "the village choir,a broken radio,an empty house,a red car,the king of thieves"
        ).split(","),
        "place": (
            "in venice,in paris,in a small town,near the harbor,on a train,in the desert,"
            "behind the theater,at the market,in the mountains,on an island,at the station,"
            "in the old library,under the bridge,in the kitchen,by the river,outside the hospital,"
            "in the garden,at the border,on the roof,in a hotel,at the museum,near the school,"
            "in the forest,on the beach"
        ).split(","),
        "city": "paris,venice,london,berlin,madrid,vienna,lisbon,prague,athens,moscow".split(","),
        "circumstance": (
            "from the first minute,in the second half,until the last scene,after an hour,"
            "most of the time,in every scene,all the way through,towards the end,"
            "in the quiet parts,in the crowd scenes,for the whole evening,at the start"
        ).split(","),
        "viewing": (
            "on a sunday,at a festival,late at night,in a crowded theater,on a plane,at home,"
            "last week,on a rainy day,in the afternoon,after work,during the holidays,on friday"
        ).split(","),
        "companion": (
            "brother,sister,father,mother,uncle,aunt,neighbor,friend,daughter,son,colleague,wife,"
            "husband,class"
        ).split(","),
        "meet": ("meet,argue,hide,dance,wait,talk,sing,work,stay,sleep,travel,arrive").split(","),
        "discovers": (
            "discovers,learns,writes about,dreams of,hears about,reads about,speaks of,"
            "asks about,finds out about,lies about"
        ).split(","),
        "secret": (
            "the war,a family secret,the lost years,an old debt,the trial,a forgotten promise,"
            "the wedding,the fire,the letters,a change of plans,the election,a new law,"
            "the flood,money,the past,the journey,the storm,a second marriage"
        ).split(","),
        "when": (
            "during the war,one winter,the same night,a year later,before the wedding,"
            "after the funeral,in the spring,at midnight,every morning,on the third day,"
            "in the summer,during a storm,before dawn,years later"
        ).split(","),
        "number": "two,three,four,five,six,seven".split(","),
        "ordinal": "first,second,third,final".split(","),
        "seasons": "summers,winters,weeks,months,years".split(","),
        "years": "ten years,twenty years,thirty years,a few years,many years".split(","),
        "source": "novel,play,poem,diary,true event,news report,short story,song".split(","),
        "relation": "parents,children,neighbors,cousins,rivals,friends,students".split(","),
        "moves": (
            "moves slowly,stays still,glides,turns,circles,drifts,rests,looks down,climbs,pans"
        ).split(","),
        "waits": "waits,sleeps,sings,eats,reads,walks,runs,packs,speaks,listens".split(","),
    }
)
