"""The guide's table of what fits on which card is that of the formula."""

from docs.makers.build_memory import PAGE, table


def test_the_table_of_cards_is_of_the_formula():
    written = PAGE.read_text(encoding="utf-8")
    (_, after) = written.split("<!-- memory -->\n")
    (found, _) = after.split("\n<!-- end memory -->")
    assert found == table(), "stale; run python -m docs.makers.build_memory"
