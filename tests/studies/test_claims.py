"""The README's sentences hold in the published runs."""

import math
import re
from functools import cache
from itertools import product

from studies import (
    credit_v2,
    critic_elsewhere,
    equal_kl,
    one_grid,
    other_tasks,
    reward_models,
    token_credit,
)
from studies.parts import lead
from studies.token_credit import LENGTHS, WAYS, arms
from tokengym.base.text import number, signed
from tokengym.evaluation.statistics import PairedDifference, holm, paired_difference
from tokengym.lab.benchmark.board import families, sees, verdicts
from tokengym.lab.protocol import NET_MARGIN, level, way
from tokengym.lab.study import DOCS, Published, Runs
from tokengym.lab.tables import Speed, paired

CLAIMS = (DOCS / "claims.md").read_text(encoding="utf-8")
FILMS = token_credit.STUDY.published(DOCS)
FIGURES = ("score", "gold_score", "kl")


@cache
def grid() -> Runs:
    return one_grid.STUDY.published(DOCS).runs


@cache
def by_reward_model() -> Published:
    return reward_models.STUDY.published(DOCS)


def row(start: str) -> list[str]:
    """Return the cells of the page's row whose sentence begins so."""
    (line,) = (line for line in CLAIMS.splitlines() if line.startswith(f"| {start}"))
    return [cell.strip() for cell in line.strip("|").split(" | ")]


def is_clear(figure: PairedDifference) -> bool:
    return figure.low > 0 or figure.high < 0


range_of = one_grid.span_of
WHOLE = {24: 5, 48: 5, 96: 5}
"""Lengths whose figures are told, with the seeds that are made of each."""


def test_what_is_said_of_the_grid() -> None:
    """The range of four ways of choosing at each length, and how many of their intervals hold 1."""
    page = (DOCS / "film_reviews.md").read_text(encoding="utf-8").split("\n## ")[0]
    overview = (DOCS / "README.md").read_text(encoding="utf-8")
    runs, by_length = grid(), one_grid.ways(DOCS)
    whole = {length: one_grid.complete(runs, length) for length in LENGTHS}
    assert {length: len(of) for length, of in whole.items()} == WHOLE
    ways = {
        (name, length): one_grid.four_ways(runs, name, length, by_length[length], whole[length])
        for name in one_grid.ARMS
        for length in WHOLE
    }
    rule, critic = (
        [range_of(ways[name, length]) for length in WHOLE] for name in ("abc-signed", "critic")
    )
    for text in (page, overview, CLAIMS):
        assert re.search(f"{rule[0]} times as fast (in updates )?at 24 tokens", text)
        assert f"{rule[1]} times at 48" in text
        assert f"{rule[2]} times at 96" in text
    assert f"is {critic[0]}, {critic[1]} and {critic[2]} times as fast" in CLAIMS
    # "intervals above 1 but one at 96"
    unclear = [
        (*place, way)
        for place in product(one_grid.CREDITED, WHOLE)
        for way, each in zip(one_grid.WAYS_TO_CHOOSE, ways[place], strict=True)
        if not each.is_faster
    ]
    assert unclear == [("abc-signed", 96, "chosen by score over the run")]
    clear = {place for place, of in ways.items() for each in of if each.is_faster}
    assert clear == {
        *product(one_grid.CREDITED, WHOLE),
        *product(one_grid.CONTROLS, (24,)),
    }
    for name in one_grid.CONTROLS:
        above = [each.low > 1 for each in ways[name, 24]]
        assert above == [way == "chosen by score - c KL" for way in one_grid.WAYS_TO_CHOOSE]


