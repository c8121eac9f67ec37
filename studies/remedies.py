"""Do the field's own remedies for a weak critic leave anything for token credit?

On film reviews of 48 tokens `sparse` gets what a practitioner would try first: values that are
trained before the policy, a lambda of their own, a lambda by length, the tokens of high entropy
alone, no critic but the other responses to the prompt. Beside them `abc-signed` with the same
values, and with a critic from the reward model. The arms as published are not trained again. The
question is asked once more at 96 tokens, and of a learner whose rate warms up, which does not leap.

    python -m studies.remedies run --out runs/remedies [--until 22:00]
    python -m studies.remedies publish --out runs/remedies    # fills the page
    python -m studies.remedies page
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from studies import critic, frontier, leap
from tokengym import ComparisonConfig
from tokengym.evaluation import run as run_one
from tokengym.evaluation.measure import Evaluator
from tokengym.evaluation.report import number
from tokengym.evaluation.runs import RunRecord, training_settings
from tokengym.evaluation.statistics import (
    PairedDifference,
    RunPath,
    paired_difference,
    student_interval,
)
from tokengym.lab.benchmark.verdict import net_of, path_of
from tokengym.lab.protocol import FIRST_RATE, GRID, LEARNER, MEASURES, PRICE, measured
from tokengym.lab.replay.executed import Forks
from tokengym.lab.replay.replay import replay
from tokengym.lab.study import Cell, Drawn, Published, Round, Row, Runs, Study, single_run
from tokengym.lab.tables import (
    NONE,
    after_holm,
    at_equal_kl,
    critic_text,
    markdown_table,
    mean,
    paired_text,
    rates_table,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Figure = Callable[[RunPath], float]
"""What a table shows of a run."""
ENV, LENGTH, UPDATES, ROWS = "tokengym/MovieReview-v0", 48, 30, 64
LONGER = 96
"""Tokens of the longer responses."""
PRETRAINED = 15
"""Updates in which the values alone learn, from responses of the reference."""
PAIRS, DECIDING_PAIRS = 5, 10
"""Pairs of a remedy, and of the cells that say whether anything is left for token credit."""
PUBLISHED, WARMED = leap.VARIANTS[:2]


def variants(pretraining: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Return by name the settings of the learner beside the published ones.

    Args:
        pretraining: Settings by which the values learn alone at first.
    """
    return {
        PUBLISHED: {},
        "values pretrained": pretraining,
        "values' lambda 1": {"gae_lambda_vf": 1.0},
        "lambda by length": {"advantage": "gae-length", "gae_lambda": None},
        "top fifth by entropy": {"agent": "weighted-ppo", "advantage_weight": "entropy:top=0.2"},
        "leave-one-out": {"advantage": "loo", "group_size": 8, "gae_lambda": None},
        "pretrained, lambda 1": {**pretraining, "gae_lambda_vf": 1.0},
        WARMED: {"n_warmup_updates": leap.WARMUP},
    }


VARIANTS = variants({"n_value_warmup": PRETRAINED, "steps": PRETRAINED + UPDATES})
"""By name: settings of the learner beside the published ones."""
SPARSE = {"rule": "sparse", "gae_lambda": "0.95"}
SIGNED = {"rule": "abc-signed", "gae_lambda": "0.5"}
FIRST, EXPLAINED = "explained.csv", "explained"
"""Column of the share of the returns' variance that the values explain before an update."""
TEACHING, TAUGHT, ANY = "taught.csv", {"own": 240, "reward_model": 60}, "any"
"""File of what values explain while they alone learn; updates of each critic; all critics."""
BLOCK = 30
"""Updates over which a table takes means."""
STARTS = {"own": "of its own", "reward_model": "from the reward model", ANY: "any: the bound"}
FORKED, CONTINUATIONS = 96, 8
"""Responses, and continuations of each of their prefixes, behind what any values could explain."""


def cells() -> list[Cell]:
    """Return all cells, those as published first; then what is needed most."""
    longer = [
        STUDY.cell(**SPARSE, variant=name, length=LONGER)
        for name in ("leave-one-out", "lambda by length")
    ]
    asked = [cell for length, name in ASKED for cell in arms(length, name)]
    return [*dict.fromkeys([*short_cells(), *asked, *longer, *deciding()])]


