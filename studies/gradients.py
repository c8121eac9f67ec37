"""Is the gradient right? Every credit rule, weight and advantage estimator, exactly, on the Oracle.

python -m studies.gradients check             # raw numbers, about a minute
python -m studies.gradients ascend            # exact ascents, about 7 minutes
python -m studies.gradients train             # short runs of PPO, 10 minutes
python -m studies.gradients publish           # fills docs/results/gradients.md
python -m studies.gradients check --rules rules.py:mine --estimators loo --out x

A rule or an estimator of one's own is a function of named inputs, "path/to/file.py:name", as
``gym.make`` and ``PPO(advantage=...)`` take it.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro
from torch import Tensor

from tokengym.agents import losses
from tokengym.agents.ppo import register_advantage
from tokengym.evaluation.report import number
from tokengym.lab.gradients.exact import GradientCheck, response_probs
from tokengym.lab.gradients.oracle import (
    CONTROLS,
    HORIZON,
    SmallOracle,
    estimator_names,
    find_estimator,
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
LEARNER: dict[str, Any] = {"learning_rate_schedule": "constant", "n_epochs": 4, "n_minibatches": 2}
"""Settings of the runs."""
CRITIC: dict[str, Any] = {
    "gae_lambda": 0.95,
    "value_network": "trunk",
    "vf_coef": 0.1,
    "clip_range_vf": 0.2,
}
"""Those of the runs with a critic."""
LONG = 6
"""Horizon of the rules' ascents and runs: long enough for a rule to lead away."""
STEPS, RATE, REFRESH = 400, 0.2, 20
"""Steps of the exact ascent, the largest change of a logit in each, as an optimiser like Adam has
it, and the steps after which scores are centred anew."""
CLIMBED = tuple((rule, "reinforce", LONG) for rule in RULES) + tuple(
    (rule, estimator, HORIZON)
    for estimator in ("loo", "gae", "grpo", *CONTROLS)
    for rule in ("sparse", "red")
)
CLIMBED += tuple(("sparse" + SHIFTED, estimator, HORIZON) for estimator in ("loo", *CONTROLS))
"""Rule, estimator and horizon of each ascent and its runs. `reinforce` needs no groups, and has the
expected gradient of `loo`."""
SEEDS = (0, 1)
UPDATES = 150


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


def train_one(rule: str, estimator: str, horizon: int, seed: int) -> dict[str, Any]:
    """Train PPO with an estimator on the same Oracle, and return where it ends."""
    import gymnasium as gym

    from tokengym.agents import PPO
    from tokengym.lab.learners.oracle import policy_table

    if estimator in CONTROLS:
        register_advantage(CONTROLS[estimator])
    normalize = None if SHIFTED in rule else "batch"
    paid = {"reward": reward_of(rule) if SHIFTED in rule else rule, "normalize": normalize}
    settings = {**SmallOracle.settings(horizon=horizon), **paid}
    envs = gym.make_vec("tokengym/Oracle-v0", num_envs=64, **settings)
    group_size = 4 if find_estimator(estimator).needs_groups else None
    agent = PPO(
        "CausalLMPolicy",
        envs,
        advantage=estimator,
        learning_rate=1e-3,
        kl_coef=0.0,
        seed=seed,
        group_size=group_size,
        **LEARNER | (CRITIC if find_estimator(estimator).needs_critic else {}),
    )
    for _ in range(UPDATES):
        agent.learn(1, reset_num_timesteps=False)
    probs = torch.from_numpy(policy_table(agent.policy, envs))
    about = {"rule": rule, "estimator": estimator, "horizon": horizon, "seed": seed}
    return {**about, **ending(SmallOracle.make(horizon=horizon), probs)}


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


def train(out: Path = RAW) -> None:
    """Write where runs of PPO end to runs.csv.

    Args:
        out: Folder of the raw numbers.
    """
    rows = [train_one(*cell, seed) for cell in CLIMBED for seed in SEEDS]
    write_rows(out / "runs.csv", rows)


