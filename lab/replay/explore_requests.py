"""Requests of the page of ``tokengym explore``, and the answers.

It names what the command line offered: tasks, saved agents, and rules whose options name no file.
A request that names something else, or is too long, is refused before it waits for its turn.
"""

import secrets
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from inspect import signature
from math import inf
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args, get_origin

from tokengym.base import split_file_word
from tokengym.envs import Episode, printable, registered_tasks
from tokengym.evaluation.measure import resolve_env
from tokengym.evaluation.runs import known_task, load_agent
from tokengym.lab.replay.explore import (
    Alternative,
    Explorer,
    Fork,
    Response,
    agent_folder,
    saved_agents,
)
from tokengym.lab.replay.explore_page import (
    alternative_label,
    render_fork,
    render_page,
    render_response,
)
from tokengym.lab.replay.replay import CONTROL, usual_rewards
from tokengym.rewards import REWARDS

PARTS = ("begin", "draw", "sample", "read", "measure", "choose", "fork")
"""What the page asks for; see `ExplorePage.answer`."""
MAX_SHOWN = 32
"""Responses that can still be taken apart; the page shows the last one."""
MAX_LOADED_POLICIES = 4
"""Policies that stay loaded."""
MAX_PROMPT_CHARACTERS = 100_000
"""Longest prompt; how many of its tokens the model reads is counted later."""
MAX_RULES = 24
MAX_CONTINUATIONS = 64
"""Most continuations of a token, and the largest whole number of a rule that the page may set."""
TEMPERATURES = (0.001, 1000.0)
"""Least and largest, beside 0."""
MAX_MEASURED = 100_000
"""Most tokens that measuring one response may sample."""
MAX_SEED = 2**63 - 1
WAIT_S = 20.0
"""Longest that a request waits for the one before it, seconds."""


def check_rule(rule: str) -> None:
    """Refuse a rule that could name a file, a folder or a model.

    Args:
        rule: A registered rule, options after a colon: numbers, switches and words that the rule
            declares pass.
    """
    remedy = f"start tokengym explore with --rewards {rule} to offer it"
    if split_file_word(rule):
        raise ValueError(f"{rule} is code that the page may not name; {remedy}")
    word = REWARDS.parse(rule)
    entry = REWARDS.find(word)
    switches = entry.scorer_options
    REWARDS.check_options(word, entry.factory, also=switches)
    parameters = signature(entry.factory).parameters
    for option, value in word.options.items():
        most = MAX_SEED if option == "seed" else MAX_CONTINUATIONS
        if isinstance(value, int) and value > most:
            raise ValueError(
                f"{rule}: the page sets {option} to {most} at most; take less, or {remedy}"
            )
        is_plain = option in parameters and _takes_plain(parameters[option].annotation, value)
        if not is_plain and not (option in switches and isinstance(value, bool)):
            raise ValueError(f"{rule}: the page may not set {option} to {value!r}; {remedy}")


def _takes_plain(annotation: Any, value: object) -> bool:
    """Return whether an option of this type takes no path, and this value, no free text."""
    kinds = get_args(annotation) or (annotation,)
    if get_origin(annotation) is Literal:
        return value in kinds
    return not isinstance(value, str) and all(k in (bool, int, float, NoneType) for k in kinds)


@dataclass(frozen=True)
class Shown:
    """A response that the page shows, and how it was sampled."""

    explorer: Explorer
    response: Response
    temperature: float | None
    greedy: bool
    seed: int


