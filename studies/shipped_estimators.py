"""Audit of the advantage estimators that trainers ship: fills docs/results/gradients.md.

python -m studies.shipped_estimators fetch --packages DIR     the newest versions, not installed
python -m studies.shipped_estimators run --packages DIR       every row, and the page
python -m studies.shipped_estimators row verl/rloo --packages DIR
python -m studies.shipped_estimators changes --packages DIR   what differs from the page
"""

import json
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from studies import shipped_trainers as shipped
from studies.shipped_trainers import Function, MissingError, Source
from tokengym import __version__
from tokengym.base import write_json
from tokengym.lab.audit import Audit, AuditError, check_estimator, registered
from tokengym.lab.audit.tokengym_audit import Adapted, adapt
from tokengym.lab.study import DOCS, Docs, command_line
from tokengym.lab.tables import fill, grouped, markdown_table

Packages = Annotated[Path, tyro.conf.arg(metavar="DIR")]
Pays = Literal["tokens", "outcome", "advantages"]
OWN = "tokengym"
PAGE = "gradients.md"
DATA = "gradients/shipped.json"


@dataclass(frozen=True, kw_only=True)
class ShippedEstimator:
    """One estimator as shipped."""

    trainer: str
    name: str
    function: str
    """Where it stands, and with which settings if not its defaults."""
    make: Callable[[Source], Function | Adapted]
    pays: Pays = "tokens"
    """What its own documentation promises of rewards."""
    non_negative: bool = False
    adapter: str | None = None
    input: str = ""
    """The promised input in words, where `pays` does not say it."""
    note: str = ""
    """What a reader should know before the verdict."""

    @property
    def key(self) -> str:
        """Its name on the command line."""
        return f"{self.trainer}/{self.name}"

    @property
    def promise(self) -> str:
        """The promised input in words."""
        words = (
            self.input
            or {
                "tokens": "a reward a token",
                "outcome": "one reward a response",
                "advantages": "measured advantages",
            }[self.pays]
        )
        return f"{words}, none below 0" if self.non_negative else words


def _rows(
    trainer: str, pays: Pays, makers: Mapping[str, tuple[str, Callable[[Source], Any]]], **more: Any
) -> list[ShippedEstimator]:
    """Return rows of one trainer that promise the same.

    Args:
        trainer: Its name.
        pays: What is promised of rewards.
        makers: By the row's name, where the function stands and what makes it.
        more: Further fields of all rows.
    """
    return [
        ShippedEstimator(
            trainer=trainer, name=name, function=function, make=make, pays=pays, **more
        )
        for name, (function, make) in makers.items()
    ]


def _own(name: str) -> tuple[str, Callable[[Source], Any]]:
    return f'advantage="{name}"', lambda _: registered(name)


