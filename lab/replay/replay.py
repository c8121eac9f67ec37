"""Replay of one set of episodes under every credit rule, with the true worth of each token."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from tokengym.base import jsonl_rows, write_csv
from tokengym.envs import (
    Episode,
    Prompt,
    SettingsError,
    Task,
    TokenGenerationEnv,
    TokenGenerationVectorEnv,
    printable,
    token_texts,
)
from tokengym.evaluation.measure import is_own_task, resolve_env, task_reward
from tokengym.evaluation.report import to_cell
from tokengym.evaluation.statistics import DEFAULT_LEVEL
from tokengym.lab.envs.forks.env import ForksValues
from tokengym.lab.envs.oracle.env import OracleEnv, OracleVectorEnv
from tokengym.lab.replay.agreement import Agreement, Array, agreement, varies
from tokengym.lab.replay.executed import ExecutedTruth, Forks, executed_truth, written_places
from tokengym.lab.replay.token_worth import token_worth
from tokengym.lab.traces.reading import SUFFIXES, read_traces
from tokengym.rewards import (
    Probe,
    Reward,
    RewardChoice,
    RewardError,
    Rule,
    Scorer,
    Scores,
    gold_scorer,
)

if TYPE_CHECKING:
    from tokengym.agents import CausalLMPolicy
    from tokengym.lab.replay.heat_map import HeatMap

EPISODES_FILE = "episodes.jsonl"
OWN_KEYS = {"response", "response_ids", "score_parts", "finish_reason"}
"""Keys by which a record of `Episode.to_record` is told from a row of another trainer's."""
USUAL: tuple[tuple[str, ...], ...] = (
    ("sparse",),
    ("uniform",),
    ("abc",),
    ("abc-signed",),
    ("red",),
    ("scar",),
    ("gradient", "leave-one-out"),
    ("r3-dense",),
)
"""Default rules: the first of each group that the scorer allows."""
CONTROL = "random"
"""Rule that knows nothing, shown beside another trainer's credit: agreement by chance."""
PAID = "paid in the run"
"""Name of the token rewards that are stored with the episodes of a run."""
DECIMALS = 12
"""Decimals of an exact advantage, whose sums are right to about 1e-15."""
STORED = ("prompt_ids", "response_ids", "tokens")
"""What the rows of a run have, by which it is shown without its environment."""


@dataclass(frozen=True, kw_only=True)
class Truth:
    """The true worth of every token of some responses."""

    name: str
    """Description, in words."""
    values: tuple[Array, ...]
    """Per episode (n,), signed."""
    matters: tuple[NDArray[np.bool_], ...]
    """Per episode (n,): the tokens that matter."""
    meaning: str
    """Names of those, in words."""
    executed: ExecutedTruth | None = None
    """Intervals, ceiling and chance of a truth that was measured; None for an exact one."""


@dataclass(frozen=True, kw_only=True)
class Scored:
    """All responses that were read, with what each scorer gave them."""

    episodes: tuple[Episode, ...]
    """The responses, in the order of their file."""
    scores: Mapping[str, Array]
    """Rule -> (episodes,) what its scorer gave; NaN where it gave none."""
    stored: Array
    """(episodes,) what they came with; NaN where that is none, or is what ``scores`` has."""


