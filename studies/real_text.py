"""Does token credit help on real text? IMDb, SST-2 and SmolLM2-135M, on one page.

    python -m studies.real_text page    # from published runs
    python -m studies.real_text run --out runs/real [--until 04:40]    # SmolLM2, 17 minutes a run
    python -m studies.real_text publish --out runs/real

The runs on IMDb and SST-2 with a point after every update are those of studies.critic_elsewhere;
studies.film_reviews has the earlier ones, with more pairs and fewer points. The rates of SmolLM2
were swept at commit 6307f464, by studies.real_model.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from studies import critic_elsewhere, film_reviews
from studies.parts import FIGURES, Points, leads
from tokengym import Comparison
from tokengym.base import to_json
from tokengym.evaluation.runs import EvaluationSettings, Run, TaskSettings
from tokengym.lab.protocol import PRICE, net
from tokengym.lab.study import (
    NET,
    Cell,
    Drawn,
    Published,
    Row,
    Study,
    draw_mean,
    read_rows,
    single_run,
)
from tokengym.lab.tables import NONE, critic_text, markdown_table

BUNDLE, ENV = "smollm2-reviews", film_reviews.ENV
UPDATES, ROWS, LENGTH = 12, 32, 16
OPENINGS, DRAWS = 64, 8
"""Held-out openings, and the responses to each by which a policy is measured."""
LEARNER: dict[str, Any] = {
    "advantage": "loo",
    "group_size": 4,
    "value_network": "trunk",
    "n_epochs": 1,
    "n_minibatches": 4,
    "micro_batch_size": 8,
    "kl_coef": PRICE,
}
"""Four responses to a prompt are each other's baseline, so that no value network is trained."""
RULES = ("sparse", "abc-signed", "random")
PAIRS = 5
"""Seeds of each arm that is shown."""
SMOLLM2 = "SmolLM2-135M, 16 tokens"
TEXTS = {"IMDb": "IMDb, 24 tokens", "SST-2": "SST-2, 16 tokens"}
SWEEP, LINES = "sweep.csv", "lines.csv"
ENDS = {"score at the end": ("score", "final"), "KL at the end": ("kl", "final")}
"""What is told beside `FIGURES`."""


class Arm(NamedTuple):
    """Runs of one setting on one text."""

    text: str
    name: str
    """Rule, with the start of its critic where that is not the policy's language model."""
    gae_lambda: str
    runs: Points


def config(run: Cell, out: Path) -> Comparison:
    """Return the comparison that a run of SmolLM2 is of, at its rule's rate."""
    del out
    rate = STUDY.published(Path("docs/results")).runs.rate(Cell(rule=run.rule))
    return single_run(
        ENV,
        run.rule,
        **LEARNER,
        dtype="float32",
        updates=UPDATES,
        batch_size=ROWS,
        max_new_tokens=LENGTH,
        learning_rate=rate,
        evaluation=EvaluationSettings(
            every=UPDATES // 3, episodes=OPENINGS * DRAWS, samples=0, reference_samples=16
        ),
        task=TaskSettings(bundle=BUNDLE),
    )


def lines(out: Path) -> list[dict[str, Any]]:
    """Return what the best of n untrained responses of SmolLM2 has."""
    first = config(STUDY.cell(rule=RULES[0], seed=0), out)
    rows = Run(first.reference_spec(out / "start")).draw().lines(PRICE).best_of_n
    return [to_json(row) for row in rows]


def sweep(docs: Path) -> list[Row]:
    """Return the runs of the spare seed, by which SmolLM2's rates were chosen."""
    return list(read_rows(docs / "real_text" / SWEEP, text=("rule",)))