def short_cells() -> list[Cell]:
    """Return the cells of the shorter responses without a warm-up, in their order."""
    published = [
        STUDY.cell(**SPARSE),
        STUDY.cell(**SIGNED),
        STUDY.cell(rule="sparse", gae_lambda="0.8", critic="reward_model"),
    ]
    remedies = [
        STUDY.cell(**SPARSE, variant=name) for name in VARIANTS if name not in (PUBLISHED, WARMED)
    ]
    signed = [
        STUDY.cell(**SIGNED, critic="reward_model"),
        STUDY.cell(**SIGNED, variant="values pretrained"),
    ]
    return [*published, remedies[0], signed[0], *remedies[1:], signed[1]]


TUNED = f"{WARMED}, lambda tuned"
"""Learner whose lambda is the better of two under the reward model's critic."""
OWN, MODELS = "its own", "reward model's"
"""Critics of two arms that are compared, in words."""
HIGH = "0.95"
"""Lambda that is tried under the reward model's critic beside that of each rule."""
ASKED = ((LENGTH, PUBLISHED), (LENGTH, WARMED), (LONGER, PUBLISHED), (LONGER, WARMED))
"""Lengths and variants at which `abc-signed` is compared with `sparse` under either critic."""


def arms(length: int, variant: str) -> list[Cell]:
    """Return `sparse` and `abc-signed`, each with its own critic and the reward model's.

    Args:
        length: Tokens of a response.
        variant: As published, or with a warm-up.
    """
    found = [cell.without("variant", "length") for cell in leap.cells(length, variant)]
    found.append(found[1].but(critic="reward_model"))
    return [STUDY.cell(**cell, length=length, variant=variant) for cell in found]


def started(length: int) -> tuple[list[Cell], list[Cell]]:
    """Return `sparse` and `abc-signed` at two lambdas, warmed up, with the reward model's critic.

    Args:
        length: Tokens of a response.
    """
    *_, sparse, signed = arms(length, WARMED)
    return ([sparse, sparse.but(gae_lambda=HIGH)], [signed, signed.but(gae_lambda=HIGH)])


def rounds() -> Iterator[Round]:
    """Yield the cells and the seeds wanted of them, in the order in which they are needed."""
    for cell in cells():
        yield [cell], range(PAIRS)
    for cell in deciding():
        yield [cell], range(DECIDING_PAIRS)


def deciding() -> list[Cell]:
    """Return the cells of the comparison under one critic, those at the better lambda first."""
    tuned = [c for length in (LONGER, LENGTH) for both in started(length) for c in both]
    return [*dict.fromkeys([*tuned, *(cell for asked in ASKED for cell in arms(*asked))])]


def beside(docs: Path) -> list[Row]:
    """Return the runs of other pages, which have no explained variance, and their sweeps.

    Those as published are of the critic's page, and those with a warm-up of the leap's.
    """
    pairs = dict.fromkeys(cells(), PAIRS) | dict.fromkeys(deciding(), DECIDING_PAIRS)
    shape = {"model": "aligned", "updates": UPDATES, "rows": ROWS}
    known: list[tuple[Cell, list[Row]]] = [
        (run.without(*shape).but(variant=PUBLISHED), points)
        for run, points in critic.STUDY.published(docs).runs.each.items()
        if all(run[axis] == value for axis, value in shape.items())
    ]
    warmed = leap.STUDY.published(docs).runs.each.items()
    known += [(run, points) for run, points in warmed if run.variant == WARMED]
    rows: list[Row] = []
    for run, points in known:
        about = run.without("rate", "seed")
        start = run.critic.replace(" ", "_")
        cell = STUDY.cell(**about.but(critic=start, length=int(run.length)))
        if run.seed < pairs.get(cell, 0) or (cell in pairs and run.seed in STUDY.spare_seeds):
            of_run = {**cell, "rate": run.rate, "seed": run.seed, EXPLAINED: None}
            rows += [{**of_run, **{name: row[name] for name in MEASURES}} for row in points]
    return rows


