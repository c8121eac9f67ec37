"""Token credit in TRL: equal to TRL where nothing differs, exact where it does, or refused."""

from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM

pytest.importorskip("trl")
from trl import GRPOConfig, GRPOTrainer

from tests.suite.bridges import gathered_rows
from tests.support.forked import train_together
from tokengym.base.errors import SettingsError, TokenizerError
from tokengym.bridges.trl import NO_COLUMNS, TokenCreditGRPOTrainer, advantage_fn
from tokengym.bridges.trl_rows import read_prompt
from tokengym.credit import TokenCredit
from tokengym.envs import Chat, bundled
from tokengym.rewards import Normalize, RewardModel
from tokengym.rewards.errors import RewardError

BUNDLE = bundled("movie_review")
GROUP, ROWS, LENGTH = 4, 8, 6


def config(folder: Path, **changes: Any) -> GRPOConfig:
    settings: dict[str, Any] = {
        **{"per_device_train_batch_size": ROWS, "num_generations": GROUP, "max_steps": 1},
        **{"max_completion_length": LENGTH, "learning_rate": 1e-3, "logging_steps": 1, "seed": 3},
        **{"use_cpu": True, "bf16": False, "report_to": [], "save_strategy": "no"},
        **{"disable_tqdm": True},
    }
    return GRPOConfig(output_dir=str(folder), **{**settings, **changes})


def parts() -> dict[str, Any]:
    """Return a new model, and what the trainers have in common."""
    model = AutoModelForCausalLM.from_pretrained(BUNDLE.policy, dtype=torch.float32)
    texts = [prompt.text for prompt in BUNDLE.prompts("train")][:4]
    data = Dataset.from_dict({"prompt": texts})
    return {"model": model, "train_dataset": data, "processing_class": BUNDLE.tokenizer}


def reward_model_scores(
    prompts: list[str], completion_ids: list[list[int]], **_: Any
) -> list[float | None]:
    """Score like the bridge, as TRL's own reward function."""
    credit = TokenCredit(BUNDLE.reward_model, "sparse", tokenizer=BUNDLE.tokenizer)
    return [float(score) for score in credit(completion_ids, prompts=prompts).scores]


class Recorded(TokenCreditGRPOTrainer):
    """Keeps the batches that TRL learns from, and the gradient's norm."""

    def _generate_and_score_completions(self, inputs: Any) -> Any:
        self.batch = super()._generate_and_score_completions(inputs)
        return self.batch


def trained(folder: Path, **options: Any) -> Recorded:
    """Return a trainer after one step."""
    changes = options.pop("changes", {})
    options = {"scorer": BUNDLE.reward_model, **options}
    trainer = Recorded(args=config(folder, **changes), **parts(), **options)
    trainer.train()
    return trainer


def norm(trainer: Any) -> float:
    return next(line["grad_norm"] for line in trainer.state.log_history if "grad_norm" in line)


@pytest.fixture(scope="module")
def stock(tmp_path_factory: pytest.TempPathFactory) -> GRPOTrainer:
    """Return TRL's own trainer after one step, with unscaled advantages."""
    args = config(tmp_path_factory.mktemp("stock"), scale_rewards="none", max_grad_norm=1e9)
    scores: Any = reward_model_scores
    trainer = GRPOTrainer(reward_funcs=[scores], args=args, **parts())
    trainer.train()
    return trainer


def test_trls_own_advantages_give_trls_own_weights(stock, tmp_path):
    changes = {"scale_rewards": "none", "max_grad_norm": 1e9}
    own = trained(tmp_path, credit="sparse", advantage="trl", changes=changes)
    assert own.batch["advantages"].shape == (ROWS, LENGTH)
    assert norm(stock) > 0
    theirs: Any = stock.model
    ours: Any = own.model
    for name, weight in theirs.state_dict().items():
        assert torch.equal(weight, ours.state_dict()[name]), name


def test_sparse_under_leave_one_out_is_stock_times_n_over_n_minus_1(stock, tmp_path):
    ours = trained(tmp_path, credit="sparse", changes={"max_grad_norm": 1e9})
    assert norm(ours) == pytest.approx(norm(stock) * GROUP / (GROUP - 1), rel=1e-4)


@pytest.mark.parametrize("credit", ["abc-signed", "red"])
def test_credit_arrives_and_keeps_its_sum(credit, tmp_path):
    trainer = trained(tmp_path, credit=credit, advantage="reinforce")
    advantages, mask = trainer.batch["advantages"], trainer.batch["completion_mask"].bool()
    logs: Any = trainer._logs["rewards"]
    # The reward to go of the first token is the sum of all.
    torch.testing.assert_close(
        advantages[:, 0], torch.tensor(list(logs["_scores"])), atol=1e-5, rtol=1e-5
    )
    assert not advantages[~mask].any()
    assert (advantages.std(1) > 0).all()  # tokens differ
    scores = torch.tensor(list(logs["_scores"])).view(-1, GROUP)
    shifted = scores - scores.mean(1, keepdim=True)
    theirs = shifted / (scores.std(1, keepdim=True) + 1e-4)  # what is logged is TRL's own
    logged: Any = trainer._logs["advantages"]
    torch.testing.assert_close(torch.tensor(list(logged)), theirs.flatten(), atol=1e-4, rtol=1e-4)