def test_what_is_said_of_score_minus_the_price_of_kl_on_the_grid() -> None:
    """Leads of the rule and of the controls, and which part of them is score."""
    page = (DOCS / "film_reviews.md").read_text(encoding="utf-8")
    overview = (DOCS / "README.md").read_text(encoding="utf-8")
    readme = (DOCS.parents[1] / "README.md").read_text(encoding="utf-8")
    assert one_grid.leads_table(grid(), one_grid.ways(DOCS)).partition("\n")[2] in readme
    found = {
        (name, length): one_grid.against_sparse(
            grid(), name, length, one_grid.ways(DOCS)[length], one_grid.complete(grid(), length)
        )
        for name in one_grid.ARMS
        for length in WHOLE
    }

    def figures(what: str, *names: str) -> list[PairedDifference]:
        return [paired_difference(*found[at][what]) for at in product(names, WHOLE)]

    rule, critic, controls = (
        [each.difference for each in figures(one_grid.NET, *names)]
        for names in (("abc-signed",), ("critic",), one_grid.CONTROLS)
    )
    for leads, start in ((rule, "README: `abc-signed` has"), (critic, "README: that critic has")):
        first, second, third = (number(lead) for lead in leads)
        assert f"has {first}, {second} and {third} more" in row(start)[0]
    at_96 = [found[name, 96] for name in one_grid.CONTROLS]
    for what in ("score", "KL, nats"):
        assert all(paired_difference(*of[what]).high < 0 for of in at_96)
    for text in (page, overview):
        assert f"has {min(rule):.1f} to {max(rule):.1f} more score - c KL than `sparse`" in text
        assert f"{min(controls):.1f} to {max(controls):.1f}" in text
    assert [each.low > 0 for each in figures("score", "abc-signed")] == [True, True, False]
    assert [each.high < 0 for each in figures("KL, nats", "abc-signed")] == [True, True, True]
    assert f"has {-figures('KL, nats', 'abc-signed')[2].difference:.0f} nats less" in page
    assert f"{-figures(one_grid.GOLD, 'abc-signed')[2].difference:.3f} less gold" in page


def test_what_two_of_the_ways_of_choosing_spend() -> None:
    """Every arm has the largest rate by them, and `sparse` the KL and gold that are told."""
    page = (DOCS / "film_reviews.md").read_text(encoding="utf-8")
    runs, by_length = grid(), one_grid.ways(DOCS)
    passed, golds = {}, {}
    for length, name in product(WHOLE, one_grid.ARMS):
        seeds = one_grid.complete(runs, length)
        chosen = one_grid.chosen_cells(runs, name, length, by_length[length], seeds)
        for number_of_way, cells in enumerate(chosen.values()):
            of_seeds = [runs.runs[cell][seed] for cell, seed in zip(cells, seeds, strict=True)]
            at, place = by_length[length], (name, length, number_of_way)
            passed[place], golds[place] = (
                sum(one_grid.where_fast(points, at, measure) for points in of_seeds) / len(seeds)
                for measure in ("kl", "gold_score")
            )
            if number_of_way < 2:
                assert {cell.learning_rate for cell in cells} == {max(one_grid.LEARNING_RATES)}
            elif name == "sparse":
                assert {cell.learning_rate for cell in cells} == {1e-3}

    def told(of: dict[tuple[str, int, int], float], first: bool, arm: str, digits: int) -> str:
        values = [at for (name, _, way), at in of.items() if name == arm and (way < 2) == first]
        return f"{min(values):.{digits}f} to {max(values):.{digits}f}"

    fast, slow = (told(passed, first, "sparse", 0) for first in (True, False))
    gold, of_rule = (told(golds, True, arm, 2) for arm in ("sparse", "abc-signed"))
    assert f"passes the level at {fast} nats, where at 1e-3 it passes at {slow}, and its" in page
    assert f"and its gold is {gold}, that of `abc-signed` {of_rule}." in page


def test_what_is_said_of_the_rule_against_the_controls() -> None:
    page = (DOCS / "film_reviews.md").read_text(encoding="utf-8")
    runs, by_length = grid(), one_grid.ways(DOCS)
    unclear = []
    for length in WHOLE:
        seeds = one_grid.complete(runs, length)
        against = {
            control: one_grid.four_ways(
                runs, "abc-signed", length, by_length[length], seeds, control
            )
            for control in one_grid.CONTROLS
        }
        unclear += [
            (length, control, way)
            for control, of in against.items()
            for way, each in zip(one_grid.WAYS_TO_CHOOSE, of, strict=True)
            if each.low <= 1
        ]
    said = "By speed the rule is ahead of both, but for `uniform` at 24 tokens and one cell"
    assert said in page
    assert unclear == [(24, "uniform", "both at the cell of `sparse`")]


