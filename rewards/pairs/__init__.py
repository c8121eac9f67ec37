"""Rows of a prompt and the responses to it: read from data, encoded as ids, stored."""

from typing import TYPE_CHECKING

from tokengym.base.plugins import lazily

if TYPE_CHECKING:
    from tokengym.envs.prompts.tables import RowError as RowError
    from tokengym.envs.prompts.tables import SkippedRow as SkippedRow
    from tokengym.envs.prompts.tables import sift as sift
    from tokengym.rewards.pairs.read import PreferencePair as PreferencePair
    from tokengym.rewards.pairs.read import PreferencePairs as PreferencePairs
    from tokengym.rewards.pairs.read import TableSource as TableSource
    from tokengym.rewards.pairs.read import read_labels as read_labels
    from tokengym.rewards.pairs.read import read_pairs as read_pairs
    from tokengym.rewards.pairs.read import read_table as read_table
    from tokengym.rewards.pairs.store import pairs_dataset as pairs_dataset
    from tokengym.rewards.pairs.store import responses_dataset as responses_dataset

__getattr__, __dir__, __all__ = lazily(__name__)