@dataclass(frozen=True, kw_only=True)
class Replay:
    """Token rewards of every rule for the same responses."""

    env: str
    """Id of the environment."""
    source: str
    """Origin of the episodes, in words."""
    episodes: tuple[Episode, ...]
    """The responses."""
    tokens: tuple[tuple[str, ...], ...]
    """Per episode its tokens' texts."""
    credits: Mapping[str, tuple[Array, ...]]
    """Rule -> per episode (n,) token rewards."""
    scores: Mapping[str, Array]
    """Rule -> (episodes,) what its scorer gave; the same for rules of one scorer."""
    scorers: Mapping[str, str]
    """Rule -> its scorer's name."""
    truth: Truth | None
    """True worth of each token, if the task knows it."""
    agreements: Mapping[str, Agreement]
    """Rule -> how well it agrees with the truth; empty without one, and if no token matters."""
    read: Scored
    """All responses with their scores, those included that a scorer left without one and that no
    rule can divide."""
    numbers: tuple[int, ...]
    """Per episode its number among all responses that were read, from 0."""

    def columns(self, index: int) -> dict[str, Array]:
        """Return one response's token rewards by rule, ``truth`` first where it is known."""
        truth = {} if self.truth is None else {"truth": self.truth.values[index]}
        if self.truth is not None and self.truth.executed is not None:
            worth, episode = self.truth.executed.worths[index], self.episodes[index]
            truth |= {"truth low": _placed(worth.low, episode)}
            truth |= {"truth high": _placed(worth.high, episode)}
        return truth | {name: rule[index] for name, rule in self.credits.items()}

    def with_truth(self, truth: Truth | None) -> "Replay":
        """Return the same credit held to another truth.

        Args:
            truth: The true worth of each token; None knows none.
        """
        agreements: dict[str, Agreement] = {}
        if truth is not None:
            worth, matters = (
                written_rows(rows, self.episodes) for rows in (truth.values, truth.matters)
            )
            # A token must matter, and another be worth more or less in its response.
            if any(map(varies, worth)) and any(mask.any() for mask in matters):
                agreements = {
                    name: agreement(written_rows(rows, self.episodes), worth, matters)
                    for name, rows in self.credits.items()
                }
        return replace(self, truth=truth, agreements=agreements)

    def heat_map(self, index: int = 0) -> "HeatMap":
        """Draw one response's token rewards, the truth first where it is known.

        Args:
            index: Index of the response.
        """
        from tokengym.lab.replay.heat_map import HeatMap

        words = [printable(text).strip() for text in self.tokens[index]]
        return HeatMap(self.columns(index), words, self.episodes[index].turns)


def replay(
    episodes: Sequence[Episode],
    rewards: Sequence[str],
    *,
    env: str,
    env_kwargs: Mapping[str, Any] | None = None,
    policy: "CausalLMPolicy | None" = None,
    source: str = "",
    forks: Forks | None = None,
    paid_by: str = "",
) -> Replay:
    """Score a set of episodes under every rule.

    Args:
        episodes: Finished responses, whoever played them.
        rewards: Rules by name, options after a colon.
        env: Environment id or a task's bare name; its scorer is used.
        env_kwargs: Further arguments of ``gym.make_vec``, such as ``bundle`` or ``scorer``.
        policy: The policy that played, for a truth that depends on it (see `token_truth`) and for
            rules that continue responses.
        source: Where the episodes come from, for the report.
        forks: Measure the truth by continuations of the policy, see `executed_truth`; None takes
            what the task knows.
        paid_by: Name under which the ``token_rewards`` that the episodes came with are shown as a
            rule of their own; empty shows none.
    """
    if not episodes or not rewards:
        raise ValueError(f"replay needs episodes and rewards, got {len(episodes)} and {rewards}")
    if len(set(rewards)) < len(rewards):
        raise ValueError(f"rewards names a rule twice: {', '.join(rewards)}; leave one out")
    env = resolve_env(env)
    kwargs = dict(env_kwargs or {})
    credits: dict[str, tuple[Array, ...]] = {}
    scores: dict[str, Array] = {}
    scorers: dict[str, str] = {}
    bare = gym.make_vec(env, num_envs=1, **without_reward(kwargs))
    task = bare.unwrapped
    assert isinstance(task, TokenGenerationVectorEnv)
    paying = {name: _paid_by(env, kwargs, name, policy) for name in rewards}
    every = {name: reward.evaluate(list(episodes)) for name, reward in paying.items()}
    # What a judge or a partner left without a score has no credit to show.
    by_row = zip(*every.values(), strict=True)
    kept = [row for row, paid in enumerate(by_row) if all(e.score is not None for e in paid)]
    if not kept:
        raise ValueError("no episode has a score under every rule; look at the judge")
    read = Scored(
        episodes=tuple(episodes),
        scores={name: scores_of(paid) for name, paid in every.items()},
        stored=scores_of(episodes),
    )
    episodes = [episodes[row] for row in kept]
    for name, reward in paying.items():
        paid = [every[name][row] for row in kept]
        credits[name] = tuple(np.asarray(e.token_rewards, dtype=np.float64) for e in paid)
        scores[name] = read.scores[name][kept]
        scorers[name] = reward.scorer.name
    if paid_by:
        paid_rows = [np.asarray(episode.token_rewards, dtype=np.float64) for episode in episodes]
        credits[paid_by], scorers[paid_by] = tuple(paid_rows), paid_by
        scores[paid_by] = read.stored[kept]
    truth = None
    if forks is not None:
        truth = _measured_truth(env, kwargs, episodes, policy, forks)
    elif not any(is_own_task({**kwargs, "reward": name}) for name in rewards):
        truth = token_truth(task, episodes, policy)  # it is of its own prompts and scorer
    bare.close()
    unheld = Replay(
        env=env,
        source=source or f"{len(episodes)} episodes",
        episodes=tuple(episodes),
        tokens=tuple(tuple(token_texts(task.tokenizer, e.response_ids)) for e in episodes),
        credits=credits,
        scores=scores,
        scorers=scorers,
        truth=None,
        agreements={},
        read=read,
        numbers=tuple(kept),
    )
    return unheld.with_truth(truth)