GRPO = "compute_grpo_outcome_advantage"
ROWS: Sequence[ShippedEstimator] = (
    *_rows("verl", "tokens", {
        "gae": ("compute_gae_advantage_return", shipped.verl("compute_gae_advantage_return")),
        "gae-0.95": ("compute_gae_advantage_return, lam=0.95",
                     shipped.verl("compute_gae_advantage_return", lam=0.95)),
        "reinforce++": ("compute_reinforce_plus_plus_outcome_advantage",
                        shipped.verl("compute_reinforce_plus_plus_outcome_advantage")),
        "otb": ("compute_optimal_token_baseline_advantage",
                shipped.verl("compute_optimal_token_baseline_advantage")),
        "tir-otb": ("compute_multi_turn_optimal_token_baseline_advantage",
                    shipped.verl("compute_multi_turn_optimal_token_baseline_advantage")),
    }),
    *_rows("verl", "outcome", {
        "grpo": (GRPO, shipped.verl(GRPO)),
        "grpo-no-std": (f"{GRPO}, norm_adv_by_std_in_grpo=False",
                        shipped.verl(GRPO, norm_adv_by_std_in_grpo=False)),
        "grpo-vectorized": ("compute_grpo_vectorized_outcome_advantage",
                            shipped.verl("compute_grpo_vectorized_outcome_advantage")),
        "gdpo": ("compute_gdpo_outcome_advantage",
                 shipped.verl("compute_gdpo_outcome_advantage", GRPO)),
        "reinforce++-baseline": (
            "compute_reinforce_plus_plus_baseline_outcome_advantage",
            shipped.verl("compute_reinforce_plus_plus_baseline_outcome_advantage")),
        "rloo": ("compute_rloo_outcome_advantage", shipped.verl("compute_rloo_outcome_advantage")),
        "rloo-vectorized": ("compute_rloo_vectorized_outcome_advantage",
                            shipped.verl("compute_rloo_vectorized_outcome_advantage")),
        "opo": ("compute_opo_outcome_advantage", shipped.verl("compute_opo_outcome_advantage")),
        "remax": ("compute_remax_outcome_advantage",
                  shipped.verl("compute_remax_outcome_advantage")),
        "gpg": ("compute_gpg_outcome_advantage", shipped.verl("compute_gpg_outcome_advantage")),
    }),
    *_rows("skyrl", "tokens", {
        "gae": ("compute_gae_advantage_return",
                shipped.skyrl("compute_gae_advantage_return", lambd=1.0)),
        "reinforce++": ("compute_reinforce_plus_plus_outcome_advantage",
                        shipped.skyrl("compute_reinforce_plus_plus_outcome_advantage")),
    }),
    *_rows("skyrl", "outcome", {
        "grpo": (GRPO, shipped.skyrl(GRPO)),
        "grpo-no-std": (f"{GRPO}, grpo_norm_by_std=False",
                        shipped.skyrl(GRPO, grpo_norm_by_std=False)),
        "rloo": ("compute_rloo_outcome_advantage",
                 shipped.skyrl("compute_rloo_outcome_advantage")),
    }),
    *_rows("skyrl", "outcome", {
        "maxrl": ("compute_maxrl_advantage", shipped.skyrl("compute_maxrl_advantage")),
    }, note="its documentation names no sign of the rewards"),
    *_rows("skyrl", "outcome", {
        "maxrl-positive": ("compute_maxrl_advantage", shipped.skyrl("compute_maxrl_advantage")),
    }, non_negative=True, note="the input that the paper assumes, arXiv:2602.02710"),
    *_rows("trl", "outcome", {
        "grpo": ("GRPOTrainer, scale_rewards=\"group\"",
                 shipped.trl_grpo("sum_then_normalize", "group")),
        "grpo-batch": ("GRPOTrainer, scale_rewards=\"batch\"",
                       shipped.trl_grpo("sum_then_normalize", "batch")),
        "grpo-none": ("GRPOTrainer, scale_rewards=\"none\"",
                      shipped.trl_grpo("sum_then_normalize", "none")),
        "grpo-normalize-then-sum": ("GRPOTrainer, normalize_then_sum",
                                    shipped.trl_grpo("normalize_then_sum", "group")),
        "rloo": ("RLOOTrainer", shipped.trl_rloo(False)),
        "rloo-normalized": ("RLOOTrainer, normalize_advantages=True", shipped.trl_rloo(True)),
        "async-grpo": ("experimental.async_grpo", shipped.trl_async),
    }),
    *_rows("agilerl", "tokens", {
        "grpo-turn": ("GRPO._turn_broadcast_advantages",
                      shipped.agilerl_grpo("turn", "mean_only")),
        "grpo-turn-std": ("GRPO._turn_broadcast_advantages, adv_norm=\"mean_std\"",
                          shipped.agilerl_grpo("turn", "mean_std")),
    }, adapter="turns", input="a reward a turn",
       note="documented so: each turn's reward is compared by itself"),
    *_rows("agilerl", "tokens", {
        "grpo-trajectory": ("GRPO._trajectory_advantages",
                            shipped.agilerl_grpo("trajectory", "mean_only")),
    }, adapter="turns", input="a reward a turn"),
    *_rows("agilerl", "tokens", {
        "rebn": ("REINFORCE, advantage_granularity=\"auto\": _compute_token_rewards, then "
                 "_compute_rebn_advantages[_token]", shipped.agilerl_rebn),
    }, adapter="turns", input="a reward a turn",
       note="of one turn, each token is given the whole reward, and then what follows is summed"),
    *_rows("torchrl", "tokens", {
        "mc-steps": ("MCAdvantage", shipped.torchrl_steps),
    }, adapter="turns", input="a reward a step",
       note="documented for dense rewards of steps; a step is a turn here"),
    *_rows("torchrl", "outcome", {
        "mc-returns": ("MCAdvantage, trajectory_return=\"sum\"", shipped.torchrl_returns),
    }),
    *_rows("openrlhf", "outcome", {
        name: (f"compute_advantages_and_returns, {name}", shipped.openrlhf(name))
        for name in ("gae", "reinforce", "rloo", "reinforce_baseline", "group_norm", "dr_grpo",
                     "flash_reinforce")
    }),
    *_rows("trinity-rft", "outcome", {
        "grpo": ("GRPOGroupedAdvantage", shipped.trinity(
            "grpo_advantage", "GRPOGroupedAdvantage", epsilon=1e-6, std_threshold=None,
            rank_penalty=None, std_cal_level="group")),
        "reinforce": ("REINFORCEGroupAdvantage",
                      shipped.trinity("reinforce_advantage", "REINFORCEGroupAdvantage")),
        "opmd": ("OPMDGroupAdvantage", shipped.trinity(
            "opmd_advantage", "OPMDGroupAdvantage", opmd_baseline="mean", tau=1.0)),
        "asymre": ("ASYMREGroupAdvantage", shipped.trinity(
            "asymre_advantage", "ASYMREGroupAdvantage", baseline_shift=-0.1)),
        "rec": ("RECGroupedAdvantage", shipped.trinity(
            "rec_advantage", "RECGroupedAdvantage", epsilon=1e-6, std_normalize=False, drop=None)),
    }),
    *_rows("trinity-rft", "tokens", {
        "ppo": ("PPOAdvantageFn", shipped.trinity_batch("ppo_advantage", "PPOAdvantageFn")),
        "reinforce++": ("REINFORCEPLUSPLUSAdvantageFn", shipped.trinity_batch(
            "reinforce_plus_plus_advantage", "REINFORCEPLUSPLUSAdvantageFn")),
    }),
    *_rows("atropos", "tokens", {
        "process": ("compute_grpo_process_supervision_advantages", shipped.atropos),
    }, adapter="steps", input="a reward a step",
       note="the formula of arXiv:2402.03300, section 4.1.3; a step is a token here"),
    *_rows("ms-swift", "outcome", {
        "grpo": ("compute_advantages", shipped.swift("grpo", "group")),
        "rloo": ("compute_advantages, rloo, unscaled", shipped.swift("rloo", "none")),
        "reinforce++": ("compute_advantages, reinforce_plus_plus, scaled by batch",
                        shipped.swift("reinforce_plus_plus", "batch")),
    }),
    *_rows("nemo-rl", "outcome", {
        "grpo": ("GRPOAdvantageEstimator", shipped.nemo(
            "GRPOAdvantageEstimator", use_leave_one_out_baseline=True, normalize_rewards=True)),
        "grpo-no-std": ("GRPOAdvantageEstimator, normalize_rewards=False", shipped.nemo(
            "GRPOAdvantageEstimator", use_leave_one_out_baseline=True, normalize_rewards=False)),
        "reinforce++": ("ReinforcePlusPlusAdvantageEstimator", shipped.nemo(
            "ReinforcePlusPlusAdvantageEstimator", minus_baseline=True, use_kl_in_reward=False)),
    }),
    *_rows("prime-rl", "outcome", {
        "grpo": ("GRPOAlgorithm.score_group", shipped.prime("grpo", "GRPOAlgorithm")),
    }),
    *_rows("prime-rl", "outcome", {
        "max-rl": ("MaxRLAlgorithm.score_group", shipped.prime("max_rl", "MaxRLAlgorithm")),
    }, non_negative=True),
    *_rows("slime", "tokens", {
        "reinforce++": ("chunked_discounted_returns", shipped.slime_returns),
        "gae": ("chunked_gae", shipped.slime_gae),
    }, note="the functions that its data path calls on padded token rewards"),
    *_rows("rllm", "outcome", {
        "grpo": ("calculate_grpo_advantages", shipped.rllm(
            "calculate_grpo_advantages", "calculate_grpo_advantages_per_group")),
        "rloo": ("calculate_rloo_advantages", shipped.rllm(
            "calculate_rloo_advantages", "calculate_rloo_advantages_per_group")),
        "reinforce": ("calculate_reinforce_advantages",
                      shipped.rllm("calculate_reinforce_advantages")),
        "reinforce++-baseline": ("calculate_reinforce_plus_plus_baseline_advantages", shipped.rllm(
            "calculate_reinforce_plus_plus_baseline_advantages")),
        "prpo": ("calculate_prpo_advantages", shipped.rllm("calculate_prpo_advantages")),
    }, adapter="groups"),
    *_rows(OWN, "tokens", {
        name: _own(name)
        for name in ("gae", "reinforce", "reinforce++", "loo", "turn-returns")
    }),
    *_rows(OWN, "tokens", {name: _own(name) for name in ("gigpo", "gigpo-prefix")},
           note="as in the paper, the episode's part has no discount"),
    *_rows(OWN, "tokens", {"turn-auxiliary": _own("turn-auxiliary")},
           note="as published: a turn's own reward counts once more than the gradient says"),
    *_rows(OWN, "outcome", {name: _own(name) for name in ("rloo", "grpo", "dr-grpo")}),
    *_rows(OWN, "advantages", {"vineppo": _own("vineppo")}),
)  # fmt: skip
"""Every estimator of the page, in its order."""


