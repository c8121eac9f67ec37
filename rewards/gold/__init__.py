"""Gold scores of the bundled tasks: rules, grammar and a lexicon of sentiment.

Its names serve tasks of other packages; each is imported when it is first used.
"""

from typing import TYPE_CHECKING

from tokengym.base.plugins import lazily

if TYPE_CHECKING:
    from tokengym.rewards.gold.base import Rules
    from tokengym.rewards.gold.grammar import GrammarRules
    from tokengym.rewards.gold.rules import (
        AnswerRules,
        DialogueRules,
        SummaryRules,
        ToxicityRules,
        register_gold,
    )
    from tokengym.rewards.gold.sentiment_lexicon import (
        Lexicon,
        split_words,
    )

__getattr__, __dir__, __all__ = lazily(__name__)