def publish(docs: Docs = DOCS) -> None:
    """Fill the page from the raw numbers."""
    raw = docs / "gradients"
    text = ("eos", "rule", "estimator", "weight", "response")
    rows = read_rows(raw / "gradients.csv", text=text)
    ascents = read_rows(raw / "ascents.csv", text=text)
    runs = read_rows(raw / "runs.csv", text=text)
    tables = {
        "rules": rules_table([row for row in rows if row["rule"] in RULES], "loo"),
        "estimators": estimators_table(rows, "sparse"),
        "shifted": estimators_table(rows, "sparse" + SHIFTED),
        "weights": weights_table(rows),
        "ends": ends_table(ascents, runs),
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


def _cells(rows: Rows, figure: Callable[[Mapping[str, Any]], str], **where: str) -> list[str]:
    """Return a figure per policy: with EOS in play, then without."""
    by_policy = {
        (str(row["eos"]), float(row["share"])): figure(row)
        for row in rows
        if all(row[key] == value for key, value in where.items())
    }
    return [by_policy.get((eos, share), "\u2013") for eos in ("True", "False") for share in SHARES]


def _cosine(row: Mapping[str, Any]) -> str:
    return f"{row['cosine']:.3f}".replace("-", "\N{MINUS SIGN}")


def _noise(row: Mapping[str, Any]) -> str:
    return number(row["noise"])


HEADER = [f"{share:.0%}{no}" for no in ("", ", no EOS") for share in SHARES]


def rules_table(rows: Rows, estimator: str) -> str:
    """Return each rule's cosine at every policy, and its noise where EOS is in play."""
    lines = []
    for rule in dict.fromkeys(row["rule"] for row in rows):
        where = {"rule": rule, "estimator": estimator, "weight": "constant"}
        noise = _cells(rows, _noise, **where)[: len(SHARES)]
        lines.append([f"`{rule}`", *_cells(rows, _cosine, **where), " / ".join(noise)])
    return markdown_table(["rule", *HEADER, "noise"], lines)


def estimators_table(rows: Rows, rule: str) -> str:
    """Return each estimator's cosine under a rule at every policy."""
    lines = []
    for name in dict.fromkeys(row["estimator"] for row in rows if row["rule"] == rule):
        where = {"rule": rule, "estimator": name, "weight": "constant"}
        noise = _cells(rows, _noise, **where)[: len(SHARES)]
        lines.append([f"`{name}`", *_cells(rows, _cosine, **where), " / ".join(noise)])
    return markdown_table(["estimator", *HEADER, "noise"], lines)


def weights_table(rows: Rows) -> str:
    """Return the cosine of each weight on the advantage of `rloo`."""
    lines = []
    for weight in dict.fromkeys(row["weight"] for row in rows):
        where = {"rule": "sparse", "estimator": "rloo", "weight": weight}
        noise = _cells(rows, _noise, **where)[: len(SHARES)]
        lines.append([weight, *_cells(rows, _cosine, **where), " / ".join(noise)])
    return markdown_table(["weight", *HEADER, "noise"], lines)


def ends_table(ascents: Rows, runs: Rows) -> str:
    """Return where the exact ascent ends, and where PPO does, unless at the best response.

    All that climb scores that are not centred are shown.
    """
    best: dict[float, float] = {}
    for row in ascents:
        best[row["horizon"]] = max(row["score"], best.get(row["horizon"], 0.0))
    lines = []
    for row in ascents:
        if row["score"] > 0.99 * best[row["horizon"]] and SHIFTED not in row["rule"]:
            continue
        ended = [
            f"{number(run['score'])} ({run['response'] or 'empty'})"
            for run in runs
            if all(run[key] == row[key] for key in ("rule", "estimator", "horizon"))
        ]
        likeliest = f"{row['response'] or 'empty'}, {row['probability']:.0%}"
        cells = [f"{number(row['score'])} of {number(best[row['horizon']])}", likeliest]
        lines.append([f"`{row['rule']}`", f"`{row['estimator']}`", *cells, "; ".join(ended)])
    header = ["rule", "estimator", "ascent: score, of the best", "likeliest response"]
    return markdown_table([*header, "PPO ends at"], lines)


if __name__ == "__main__":
    command_line(__doc__, check, ascend, train, publish)