# --- one row --------------------------------------------------------------------------------------


def loaded(row: ShippedEstimator, packages: Path) -> tuple[Adapted, str]:
    """Return a row's estimator and the version that it is of.

    Args:
        row: The row.
        packages: Folder of the trainers that were fetched.

    Raises:
        ValueError: if the trainer was not fetched, or this version has no such function.
    """
    source = Source(packages / row.trainer)
    if row.trainer != OWN and not (source.folder / shipped.VERSION).is_file():
        raise ValueError(
            f"{source.folder} holds no trainer; run python -m studies.shipped_estimators fetch "
            f"--packages {packages}"
        )
    made = row.make(source)
    version = __version__ if row.trainer == OWN else source.version
    if isinstance(made, Adapted):
        return made, version
    return adapt(made, adapter=row.adapter, name=row.key), version


def audited(row: ShippedEstimator, estimator: Adapted) -> Audit:
    """Return the audit of a row's estimator under what its documentation promises."""
    return check_estimator(estimator, name=row.key, pays=row.pays, non_negative=row.non_negative)


def measured(row: ShippedEstimator, packages: Path) -> dict[str, Any]:
    """Return a row's figures, or why there are none, as plain JSON."""
    about = {
        "row": row.key,
        "function": row.function,
        "promise": row.promise,
        "note": row.note,
    }
    try:
        estimator, version = loaded(row, packages)
        result = audited(row, estimator)
    except (MissingError, AuditError) as error:  # of one that takes other arguments now
        return {**about, "version": "", "missing": str(error)}
    return {
        **about,
        "version": version,
        "holds": result.holds,
        "verdict": result.verdict,
        "size": float(f"{result.size:.3g}"),
        "says": result.says,
        "tree": list(result.tree),
    }


