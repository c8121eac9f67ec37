"""Any Python function of a prompt and a response as scorer."""

from collections.abc import Callable, Sequence

import numpy as np

from tokengym.envs.episode import Episode
from tokengym.rewards.errors import ScorerError
from tokengym.rewards.scorers.base import Scorer, Scores


class FunctionScorer(Scorer):
    """Calls ``function(prompt, response)`` for each episode; it returns one number.

    Args:
        function: Of two texts. A function of whole batches, of references or of token ids is a
            subclass of `Scorer`.
        name: In messages and reports; None takes the function's.

    Raises:
        TypeError: if it is not callable.

    Example:
        >>> scorer = FunctionScorer(lambda prompt, response: response.count("!"))
        >>> episode = Episode(prompt="Go", response="on!!", prompt_ids=[1], response_ids=[2])
        >>> scorer.score([episode]).values
        array([2.], dtype=float32)
    """

    attribution_kinds = frozenset()

    def __init__(self, function: Callable[[str, str], float], *, name: str | None = None) -> None:
        if not callable(function):
            raise TypeError(
                f"function must be callable as function(prompt, response), got {function!r}"
            )
        self.function = function
        self._name = name or str(getattr(function, "__name__", type(function).__name__))

    @property
    def name(self) -> str:
        """The function's name."""
        return self._name

    def score(self, episodes: Sequence[Episode], *, attribution: str | None = None) -> Scores:
        """Return what the function gives for each episode.

        Args:
            episodes: What to score.
            attribution: None; a function says nothing about tokens.

        Raises:
            ScorerError: if it returns something other than one number.
        """
        self.check_attribution(attribution)
        values = [self._number(self.function(e.prompt, e.response)) for e in episodes]
        return Scores(values=np.array(values, dtype=np.float32))

    def _number(self, value: object) -> float:
        array = np.asarray(value)
        if array.size != 1 or array.dtype.kind not in "biuf":
            shown = " ".join(repr(value).split())[:80]
            raise ScorerError(
                f"scorer {self.name!r} returned {shown} for one prompt and response; "
                "return one number"
            )
        return float(array.reshape(()))
