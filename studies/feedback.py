"""Accuracy of the bundled judge and critic by the gold rules, on prompts they were not taught.

Pairs are two responses that the bundled policy samples to a held-out prompt; each principle is
asked of every pair, in both orders. Word lists and an untrained model are measured beside it. Then
constitutional runs with word lists and with the bundled model, and DPO on their pairs.

    python -m studies.feedback measure
    python -m studies.feedback run --out runs/feedback
    python -m studies.feedback publish --out runs/feedback
    python -m studies.feedback page
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tokengym.agents import DPO
from tokengym.agents.offline import ResponseCollector
from tokengym.base import write_csv
from tokengym.envs import Episode, bundled
from tokengym.evaluation.report import number
from tokengym.lab.constitution import ConstitutionConfig, run_constitution
from tokengym.lab.constitution.critics import (
    DEFAULT_PRINCIPLES,
    Critic,
    ModelCritic,
    OffenceRules,
    Principle,
    RuleCritic,
    RuleJudge,
    draw_principles,
)
from tokengym.lab.constitution.judge import PrincipleJudge
from tokengym.lab.constitution.scene import PipelineState
from tokengym.lab.makers.bundles.feedback import new_judge
from tokengym.lab.makers.corpora.dialogues import all_requests
from tokengym.lab.makers.corpora.feedback import (
    HELD_OUT_TOPICS,
    PHRASINGS,
    PRINCIPLES,
    RULES,
    quality,
)
from tokengym.lab.scorers.judge import BUNDLED, GreedyAnswers, load_answering_model
from tokengym.lab.scorers.preference_model import Triple
from tokengym.lab.study import DOCS, Docs, Out, command_line, read_rows, run_missing
from tokengym.lab.tables import fill, markdown_table, share_of, student_mean
from tokengym.rewards import gold_scorer

Row = dict[str, Any]
FOLDER = "feedback"
OUT = Path("runs/feedback")
PAIRS = 160
"""Pairs of each material, about."""
MATERIALS = {
    "quarrels": "Detox",
    "harmful": "Dialogue, harmful",
    "harmless": "Dialogue, harmless",
    "new harmful": "new topics, harmful",
    "new harmless": "new topics, harmless",
}
AGREEMENT = ("material", "principle", "phrasing", "judge", "pairs", "wins", "ties", "consistent")
AGREEMENT_OWN = ("own_pairs", "own_wins", "own_ties")
REVISION = ("material", "critic", "responses", "faulty", "better", "worse", "unchanged")
REVISION_MORE = ("clean_after", "left_alone", "gold_before", "gold_after")
TEXT = ("material", "principle", "phrasing", "judge", "critic", "arm", "policy")
SEEDS = range(3)
ARMS = {
    "words": ("words", "words"),
    "bundled judge": ("words", BUNDLED),
    "bundled": (BUNDLED, BUNDLED),
}
"""Critic and judge of each arm of the constitutional runs."""
ENVS = ("Detox", "Dialogue")
RUN_ENV = "Detox"
"""Task of the constitutional runs."""
DPO_RATE, DPO_BETA, DPO_EPOCHS = 1e-4, 0.1, 1
RUNS = ("arm", "seed", "policy", "gold_score", "kl", "offending", "distinct_2", "pairs")


# --- material -------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Material:
    """Held-out prompts of one kind, with two sampled responses each."""

    name: str
    task: str
    """Detox or Dialogue: whose rules are the gold."""
    triples: Sequence[Triple]
    """(prompt, A, B), the responses different."""


def materials(count: int = PAIRS) -> list[Material]:
    """Return about ``count`` pairs on openings, requests and topics that no lesson had."""
    all_materials = [Material(name="quarrels", task="Detox", triples=_pairs("Detox", None, count))]
    test = [prompt.text for prompt in bundled("dialogue").prompts("test")]
    by_text = {request.text: request for request in all_requests()}
    new = [r.text for r in by_text.values() if r.topic.name in HELD_OUT_TOPICS]
    for name, texts in (("", test), ("new ", new)):
        for kind in ("harmful", "harmless"):
            chosen = [
                text
                for text in texts
                if by_text[text].topic.harmful is (kind == "harmful")
                and (by_text[text].topic.name in HELD_OUT_TOPICS) is (name == "new ")
            ]
            triples = _pairs("Dialogue", chosen, count)
            all_materials.append(Material(name=f"{name}{kind}", task="Dialogue", triples=triples))
    return all_materials


def _pairs(env: str, prompts: Sequence[str] | None, count: int) -> list[Triple]:
    """Return pairs of different responses of a task's bundled policy."""
    import gymnasium as gym

    from tokengym.agents.offline import make_policy

    given = {"split": "test"} if prompts is None else {"prompts": list(prompts)}
    envs = gym.make_vec(f"tokengym/{env}-v0", num_envs=1, reward=None, **given)
    collector = ResponseCollector(envs, scorer=RuleJudge(_offences(env)), max_rows=128)
    places = np.random.default_rng(0).permutation(len(collector.prompts))
    each = -(-count // len(places))
    groups = collector.write(
        make_policy(envs, None, seed=0),
        places[: -(-count // each)].tolist(),
        torch.Generator().manual_seed(0),
        n=2 * each,
    )
    envs.close()
    return [
        (one.prompt, one.response, other.response)
        for group in groups
        for one, other in zip(group[::2], group[1::2], strict=True)
        if one.response != other.response
    ]


@cache
def _offences(env: str) -> OffenceRules:
    return OffenceRules(RULES[env])


# --- agreement of judges --------------------------------------------------------------------------


Prefer = Callable[[Material, str, Sequence[Triple]], NDArray[np.float64]]
"""(material, text of the principle, triples) -> P(A better), (batch,)."""


def judges() -> dict[str, Prefer]:
    """Return the judges that are compared, by name."""
    model, tokenizer = load_answering_model(BUNDLED, dtype="float32", device="cpu")
    return {
        "bundled": _asked(model, tokenizer),
        "words": _by_words,
        "untrained": _asked(new_judge(tokenizer, seed=0), tokenizer),
    }


def _asked(model: Any, tokenizer: Any) -> Prefer:
    def prefer(material: Material, principle: str, triples: Sequence[Triple]) -> Any:
        return PrincipleJudge.asking(model, tokenizer, [principle]).preferences(triples)

    return prefer


def _by_words(material: Material, principle: str, triples: Sequence[Triple]) -> NDArray[np.float64]:
    """Return 1, 0 or, where word lists count as many offences in both, 1/2."""
    rules = _offences(material.task)
    counts = [[len(rules.offences(prompt, text)) for text in (a, b)] for prompt, a, b in triples]
    return np.array([0.5 + 0.5 * np.sign(b - a) for a, b in counts])


def agreement(material: Material, name: str, phrasing: str, judge: str, prefer: Prefer) -> Row:
    """Return how often a judge prefers what the gold rules prefer, by one principle.

    A pair counts as won if the mean of both orders prefers the better response, and as consistent
    if both orders prefer the same one. Pairs that the rules do not order are left out.
    """
    rules = RULES[material.task]
    triples, by_own_rule = [], []
    for prompt, a, b in material.triples:
        one, other = (quality(name, rules, prompt, text) for text in (a, b))
        if one != other:
            triples.append((prompt, a, b) if one > other else (prompt, b, a))
            by_own_rule.append(one[0] != other[0])
    text = PRINCIPLES[name] if phrasing == "taught" else PHRASINGS[name][-1]
    as_a = prefer(material, text, triples)
    as_b = 1.0 - prefer(material, text, [(prompt, b, a) for prompt, a, b in triples])
    better = (as_a + as_b) / 2 - 0.5
    decided = np.array(by_own_rule)
    return {
        "material": material.name,
        "principle": name,
        "phrasing": phrasing,
        "judge": judge,
        "pairs": len(triples),
        "wins": int((better > 0).sum()),
        "ties": int((better == 0).sum()),
        "consistent": int((np.sign(as_a - 0.5) == np.sign(as_b - 0.5)).sum()),
        "own_pairs": int(decided.sum()),
        "own_wins": int((better[decided] > 0).sum()),
        "own_ties": int((better[decided] == 0).sum()),
    }


# --- revisions ------------------------------------------------------------------------------------


def revisions(env: str, count: int = PAIRS) -> list[Row]:
    """Return what one round of critique and revision does to responses to test prompts."""
    scene = PipelineState(ConstitutionConfig(env=env))
    envs = scene.make_envs(num_envs=1, split="test", reward=None)
    collector = ResponseCollector(envs, scorer=RuleJudge(_offences(env)), max_rows=128)
    prompts = range(min(count, len(collector.prompts)))
    each = -(-count // len(prompts))
    generator = torch.Generator().manual_seed(1)
    groups = collector.write(scene.base, list(prompts), generator, n=each)
    episodes = [episode for group in groups for episode in group]
    rng = np.random.default_rng(1)
    principles = draw_principles(DEFAULT_PRINCIPLES, len(episodes), rng)
    model, tokenizer = load_answering_model(BUNDLED, dtype="float32", device="cpu")
    critics: dict[str, Critic] = {
        "bundled": _critic(model, tokenizer, scene.tokenizer),
        "words": RuleCritic(_offences(env), scene.base, collector.chosen),
        "untrained": _critic(new_judge(tokenizer, seed=0), tokenizer, scene.tokenizer),
    }
    by_critic = {
        name: revised(env, scene.bundle, episodes, principles, critic)
        for name, critic in critics.items()
    }
    return [{"material": env, "critic": name, **row} for name, row in by_critic.items()]


def _critic(model: Any, tokenizer: Any, policy_tokenizer: Any) -> ModelCritic:
    answers = GreedyAnswers(model, tokenizer, max_new_tokens=47)  # and EOS
    return ModelCritic(answers, policy_tokenizer, name="critic")


def revised(
    env: str,
    bundle: Any,
    episodes: Sequence[Episode],
    principles: Sequence[Principle],
    critic: Critic,
) -> Row:
    """Return how many responses with an offence a critic makes better or worse by the gold score.

    Responses without an offence should be left alone.
    """
    critiques = critic.critique(episodes, principles)
    after = critic.revise(episodes, principles, critiques, seed=1)
    gold = gold_scorer(bundle)
    assert gold is not None  # the bundled tasks have one
    rules = _offences(env)
    before_score, after_score = (
        gold.bind(bundle.tokenizer).score(texts).values for texts in (list(episodes), after)
    )
    faulty = np.array([bool(rules.offences(e.prompt, e.response)) for e in episodes])
    clean = np.array([not rules.offences(e.prompt, e.response) for e in after])
    change = np.sign((after_score - before_score).round(6))
    same = np.array(
        [one.response == two.response for one, two in zip(episodes, after, strict=True)]
    )
    return {
        "responses": len(episodes),
        "faulty": int(faulty.sum()),
        "better": int((change[faulty] > 0).sum()),
        "worse": int((change[faulty] < 0).sum()),
        "unchanged": int((change[faulty] == 0).sum()),
        "clean_after": int(clean[faulty].sum()),
        "left_alone": int(same[~faulty].sum()),
        "gold_before": float(before_score[faulty].mean()),
        "gold_after": float(after_score[faulty].mean()),
    }


# --- constitutional runs --------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One constitutional run, and DPO on its pairs."""

    arm: str
    """Key of `ARMS`."""
    seed: int

    def file(self, out: Path) -> Path:
        """Return the file of its rows."""
        return out / f"{RUN_ENV}-{self.arm.replace(' ', '-')}-{self.seed}.csv"


def cells() -> Iterator[Cell]:
    """Return the runs, seed by seed."""
    for seed in SEEDS:
        yield from (Cell(arm=arm, seed=seed) for arm in ARMS)


def train(cell: Cell, out: Path) -> list[Row]:
    """Do a cell's run and return what its policies are worth on held-out prompts."""
    critic, judge = ARMS[cell.arm]
    config = ConstitutionConfig(env=RUN_ENV, critic=critic, judge=judge, seed=cell.seed)
    folder = cell.file(out).with_suffix("")
    results = run_constitution(config, folder)
    scene = PipelineState(config)
    learner = DPO(
        scene.policy(folder / "sft"),
        str(folder / "pairs.jsonl"),
        tokenizer=scene.tokenizer,
        learning_rate=DPO_RATE,
        beta=DPO_BETA,
        num_train_epochs=DPO_EPOCHS,
        per_device_train_batch_size=32,
        seed=cell.seed,
        device="cpu",
    )
    learner.train()
    evaluator = scene.make_evaluator()
    played = evaluator(learner)
    evaluator.close()
    offending = [bool(words) for words in scene.offences(played.episodes)]
    policies = results["policies"] | {
        "DPO on the pairs": {**played.metrics, "offending": float(np.mean(offending))}
    }
    return [
        {
            "arm": cell.arm,
            "seed": cell.seed,
            "policy": policy,
            **{name: figures[name] for name in RUNS[3:-1]},
            "pairs": results["pairs"]["pairs"],
        }
        for policy, figures in policies.items()
    ]


# --- commands -------------------------------------------------------------------------------------


def measure(docs: Docs = DOCS) -> None:
    """Measure judges and critics, and store the counts."""
    all_materials = materials()
    rows = [
        agreement(material, name, phrasing, judge, prefer)
        for judge, prefer in judges().items()
        for material in all_materials
        for name in PRINCIPLES
        for phrasing in ("taught", "other words")[: 2 if judge == "bundled" else 1]
    ]
    folder = docs / FOLDER
    write_csv(folder / "agreement.csv", rows, (*AGREEMENT, *AGREEMENT_OWN))
    rows = [row for env in ENVS for row in revisions(env)]
    write_csv(folder / "revisions.csv", rows, (*REVISION, *REVISION_MORE))


def run(out: Out = OUT) -> None:
    """Do the constitutional runs that are missing."""

    def run_one(cell: Cell) -> None:
        write_csv(cell.file(out), train(cell, out), RUNS)

    run_missing(cells(), lambda cell: cell.file(out), run_one)


def publish(out: Out = OUT, docs: Docs = DOCS) -> None:
    """Copy the rows of the runs beside the page."""
    files = [cell.file(out) for cell in cells() if cell.file(out).exists()]
    write_csv(docs / FOLDER / "runs.csv", read_rows(*files, text=TEXT), RUNS)


def page(docs: Docs = DOCS) -> None:
    """Fill the tables of the page."""
    folder = docs / FOLDER
    judged = read_rows(folder / "agreement.csv", text=TEXT)
    tables = {
        "principles": principles_table(judged),
        "judges": judges_table(judged),
        "revisions": revisions_table(read_rows(folder / "revisions.csv", text=TEXT)),
        "runs": runs_table(read_rows(folder / "runs.csv", text=TEXT)),
    }
    fill(docs / f"details/{FOLDER}.md", tables)


# --- tables ---------------------------------------------------------------------------------------


def principles_table(rows: Sequence[Row]) -> str:
    """Return the bundled judge's agreement with the gold rules, by principle and material."""
    lines = []
    for principle in PRINCIPLES:
        principle_rows = [r for r in rows if (r["judge"], r["principle"]) == ("bundled", principle)]
        taught = {r["material"]: r for r in principle_rows if r["phrasing"] == "taught"}
        lines.append([principle, *(share_of(*_wins(taught[name])) for name in MATERIALS)])
    return markdown_table(["principle", *MATERIALS.values()], lines)


def judges_table(rows: Sequence[Row]) -> str:
    """Return the agreement of each judge, all principles together; each pair counts for each."""
    lines = []
    kinds = [("bundled", "taught"), ("bundled", "other words"), ("words", "taught")]
    for judge, phrasing in (*kinds, ("untrained", "taught")):
        chosen = [r for r in rows if (r["judge"], r["phrasing"]) == (judge, phrasing)]
        for name, label in MATERIALS.items():
            material_rows = [r for r in chosen if r["material"] == name]
            total = {
                key: sum(r[key] for r in material_rows) for key in (*AGREEMENT[4:], *AGREEMENT_OWN)
            }
            lines.append(
                [
                    judge if phrasing == "taught" else f"{judge}, {phrasing}",
                    label,
                    f"{total['pairs']:,.0f}",
                    *(f"{won / pairs:.1%}" for won, pairs in (_wins(total), _wins(total, "own_"))),
                    f"{total['consistent'] / total['pairs']:.1%}",
                    f"{1 - total['ties'] / total['pairs']:.1%}",
                ]
            )
    head = ["judge", "material", "questions", "agrees with the gold rules"]
    own_head = "where the principle's own rule decides"
    return markdown_table([*head, own_head, "same in both orders", "tells apart"], lines)


def revisions_table(rows: Sequence[Row]) -> str:
    """Return what the critics' revisions are worth."""
    lines = []
    for row in rows:
        faulty, whole = row["faulty"], row["responses"] - row["faulty"]
        lines.append(
            [
                row["material"],
                row["critic"],
                f"{faulty:.0f}",
                *(share_of(row[key], faulty) for key in ("better", "worse")),
                f"{row['unchanged'] / faulty:.1%}",
                share_of(row["clean_after"], faulty),
                f"{number(row['gold_before'])} to {number(row['gold_after'])}",
                f"{row['left_alone']:.0f} of {whole:.0f}",
            ]
        )
    head = ["task", "critic", "responses with an offence", "better", "worse", "unchanged"]
    more = ["without an offence afterwards", "mean gold score", "clean ones left alone"]
    return markdown_table([*head, *more], lines)


def runs_table(rows: Sequence[Row]) -> str:
    """Return gold scores of the policies of the runs: means over seeds."""
    lines = []
    for arm, (critic, judge) in ARMS.items():
        arm_rows = [row for row in rows if row["arm"] == arm]
        for policy in dict.fromkeys(row["policy"] for row in arm_rows):
            seeds = [row for row in arm_rows if row["policy"] == policy]
            figures = [
                student_mean([row[name] for row in seeds])
                for name in ("gold_score", "offending", "kl")
            ]
            lines.append([critic, judge, policy, *figures])
    head = ["critic", "judge", "policy", "gold score", "with an offence", "KL to base, nats"]
    return markdown_table(head, lines)


def _wins(row: Mapping[str, Any], prefix: str = "") -> tuple[float, float]:
    """Return wins, ties counting half, and pairs."""
    return row[f"{prefix}wins"] + row[f"{prefix}ties"] / 2, row[f"{prefix}pairs"]


if __name__ == "__main__":
    command_line(__doc__, measure, run, publish, page)