# --- the page -------------------------------------------------------------------------------------

WORST = {
    "holds": "a gradient along the true one in large groups, at every decision",
    "tilted": "**fails**: prefers in part what is not better",
    "biased": "**fails**: favours something where nothing is to be gained",
    "blind": "**fails**: is 0 somewhere where the gradient is not",
    "reversed": "**fails**: points against the gradient somewhere",
    "reads padding": "**fails**: changes with padding or values off the mask",
    "raises": "**fails**: raises an error on some batch",
    "not finite": "**fails**: is no finite number somewhere",
}
"""Verdicts from the best to the worst, and what an estimator has; those of which none is are left
out."""
COLORS = {
    "holds": "#009e73",
    "tilted": "#cc79a7",
    "biased": "#e69f00",
    "blind": "#8c510a",
    "reversed": "#d55e00",
    "reads padding": "#777777",
    "raises": "#bbbbbb",
    "not finite": "#000000",
}
FEW = 12
"""At most so many estimators are named in the table of the answer."""
PICTURE = "gradients/shipped.png"
FAILING = "gradients/failing.txt"
"""What each estimator that fails does: a table in Markdown, beside the page."""


def tables(rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Return the tables of the page.

    Args:
        rows: What `measured` returned.
    """
    known = [row for row in rows if "verdict" in row]
    return {
        "shipped": answer_table(known),
        "trainers": trainers_table(known),
    }


def trainers_table(known: Sequence[Mapping[str, Any]]) -> str:
    """Return each trainer's estimators by their verdicts."""
    lines = []
    for trainer, rows in grouped(known, lambda row: row["row"].partition("/")[0]).items():
        named = grouped(rows, lambda row: row["verdict"])
        shown = [
            f"{verdict if verdict == 'holds' else f'**{verdict}**'}: "
            + ", ".join(row["row"].partition("/")[2] for row in named[verdict])
            for verdict in WORST
            if verdict in named
        ]
        lines.append([trainer, rows[0]["version"], "; ".join(shown)])
    return markdown_table(["trainer", "version", "estimators by their verdict"], lines)


def failing_table(failing: Sequence[Mapping[str, Any]]) -> str:
    """Return what the estimators that fail do, on the smallest tree that shows it."""
    lines = [[f"`{row['row']}`", f"`{row['function']}`", _said(row)] for row in failing]
    return markdown_table(["row", "function", "what it does"], lines)


def answer_table(known: Sequence[Mapping[str, Any]]) -> str:
    """Return how many estimators have each verdict."""
    lines = []
    for verdict, words in WORST.items():
        names = [f"`{row['row']}`" for row in known if row["verdict"] == verdict]
        if names:
            lines.append([words, str(len(names)), ", ".join(names) if len(names) <= FEW else ""])
    return markdown_table(["an estimator has", "estimators", "which"], lines)


def draw(file: Path, known: Sequence[Mapping[str, Any]]) -> None:
    """Draw how many estimators of each trainer have each verdict.

    Args:
        file: Picture to write.
        known: Published rows with verdicts.
    """
    from matplotlib.figure import Figure

    trainers = list(dict.fromkeys(row["row"].partition("/")[0] for row in known))[::-1]
    figure = Figure(figsize=(8, 4.6), layout="constrained")
    axes = figure.subplots()
    ends = [0] * len(trainers)
    for verdict, color in COLORS.items():
        own = [row["row"].partition("/")[0] for row in known if row["verdict"] == verdict]
        if not own:
            continue
        counts = [own.count(trainer) for trainer in trainers]
        axes.barh(trainers, counts, left=ends, color=color, label=verdict)
        ends = [end + count for end, count in zip(ends, counts, strict=True)]
    axes.set_xlabel("estimators, by their verdicts")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="lower right", fontsize=9)
    figure.savefig(file, dpi=120, metadata={"Software": None})