def config(run: Cell, out: Path) -> ComparisonConfig:
    """Return the comparison that a run is of."""
    del out
    settings = {
        "steps": UPDATES,
        "gae_lambda": float(run.gae_lambda),
        **LEARNER,
        **VARIANTS[run.variant],
    }
    if settings.get("advantage") != "loo":
        settings["value_network"] = run.critic
    else:
        del settings["vf_coef"], settings["clip_range_vf"]
    return single_run(
        ENV,
        run.rule,
        batch_size=ROWS,
        max_new_tokens=int(run.length),
        learning_rate=run.rate,
        **settings,
        evaluation=GRID,
    )


def measure(run: Cell, record: RunRecord) -> list[Row]:
    """Return the rows of a run, with what the values explained before the update to come."""
    explained = {row["step"] - 1: row.get("explained_variance") for row in record.train}
    return [{**row, EXPLAINED: explained.get(row["step"])} for row in measured(record)]


def explained_as_published(out: Path) -> list[Row]:
    """Return what the values of the published arms explain before the first update, by seed."""
    rows: list[Row] = []
    for cell in short_cells():
        if cell.variant == PUBLISHED:
            for seed in range(PAIRS):
                first = config(cell.but(rate=FIRST_RATE), out)
                short = replace(first, training=replace(first.training, steps=1))
                record = run_one(short, short.rewards[0], seed)
                rows.append({**cell, "seed": seed, EXPLAINED: measure(cell, record)[0][EXPLAINED]})
    return rows


def taught(out: Path) -> list[Row]:
    """Return what values explain while they alone learn, by update, and what any values could.

    Returns that are whole, so that no value stands on either side. One run a critic.
    """
    del out
    rows: list[Row] = []
    for start, updates in TAUGHT.items():
        settings = {"value_network": start, "gae_lambda_vf": 1.0, "n_value_warmup": updates}
        config_ = single_run(
            ENV,
            "sparse",
            batch_size=ROWS,
            max_new_tokens=LENGTH,
            learning_rate=FIRST_RATE,
            steps=updates + 1,
            gae_lambda=float(SPARSE["gae_lambda"]),
            **{**LEARNER, "learning_rate_schedule": "constant", **settings},
            evaluation=replace(GRID, every=updates + 1),
        )
        learned = run_one(config_, "sparse", 0).train[:updates]
        rows += [
            {"critic": start, "update": row["step"] - 1, EXPLAINED: row["explained_variance"]}
            for row in learned
        ]
    return [*rows, {"critic": ANY, "update": 0, EXPLAINED: explainable()}]


def explainable() -> float:
    """Return the share of the scores' variance that no values can exceed, of the reference.

    The value of a prefix is the mean score of its continuations. Two halves of them have the true
    value in common and their noise apart: their covariance over all prefixes is its variance.
    """
    training = training_settings(ENV, max_new_tokens=LENGTH)
    evaluator = Evaluator(ENV, training.lengths(), num_episodes=FORKED)
    policy = evaluator.untrained()
    episodes = list(evaluator(policy).episodes)
    evaluator.close()
    played: Any = {"env": ENV, "env_kwargs": training.lengths(), "policy": policy}
    truth = replay(episodes, ["sparse"], forks=Forks(k=CONTINUATIONS), **played).truth
    assert truth is not None
    assert truth.executed is not None
    scores = np.array([episode.score for episode in episodes], dtype=np.float64)
    return share_of_values(scores, [worth.halves for worth in truth.executed.worths])


def share_of_values(
    scores: Sequence[float] | NDArray[np.float64],
    halves: Sequence[tuple[NDArray[np.float64], NDArray[np.float64]]],
) -> float:
    """Return the variance of the values of all prefixes, over that of the scores.

    Args:
        scores: Score of each response.
        halves: Per response (n,) twice: what each token changed in the mean score of one half of
            the continuations. They sum to the score minus the value of the prompt.
    """
    # What a half pays from a place on leads from the value there to the score.
    first, second = (
        np.concatenate(
            [
                score - np.cumsum(of_response[half][::-1])[::-1]
                for score, of_response in zip(scores, halves, strict=True)
            ]
        )
        for half in (0, 1)
    )
    return float(np.cov(first, second)[0, 1] / np.var(scores, ddof=1))