class ExplorePage:
    """The choices of the page, and the functions behind its buttons.

    Args:
        env: Id of the task that the page starts with.
        env_kwargs: Arguments of its environment; other tasks have their own.
        agent: Folder of the agent that the page starts with; None takes the untrained policy.
        model: Language model of that task's untrained policy; None takes the task's.
        results: Folder whose saved agents can be chosen; None offers none but ``agent``.
        rewards: Rules by name that the page starts with; empty takes those the scorer allows.
        stored: Responses of a file, which the page can show in the task that it starts with.
        stored_in: Name of that file.
        paid_by: Name of what paid the token rewards that they came with; empty if nothing did.
        trust_code: Run the files of code that saved agents and their runs name.
    """

    def __init__(
        self,
        env: str,
        env_kwargs: Mapping[str, Any] | None = None,
        *,
        agent: Path | None = None,
        model: str | None = None,
        results: Path | None = None,
        rewards: Sequence[str] = (),
        stored: Sequence[Episode] = (),
        stored_in: str = "",
        paid_by: str = "",
        trust_code: bool = False,
    ) -> None:
        self._trust_code, self._paid_by = trust_code, paid_by
        self._stored, self._stored_in = tuple(stored), stored_in
        if results is not None and not results.is_dir():
            raise ValueError(f"{results} is no folder; name one that holds runs of tokengym train")
        saved_folders = [] if results is None else [*map(str, saved_agents(results))]
        if results is not None and not saved_folders:
            raise ValueError(
                f"{results} holds no saved agent; name a folder with runs of tokengym train, or "
                "leave it out"
            )
        self.env, self.agent = resolve_env(env), "" if agent is None else str(agent_folder(agent))
        self._kwargs = known_task(None, self.env)[1] if env_kwargs is None else dict(env_kwargs)
        self._model, self._rewards = model, tuple(rewards)
        self.tasks = {task.id: task.name for task in registered_tasks()}
        """Tasks that can be chosen, with their names."""
        self.tasks.setdefault(self.env, self.env)
        self.agents = list(dict.fromkeys(filter(None, [self.agent, *saved_folders])))
        """Folders of saved agents that can be chosen."""
        self.rewards = list(dict.fromkeys([*self._rewards, *REWARDS.names()]))
        """Rules that can be chosen; registered ones with options, too."""
        self._explorers: dict[tuple[str, str], Explorer] = {}
        self._shown: dict[str, Shown] = {}
        self._lock = threading.Lock()

    def html(self) -> str:
        """Return the page itself, with what can be chosen on it."""
        chosen = {"env": self.env, "agent": self.agent, "stored_in": self._stored_in}
        offered = {"tasks": self.tasks, "agents": self.agents, "rules": self.rewards}
        counts = {"stored": len(self._stored), "most": MAX_CONTINUATIONS}
        return render_page({**chosen, **offered, **counts})

    def answer(self, part: str, sent: Mapping[str, Any]) -> dict[str, Any]:
        """Return what the page shows after a request, as JSON has it; texts of HTML are escaped.

        Args:
            part: One of `PARTS`, the name of the method behind it.
            sent: Arguments of that method; ``shown`` is the name that an answer to "sample" gave.
        """
        if part == "begin":
            names = ("agent", "env", "rules", "prompt", "temperature")
            return dict(zip(names, self.begin(**sent), strict=True))
        if part == "draw":
            return {"prompt": self.draw(**sent)}
        if part in ("sample", "read"):
            shown, name = getattr(self, part)(**sent), secrets.token_hex(8)
            self._shown[name] = shown
            for old in list(self._shown)[:-MAX_SHOWN]:
                self._shown.pop(old, None)
            tokens = [printable(text).strip() for text in shown.response.tokens]
            prompt = shown.response.episode.prompt
            return {
                **{"shown": name, "prompt": prompt, "tokens": tokens},
                "html": render_response(shown.response),
            }
        required = {"measure": (), "choose": ("index",), "fork": ("index", "token_id")}[part]
        if any(sent.get(name) is None for name in ("shown", *required)):
            raise ValueError("choose a token of the response and an alternative first")
        if str(sent["shown"]) not in self._shown:
            raise ValueError("the response is no longer kept; press Sample a response")
        shown = self._shown[str(sent["shown"])]
        arguments = {**sent, "shown": shown}
        if part == "choose":
            return {
                "alternatives": [
                    {"id": each.token_id, "label": alternative_label(each), "taken": each.is_taken}
                    for each in self.choose(**arguments)
                ]
            }
        if part == "measure":
            return {"html": render_response(self.measure(**arguments))}
        return {"html": render_fork(shown.response, self.fork(**arguments))}

    def choose_policy(self, agent: str | None, env: str) -> tuple[str, str]:
        """Return the folder of a policy, and the task that it was trained in.

        Args:
            agent: Folder of a saved agent that is offered; empty for the untrained policy.
            env: Task of the untrained policy.
        """
        if not agent:
            if env not in [*self.tasks]:
                raise ValueError(f"task {env!r} is not offered; start tokengym explore with --env")
            return "", env
        if agent not in self.agents:
            raise ValueError(
                f"{agent!r} is not offered; start tokengym explore with --agent, or with the "
                "folder above it"
            )
        if agent == self.agent:
            return agent, self.env
        return agent, known_task(Path(agent).parent, None, trust_code=self._trust_code)[0]

    def explorer(self, env: str, agent: str) -> Explorer:
        """Return the explorer of a task and a policy; the last few are kept."""
        if (env, agent) not in self._explorers:
            is_first = (env, agent) == (self.env, self.agent)
            kwargs = self._kwargs
            if not is_first:
                saved = Path(agent).parent if agent else None
                kwargs = known_task(saved, env, trust_code=self._trust_code)[1]
            played = load_agent(agent, trust_code=self._trust_code) if agent else None
            model = self._model if is_first else None
            self._explorers[env, agent] = Explorer(env, kwargs, played, model=model)
            for old in list(self._explorers)[:-MAX_LOADED_POLICIES]:
                del self._explorers[old]
        return self._explorers[env, agent]

    def rules(self, env: str, agent: str) -> list[str]:
        """Return the rules that are shown first."""
        explorer = self.explorer(env, agent)
        control = [CONTROL] if self._paid_by else []
        return [*(self._rewards or (*usual_rewards(env, explorer.env_kwargs), *control))]

    def begin(self, agent: str | None, env: str) -> tuple[str, str, list[str], str, float]:
        """Return policy, task, rules, first prompt and temperature; see `choose_policy`."""
        agent, env = self.choose_policy(agent, env)
        with self._turn():
            explorer = self.explorer(env, agent)
            temperature = explorer.temperature
            rules, prompt = self.rules(env, agent), explorer.draw_prompt(0)
        return agent, env, rules, prompt, 1.0 if temperature is None else temperature

    def draw(self, agent: str, env: str) -> str:
        """Return another prompt."""
        agent, env = self.choose_policy(agent, env)
        with self._turn():
            return self.explorer(env, agent).draw_prompt(secrets.randbits(32))

    def sample(
        self,
        env: str,
        agent: str,
        rules: Sequence[str],
        prompt: str,
        seed: int | None,
        temperature: float | None,
    ) -> Shown:
        """Return a response to a prompt; temperature 0 takes the likeliest tokens."""
        agent, env = self.choose_policy(agent, env)
        self._check(rules, prompt)
        chosen_seed = _whole("seed", seed, 0, MAX_SEED)
        heat = _checked("temperature", temperature, *TEMPERATURES, zero="greedy")
        with self._turn():
            explorer, greedy = self.explorer(env, agent), heat == 0
            used_heat = None if greedy or explorer.temperature is None else heat
            response = explorer.sample(
                prompt, rules, seed=chosen_seed, temperature=used_heat, greedy=greedy
            )
        return Shown(explorer, response, used_heat, greedy, chosen_seed)

    def read(self, env: str, agent: str, rules: Sequence[str], number: int | None) -> Shown:
        """Return a stored response, in the task that the page starts with.

        Args:
            env: That task; the file's token ids are of its tokenizer.
            agent: Folder of the policy whose alternatives and continuations are shown; empty for
                the untrained one.
            rules: Rules by name.
            number: Of the response, from 1 on.
        """
        agent, env = self.choose_policy(agent, env)
        if env != self.env:
            raise ValueError(
                f"the responses of {self._stored_in or 'the file'} are of {self.env}, not of "
                f"{env}; choose that task, or press Sample a response"
            )
        self._check_rules(rules)
        episode = self._stored[_whole("number", number, 1, len(self._stored)) - 1]
        paid_by = self._paid_by if episode.token_rewards is not None else ""
        with self._turn():
            explorer = self.explorer(env, agent)
            response = explorer.shown(episode, rules, paid_by=paid_by)
        response = replace(response, stored_score=episode.score)
        return Shown(explorer, response, temperature=None, greedy=False, seed=0)

    def measure(self, shown: Shown, count: int | None) -> Response:
        """Return a response with the executed worth of each of its tokens as its truth."""
        k = _whole("continuations", count, 2, MAX_CONTINUATIONS)
        if (tokens := shown.explorer.longest_measurement(shown.response, k)) > MAX_MEASURED:
            raise ValueError(
                f"{k} continuations at each token may sample {tokens:,} tokens, the page takes "
                f"{MAX_MEASURED:,}; take fewer, or tokengym replay --truth forks:k={k}"
            )
        with self._turn():
            return shown.explorer.measured(shown.response, k=k, temperature=shown.temperature)

    def choose(self, shown: Shown, index: int) -> list[Alternative]:
        """Return the alternatives of a token."""
        place = _whole("index", index, -inf, inf)
        with self._turn():
            return shown.explorer.alternatives(shown.response, place, temperature=shown.temperature)

    def fork(self, shown: Shown, index: int, token_id: int, count: int | None) -> Fork:
        """Return the response continued from a token on, with it and with another."""
        n = _whole("continuations", count, 1, MAX_CONTINUATIONS)
        place = _whole("index", index, -inf, inf)
        taken = _whole("token_id", token_id, 0, len(shown.explorer.tokenizer) - 1)
        with self._turn():
            return shown.explorer.fork(
                shown.response,
                place,
                taken,
                n=n,
                greedy=shown.greedy,
                seed=shown.seed,
                temperature=shown.temperature,
            )

    def _check(self, rules: Sequence[str], prompt: str) -> None:
        """Refuse a prompt that is empty or too long, and rules that the page may not name."""
        if not isinstance(prompt, str) or not prompt.strip():
            raise ValueError("the prompt is empty; type one, or press Another prompt")
        if len(prompt) > MAX_PROMPT_CHARACTERS:
            raise ValueError(
                f"the prompt has {len(prompt)} characters, the page takes {MAX_PROMPT_CHARACTERS}; "
                "shorten it"
            )
        self._check_rules(rules)

    def _check_rules(self, rules: Sequence[str]) -> None:
        """Refuse rules that the page may not name."""
        is_list = isinstance(rules, list | tuple) and all(isinstance(rule, str) for rule in rules)
        if rules and not is_list:
            raise ValueError(f"rules must be a list of texts, got {rules!r:.80}")
        if not rules or len(rules) > MAX_RULES:
            raise ValueError(f"choose 1 to {MAX_RULES} credit rules, got {len(rules or ())}")
        for rule in rules:
            if rule not in self.rewards:
                check_rule(rule)

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """Let one request at a time use the models."""
        if not self._lock.acquire(timeout=WAIT_S):
            raise ValueError("the page is busy with another request; try again when it has ended")
        try:
            yield
        finally:
            self._lock.release()


def _checked(name: str, value: float | None, least: float, most: float, *, zero: str = "") -> float:
    """Return a number of the page; 0 too, where ``zero`` says what it stands for."""
    wanted = f"{f'0 ({zero}) or ' if zero else ''}a number from {least} to {most}"
    if value is None:
        raise ValueError(f"{name} is empty; type {wanted}")
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not (least <= value <= most or (zero and value == 0)):
        raise ValueError(f"{name} must be {wanted}, got {value!r:.80}")
    return value


def _whole(name: str, value: float | None, least: float, most: float) -> int:
    """Return a whole number of the page; see `_checked`."""
    number = _checked(name, value, least, most)
    if number != int(number):
        raise ValueError(f"{name} must be a whole number, got {value!r}")
    return int(number)