def _said(row: Mapping[str, Any]) -> str:
    """Return what a row does, and what a reader should know of it."""
    note = f"<br>*note*: {row['note']}" if row["note"] else ""
    return f"*{row['verdict']}*: {row['says']}{note}"


def stored(docs: Path) -> list[dict[str, Any]]:
    """Return the published rows."""
    file = docs / DATA
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else []


def page(docs: Docs = DOCS) -> None:
    """Fill the page from the published rows.

    Args:
        docs: Folder of the study's page.
    """
    rows = stored(docs)
    known = [row for row in rows if "verdict" in row]
    fill(docs / PAGE, tables(rows))
    failing = failing_table([row for row in known if not row["holds"]])
    (docs / FAILING).write_text(f"{failing}\n", encoding="utf-8")
    draw(docs / PICTURE, known)


def run(packages: Packages, docs: Docs = DOCS, trainers: tuple[str, ...] = ()) -> None:
    """Audit every row whose trainer was fetched, and fill the page.

    Rows of trainers that were not fetched stay as they are published.

    Args:
        packages: Folder of the trainers that were fetched.
        docs: Folder of the study's page.
        trainers: Trainers to audit; all that were fetched by default.
    """
    before = {row["row"]: row for row in stored(docs)}
    for row in ROWS:
        if _is_there(row, packages) and (not trainers or row.trainer in trainers):
            before[row.key] = measured(row, packages)
            print(row.key, "holds" if before[row.key].get("holds") else "does not", flush=True)
    rows = [before[row.key] for row in ROWS if row.key in before]
    write_json(docs / DATA, rows)
    page(docs)