def test_what_an_environment_said_is_not_paid(tmp_path):
    """TRL takes env_mask from a rollout function, and hands it on as tool_mask."""
    said = BUNDLE.tokenizer("a dull film")["input_ids"]

    def play(prompts: list[str], trainer: Any) -> dict[str, Any]:
        texts = [BUNDLE.tokenizer(text)["input_ids"] for text in prompts]
        turns = [said[: 1 + row % 2] for row in range(len(prompts))]
        return {
            "prompt_ids": texts,
            "completion_ids": [[*turn, *said[:2], *turn] for turn in turns],
            "logprobs": None,
            "env_mask": [[*[1] * len(turn), 0, 0, *[1] * len(turn)] for turn in turns],
        }

    def length(prompt: str, response: str) -> float:
        return float(len(response.split()))

    trainer = trained(
        tmp_path, credit="uniform", scorer=length, advantage="reinforce", rollout_func=play
    )
    advantages, written = trainer.batch["advantages"], trainer.batch["tool_mask"].bool()
    assert not written.all()
    ids = trainer.batch["completion_ids"]
    for row in range(ROWS):
        own = written[row] & trainer.batch["completion_mask"][row].bool()
        score = length("", str(BUNDLE.tokenizer.decode(ids[row], skip_special_tokens=True)))
        count = int(own.sum())
        to_go = [score * (count - place) / count for place in range(count)]
        assert advantages[row][own].tolist() == pytest.approx(to_go, rel=1e-5)
        assert not advantages[row][~own].any()


def test_a_function_is_given_the_columns_of_the_data_that_it_names(tmp_path):
    """TRL's reward functions get further arguments, which are no columns."""
    seen: list[tuple[str, Any]] = []

    def score(response: str, reference: str, weight: float, query_type: str, **rest: Any) -> float:
        seen.append((rest["prompt"], (reference, weight, query_type, rest["level"])))
        assert not rest.keys() & NO_COLUMNS
        return weight

    common = parts()
    texts = common["train_dataset"]["prompt"]
    columns = {
        "reference": [f"film {row}" for row in range(4)],
        "weight": [0.5 + row for row in range(4)],
        "query_type": ["OPENENDED", "CONSTRAINED"] * 2,
        "level": list(range(4)),
    }
    common["train_dataset"] = Dataset.from_dict({"prompt": texts, **columns})
    trainer = TokenCreditGRPOTrainer(
        scorer=score, credit="uniform", advantage="reinforce", args=config(tmp_path), **common
    )
    trainer.train()
    told = dict(zip(texts, zip(*columns.values(), strict=True), strict=True))
    assert len(seen) == ROWS
    assert all(told[prompt] == given for prompt, given in seen)
    logs: Any = trainer._logs["rewards"]
    assert list(logs["_scores"]) == [given[1] for _, given in seen]


def test_a_completion_without_a_score_teaches_nothing(tmp_path):
    seen: list[str] = []

    def score(prompt: str, response: str) -> float | None:
        seen.append(response)
        return None if len(seen) == 2 else float(len(response))

    trainer = trained(tmp_path, credit="uniform", scorer=score)
    advantages = trainer.batch["advantages"]
    assert len(seen) == ROWS  # each is scored once
    assert not advantages[1].any()
    others = torch.tensor([0, 2, 3])
    scores = torch.tensor([float(len(text)) for text in seen])
    baseline = (scores[others].sum() - scores[0]) / 2
    assert advantages[0, 0] == pytest.approx(float(scores[0] - baseline), rel=1e-5)
    # The same text counts again once it has a score.
    again: Any = trainer._scores
    ids = [[int(token) for token in trainer.batch["completion_ids"][1]]]
    assert None not in again(prompts=["i saw"], completion_ids=ids)
    seen[:] = seen[:1]
    assert again(prompts=["i saw"], completion_ids=ids) == [None]
    assert None not in again(prompts=["i saw"], completion_ids=ids)


def test_a_function_reads_the_scorer_without_normalisation(tmp_path):
    def asks(token_rewards: Any, attention: Any, response_mask: Any) -> Any:
        return token_rewards + 0 * attention

    scorer = Normalize(RewardModel.from_pretrained(BUNDLE.reward_model))
    trainer: Any = trained(tmp_path, credit="uniform", scorer=scorer, advantage=asks)
    assert trainer._credit.reward.scorer.moments.seen == ROWS


def test_groups_that_span_processes_have_the_baseline_of_one(tmp_path):
    whole = gathered_rows.run(tmp_path / "one.pt")
    done = train_together(gathered_rows.run_rank, tmp_path)
    assert [code for code, _ in done] == [0, 0], done
    halves = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    assert halves[0].shape[1] < whole.shape[1]  # each process pads to its own longest
    for half, rows in zip(halves, whole.chunk(2), strict=True):
        assert torch.equal(half, rows[:, : half.shape[1]])