def test_what_is_said_of_reward_models_not_chosen_for_their_attention() -> None:
    """The range of four reward models' speeds, how many are clear, and the share of the bundled."""
    page = (DOCS / "film_reviews.md").read_text(encoding="utf-8")
    readme = (DOCS.parents[1] / "README.md").read_text(encoding="utf-8")
    published = by_reward_model()
    ways = reward_models.ways_of(published.drawn[reward_models.WAYS])
    speeds = {}
    for model in reward_models.MODELS:
        rule, base = (
            reward_models.cell("MovieReview", model, arm) for arm in ("abc-signed", "sparse")
        )
        found = reward_models.compared(published.runs, rule, base, ways["MovieReview", model])
        assert found is not None
        assert found[2] == 5
        speeds[model] = found[0]
    bundled = speeds.pop(reward_models.BUNDLED)
    others = [*speeds.values()]
    assert sum(each.low > 1 for each in others) == 2
    assert f"by four others `abc-signed` is {range_of(others)} times as fast" in readme
    assert f"{range_of(others)} times as fast, with intervals above 1 by two" in page
    told = f"{range_of(others)} times, with intervals above 1 by two"
    assert told in "".join(row("film reviews: `abc-signed` is"))
    assert range_of(others) in (DOCS / "README.md").read_text(encoding="utf-8")
    share = sum(math.log(each.times) for each in others) / 4 / math.log(bundled.times)
    assert f"in logarithms, is {100 * share:.0f} % of the bundled one" in page
    net = [
        paired_difference(
            *paired(
                *(
                    by_reward_model().runs.areas(reward_models.cell("MovieReview", at, arm))
                    for arm in ("abc-signed", "sparse")
                )
            )
        )
        for at in reward_models.TARGETS
    ]
    assert sum(each.low > 0 for each in net) == 3
    assert "ahead by three of four others" in row("README: `abc-signed` has")[2]
    critics = [
        paired_difference(
            *paired(
                *(
                    by_reward_model().runs.areas(reward_models.cell("MovieReview", at, arm))
                    for arm in ("critic", "sparse")
                )
            )
        ).difference
        for at in reward_models.TARGETS
        if "critic" in reward_models.arms_of(at)
    ]
    told = f"by three other reward models {number(min(critics))} to {number(max(critics))} at 24"
    assert told in row("README: that critic has")[2]
    assert "In score - c KL `abc-signed` is ahead by three of the four" in page


def speeds_by_others(task: str, arm: str, base: str = "sparse") -> list[Speed]:
    """Return an arm's speeds by the reward models that were not chosen for their attention."""
    published = by_reward_model()
    ways = reward_models.ways_of(published.drawn[reward_models.WAYS])
    models = [model for model in reward_models.TARGETS if arm in reward_models.arms_of(model)]
    speeds = []
    for model in models:
        own, other = (reward_models.cell(task, model, at) for at in (arm, base))
        found = reward_models.compared(published.runs, own, other, ways[task, model])
        assert found is not None
        assert found[2] == 5
        speeds.append(found[0])
    return speeds


def test_what_is_said_of_density_and_the_critic_by_those_reward_models() -> None:
    page = (DOCS / "film_reviews.md").read_text(encoding="utf-8")
    even, critics = (speeds_by_others("MovieReview", arm) for arm in ("uniform", "critic"))
    assert f"by two, uncorrected, where `uniform` is {range_of(even)}" in page
    assert all(each.low > 1 for each in critics)
    assert f"from three of them, {range_of(critics)} times" in page
    assert range_of(critics) in row("film reviews: there")[2]
    against = [
        number(each.times) for each in speeds_by_others("MovieReview", "abc-signed", "uniform")
    ]
    assert (
        f"against `uniform` the rule is {', '.join(against[:-1])} and {against[-1]} times as fast, "
        "three of the four" in page
    )


def test_what_is_said_of_those_reward_models_on_detox() -> None:
    page = (DOCS / "film_reviews.md").read_text(encoding="utf-8")
    rule = speeds_by_others("Detox", "abc-signed")
    assert sum(each.low > 1 for each in rule) == 2
    even = f"where `uniform` is {range_of(speeds_by_others('Detox', 'uniform'))}"
    told = f"On Detox the rule is {range_of(rule)} times as fast, above 1 by two as well"
    assert f"{told}, {even}" in page
    assert f"on Detox {range_of(rule)}" in row("film reviews: `abc-signed` is")[2]
    assert f"on Detox {range_of(rule)}" in (DOCS / "README.md").read_text(encoding="utf-8")
    critics = speeds_by_others("Detox", "critic")
    assert [each.low > 1 for each in critics] == [True, False, True]
    assert f"on Detox {range_of(critics)}" in row("film reviews: there")[2]