def _is_there(row: ShippedEstimator, packages: Path) -> bool:
    """Return whether a row's trainer was fetched."""
    return row.trainer == OWN or (packages / row.trainer / shipped.VERSION).is_file()


def row(key: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="ROW")],
        packages: Packages) -> None:  # fmt: skip
    """Audit one row and print it.

    Args:
        key: Trainer and estimator, "verl/rloo".
        packages: Folder of the trainers that were fetched.
    """
    from rich.console import Console

    from tokengym.lab.commands.audit import show

    found = next((each for each in ROWS if each.key == key), None)
    if found is None:
        raise ValueError(f"unknown row {key!r}; known: {', '.join(each.key for each in ROWS)}")
    estimator, version = loaded(found, packages)
    print(f"{found.key} {version}: {found.function}; promised: {found.promise}")
    show(audited(found, estimator), Console())


def fetch(packages: Packages, trainers: tuple[str, ...] = ()) -> None:
    """Download the newest version of every trainer into a folder, without installing it.

    Args:
        packages: Folder of the trainers.
        trainers: Some of them; all by default.
    """
    for trainer in trainers or (*shipped.INDEX, *shipped.REPOSITORIES):
        try:
            print(trainer, shipped.fetch(trainer, packages), flush=True)
        except (OSError, subprocess.CalledProcessError) as error:
            print(f"{trainer} could not be had: {error}", flush=True)


def changes(packages: Packages, docs: Docs = DOCS) -> None:
    """Print how the fetched versions differ from the page, as a Markdown list.

    Args:
        packages: Folder of the trainers that were fetched.
        docs: Folder of the study's page.
    """
    before = {each["row"]: each for each in stored(docs)}
    now = [measured(each, packages) for each in ROWS if _is_there(each, packages)]
    print("\n".join(differences(before, now)) or "Nothing changed.")


def differences(
    before: Mapping[str, Mapping[str, Any]], now: Sequence[Mapping[str, Any]]
) -> list[str]:
    """Return a line for each row that is new, gone, or has another verdict.

    Args:
        before: The published rows by their keys.
        now: Rows of the versions at hand.
    """
    lines = []
    for each in now:
        old = before.get(each["row"], {})
        if "missing" in each:
            lines.append(f"- `{each['row']}`: {each['missing']}")
        elif "verdict" not in old:
            lines.append(f"- `{each['row']}` {each['version']}: new")
        elif each["verdict"] != old["verdict"]:
            lines.append(
                f"- `{each['row']}` {old['version']} -> {each['version']}: was {old['verdict']}, "
                f"is {each['verdict']}"
            )
    return lines


if __name__ == "__main__":
    command_line(__doc__, fetch, run, row, changes, page)
