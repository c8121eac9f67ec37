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
from studies.parts import FIGURES, GOLD, lead, speed_of, there
from studies.token_credit import LENGTHS, WAYS, arms
from tokengym.base.text import number, signed
from tokengym.evaluation.statistics import (
    PairedDifference,
    RelativeSteps,
    holm,
    paired_difference,
)
from tokengym.lab.benchmark.board import families, sees, verdicts
from tokengym.lab.protocol import NET_MARGIN, level, way
from tokengym.lab.study import DOCS, Published, Runs
from tokengym.lab.tables import paired

CLAIMS = (DOCS / "claims.md").read_text(encoding="utf-8")
FILMS = token_credit.STUDY.published(DOCS)


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


WHOLE = {24: 5, 48: 5, 96: 5}
"""Lengths whose figures are told, with the seeds that are made of each."""
Speeds = list[RelativeSteps | None]


def times(speeds: Speeds) -> list[float]:
    """Return how many times as fast the arms are; each has a speed."""
    known = [1.0 / each.ratio for each in speeds if each is not None]
    assert len(known) == len(speeds)
    return known


def faster(speeds: Speeds) -> list[bool]:
    """Return whether their intervals are above 1."""
    return [each is not None and each.high < 1.0 for each in speeds]


def range_of(speeds: Speeds) -> str:
    return " to ".join(f"{pick(times(speeds)):.1f}" for pick in (min, max))


@cache
def four_ways(name: str, length: int, base: str = "sparse") -> dict[str, RelativeSteps | None]:
    runs, at = grid(), one_grid.ways(DOCS)[length]
    return one_grid.four_ways(runs, name, length, at, one_grid.complete(runs, length), base)


def test_what_is_said_of_the_grid() -> None:
    """Speed at the table's cells, the range of four ways of choosing, and what is unclear."""
    page = (DOCS / "film_reviews.md").read_text(encoding="utf-8").split("\n## ")[0]
    overview = (DOCS / "README.md").read_text(encoding="utf-8")
    assert {length: len(one_grid.complete(grid(), length)) for length in LENGTHS} == WHOLE
    told = {
        name: [
            number(each) for each in times([four_ways(name, at)[one_grid.BY_NET] for at in WHOLE])
        ]
        for name in one_grid.CREDITED
    }
    first, second, third = told["abc-signed"]
    for text in (page, overview, CLAIMS):
        assert f"is {first}, {second} and {third} times as fast at 24, 48 and 96 tokens" in text
    first, second, third = told["critic"]
    assert f"is {first}, {second} and {third} times as fast" in CLAIMS
    ways = {(name, at): [*four_ways(name, at).values()] for name in one_grid.ARMS for at in WHOLE}
    rule, critic = ([range_of(ways[name, at]) for at in WHOLE] for name in one_grid.CREDITED)
    assert f"is {rule[0]}, {rule[1]} and {rule[2]} times as fast, 11 of 12 intervals" in page
    assert f"the critic {critic[0]}, {critic[1]} and {critic[2]}." in page
    # "intervals above 1 but one at 96"
    unclear = [
        (*place, way)
        for place in product(one_grid.CREDITED, WHOLE)
        for way, is_faster in zip(one_grid.WAYS_TO_CHOOSE, faster(ways[place]), strict=True)
        if not is_faster
    ]
    assert unclear == [("abc-signed", 96, "chosen by score over the run")]
    clear = {place for place, of in ways.items() if any(faster(of))}
    assert clear == {
        *product(one_grid.CREDITED, WHOLE),
        *product(one_grid.CONTROLS, (24,)),
    }
    for name in one_grid.CONTROLS:
        assert faster(ways[name, 24]) == [way == one_grid.BY_NET for way in one_grid.WAYS_TO_CHOOSE]


def test_what_is_said_of_score_minus_the_price_of_kl_on_the_grid() -> None:
    """Leads of the rule and of the controls, and which part of them is score."""
    page = (DOCS / "film_reviews.md").read_text(encoding="utf-8")
    overview = (DOCS / "README.md").read_text(encoding="utf-8")
    readme = (DOCS.parents[1] / "README.md").read_text(encoding="utf-8")
    assert one_grid.leads_table(grid(), one_grid.ways(DOCS)).partition("\n")[2] in readme
    found = one_grid.against_sparse(grid(), one_grid.ways(DOCS))

    def figures(what: str, *names: str) -> list[PairedDifference]:
        return [lead(*found[at, name], *FIGURES[what]) for name, at in product(names, WHOLE)]

    rule, critic, controls = (
        [each.difference for each in figures(one_grid.NET, *names)]
        for names in (("abc-signed",), ("critic",), one_grid.CONTROLS)
    )
    for leads, start in ((rule, "README: `abc-signed` has"), (critic, "README: that critic has")):
        first, second, third = (number(lead) for lead in leads)
        assert f"has {first}, {second} and {third} more" in row(start)[0]
    for what in ("score", "KL, nats"):
        assert all(figures(what, name)[2].high < 0 for name in one_grid.CONTROLS)
    for text in (page, overview):
        assert f"has {min(rule):.1f} to {max(rule):.1f} more score - c KL than `sparse`" in text
        assert f"{min(controls):.1f} to {max(controls):.1f}" in text
    assert [each.low > 0 for each in figures("score", "abc-signed")] == [True, True, False]
    assert [each.high < 0 for each in figures("KL, nats", "abc-signed")] == [True, True, True]
    assert f"has {-figures('KL, nats', 'abc-signed')[2].difference:.0f} nats less" in page
    assert f"{-figures(GOLD, 'abc-signed')[2].difference:.3f} less gold" in page