def scores_of(episodes: Sequence[Episode]) -> Array:
    """Return scores, (episodes,), NaN where there is none."""
    return np.array([np.nan if e.score is None else e.score for e in episodes], dtype=np.float64)


class StoredScores(Scorer):
    """Gives each episode the score that is stored with it, and has none for other texts."""

    def score(self, episodes: Sequence[Episode], *, attribution: str | None = None) -> Scores:
        """See `Scorer.score`."""
        self.check_attribution(attribution)
        return Scores([episode.score for episode in episodes])


def is_by_score(rule: str) -> bool:
    """Return whether a rule divides the score of a text by nothing but the text and that score."""
    choice = RewardChoice.of(rule)
    made = choice.made
    if not isinstance(made, Rule) or choice.kind != "any" or made.signature.models:
        return False
    of_texts = {*made.reads_of("texts"), "scores", "paid"}
    return of_texts.issuperset(made.reads) and made.cut not in ("line", "sentence")


def replay_stored(
    path: Path, rewards: Sequence[str] = (), *, env: str, limit: int | None = None
) -> Replay:
    """Show what the rewards of a run's episodes were, beside rules that need their scores alone.

    No environment is made and nothing is scored, so no code of the run is needed.

    Args:
        path: As for `load_episodes`, with texts and rewards of the tokens, as runs store them.
        rewards: Rules for which `is_by_score`, by name; () takes the usual ones.
        env: Name of the environment.
        limit: Largest number of episodes, those without a score included, which are left out.

    Raises:
        ValueError: if an episode lacks its tokens, or none has a score with its tokens' rewards.
    """
    usual = [rule for group in USUAL for rule in group if is_by_score(rule)]
    texts: dict[tuple[Any, ...], Sequence[str]] = {}

    def shown() -> Iterator[_Record]:
        for file, number, row in _records(path):
            if lacks := [name for name in STORED if row.get(name) is None]:
                raise ValueError(
                    f"{file} line {number} lacks {', '.join(lacks)}, by which episodes are shown "
                    "without the code of their run; pass --trust-code"
                )
            texts[tuple(row["prompt_ids"]), tuple(row["response_ids"])] = row["tokens"]
            yield file, number, row

    # One more tells whether there are more.
    found, left_out = _own_episodes(path, shown(), None, None if limit is None else limit + 1)
    source = f"Stored in {path}"
    if limit is not None and len(found) > limit:
        found, source = found[:limit], f"{source}, the first {limit}"
    scored = [e.score is not None and e.token_rewards is not None for e in found]
    if not any(scored):
        raise ValueError(
            f"no episode in {path} has a score and token_rewards, by which episodes are shown "
            "without the code of their run; pass --trust-code"
        )
    if unscored := scored.count(False):
        left_out.append(f"responses without a score: {unscored}")
    kept = [row for row, has in enumerate(scored) if has]
    episodes = [found[row] for row in kept]
    credits = {PAID: tuple(np.asarray(e.token_rewards, dtype=np.float64) for e in episodes)}
    for rule in rewards or (*usual, CONTROL):
        made = RewardChoice.of(rule).made
        assert isinstance(made, Rule)
        paid = Reward(StoredScores(), made).evaluate(episodes)
        credits[rule] = tuple(np.asarray(e.token_rewards, dtype=np.float64) for e in paid)
    scores = scores_of(found)
    return Replay(
        env=env,
        source="; ".join(
            [
                source,
                *(f"left out: {line}" for line in left_out),
                "nothing was scored, and no code of the run was executed",
            ]
        ),
        episodes=tuple(episodes),
        tokens=tuple(tuple(texts[e.prompt_ids, e.response_ids]) for e in episodes),
        credits=credits,
        scores=dict.fromkeys(credits, scores[kept]),
        scorers=dict.fromkeys(credits, "the run's scorer"),
        truth=None,
        agreements={},
        read=Scored(
            episodes=tuple(found),
            scores=dict.fromkeys(credits, scores),
            stored=np.full(len(found), np.nan),  # is in the scores
        ),
        numbers=tuple(kept),
    )