@pytest.mark.parametrize(
    ("changes", "options", "message"),
    [
        ({"importance_sampling_level": "sequence"}, {}, "mean"),
        ({"loss_type": "vespo"}, {}, "weighs whole responses"),
        ({"off_policy_mask_threshold": 0.5}, {}, "masks whole responses"),
        ({"reward_weights": [-1.0]}, {}, r"reward_weights=\[-1\.0\]"),
        ({"multi_objective_aggregation": "normalize_then_sum"}, {}, "one scorer"),
        ({}, {"advantage": "lo"}, "did you mean 'loo'"),
        ({}, {"advantage": "trl"}, "advantage='loo'"),
    ],
)
def test_what_loses_the_credit_is_refused(tmp_path, changes, options, message):
    with pytest.raises(SettingsError, match=message):
        TokenCreditGRPOTrainer(
            "no model is loaded",
            scorer=BUNDLE.reward_model,
            args=config(tmp_path, **changes),
            **options,
        )


def test_the_reward_of_an_environment_is_refused(tmp_path, monkeypatch):
    """TRL adds an environment that has `get_reward` to its reward functions."""

    def begin(trainer: Any, model: Any, *, reward_funcs: list[Any], **_: Any) -> None:
        trainer.reward_funcs = [*reward_funcs, len]
        trainer.reward_func_names = ["_scores", "Game"]

    monkeypatch.setattr(GRPOTrainer, "__init__", begin)
    with pytest.raises(SettingsError, match="get_reward of Game"):
        TokenCreditGRPOTrainer("no model", scorer=BUNDLE.reward_model, args=config(tmp_path))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"reward_funcs": len}, "scorer=.*advantage_fn"),
        ({"reward_funcs": len, "scorer": BUNDLE.reward_model}, "scorer=.*advantage_fn"),
        ({}, "scorer must be .*, got None; pass the folder or name"),
    ],
)
def test_what_scores_is_asked_for_by_name(options, message):
    with pytest.raises(TypeError, match=message):
        TokenCreditGRPOTrainer("no model is loaded", credit="sparse", **options)


def test_a_token_credit_is_taken_whole(tmp_path):
    credit = TokenCredit(BUNDLE.reward_model, "abc-signed", tokenizer=BUNDLE.tokenizer)
    with pytest.raises(TypeError, match=r"has its scorer and models; leave out scorer="):
        trained(tmp_path, credit=credit)
    with pytest.raises(TypeError, match="a TokenCredit is passed as credit="):
        trained(tmp_path, scorer=credit)
    whole = trained(tmp_path / "whole", credit=credit, scorer=None)
    apart = trained(tmp_path / "apart", credit="abc-signed")
    assert torch.equal(whole.batch["advantages"], apart.batch["advantages"])


def test_the_policy_is_read_without_dropout(tmp_path):
    read: list[torch.Tensor] = []

    def by_kl(scores: Any, kl: Any, response_mask: Any) -> Any:
        read.append(kl)
        return scores[:, None] * response_mask

    model = parts()["model"]
    for part in model.modules():
        if isinstance(part, torch.nn.Dropout):
            part.p = 0.3
    score: Any = reward_model_scores
    trainer = GRPOTrainer(
        reward_funcs=[score], args=config(tmp_path, beta=0.1), **{**parts(), "model": model}
    )
    advantage_fn(trainer, by_kl).train()
    assert read[0].abs().max() < 1e-5  # before the first step the policy is its reference


def test_a_rule_that_does_not_fit_its_scorer_is_refused_before_the_first_step(tmp_path):
    with pytest.raises(RewardError, match=r"needs attention attributions.*or take 'red'"):
        TokenCreditGRPOTrainer(
            scorer=lambda prompt, response: 1.0, credit="abc", args=config(tmp_path), **parts()
        )
    with pytest.raises(TokenizerError, match="spell"):
        TokenCredit(lambda p, r: 1.0, tokenizer=BUNDLE.tokenizer)(["no-such-word"])


def test_messages_in_parts_and_calls_of_tools_are_read_as_what_was_said():
    asked = [{"type": "text", "text": "what is "}, {"type": "text", "text": "2 + 2 ?"}]
    messages = [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": asked},
        {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "add"}}]},
        {"role": "tool", "content": "4"},
    ]
    read = read_prompt(messages, {"tools": [{"name": "add"}]})
    assert isinstance(read, Chat)
    assert [m["content"] for m in read] == ["be brief", "what is 2 + 2 ?", "", "4"]
    assert (read[2]["tool_calls"][0], read.beside["tools"]) == (
        {"function": {"name": "add"}},
        [{"name": "add"}],
    )
    assert read.text.startswith("be brief\n\nHuman: what is 2 + 2 ?\n\nAssistant: ")