def test_the_readme_says_who_has_more_score_at_equal_kl() -> None:
    readme = (DOCS.parents[1] / "README.md").read_text(encoding="utf-8")
    overview = (DOCS / "README.md").read_text(encoding="utf-8")
    page = (DOCS / "equal_kl.md").read_text(encoding="utf-8")
    runs = equal_kl.STUDY.published(DOCS).runs
    found = {
        (measure, *cell.items()): equal_kl.at_kl(runs, cell, base, measure=measure)
        for measure in equal_kl.TESTED
        for cell, base in equal_kl.compared(runs)
    }
    known = {key: at.difference for key, at in found.items() if at is not None}
    assert len(known) == len(found) == 36
    adjusted = dict(zip(known, holm([of.p_value for of in known.values()]), strict=True))

    def lead_of(arm: str, task: str, target: float) -> tuple[str, float]:
        key = ("score", *equal_kl.cell_of(task, arm, target).items())
        return signed(known[key].difference), float(adjusted[key])

    films = [lead_of("started", "MovieReview", target) for target in (2.0, 5.0, 10.0)]
    detox = lead_of("started", "Detox", 2.0)
    assert all(p < 0.05 for _, p in (*films, detox))
    assert "At the same KL only the critic is shown to have more score" in readme
    ahead = {key[1:] for key, p in adjusted.items() if key[0] == "score" and p < 0.05
             and known[key].low > 0}  # fmt: skip
    assert all(("critic", "reward_model") in of for of in ahead)
    said = f"on film reviews {films[0][0]} at 2 nats, {films[1][0]} at 5 and {films[2][0]} at 10"
    assert said in page
    assert f"{said}, on Detox {detox[0]} at 2" in overview
    rule = [lead_of("abc-signed", "MovieReview", target) for target in (2.0, 5.0)]
    assert f"{rule[0][0]} at 2 nats and {rule[1][0]} at 5, which do not stand" in page
    assert f"(p = {rule[0][1]:.3f} and {rule[1][1]:.3f})" in page
    assert not any(
        p < 0.05
        for key, p in adjusted.items()
        if key[0] == "score" and ("rule", "abc-signed") in key
    )


def test_a_sentence_of_the_page_can_be_read() -> None:
    lines = [line for line in CLAIMS.splitlines() if line.startswith("| ")]
    cells = [cell for line in lines for cell in line.strip("|").split(" | ")]
    assert len(cells) == 4 * len(lines) > 4 * 8
    for cell in cells:
        assert 0 < len(re.sub(r"\]\([^)]*\)", "]", cell).split()) <= 25, cell


def test_the_end_after_four_times_the_training() -> None:
    """The rule ends with less score; the critic with less drift and nearly the score."""
    assert "nine or ten pairs" in row("README: after 120 updates")[1]
    less, nearly = [], []
    for length in LENGTHS:
        (base, rule, critic), made = arms(length, 120), FILMS.runs.runs
        ends = {
            arm: [lead(made[arm], made[base], measure, "final") for measure in FIGURES]
            for arm in (rule, critic)
        }
        assert {ends[arm][0].pairs for arm in ends} <= {9, 10}
        assert ends[rule][0].high < 0
        assert ends[critic][2].high < 0
        less.append(-ends[rule][0].difference)
        nearly.append(-ends[critic][0].difference)
    readme = (DOCS.parents[1] / "README.md").read_text(encoding="utf-8")
    assert f"its score is {min(less):.2f} to {max(less):.2f} lower" in readme
    price = row("film reviews: that critic ends")[2]
    assert f"{min(nearly):.2f} to {max(nearly):.2f} of score" in price