def groups(published: Published) -> dict[str, list[Arm]]:
    """Return the arms of each comparison, its baseline first."""
    docs = published.folder.parent
    found: dict[str, list[Arm]] = {}
    runs = critic_elsewhere.STUDY.published(docs).runs
    for task, text in TEXTS.items():
        critic = runs.chosen(critic_elsewhere.started_cells(task))
        cells = [*critic_elsewhere.others(task), *([critic] if critic else [])]
        found[text] = [
            Arm(text, f"`{c.rule}`{critic_text(c.critic)}", c.gae_lambda, runs.runs[c])
            for c in cells
            if len(runs.runs.get(c, {})) >= PAIRS
        ]
    found |= coarse(docs)
    smol = published.runs.runs
    found[SMOLLM2] = [Arm(SMOLLM2, f"`{rule}`", NONE, smol[Cell(rule=rule)]) for rule in RULES]
    return found


def coarse(docs: Path) -> dict[str, list[Arm]]:
    """Return the earlier runs: ten pairs on IMDb, and SST-2's `sparse` at lambda 0.95.

    Both arms of a comparison have the rate that suits them: of `sparse` on SST-2 the better of two
    on these seeds, which the spare seed did not choose.
    """
    found = {}
    for corpus, sparse_rate in (("imdb", None), ("sst2", 1e-3)):
        study = film_reviews.STUDIES[corpus]
        runs = study.published(docs).runs
        sparse, signed = (
            study.cell(rule=rule, gae_lambda=at)
            for rule, at in (("sparse", "0.95"), ("abc-signed", "0.5"))
        )
        rate = runs.rate(sparse) if sparse_rate is None else sparse_rate
        at_rate = {
            int(run.seed): points
            for run, points in runs.each.items()
            if run.without("rate", "seed") == sparse and run.rate == rate and run.seed < 1000
        }
        text = f"{film_reviews.CORPORA[corpus].name}, earlier runs"
        found[text] = [
            Arm(text, "`sparse`", "0.95", at_rate),
            Arm(text, "`abc-signed`", "0.5", runs.runs[signed]),
        ]
    return found


def tables(published: Published) -> dict[str, str]:
    """Return the page's tables."""
    return {"differences": differences_table(groups(published))}


def differences_table(arms: Mapping[str, Sequence[Arm]]) -> str:
    """Return each arm's `leads` on its comparison's baseline."""
    pairs, figures = {}, {**FIGURES, **ENDS}
    for text, (base, *others) in arms.items():
        for arm in others:
            both = (arm_text(each.name, each.gae_lambda) for each in (arm, base))
            about = (text, *both, str(len(arm.runs.keys() & base.runs.keys())))
            pairs[about] = arm.runs, base.runs
    lines = [[*about, *texts] for about, texts in leads(pairs, figures).items()]
    return markdown_table(["text", "arm, lambda", "minus", "pairs", *figures], lines)


def arm_text(name: str, gae_lambda: str) -> str:
    """Return an arm with its lambda, if it has one."""
    return name if gae_lambda == NONE else f"{name}, {gae_lambda}"


def picture(published: Published) -> None:
    """Draw score - c KL over the updates of `sparse` and `abc-signed` on each text."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 3.6), layout="constrained")
    arms = groups(published)
    texts = (*TEXTS.values(), SMOLLM2)
    for axes, text in zip(figure.subplots(1, len(texts)), texts, strict=True):
        for arm, color in zip(arms[text][:2], ("#56616f", "#0072b2"), strict=True):
            label = arm.name.replace("`", "")
            draw_mean(axes, [*arm.runs.values()], net, color=color, label=label)
        axes.set(title=text, xlabel="updates")
    figure.axes[0].set_ylabel(NET)
    figure.axes[-1].legend(loc="lower right")
    figure.savefig(published.folder / "curves.png", dpi=110, metadata={"Software": None})


STUDY = Study(
    document="real_text.md",
    folder="real_text",
    axes={"rule": str},
    rounds=lambda: [([Cell(rule=rule) for rule in RULES], range(PAIRS))],
    config=config,
    tables=tables,
    pictures=picture,
    drawn=(Drawn(file=LINES, parts={LINES: lines}),),
    beside=sweep,
    first_rate=None,
    holm="table",
)

if __name__ == "__main__":
    STUDY.command_line(__doc__)
