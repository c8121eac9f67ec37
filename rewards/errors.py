"""Errors of rewards, which carry the finished episodes that they happened over."""

import os
import sysconfig
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from traceback import TracebackException, extract_tb

from tokengym.base.errors import TokenGymError, is_fault
from tokengym.base.text import printable
from tokengym.envs.episode import Episode


class RewardError(TokenGymError):
    """A reward that cannot be built: an unknown name or option, a scorer that is missing."""

    episodes: tuple[Episode, ...] = ()
    """Episodes that were finished when it happened, oldest first, so that none is lost; those that
    it came from have no score. Empty where nothing was being played."""
    file: Path | None = None
    """File that they were written to, None where they are kept here alone."""

    def keep(self, episodes: Sequence[Episode]) -> None:
        """Put episodes before those that are kept."""
        self.episodes = (*episodes, *self.episodes)

    def __str__(self) -> str:
        if not (count := len(self.episodes)):
            return super().__str__()
        where = "this error's .episodes" if self.file is None else printable(str(self.file))
        count_text = "1 finished episode is" if count == 1 else f"{count} finished episodes are"
        return f"{super().__str__()} ({count_text} kept in {where})"

    def for_terminal(self) -> str:
        """Return the message, which names the kept episodes only where a file has them."""
        return super().__str__() if self.file is None else str(self)


class ScorerError(RewardError):
    """A scorer that cannot score an episode, or returned something other than finite scores."""


class NoScoreError(ScorerError):
    """A text that a rule asks about and the scorer gives no score, so that there is no credit."""


class CreditError(RewardError):
    """A credit whose token rewards do not fit the episode or do not sum to its score."""


@contextmanager
def raised_by(who: str, error_type: type[RewardError], count: int) -> Iterator[None]:
    """Name whose code an exception in this context is of; errors of rewards stay as they are.

    Args:
        who: Part of the reward, as in "scorer 'words'".
        error_type: Class of the error that is raised instead.
        count: Number of its episodes.
    """
    try:
        yield
    except BaseException as error:
        if isinstance(error, RewardError) or not is_fault(error):
            raise
        reason = " ".join(str(TracebackException.from_exception(error)).split())  # never raises
        raise error_type(
            f"{who} raised {type(error).__name__} ({reason}) over {count} episodes; correct the "
            f"{who.partition(' ')[0]}{_place(error)}"
        ) from error


def _place(error: BaseException) -> str:
    """Return where in code of the user's own an error was raised; "" if in none of it."""
    ours, paths = Path(__file__).parents[1], sysconfig.get_paths()
    libraries = (f"{ours}{os.sep}", "<", *(paths[k] for k in ("stdlib", "platlib", "purelib")))
    for frame in reversed(extract_tb(error.__traceback__)):
        if not frame.filename.startswith(libraries):
            return f", line {frame.lineno} of {frame.filename}"
    return ""


class RewardCheckError(RewardError):
    """An environment's rewards that break the contract, as `check_reward` found."""