def test_what_two_of_the_ways_of_choosing_spend() -> None:
    """Every arm has the largest rate by them, and `sparse` the KL and gold that are told."""
    page = (DOCS / "film_reviews.md").read_text(encoding="utf-8")
    runs, by_length = grid(), one_grid.ways(DOCS)
    read: dict[tuple[str, str], list[float]] = {}
    for length, (place, how) in product(WHOLE, enumerate(one_grid.WAYS_TO_CHOOSE)):
        about = length, by_length[length], one_grid.complete(runs, length)
        for name in one_grid.ARMS:
            cells = one_grid.chosen_cells(runs, name, *about)[how]
            if place < 2:
                assert {cell.learning_rate for cell in cells} == {max(one_grid.LEARNING_RATES)}
            elif name == "sparse":
                assert {cell.learning_rate for cell in cells} == {1e-3}
        speed = four_ways("abc-signed", length)[how]
        assert speed is not None
        for name, step in (("abc-signed", speed.steps), ("sparse", speed.baseline_steps)):
            chosen = [*one_grid.chosen_runs(runs, name, *about)[how].values()]
            for measure in ("kl", "gold_score") if place < 2 else ():
                read.setdefault((name, measure), []).append(there(chosen, step, measure))
    kl, gold, of_rule = (
        f"{min(values):.{digits}f} to {max(values):.{digits}f}"
        for values, digits in (
            (read["sparse", "kl"], 0),
            (read["sparse", "gold_score"], 2),
            (read["abc-signed", "gold_score"], 2),
        )
    )
    assert f"`sparse` is read at {kl} nats, with gold of {gold} for {of_rule}." in page


def test_what_is_said_of_the_rule_against_the_controls() -> None:
    page = (DOCS / "film_reviews.md").read_text(encoding="utf-8")
    assert "At 24 tokens `random` is as fast as the rule" in page
    unclear = [
        (length, control, way)
        for length, control in product(WHOLE, one_grid.CONTROLS)
        for way, each in four_ways("abc-signed", length, control).items()
        if not any(faster([each]))
    ]
    assert unclear == [(24, control, one_grid.BY_NET) for control in one_grid.CONTROLS]


def test_what_is_said_of_reward_models_not_chosen_for_their_attention() -> None:
    """The range of four reward models' speeds, how many are clear, and the share of the bundled."""
    page = (DOCS / "film_reviews.md").read_text(encoding="utf-8")
    readme = (DOCS.parents[1] / "README.md").read_text(encoding="utf-8")
    others = speeds_by_others("MovieReview", "abc-signed")
    own = reward_models.compared(
        by_reward_model().runs, "MovieReview", reward_models.BUNDLED, "abc-signed"
    )
    (bundled,) = times([speed_of(*own)])
    assert sum(faster(others)) == 3
    assert f"by four others `abc-signed` is {range_of(others)} times as fast" in readme
    assert f"{range_of(others)} times as fast, with intervals above 1 by three" in page
    told = f"{range_of(others)} times, with intervals above 1 by three"
    assert told in "".join(row("film reviews: `abc-signed` is"))
    assert range_of(others) in (DOCS / "README.md").read_text(encoding="utf-8")
    share = sum(math.log(each) for each in times(others)) / 4 / math.log(bundled)
    assert f"In logarithms its mean is {100 * share:.0f} % of the bundled one" in page
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


def speeds_by_others(task: str, arm: str, base: str = "sparse") -> Speeds:
    """Return an arm's speeds by the reward models that were not chosen for their attention."""
    runs = by_reward_model().runs
    models = [model for model in reward_models.TARGETS if arm in reward_models.arms_of(model)]
    pairs = [reward_models.compared(runs, task, model, arm, base) for model in models]
    assert {len(own.keys() & other.keys()) for own, other in pairs} == {5}
    return [speed_of(*pair) for pair in pairs]


def test_what_is_said_of_density_and_the_critic_by_those_reward_models() -> None:
    page = (DOCS / "film_reviews.md").read_text(encoding="utf-8")
    even, critics = (speeds_by_others("MovieReview", arm) for arm in ("uniform", "critic"))
    assert f"by three, where `uniform` is {range_of(even)}" in page
    assert all(faster(critics))
    assert f"that critic {range_of(critics)} times" in page
    assert range_of(critics) in row("film reviews: there")[2]
    against = speeds_by_others("MovieReview", "abc-signed", "uniform")
    *told, last = (number(each) for each in times(against))
    assert f"against `uniform` the rule is {', '.join(told)} and {last} times as fast" in page
    assert f"{sum(faster(against))} of 4 intervals above 1" in page


def test_what_is_said_of_those_reward_models_on_detox() -> None:
    page = (DOCS / "film_reviews.md").read_text(encoding="utf-8")
    rule = speeds_by_others("Detox", "abc-signed")
    assert sum(faster(rule)) == 3
    even = f"where `uniform` is {range_of(speeds_by_others('Detox', 'uniform'))}"
    told = f"On Detox it is {range_of(rule)} times as fast, above 1 by three as well"
    assert f"{told}, {even}" in page
    assert f"on Detox {range_of(rule)}" in row("film reviews: `abc-signed` is")[2]
    assert f"on Detox {range_of(rule)}" in (DOCS / "README.md").read_text(encoding="utf-8")
    critics = speeds_by_others("Detox", "critic")
    assert faster(critics) == [True, False, True]
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
    assert "At the same KL only the one with that critic is shown to have more score" in readme
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
            arm: [
                lead(made[arm], made[base], measure, "final")
                for measure in ("score", "gold_score", "kl")
            ]
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
        own, base = (runs.runs[cell] for cell in cells)
        over, end = (lead(own, base, "score", kind) for kind in ("auc", "final"))
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
