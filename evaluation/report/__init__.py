"""Reports: pages, charts, tables and words.

Its names serve tools and studies; each is imported when it is first used.
"""

from typing import TYPE_CHECKING

from tokengym.base.plugins import lazily

if TYPE_CHECKING:
    from tokengym.base.text import number, percent, signed
    from tokengym.evaluation.report.curves import Curve, make_panels, read_curves, to_cell
    from tokengym.evaluation.report.figures import plot_curves, save_figure
    from tokengym.evaluation.report.report import render
    from tokengym.evaluation.report.summary import SummarySettings, summarize
    from tokengym.evaluation.report.tables import coloured_tokens
    from tokengym.evaluation.report.verdict import find_alarms

__getattr__, __dir__, __all__ = lazily(__name__)
