"""Reports: pages, charts, tables and words.

Its names serve tools and studies; each is imported when it is first used.
"""

from typing import TYPE_CHECKING

from tokengym.base.plugins import lazily

if TYPE_CHECKING:
    from tokengym.base.text import level_percent as level_percent
    from tokengym.base.text import listed as listed
    from tokengym.base.text import number as number
    from tokengym.base.text import percent as percent
    from tokengym.base.text import signed as signed
    from tokengym.evaluation.report.curves import make_panels as make_panels
    from tokengym.evaluation.report.curves import read_curves as read_curves
    from tokengym.evaluation.report.curves import to_cell as to_cell
    from tokengym.evaluation.report.figures import plot_curves as plot_curves
    from tokengym.evaluation.report.figures import save_figure as save_figure
    from tokengym.evaluation.report.report import render as render
    from tokengym.evaluation.report.sentences import NOTHING as NOTHING
    from tokengym.evaluation.report.summary import SummarySettings as SummarySettings
    from tokengym.evaluation.report.summary import summarize as summarize
    from tokengym.evaluation.report.tables import coloured_tokens as coloured_tokens
    from tokengym.evaluation.report.verdict import find_alarms as find_alarms
    from tokengym.evaluation.statistics.curve import Curve as Curve

__getattr__, __dir__, __all__ = lazily(__name__)