def _placed(values: NDArray[Any], episode: Episode) -> NDArray[Any]:
    """Return values of the written tokens in their places, 0 at those of replies."""
    placed = np.zeros(len(episode.response_ids), dtype=values.dtype)
    placed[written_places(episode)] = values
    return placed


def written_rows(rows: Sequence[NDArray[Any]], episodes: Sequence[Episode]) -> list[NDArray[Any]]:
    """Return the rows at the tokens that the policy wrote."""
    return [row[written_places(e)] for row, e in zip(rows, episodes, strict=True)]


def token_truth(
    task: TokenGenerationEnv | TokenGenerationVectorEnv,
    episodes: Sequence[Episode],
    policy: "CausalLMPolicy | None" = None,
) -> Truth | None:
    """Return the true worth of every token, or None where the task does not know it.

    The Oracle and Forks know the exact advantage of each token for the policy that played; Forks,
    where there are too many responses to enumerate, that of the best play. A bundle whose
    gold score rests on single words knows what each of them adds to it (`token_worth`).

    Args:
        task: The bare environment (``envs.unwrapped``).
        episodes: Finished responses.
        policy: The policy that played them, for exact advantages; None stands for a policy that is
            uniform over the legal tokens.
    """
    exact = "exact advantage" + (" under random play" if policy is None else "")
    if isinstance(task, ForksValues) and episodes:
        try:
            tables = [_table(policy, task, e.prompt) for e in episodes]
            known = [
                task.exact_advantages(table, e.prompt)
                for table, e in zip(tables, episodes, strict=True)
            ]
        except SettingsError:
            exact = "exact advantage under the best play"
            known = [task.optimal_values(e.prompt).advantages for e in episodes]
        worths = tuple(
            _exact(a.along(e.response_ids)) for a, e in zip(known, episodes, strict=True)
        )
        return Truth(
            name=exact,
            values=worths,
            matters=tuple(row != 0 for row in worths),
            meaning="tokens that change the chance of success",
        )
    if isinstance(task, OracleEnv | OracleVectorEnv) and episodes:
        advantages = task.exact_advantages(_table(policy, task))
        return Truth(
            name=exact,
            values=tuple(_exact(advantages.along(e.response_ids)) for e in episodes),
            matters=tuple(task.removal_effects(e.response_ids) != 0 for e in episodes),
            meaning="tokens without which the score would be another",
        )
    gold = gold_scorer(task.bundle)
    values = None if gold is None else token_worth(gold, episodes, task.tokenizer)
    if values is None:
        return None
    return Truth(
        name="gold word weights",
        values=tuple(values),
        matters=tuple(row != 0 for row in values),
        meaning="words that the gold score counts",
    )


def _exact(advantages: Array) -> Array:
    """Return advantages without what rounding a sum left in them: a token worth nothing has 0."""
    return np.round(advantages, DECIMALS) + 0.0


def _table(policy: "CausalLMPolicy | None", task: Any, prompt: int | str = 0) -> Any:
    """Return the probabilities of a policy at every text of a task, None of random play."""
    if policy is None:
        return None
    from tokengym.lab.learners.oracle import policy_table

    return policy_table(policy, task, prompt=prompt)


def _measured_truth(
    env: str,
    kwargs: Mapping[str, Any],
    episodes: Sequence[Episode],
    policy: "CausalLMPolicy | None",
    forks: Forks,
) -> Truth:
    """Return the worth of every token by executed forks, in units of the task's own score.

    Args:
        env: Environment id.
        kwargs: Arguments of ``gym.make_vec``.
        episodes: Finished responses.
        policy: The policy that continues them.
        forks: How many continuations.
    """
    if policy is None:
        raise ValueError(
            "truth 'forks' continues responses with the policy that played, got none; pass --agent"
        )
    reward = _paid_by(env, kwargs, "mc", policy)
    probe = Probe(reward.scorer, reward.tokenizer, reward.continuations)
    executed = executed_truth(probe, episodes, forks)
    worths = [*zip(executed.worths, episodes, strict=True)]
    return Truth(
        name=f"executed truth (k = {forks.k})",
        values=tuple(_placed(worth.worth, e) for worth, e in worths),
        matters=tuple(_placed(worth.low * worth.high > 0, e) for worth, e in worths),
        meaning=f"tokens whose {DEFAULT_LEVEL:.0%} interval leaves out 0",
        executed=executed,
    )


