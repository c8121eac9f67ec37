"""Is the gradient right? Every credit rule, weight and advantage estimator, exactly, on the Oracle.

python -m studies.gradients check             # raw numbers, about a minute
python -m studies.gradients ascend            # exact ascents, about 7 minutes
python -m studies.gradients publish           # fills docs/results/gradients.md
python -m studies.gradients check --rules rules.py:mine --estimators loo --out x

A rule or an estimator of one's own is a function of named inputs, "path/to/file.py:name", as
``gym.make`` and ``PPO(advantage=...)`` take it.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro
from torch import Tensor

from tokengym.agents import losses
from tokengym.evaluation.report import number
from tokengym.lab.gradients.exact import GradientCheck, response_probs
from tokengym.lab.gradients.oracle import (
    CONTROLS,
    HORIZON,
    SmallOracle,
    estimator_names,
    gradient_of,
    policies_along,
    rule_of,
)
from tokengym.lab.study import DOCS, Docs, command_line, read_rows, write_rows
from tokengym.lab.tables import fill, markdown_table
from tokengym.rewards import Reward

RULES = (
    "sparse",
    "red",
    "uniform",
    "recency",
    "random",
    "abc",
    "abc-signed",
    "abc-d",
    "scar",
    "gradient",
    "leave-one-out",
)
"""Shipped rules; those of R3 need an encoder, which the Oracle does not have."""
ESTIMATORS = tuple(estimator_names())
SHARES = (0.0, 0.5, 0.9)
"""Policies along a run: how far the expected score has come from its start to the best."""
RAW = DOCS / "gradients"
FIGURES = ("cosine", "scale", "relative_error", "noise", "standard_error")
SHIFT = 3.0
"""Added to scores that are not centred: a reward model's zero is arbitrary."""
SHIFTED = f", scores + {SHIFT:g}"
"""End of the name of a rule whose scores are shifted."""
LONG = 6
"""Horizon of the rules' ascents: long enough for a rule to lead away."""
STEPS, RATE, REFRESH = 400, 0.2, 20
"""Steps of the exact ascent, the largest change of a logit in each, as an optimiser like Adam has
it, and the steps after which scores are centred anew."""
CLIMBED = tuple((rule, "reinforce", LONG) for rule in RULES) + tuple(
    (rule, estimator, HORIZON)
    for estimator in ("loo", "gae", "grpo", *CONTROLS)
    for rule in ("sparse", "red")
)
CLIMBED += tuple(("sparse" + SHIFTED, estimator, HORIZON) for estimator in ("loo", *CONTROLS))
"""Rule, estimator and horizon of each ascent. `reinforce` needs no groups, and has the
expected gradient of `loo`."""


Rules = Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME ...")]
Rows = Sequence[Mapping[str, Any]]


WEIGHTS = ("constant", "entropy", "position")
"""Those that draw nothing: `random` has the expected gradient of `constant`, and more noise."""
PROPORTIONAL = "in proportion to entropy"


def proportional(small: SmallOracle, probs: Tensor) -> Tensor:
    """Return the weights w_t proportional to H_t, which depend on the state alone but for scale."""
    entropy = -(probs * probs.clamp(min=1e-300).log()).sum(1)[small.responses.states]
    return losses.mean_one(entropy, small.responses.mask)


def measure(
    small: SmallOracle, ends: bool, rules: Sequence[str], estimators: Sequence[str]
) -> list[dict[str, Any]]:
    """Return a row per policy, rule, estimator and weight."""
    rows = []
    policies = policies_along(small, small.true_scores(), shares=SHARES)
    for share, probs in zip(SHARES, policies, strict=True):
        chances = response_probs(probs, small.responses)
        for rule in rules:
            rewards, scores = small.rewarded(rule_of(rule), centre=chances)
            cells: list[tuple[str, str, Tensor | str | None, bool]] = []
            cells += [(name, "constant", None, True) for name in estimators]
            if "gae" in estimators:
                cells.append(("gae", "constant", None, False))
            if rule == "sparse" and "rloo" in estimators:
                weights: dict[str, Tensor | str] = {name: name for name in WEIGHTS[1:]}
                weights[PROPORTIONAL] = proportional(small, probs)
                cells += [("rloo", name, weight, True) for name, weight in weights.items()]
            for name, weighting, weight, critic in cells:
                check = gradient_of(
                    small, probs, rewards, scores, name, weights=weight, critic=critic
                )
                label = name if critic else f"{name}, critic at 0"
                row = {"eos": ends, "share": share, "rule": rule, "estimator": label}
                rows.append({**row, "weight": weighting, **_figures(check)})
            if rule in ("sparse", "red"):
                rewards, scores = small.rewarded(reward_of(rule + SHIFTED))
                for name in estimators:
                    check = gradient_of(small, probs, rewards, scores, name)
                    row = {"eos": ends, "share": share, "rule": rule + SHIFTED}
                    row |= {"estimator": name, "weight": "constant"}
                    rows.append({**row, **_figures(check)})
    return rows


def _figures(check: GradientCheck) -> dict[str, float]:
    return {figure: round(getattr(check, figure), 9) for figure in FIGURES}


def reward_of(rule: str) -> Reward:
    """Return a reward by name, with its scores shifted where the name says so."""
    reward = rule_of(rule.removesuffix(SHIFTED))
    scorer: Any = reward.scorer
    return Reward(scorer + SHIFT, reward.credit) if SHIFTED in rule else reward


