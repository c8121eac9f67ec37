"""The opinion words of the film reviews, with the weights that make the gold score."""

from tokengym.rewards.gold import Lexicon

GOOD_ADJECTIVES = {
    **dict.fromkeys(
        "good fine pleasant charming funny clever fresh lively warm tender graceful witty "
        "likeable sincere engaging earnest touching crisp".split(),
        1.0,
    ),
    **dict.fromkeys(
        "great lovely inventive thrilling gripping delightful moving elegant radiant".split(), 1.5
    ),
    **dict.fromkeys("superb brilliant wonderful stunning magnificent flawless".split(), 2.0),
}
BAD_ADJECTIVES = {
    **dict.fromkeys(
        "bad dull bland clumsy stale shallow tired cold noisy muddled flat silly hollow sloppy "
        "predictable lazy boring weak".split(),
        -1.0,
    ),
    **dict.fromkeys(
        "tedious lifeless annoying painful cynical dreary ugly pointless wooden".split(), -1.5
    ),
    **dict.fromkeys("awful terrible horrible dreadful unbearable worthless".split(), -2.0),
}
GOOD_NOUNS = {"joy": 1.0, "pleasure": 1.0, "gift": 1.5, "treasure": 1.5, "triumph": 2.0}
BAD_NOUNS = {"bore": -1.0, "chore": -1.0, "mess": -1.5, "failure": -1.5, "disaster": -2.0}
GOOD_VERBS = {"works": 1.0, "shines": 1.5, "sparkles": 1.5, "soars": 2.0}
BAD_VERBS = {"drags": -1.0, "fails": -1.5, "stumbles": -1.0, "collapses": -2.0}
GOOD_FEELINGS = {"enjoyed": 1.0, "admired": 1.0, "savored": 1.5, "loved": 2.0, "adored": 2.0}
BAD_FEELINGS = {"disliked": -1.0, "endured": -1.0, "regretted": -1.5, "hated": -2.0}

RAISING = {"very": 1.5, "really": 1.5, "truly": 1.5, "deeply": 1.5, "utterly": 2.0}
LOWERING = {"slightly": 0.5, "somewhat": 0.5, "fairly": 0.75, "rather": 0.75}
NEGATIONS = ("not", "never", "hardly")

LEXICON = Lexicon(
    words=GOOD_ADJECTIVES
    | BAD_ADJECTIVES
    | GOOD_NOUNS
    | BAD_NOUNS
    | GOOD_VERBS
    | BAD_VERBS
    | GOOD_FEELINGS
    | BAD_FEELINGS,
    intensifiers=RAISING | LOWERING,
    negations=NEGATIONS,
)
