"""``tokengym evaluate``: measurements of a policy on held-out prompts, and samples."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import tyro

from tokengym.base.registry import split_file_word
from tokengym.scripts.commands.options import check_counts, takes_settings, task_settings

if TYPE_CHECKING:
    from rich.console import Console

    from tokengym.base.bundle import Bundle
    from tokengym.evaluation.measure.evaluate import Evaluation, Evaluator
    from tokengym.evaluation.measure.references import ReferenceLines
    from tokengym.evaluation.measure.win_rate import WinRate
    from tokengym.evaluation.runs.settings import TaskSettings


class _Player(NamedTuple):
    """Who answers the prompts; without a folder and a class, the untrained policy."""

    folder: Path | None  # or the file that a class of the user's own saved
    own_class: str | None  # word for a class that reads the folder, or is played as it is made

    @classmethod
    def named(cls, agent: Path | None, own_class: str | None = None) -> "_Player":
        """Return who is named on the command line, by a folder or by a word."""
        from tokengym.base.packed import with_suffix

        # `agent.save` writes one file under some names, with ".zip" behind what it was given.
        if agent is None or agent.is_dir():
            return cls(agent, own_class)
        is_file = agent.is_file() or with_suffix(agent).is_file()
        if is_file and (own_class is not None or split_file_word(str(agent)) is None):
            return cls(agent, own_class)
        if split_file_word(str(agent)) is None:
            raise ValueError(
                f"{agent} is no folder; name one that tokengym train or agent.save wrote, or an "
                "agent of your own: path/to/file.py:MyAgent"
            )
        if own_class is not None:
            raise ValueError(
                f"--agent-class {own_class} has no effect beside {agent}, which is played as it is "
                "made; leave one of them out"
            )
        return cls(None, str(agent))

    def load(self, evaluator: "Evaluator", model: str | None, *, trust_code: bool) -> Any:
        """Return the agent; ``model`` is the untrained policy's, None the environment's own."""
        from tokengym.agents.contract import make_own_agent
        from tokengym.agents.learner import LEARNERS
        from tokengym.agents.loading import load_agent

        if self.folder is not None:
            return load_agent(self.folder, self.own_class, trust_code=trust_code)
        if (word := self.own_class) is not None:
            return make_own_agent(word, LEARNERS.load(word), evaluator.envs)
        return evaluator.untrained(model)


def _check_file(json: Path | None) -> None:
    """Refuse a folder for the figures before anything is measured."""
    if json is not None and json.is_dir():
        raise ValueError(f"--json {json} is a folder; name a file")


@takes_settings(task_settings)
def evaluate(
    agent: Annotated[Path | None, tyro.conf.Positional, tyro.conf.arg(metavar="AGENT")] = None,
    env: str | None = None,
    num_episodes: int | None = None,
    seed: int | None = None,
    draws: tuple[int, int] | None = None,
    samples: int = 3,
    deterministic: bool = False,
    json: Path | None = None,
    against: Path | None = None,
    judge: str | None = None,
    toxicity: str | None = None,
    agent_class: str | None = None,
    reference_samples: int | None = None,
    trust_code: bool = False,
    device: str = "auto",
    *,
    task: "TaskSettings",
) -> None:
    """Measure a policy on held-out prompts: score, gold score, KL, text, and what it wrote.

    ROUGE (where prompts have references) and self-BLEU need pip install 'tokengym[text]'.

    For example:
      tokengym evaluate runs/one/agent
      tokengym evaluate --env MovieReview            the policy that training starts from
      tokengym evaluate runs/one/agent --draws 0 30    on the prompts of a row of its curve
      tokengym evaluate runs/one/agent --against runs/sparse/agent --judge models/judge
      tokengym evaluate my_agent.py:MyAgent          an agent of your own, as it is made

    Args:
        agent: Folder of a saved agent, or path/to/file.py:MyAgent, whose method predict is all it
            needs; without one, the untrained policy is measured.
        env: Environment id, or a task's bare name (default: what the agent was trained in, the
            bundle's; TokenGeneration for --dataset with a scorer or model of your own that scores;
            else MovieReview).
        num_episodes: Number of held-out prompts (default: 128; with --draws the run's own).
        seed: Seed of prompts and sampling (default: 0; with --draws the run's evaluation seed).
        draws: Seed of a run and step of its evaluation, such as 3 12: prompts and random numbers
            are those of that row of its curve (default: the first prompts, and one sampling).
        samples: Number of responses to print.
        deterministic: Choose the likeliest token instead of sampling.
        json: File to write the figures to.
        against: A second agent, likewise: the win rate over it on the same prompts.
        judge: Preference model that decides it, asked in both orders: folder or hub name (default:
            the task's score decides).
        toxicity: Measure toxicity: a classifier's folder or hub name, or "words".
        agent_class: Class of an agent of your own, path/to/file.py:MyAgent, which reads the folder
            AGENT with its method load.
        reference_samples: Responses of the untrained policy to each held-out prompt, a multiple of
            16, for best-of-n and a lower bound of the optimum; 0 draws none (default: 16, and none
            where the agent's run had none).
        trust_code: Run the files of code that AGENT and its run name, which your command does not.
        device: Device of the models: "cpu", "cuda" or "cuda:1" (default: a GPU if there is one).
        task: Settings of the environment.
    """
    import torch

    from tokengym.base.device import preferred_device
    from tokengym.base.files import behind_link, write_json
    from tokengym.evaluation.measure.evaluate import Evaluator
    from tokengym.evaluation.measure.measures import BLOCK, EPISODES, UNSCORED
    from tokengym.evaluation.measure.metrics import library_metrics
    from tokengym.evaluation.runs.settings import EvaluationSettings
    from tokengym.evaluation.runs.trusted import known_task, stored_settings
    from tokengym.scripts.commands.show import show_evaluation, show_win_rate, terminal

    check_counts(0, samples=samples)
    _check_file(json)
    torch.set_num_threads(1)
    first = _Player.named(agent, agent_class)
    second = None if against is None else _Player.named(against)
    if judge is not None and second is None:
        raise ValueError(f"judge {judge!r} has nothing to compare; name a second agent: --against")
    saved = first.folder and first.folder.parent
    env, kwargs = known_task(saved, env, task=task, judged=True, trust_code=trust_code)
    stored = None if saved is None else stored_settings(saved)
    of_run = {} if stored is None else stored[1]["evaluation"]
    if draws is not None:
        check_counts(0, draws=draws[0], step=draws[1])
        if of_run.get("stream", "run") != "run":
            raise ValueError(
                f"--draws {draws[0]} {draws[1]} has no effect: the run's evaluations all have the "
                "first prompts and one sampling; leave it out"
            )
        num_episodes = of_run.get("episodes") if num_episodes is None else num_episodes
        seed = of_run.get("seed") if seed is None else seed
    num_episodes, seed = EPISODES if num_episodes is None else num_episodes, seed or 0
    check_counts(1, num_episodes=num_episodes)
    check_counts(0, seed=seed)
    if reference_samples is None:
        reference_samples = BLOCK if of_run.get("reference_samples", BLOCK) else 0
    EvaluationSettings(reference_samples=reference_samples)  # refuses what is out of range
    with preferred_device(device):
        evaluator = Evaluator(env, kwargs, num_episodes=num_episodes, seed=seed, toxicity=toxicity)
        player = first.load(evaluator, task.model, trust_code=trust_code)
        # Before the first is evaluated: what cannot be loaded is refused at once.
        rival: Any = second and second.load(evaluator, None, trust_code=trust_code)
        evaluation = evaluator(player, deterministic=deterministic, draws=draws)
        figures = {**evaluation.metrics, **library_metrics(evaluation.episodes)}
        if evaluation.unscored:
            figures[UNSCORED] = evaluation.unscored
        versus = None
        if second is not None:
            other = evaluator(rival, deterministic=deterministic, draws=draws)
            versus = _win_rate(evaluation, other, judge)
            figures["win_rate"] = versus.rate
        console = terminal()
        measured_by = evaluator.measured_by
        shown = evaluation.episodes[:samples]
        show_evaluation(console, figures, evaluation.errors, shown, measured_by)
        if versus is not None:
            show_win_rate(console, versus, against)
        lines = None
        if reference_samples:
            settings = None if stored is None else stored[1]
            price = _price_of(player, settings, env, task.bundle)
            lines = _show_references(
                console, evaluator, saved, settings, task.model, reference_samples, price
            )
    if json is not None:
        about = {"env": env, "episodes": num_episodes, "seed": seed, "draws": draws}
        about |= {"measured_by": measured_by}
        about |= {**figures, "errors": evaluation.errors, "reference": lines}
        comparison = {} if versus is None else {"versus": {"agent": against, **asdict(versus)}}
        write_json(behind_link(json), {**about, **comparison})


def _show_references(
    console: "Console",
    evaluator: "Evaluator",
    saved: Path | None,
    stored: Mapping[str, Any] | None,
    model: str | None,
    samples: int,
    price: float | None,
) -> "ReferenceLines | None":
    """Print and return what needs no training, at a price of a nat of KL.

    ``stored`` are the settings of the run that saved the agent, in the folder ``saved``.
    """
    from tokengym.agents.errors import ModelError
    from tokengym.agents.offline.policies import make_policy
    from tokengym.agents.saving import products_here
    from tokengym.evaluation.measure.references import draw_references
    from tokengym.scripts.commands.show import show_references

    products: Any = "torch"
    if saved is not None and stored is not None:
        training = stored["training"]
        products = products_here(training.get("products", "torch"), saved, "auto")
        model = model or stored["task"].get("model")
    try:
        policy = make_policy(evaluator.envs, model, products=products)
    except ModelError as error:  # an agent of one's own may need no model
        console.print(f"no best-of-n: {error}", markup=False)
        return None
    with console.status("best-of-n of the untrained policy (--reference-samples 0 leaves it out)"):
        lines = draw_references(evaluator, policy, samples).lines(price)
    show_references(console, lines)
    return lines


def _price_of(
    player: Any, stored: Mapping[str, Any] | None, env: str, bundle: "Bundle | Path | str | None"
) -> float | None:
    """Return the price of a nat of KL that an agent was trained at; None where it had none.

    It is that of its run, whose settings are ``stored``, or of the saved agent itself. For an agent
    of another kind, and for the untrained policy, it is that of training on the bundle or the task.
    """
    from tokengym.agents import DPO, SFT, EpisodicAlgorithm
    from tokengym.base.settings import values_by_name
    from tokengym.evaluation.runs.comparison import price_of
    from tokengym.evaluation.runs.defaults import training_settings

    if stored is not None:
        learner = stored["training"]["learner"]
    elif isinstance(player, EpisodicAlgorithm):
        learner = values_by_name(player.settings)
    elif isinstance(player, DPO | SFT):
        learner = player.settings
    else:
        learner = values_by_name(training_settings(env, bundle=bundle))
    return price_of([learner])


def _win_rate(first: "Evaluation", second: "Evaluation", judge: str | None) -> "WinRate":
    from tokengym.evaluation.measure.win_rate import answered, judged, scored

    if judge is None:
        return scored(*answered(first, second))
    from tokengym.rewards import PreferenceModel  # of the laboratory

    model = PreferenceModel.from_pretrained(judge)
    return judged(*answered(first, second), model.preferences)
