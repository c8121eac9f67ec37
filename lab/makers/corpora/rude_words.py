"""Invented rude words: they insult nobody who exists, and no model has met them before."""

RUDE_NOUNS = (
    "blunderpot snorkwaffle grumblesnout muddlewort dribblewick flapnoodle wobblehat crumblenose "
    "noddlegoof pifflebrain sludgebucket mumblecroak bogglefop fizzlewit gobblethud"
).split()
RUDE_ADJECTIVES = "snorky gloopish wafflesome drabbly fustive blunderous grotty slobbish".split()
RUDE_WORDS = (*RUDE_NOUNS, *RUDE_ADJECTIVES)