def climb(rule: str, estimator: str, horizon: int) -> dict[str, Any]:
    """Return where the ascent along an estimator's expected gradient ends.

    Args:
        rule: Rule by name.
        estimator: Estimator by name; one with a group baseline gets groups of two.
        horizon: Longest response, tokens.
    """
    small = SmallOracle.make(horizon=horizon)
    reward = reward_of(rule)
    logits = torch.zeros(small.legal.shape, dtype=torch.float64)
    for step in range(STEPS):
        probs = small.probs(logits)
        if step % REFRESH == 0:
            centre = None if SHIFTED in rule else response_probs(probs, small.responses)
            rewards, scores = small.rewarded(reward, centre=centre)
        check = gradient_of(small, probs, rewards, scores, estimator, group_size=2)
        logits = logits + RATE * check.expected / check.expected.abs().max()
    about = {"rule": rule, "estimator": estimator, "horizon": horizon}
    return {**about, **ending(small, small.probs(logits))}


def ending(small: SmallOracle, probs: Tensor) -> dict[str, Any]:
    """Return a policy's expected true score and its likeliest response with its probability."""
    chances = response_probs(probs, small.responses)
    best = int(chances.argmax())
    return {
        "score": round(float((chances * small.true_scores()).sum()), 4),
        "response": small.episodes[best].response,
        "probability": round(float(chances[best]), 4),
    }


# --- commands -------------------------------------------------------------------------------------


def check(
    rules: Rules = RULES,
    estimators: Rules = ESTIMATORS,
    out: Path = RAW,
) -> None:
    """Write gradients.csv: every rule and estimator at every policy.

    Args:
        rules: Rules by name, or "path/to/file.py:Name".
        estimators: Estimators by name, or "path/to/file.py:Name".
        out: Folder of the raw numbers.
    """
    rows = []
    for ends in (True, False):
        rows += measure(SmallOracle.make(ends=ends), ends, rules, estimators)
    write_rows(out / "gradients.csv", rows)
    print(rules_table(rows, "loo" if "loo" in estimators else estimators[0]))


def ascend(out: Path = RAW) -> None:
    """Write where exact ascents end to ascents.csv.

    Args:
        out: Folder of the raw numbers.
    """
    ascents = [climb(*cell) for cell in CLIMBED]
    write_rows(out / "ascents.csv", ascents)


def publish(docs: Docs = DOCS) -> None:
    """Fill the page from the raw numbers."""
    raw = docs / "gradients"
    text = ("eos", "rule", "estimator", "weight")
    rows = read_rows(raw / "gradients.csv", text=text)
    tables = {
        "rules": rules_table([row for row in rows if row["rule"] in RULES], "loo"),
        "shifted": estimators_table(rows, "sparse" + SHIFTED),
    }
    fill(docs / "gradients.md", tables)
    draw(raw / "cosines.png", rows)


def draw(file: Path, rows: Rows) -> None:
    """Draw the cosine of every rule under `loo`, and of every estimator under `sparse`.

    Args:
        file: Picture to write.
        rows: Published gradients; those with EOS in play are drawn.
    """
    from matplotlib.figure import Figure

    loo = {"estimator": "loo", "eos": "True", "weight": "constant"}
    shifted = {"rule": "sparse" + SHIFTED, "eos": "True", "weight": "constant"}
    halves = (
        ("credit rules, estimator loo", "rule", RULES, loo),
        (f"estimators under sparse, {SHIFT:g} added to scores", "estimator", (), shifted),
    )
    figure = Figure(figsize=(10, 4), layout="constrained")
    for axes, (title, axis, names, where) in zip(figure.subplots(1, 2), halves, strict=True):
        found = [row for row in rows if all(row[key] == value for key, value in where.items())]
        names = names or tuple(dict.fromkeys(row[axis] for row in found))
        for share, color in zip(SHARES, ("#e69f00", "#0072b2", "#009e73"), strict=True):
            cosines = {row[axis]: float(row["cosine"]) for row in found if row["share"] == share}
            places = [place for place, name in enumerate(names[::-1]) if name in cosines]
            drawn = [cosines[name] for name in names[::-1] if name in cosines]
            axes.plot(drawn, places, "o", color=color, alpha=0.8, label=f"{share:.0%} of the way")
        axes.set_yticks(
            range(len(names)), [name.replace(":", ":\n") for name in names[::-1]], fontsize=9
        )
        axes.axvline(1, color="#56616f", linewidth=1)
        axes.set_title(title, fontsize=11)
        axes.set_xlabel("cosine with the true gradient")
        axes.grid(alpha=0.3)
    figure.legend(
        *axes.get_legend_handles_labels(), loc="outside upper center", ncols=3, fontsize=9
    )
    figure.savefig(file, dpi=130, metadata={"Software": None})


# --- tables ---------------------------------------------------------------------------------------


def _table(rows: Rows, axis: str, **where: str) -> str:
    """Return the cosine and the noise of each value of an axis, by policy, with EOS in play."""
    found = [
        row
        for row in rows
        if str(row["eos"]) == "True" and all(row[key] == value for key, value in where.items())
    ]
    lines = []
    for name in dict.fromkeys(row[axis] for row in found):
        along = sorted((row for row in found if row[axis] == name), key=lambda row: row["share"])
        cosines = [f"{row['cosine']:.3f}".replace("-", "\N{MINUS SIGN}") for row in along]
        noise = ", ".join(number(row["noise"]) for row in along)
        lines.append([f"`{name}`", *cosines, noise])
    return markdown_table([axis, *(f"{share:.0%}" for share in SHARES), "noise"], lines)


def rules_table(rows: Rows, estimator: str) -> str:
    """Return each rule's cosine and noise under an estimator."""
    return _table(rows, "rule", estimator=estimator, weight="constant")


def estimators_table(rows: Rows, rule: str) -> str:
    """Return each estimator's cosine and noise under a rule."""
    return _table(rows, "estimator", rule=rule, weight="constant")


if __name__ == "__main__":
    command_line(__doc__, check, ascend, publish)