def usual_rewards(env: str, env_kwargs: Mapping[str, Any] | None = None) -> tuple[str, ...]:
    """Return the rules of `USUAL` that the scorer of a task's own reward can be credited by.

    Args:
        env: Environment id, or a task's bare name.
        env_kwargs: Further arguments of ``gym.make_vec``.
    """
    kwargs = env_kwargs or {}
    allowed = {"any", "encoder" if _is_by_encoder(env) else "reward_model"}

    def is_allowed(name: str) -> bool:
        if kwargs.get("scorer") is None and RewardChoice.of(name).kind not in allowed:
            return False
        try:
            _paid_by(env, kwargs, name)
        except RewardError:
            return False
        return True

    firsts = (next(filter(is_allowed, group), None) for group in USUAL)
    return tuple(name for name in firsts if name is not None)


def _paid_by(
    env: str, kwargs: Mapping[str, Any], name: str, policy: "CausalLMPolicy | None" = None
) -> Reward:
    """Return the reward of a rule; one that any scorer serves has that of the task's own reward."""
    if kwargs.get("scorer") is None and RewardChoice.of(name).kind == "any" and _is_by_encoder(env):
        r3, _ = task_reward(env, {**kwargs, "reward": "r3"})
        kwargs = {**kwargs, "scorer": r3.scorer}
    return task_reward(env, {**kwargs, "reward": name}, policy)[0]


def _is_by_encoder(env: str) -> bool:
    """Return whether a task's own reward is scored by an encoder."""
    task = Task.of(env)
    own = None if task is None else task.reward
    return own is not None and RewardChoice.of(own).kind == "encoder"


def load_episodes(
    path: Path, *, env: str, env_kwargs: Mapping[str, Any] | None = None, limit: int | None = None
) -> tuple[list[Episode], list[str]]:
    """Return the episodes stored in a file or below a folder.

    Responses that are alike are kept: each is one draw of the policy. Only what the runs of a
    comparison share, responses that one seed drew from one untrained policy, is read once.

    Args:
        path: A file of JSON lines, a folder with ``episodes.jsonl`` in it or below it, or what
            another trainer wrote (`tokengym.lab.traces.reading`).
        env: The environment, which encodes the prompts of records that have no ``prompt_ids``.
        env_kwargs: Its arguments.
        limit: Largest number to return; None returns all.

    Returns:
        The episodes, and lines on what was left out: of another trainer's files one for each row.
    """
    encode = _PromptEncoder(env, env_kwargs or {})
    if is_foreign(path):
        return read_traces(path, encode.envs.unwrapped.tokenizer, limit=limit)
    return _own_episodes(path, _records(path), encode, limit)


def stored_prompts(path: Path, *, limit: int) -> list[Prompt]:
    """Return the prompts of our own files of episodes, with the columns that scorers may name.

    Args:
        path: A file of JSON lines, or a folder with ``episodes.jsonl`` in it or below it.
        limit: Most rows to read.
    """
    prompts: list[Prompt] = []
    for file, number, row in islice(_records(path), limit):
        try:
            episode = Episode.from_record({"prompt_ids": (), **row})
        except ValueError as error:
            raise ValueError(f"{file} line {number}: {error}") from None
        about = (episode.reference, episode.query_type, episode.metadata)
        prompts.append(Prompt(episode.prompt if episode.prompt.strip() else ".", *about))
    return prompts


def _own_episodes(
    path: Path,
    records: Iterator["_Record"],
    encode: "_PromptEncoder | None",
    limit: int | None,
) -> tuple[list[Episode], list[str]]:
    """Return the episodes of our own files, whose rows are read as far as they are wanted.

    Without an encoder nothing is made.
    """
    first = next(records, None)
    if first is None:
        raise ValueError(
            f"{path} has no {EPISODES_FILE} with episodes; tokengym compare, tokengym train and "
            "agents.EpisodeLog write them"
        )
    episodes: list[Episode] = []
    draws: dict[tuple[Any, ...], Path] = {}
    shared = empty = 0
    for file, number, row in chain([first], records):
        if limit is not None and len(episodes) >= limit:
            break
        try:
            prompt_ids = None
            if encode is not None and not row.get("prompt_ids"):
                prompt_ids = encode(row.get("prompt"))
            episode = Episode.from_record(row, prompt_ids=prompt_ids)
        except (AttributeError, ValueError) as error:
            raise ValueError(f"{file} line {number}: {error}") from None
        draw = _draw(row, episode)
        if not episode.response_ids:
            empty += 1
        elif draw is not None and draws.setdefault(draw, file) != file:
            shared += 1
        else:
            episodes.append(episode)
    lines = [f"responses without a token: {empty}"] if empty else []
    if shared:
        lines.append(
            f"responses that another run of the same seed drew from the same policy: {shared}"
        )
    return episodes, lines