# --- page -----------------------------------------------------------------------------------------


def tables(published: Published) -> dict[str, str]:
    """Return the page's tables by name."""
    runs, explained = published.runs, explained_of(published)
    made = [cell for cell in cells() if len(runs.areas(cell)) > 1]
    short = [cell for cell in made if cell in short_cells()]
    longer = [cell for cell in made if cell.length == LONGER and cell.variant != WARMED]
    swept = {(f"{cell.length:g}", *about(cell)): runs.sweeps[cell] for cell in made}
    return {
        "left": left_table(runs),
        "leads": leads_table(runs, short, explained),
        "taught": taught_table(published.drawn[TEACHING]),
        "longer": leads_table(runs, longer, explained),
        "rates": rates_table(swept, ("tokens", "variant", "arm"), with_best=True),
    }


def taught_table(rows: Sequence[Row]) -> str:
    """Return what values explain while they alone learn, means over `BLOCK` updates."""
    lines = []
    for start, updates in TAUGHT.items():
        curve = [row[EXPLAINED] for row in rows if row["critic"] == start]
        blocks = [number(mean(curve[at : at + BLOCK])) for at in range(0, len(curve), BLOCK)]
        blocks += [NONE] * ((max(TAUGHT.values()) - updates) // BLOCK)
        lines.append([STARTS[start], *blocks])
    limit = [number(row[EXPLAINED]) for row in rows if row["critic"] == ANY]
    lines.append([STARTS[ANY], *limit * (max(TAUGHT.values()) // BLOCK)])
    spans = [f"{at + 1} to {at + BLOCK}" for at in range(0, max(TAUGHT.values()), BLOCK)]
    return markdown_table(["values", *spans], lines)


def left(runs: Runs) -> Iterator[tuple[tuple[str, str, str], list[list[RunPath]]]]:
    """Yield length, learner and critic, and the runs of `abc-signed` and of `sparse` there.

    The runs of both are of the same seeds in the same order. Where the lambda is tuned, it is the
    one that did best on the spare seed.
    """
    asked: list[tuple[tuple[str, str, str], tuple[list[Cell], list[Cell]]]] = []
    for length, variant in ASKED:
        own, signed, sparse, both = arms(length, variant)
        asked.append(((f"{length}", variant, OWN), ([own], [signed])))
        asked.append(((f"{length}", variant, MODELS), ([sparse], [both])))
        if variant == WARMED:
            asked.append(((f"{length}", TUNED, MODELS), started(length)))
    for key, tried in asked:
        if any(len(runs.areas(cell)) < 2 for cells_ in tried for cell in cells_):
            continue
        of_sparse, of_signed = (runs.runs[runs.chosen(cells_) or cells_[0]] for cells_ in tried)
        seeds = sorted(of_signed.keys() & of_sparse.keys())
        yield key, [[path_of(of[seed]) for seed in seeds] for of in (of_signed, of_sparse)]


def lead(pair: Sequence[Sequence[RunPath]], price: float = PRICE) -> PairedDifference:
    """Return the difference of two arms in score - c KL over the run."""
    one, other = ([net_of(run, price) for run in each] for each in pair)
    return paired_difference(one, other)


def left_table(runs: Runs) -> str:
    """Return `abc-signed` minus `sparse` under the same critic, by length and by learner."""
    heads = ["tokens", "learner", "critic of both", "score - c KL over the run"]
    heads += ["score over the run", "KL over it", *frontier.ENDS, "score at equal KL, by nats"]
    return markdown_table(heads, lines_of(dict(left(runs))))


def lines_of(
    pairs: Mapping[tuple[str, ...], Sequence[Sequence[RunPath]]],
    *,
    price: float = PRICE,
    figures: Sequence[Figure] = frontier.PARTS,
) -> list[list[str]]:
    """Return a line for each two arms: what one has more in all figures, and at equal KL.

    Args:
        pairs: By the first columns the runs of both, of the same seeds in the same order.
        price: Score that a nat costs.
        figures: What is shown beside score - c KL over the run.
    """
    shown = after_holm({key: lead(pair, price) for key, pair in pairs.items()})
    lines = []
    for key, pair in pairs.items():
        equal = at_equal_kl(*({"": dict(enumerate(each))} for each in pair))
        lines.append([*key, shown[key], *frontier.minus(*pair, figures=figures), equal])
    return lines


def about(cell: Cell) -> list[str]:
    """Return a cell's columns."""
    lambda_ = NONE if VARIANTS[cell.variant].get("gae_lambda", 0) is None else cell.gae_lambda
    return [cell.variant, f"`{cell.rule}`, {lambda_}{critic_text(cell.critic)}"]


def explained_of(published: Published) -> dict[Cell, list[float]]:
    """Return by cell what the values explain before the policy's first update, a number a run."""
    found: dict[Cell, list[float]] = {}
    for row in published.drawn[FIRST]:
        cell = STUDY.cell(**{axis: row[axis] for axis in STUDY.axes if axis in row})
        found.setdefault(cell, []).append(row[EXPLAINED])
    for cell, by_seed in published.runs.runs.items():
        begins = VARIANTS[cell.variant].get("n_value_warmup", 0)
        values = [points[begins][EXPLAINED] for points in by_seed.values()]
        if cell.variant != PUBLISHED or cell not in found:
            found[cell] = [value for value in values if value is not None]
    return found


def paths(runs: Runs, cell: Cell, begins: int = 0) -> dict[int, RunPath]:
    """Return a cell's runs by seed, from an update on."""
    return {
        seed: path_of([row for row in points if row["step"] >= begins])
        for seed, points in runs.runs.get(cell, {}).items()
    }


def own_updates(runs: Runs, cell: Cell) -> dict[int, RunPath]:
    """Return a cell's runs by seed, without the updates in which the values alone learned."""
    return paths(runs, cell, VARIANTS[cell.variant].get("n_value_warmup", 0))


def lead_on(
    base: Mapping[int, RunPath],
    own: Mapping[int, RunPath],
    whole: Mapping[int, RunPath],
    *,
    price: float = PRICE,
    figures: Sequence[Figure] = frontier.PARTS,
) -> tuple[PairedDifference, list[str]]:
    """Return an arm's lead on a baseline, and what a table shows behind it.

    That is the lead with all tokens counted, the figures, and the score at equal KL.

    Args:
        base: The baseline's runs by seed.
        own: Those of the arm, without the updates of the values alone.
        whole: The same with them.
        price: Score that a nat costs.
        figures: What is shown beside score - c KL over the run.
    """
    seeds = sorted(own.keys() & base.keys())
    pair = [[runs[seed] for seed in seeds] for runs in (own, base)]
    cut = [whole[s].within(float(base[s].tokens[-1]), across_leaps=True) for s in seeds]
    counted, other = ([net_of(run, price) for run in runs] for runs in (cut, pair[1]))
    equal = at_equal_kl({"": own}, {"": base})
    parts = [paired_text(counted, other), *frontier.minus(*pair, figures=figures), equal]
    return lead(pair, price), parts


def leads_table(runs: Runs, made: list[Cell], explained: Mapping[Cell, list[float]]) -> str:
    """Return every arm minus `sparse` as published, with and without the values' own updates."""
    base, *others = made
    of_base = paths(runs, base)
    found = {cell: lead_on(of_base, own_updates(runs, cell), paths(runs, cell)) for cell in others}
    shown = after_holm({cell: difference for cell, (difference, _) in found.items()})
    lines = []
    for cell, (_, parts) in found.items():
        known = explained.get(cell, [])
        before = number(mean(known)) if known else NONE
        lines.append([*about(cell), str(len(runs.areas(cell))), before, shown[cell], *parts])
    heads = ["variant", "arm", "pairs", "explained before update 1", "score - c KL over the run"]
    heads += ["the same, all tokens counted", "score over the run", "KL over it", *frontier.ENDS]
    return markdown_table([*heads, "score at equal KL, by nats"], lines)


def gains(runs: Runs) -> dict[Cell, dict[int, float]]:
    """Return by cell and seed score - c KL over the run minus that of `sparse` as published.

    The cells are those of the shorter responses.
    """
    base, *others = short_cells()
    of_base = {seed: net_of(run) for seed, run in paths(runs, base).items()}
    return {
        cell: {
            seed: net_of(run) - of_base[seed]
            for seed, run in own_updates(runs, cell).items()
            if seed in of_base
        }
        for cell in others
    }


def draw(published: Published) -> None:
    """Draw what is left for token credit, and the gain of each cell over what values explain."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(14, 4.8), layout="constrained")
    answer, gain = figure.subplots(1, 2, width_ratios=(0.8, 1))
    draw_left(answer, published.runs)
    draw_gains(gain, published)
    for axes in (answer, gain):
        axes.grid(alpha=0.3)
    figure.savefig(published.folder / "explained.png", dpi=130, metadata={"Software": None})


def draw_left(axes: "Axes", runs: Runs) -> None:
    """Draw `abc-signed` minus `sparse` under either critic, one line a length and learner."""
    asked = [*dict.fromkeys(key[:2] for key, _ in left(runs))]
    for rank, ((length, variant, start), pair) in enumerate(left(runs)):
        is_own = start == OWN
        found = lead(pair)
        middle, color = found.difference, "#56616f" if is_own else "#d55e00"
        place = asked.index((length, variant)) + (-0.12 if is_own else 0.12)
        error = [[middle - found.low], [found.high - middle]]
        label = f"critic: {start}" if rank < 2 else None  # of the first line
        axes.errorbar(middle, place, xerr=error, fmt="o", color=color, label=label)
    axes.axvline(0, color="#888888", linewidth=0.8)
    axes.set_yticks(range(len(asked)), [f"{n} tokens,\n{variant}" for n, variant in asked])
    axes.set_ylim(len(asked) - 0.5, -0.5)
    axes.set_xlabel("score - c KL over the run, abc-signed minus sparse")
    axes.legend(loc="lower right", fontsize=8)


def draw_gains(axes: "Axes", published: Published) -> None:
    """Draw the gain of each cell over what its values explain, one point a cell."""
    explained = explained_of(published)
    places = []
    for cell, by_seed in gains(published.runs).items():
        if not explained.get(cell) or len(by_seed) < 2:
            continue
        middle, low, high, _ = (float(v) for v in student_interval(list(by_seed.values())))
        color = "#d55e00" if cell.rule == "abc-signed" else "#0072b2"
        x = mean(explained[cell])
        axes.errorbar(x, middle, [[middle - low], [high - middle]], fmt="o", color=color)
        places.append((middle, x, ", ".join(about(cell)).replace("`", "")))
    for rank, (middle, x, name) in enumerate(sorted(places)):
        is_right = x > 0.5  # its name would leave the picture, and its neighbour's name is near
        above = rank == len(places) - 1 if is_right else rank % 2
        axes.annotate(
            name,
            (x, middle),
            xytext=(-7 if is_right else 9, 8 if above else -12),
            textcoords="offset points",
            fontsize=7,
            ha="right" if is_right else "left",
        )
    axes.axhline(0, color="#888888", linewidth=0.8)
    axes.set_xlabel("variance of the returns that the values explain before update 1, a share")
    axes.set_ylabel(f"score - c KL over the run, minus sparse, {LENGTH} tokens")


STUDY = Study(
    document="details/remedies.md",
    folder="remedies",
    axes={
        "variant": PUBLISHED,
        "rule": str,
        "gae_lambda": "0.95",
        "critic": "own",
        "length": LENGTH,
    },
    rounds=rounds,
    config=config,
    measure=measure,
    beside=beside,
    tables=tables,
    pictures=draw,
    drawn=(
        Drawn(
            file=FIRST,
            parts={FIRST: explained_as_published},
            text=("variant", "rule", "gae_lambda", "critic"),
        ),
        Drawn(file=TEACHING, parts={TEACHING: taught}, text=("critic",)),
    ),
)

if __name__ == "__main__":
    STUDY.command_line(__doc__)