def test_score_minus_the_price_of_kl_is_level_at_the_end() -> None:
    less, is_level = [], []
    for length in LENGTHS:
        base, rule, _ = arms(length, 120)
        drawn = [line for line in FILMS.drawn[WAYS] if line["length"] == length]
        start, goal = way(drawn)
        ends = [token_credit.by_seed(FILMS.runs.runs[at], kind="final") for at in (base, rule)]
        is_level.append(level(*paired(*reversed(ends)), goal - start, NET_MARGIN).equivalent)
        net = lead(FILMS.runs.runs[rule], FILMS.runs.runs[base], kind="final")
        assert net.high < 0
        less.append(-net.difference)
    assert is_level == [True, True, False]
    said = f"lower by {min(less):.2f} to {max(less):.2f}, within the margin of level at 24 and 48"
    assert said in row("README: after 120 updates")[2]


def test_the_rule_is_ahead_of_sparse_and_both_controls_on_one_task_of_four() -> None:
    assert "one of four other tasks" in row("README: on one of four")[0]
    runs = other_tasks.STUDY.published(DOCS).runs
    ahead = []
    for task in ("Detox", "Dialogue", "Summarize", "QuestionAnswer"):
        rule = other_tasks.signed_cells(task)[1]
        leads = [
            lead(runs.runs[rule], runs.runs[other_tasks.cell_of(task, name)])
            for name in ("sparse", "uniform", "random")
        ]
        assert {each.pairs for each in leads} == {10}
        if all(each.low > 0 for each in leads):
            ahead.append(task)
        if task == "QuestionAnswer":
            assert leads[2].high < 0  # "on questions `random` is clearly ahead of the rule"
    assert ahead == ["Detox"]


def test_the_critic_helps_on_three_of_six_tasks() -> None:
    assert "three of six" in row("README: that critic helped")[0]
    tables = critic_elsewhere.tables(critic_elsewhere.STUDY.published(DOCS))
    assert len(critic_elsewhere.TASKS) == 6
    clear = [line for line in tables["critic"].splitlines() if "**" in line]
    assert [line.split(" | ")[0].strip("| ") for line in clear] == ["Detox", "SST-2", "IMDb"]


def test_real_text() -> None:
    assert "five pairs a task" in row("[real text]")[1]
    runs = critic_elsewhere.STUDY.published(DOCS).runs
    for task in ("IMDb", "SST-2"):
        cells = critic_elsewhere.signed_cells(task)[0], critic_elsewhere.base_cell(task)
        pair = [runs.runs[cell] for cell in cells]
        over, end = (lead(*pair, "score", kind) for kind in ("auc", "final"))
        assert over.pairs == 5
        assert over.low > 0
        assert not is_clear(end)


def test_no_rule_is_shown_ahead_on_the_board() -> None:
    _, rests, seen, _ = row("[tasks](tasks.md): no rule")
    rows = credit_v2.published(DOCS)
    assert "two seeds on each of eight tasks" in rests
    rules = {(each["subject"], each["track"]) for each in rows if each["is_rule"]}
    words = verdicts(rows)
    assert not any(words[rule].startswith("ahead") for rule in rules)
    (inside, *_) = families(rows)
    low, high = re.findall(r"a lead of ([\d.]+) to ([\d.]+) %", sees(inside))[0]
    assert f"sees {float(low):.0f} to {float(high):.0f} % in 80 of 100 cases" in seen


def test_the_overview_quotes_the_page_of_film_reviews() -> None:
    overview = (DOCS / "README.md").read_text(encoding="utf-8")
    assert one_grid.leads_table(grid(), one_grid.ways(DOCS)) in overview
    for length in LENGTHS:
        base, rule, _ = arms(length, 120)
        less = -lead(FILMS.runs.runs[rule], FILMS.runs.runs[base], "score", "final").difference
        assert f"{number(less)} lower at {length}" in overview


def test_the_page_on_papers_counts_its_own_table():
    page = (DOCS / "papers.md").read_text(encoding="utf-8")
    agreed = [
        line.rsplit("|", 2)[1].strip()
        for line in page.splitlines()
        if line.startswith("| ") and "| agrees |" not in line
    ]
    names = "zero one two three four five six seven eight nine ten eleven twelve".split()
    yes, no, undecided = (agreed.count(word) for word in ("yes", "no", "not decided"))
    held, differs = names[yes], names[no]
    partly = names[len(agreed) - yes - no - undecided]
    assert (len(agreed), undecided) == (21, 1)
    assert page.splitlines()[2].startswith(
        f"**Of twenty-one claims {held} hold here, {partly} in part or under a condition, "
        f"{differs} do not, and one is not decided.**"
    )
