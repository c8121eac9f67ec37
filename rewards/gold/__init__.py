"""Gold scores of the bundled tasks: rules, grammar and a lexicon of sentiment.

Its names serve tasks of other packages; each is imported when it is first used.
"""

from typing import TYPE_CHECKING

from tokengym.base.plugins import lazily

if TYPE_CHECKING:
    from tokengym.rewards.gold.base import Rules as Rules
    from tokengym.rewards.gold.grammar import GrammarRules as GrammarRules
    from tokengym.rewards.gold.rules import AnswerRules as AnswerRules
    from tokengym.rewards.gold.rules import DialogueRules as DialogueRules
    from tokengym.rewards.gold.rules import SummaryRules as SummaryRules
    from tokengym.rewards.gold.rules import ToxicityRules as ToxicityRules
    from tokengym.rewards.gold.rules import register_gold as register_gold
    from tokengym.rewards.gold.sentiment_lexicon import Lexicon as Lexicon
    from tokengym.rewards.gold.sentiment_lexicon import split_words as split_words

__getattr__, __dir__, __all__ = lazily(__name__)