def _draw(row: Mapping[str, Any], episode: Episode) -> tuple[Any, ...] | None:
    """Return what a draw shares with its copies in other runs of a comparison; None of others.

    The runs of one seed begin with one policy and draw the same responses from it. Trained
    policies may draw the same tokens too, but with other log-probabilities.
    """
    numbers = tuple(row.get(name) for name in ("seed", "step", "sample"))
    if None in numbers or episode.log_probs is None:
        return None
    text = (episode.prompt_ids, episode.response_ids, episode.reference)
    return (*numbers, *text, episode.log_probs.tobytes())


_Record = tuple[Path, int, dict[str, Any]]
"""A row of a file of episodes, with the file and the row's number in it."""


def _records(path: Path) -> Iterator[_Record]:
    """Yield the rows of the files of episodes at a path, each with its file and line."""
    files = [path] if path.is_file() else sorted(path.glob(f"**/{EPISODES_FILE}"))
    if path.is_file() and path.suffix != ".jsonl":
        raise ValueError(
            f"{path} is no file of episodes, which are rows of a .jsonl or a .parquet; write it as "
            "JSON Lines, an object a response"
        )
    for file in files:
        for number, row in enumerate(jsonl_rows(file), 1):
            yield file, number, row


def is_foreign(path: Path) -> bool:
    """Return whether another trainer wrote a file, or the files of a folder.

    Records of ours have the keys that `Episode.to_record` writes of every episode.
    """
    if path.is_dir():
        return not any(path.glob(f"**/{EPISODES_FILE}")) and any(
            file.suffix in SUFFIXES for file in path.rglob("*")
        )
    if path.suffix != ".jsonl" or path.name == EPISODES_FILE:
        return path.suffix == ".parquet"
    first = next(jsonl_rows(path), None)
    return first is not None and not OWN_KEYS <= first.keys()


def write_credit(path: Path, result: Replay) -> None:
    """Write every token with its truth and what each rule paid it: one row per token.

    Args:
        path: A CSV; columns episode (its number among all that were read, as in scores.csv),
            token, token_id, text, truth where there is one, and one per rule.
        result: Result of the replay.
    """
    rows: list[dict[str, Any]] = []
    for index, episode in enumerate(result.episodes):
        columns, number = result.columns(index), result.numbers[index]
        for t, token_id in enumerate(episode.response_ids):
            row: dict[str, Any] = {"episode": number, "token": t, "token_id": int(token_id)}
            row["text"] = to_cell(printable(result.tokens[index][t]))
            rows.append(row | {to_cell(name): float(v[t]) for name, v in columns.items()})
    write_csv(path, rows, list(rows[0]))


def without_reward(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return an environment's arguments without the reward and what goes with it."""
    apart = ("reward", "normalize", "scorer", "scorer_timeout", "reward_model", "encoder")
    return {name: value for name, value in kwargs.items() if name not in apart}


class _PromptEncoder:
    """Encodes prompts as the environment does, which is made at the first use."""

    def __init__(self, env: str, env_kwargs: Mapping[str, Any]) -> None:
        self._arguments = (env, env_kwargs)
        self._envs: Any = None

    @property
    def envs(self) -> Any:
        """The environment."""
        if self._envs is None:
            env, kwargs = self._arguments
            kwargs = {"split": "test", **without_reward(kwargs)}
            self._envs = gym.make_vec(resolve_env(env), num_envs=1, **kwargs)
        return self._envs

    def __call__(self, prompt: object) -> list[int] | None:
        """Return a prompt's ids, or None for a record without a prompt, which is refused later."""
        if not isinstance(prompt, str):
            return None
        observation, _ = self.envs.reset(options={"prompt": prompt})
        return observation["input_ids"][0][observation["attention_mask"][0] == 1].tolist()
