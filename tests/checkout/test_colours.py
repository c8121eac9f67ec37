"""An arm has one colour and one place in the README's picture, in a report and in a plot."""

from docs.makers.build_curves import ARMS, palette
from tokengym.evaluation.report.figures import COLOURS
from tokengym.scripts.commands.demo import RULES


def test_plots_have_the_colours_of_the_report():
    assert palette("light") == list(COLOURS)


def test_the_readme_draws_the_arms_in_the_order_of_the_default_comparison():
    assert list(ARMS)[: len(RULES)] == list(RULES)
