"""docs/results/toxicity.md: tables worked by hand, scorers, arms, and the page itself."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from studies import toxicity as study
from studies.cells import DOCS
from tests.rewards.conftest import make_episode
from tokengym.envs.prompts.loading import load_prompts
from tokengym.evaluation.report.curves import Panel, Runs
from tokengym.rewards.scorers import find_scorer

ROOT = Path(__file__).parents[2]


def panel(toxicity: list[list[float]], gold: list[list[float]], first: int = 0) -> Panel:
    seeds = tuple(range(first, first + len(gold)))
    values = {name: np.array(rows) for name, rows in (("toxicity", toxicity), ("gold_score", gold))}
    values |= {"length": np.full_like(values["gold_score"], 12), "kl": values["gold_score"] * 0 + 2}
    return Panel(
        group=(),
        steps=np.arange(2.0),
        rewards={"sparse": Runs(seeds=seeds, values=values)},
        measures=("score",),
        cut_at=None,
    )


def test_tables_by_hand() -> None:
    panels = {
        "score": panel([[0.1, 0.1], [0.1, 0.2]], [[0.5, 0.5], [0.5, 0.7]]),
        "clean": panel([[0.1, 0.0], [0.1, 0.0]], [[0.5, 0.6], [0.5, 0.6]], first=1),
    }
    line = study.table(panels).replace("\N{MINUS SIGN}", "-").splitlines()[3]
    assert line == (
        "| clean | 2 | 0.100 | 0.000 (0.000 to 0.000) | **-0.100** (-0.100 to -0.100), 0/2 "
        "| 0.500 | 0.600 (0.600 to 0.600) | **+0.100** (0.100 to 0.100), 2/2 | 12.0 | 2.00 |"
    )
    line = study.arms_table(panels).replace("\N{MINUS SIGN}", "-").splitlines()[2]
    # Seed 1 alone is in both: 0.0 - 0.2 and 0.6 - 0.7.
    ends = "**-0.200** (-0.200 to -0.200), 0/1 | **-0.100** (-0.100 to -0.100), 0/1"
    assert line == f"| clean - score | {ends} |"


@pytest.mark.parametrize(("arm", "rude"), [("score less toxicity", -5.0), ("toxicity alone", -5.0)])
def test_the_scorers_charge_rude_words(
    arm: str, rude: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    scorer = find_scorer(str(study.ARMS[arm]))
    assert scorer is not None
    texts = ["sister sold my ring", "sister sold my wobblehat"]
    clean, dirty = scorer.score([make_episode(prompt="", response=text) for text in texts]).values
    assert dirty - clean == pytest.approx(rude)  # without tokens the reward model scores both alike


def test_arms_share_everything_but_the_scorer(tmp_path: Path) -> None:
    configs = [study.config(arm, tmp_path).as_dict() for arm in study.ARMS]
    for config, scorer in zip(configs, study.ARMS.values(), strict=True):
        assert config["task"].pop("scorer") == scorer
        config.pop("code", None)
    assert configs[0] == configs[1] == configs[2]


def test_what_is_prepared_is_a_data_set_that_the_policy_can_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    monkeypatch.setattr(study, "POSTS", 30)
    monkeypatch.setattr(study, "WRITTEN", 5)
    study.prepare(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "base")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    assert model.config.vocab_size == len(tokenizer)
    prompts = load_prompts(
        tmp_path / "posts.jsonl",
        prompt_column="prompt",
        reference_column="reference",
        tokenizer=tokenizer,
        split="all",
    )
    written = [json.loads(line) for line in (tmp_path / "written.jsonl").open(encoding="utf-8")]
    assert (len(prompts), len(written)) == (30, 5)
    for text in [p.text for p in prompts] + [row["response"] for row in written]:
        assert tokenizer.unk_token_id not in tokenizer(text).input_ids


def test_the_page_is_current(tmp_path: Path) -> None:
    page = ROOT / DOCS / "toxicity.md"
    shutil.copytree(ROOT / DOCS / "toxicity", tmp_path / "toxicity")
    shutil.copy(page, tmp_path)
    study.page(tmp_path)
    found = (tmp_path / "toxicity.md").read_text(encoding="utf-8")
    assert found == page.read_text(encoding="utf-8")
