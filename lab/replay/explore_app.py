"""The page of ``tokengym explore``: Gradio components around an `Explorer`.

Nothing leaves the machine: the page is served on 127.0.0.1, Gradio's analytics are off, fonts are
the system's, and a content policy forbids the browser to load anything from elsewhere.
"""

import html
import os
import secrets
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from tokengym.envs import printable
from tokengym.envs.tasks.task import registered_tasks
from tokengym.evaluation.runs.config import resolve_env
from tokengym.evaluation.runs.run import load_agent
from tokengym.lab.replay.explore import Explorer, Response, agent_folder, saved_agents
from tokengym.lab.replay.explore_page import (
    alternative_label,
    render_fork,
    render_response,
    styles,
)
from tokengym.lab.replay.replay import known_task, usual_rewards
from tokengym.rewards.registry import registered_rewards

POLICY = "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; "
POLICY += "script-src 'self' 'unsafe-inline' 'unsafe-eval'; font-src 'self' data:; "
POLICY += "frame-ancestors 'none'; base-uri 'self'; form-action 'none'"
"""Gradio's templates are compiled in the browser, which takes 'unsafe-eval'."""
MOST_KEPT = 4
"""Policies that stay loaded."""
UNTRAINED = "the policy that training starts from"
FRAME = """.gradio-container { max-width: min(1120px, 100vw) !important; margin: 0 auto; }
.gradio-container .html-container { padding: 0; }
@media (max-width: 640px) { .gradio-container main { padding: 0 !important; } }"""
PICK = """element.addEventListener('click', event => {
  const token = event.target.closest('.line .response .token');
  if (token) trigger('select', {index: [...token.parentNode.children].indexOf(token)});
})"""
"""Tell the index of a token that is clicked."""


def check_gradio() -> None:
    """Refuse to go on without Gradio.

    Raises:
        ValueError: naming the extra to install.
    """
    if find_spec("gradio") is None:
        raise ValueError("tokengym explore needs gradio; pip install 'tokengym[explore]'")


@dataclass(frozen=True)
class Shown:
    """A response that the page shows, and how it was sampled."""

    explorer: Explorer
    response: Response
    temperature: float | None
    greedy: bool
    seed: int


class ExplorePage:
    """The choices of the page, and the functions behind its components.

    Args:
        env: Id of the task that the page starts with.
        env_kwargs: Arguments of its environment; other tasks have their own.
        agent: Folder of the agent that the page starts with; None takes the untrained policy.
        model: Language model of that task's untrained policy; None takes the task's.
        results: Folder whose saved agents can be chosen; None offers none but ``agent``.
        rewards: Rules by name that the page starts with; empty takes those the scorer allows.

    Raises:
        ValueError: if a folder does not exist.
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
    ) -> None:
        if results is not None and not results.is_dir():
            raise ValueError(f"{results} is no folder; name one that holds runs of tokengym train")
        self.env, self.agent = resolve_env(env), "" if agent is None else str(agent_folder(agent))
        self._kwargs = known_task(None, self.env)[1] if env_kwargs is None else dict(env_kwargs)
        self._model, self._rewards = model, tuple(rewards)
        found = [] if results is None else map(str, saved_agents(results))
        self.agents = list(dict.fromkeys(filter(None, [self.agent, *found])))
        self._made: dict[tuple[str, str], Explorer] = {}

    def choose_policy(self, agent: str | None, env: str) -> tuple[str, str]:
        """Return the folder of a policy, and the task that it was trained in.

        Args:
            agent: Folder of a saved agent or its run; empty for the untrained policy.
            env: Task of the untrained policy.
        """
        if not agent:
            return "", env
        folder = agent_folder(Path(agent.strip()))
        if str(folder) == self.agent:
            return self.agent, self.env
        return str(folder), known_task(folder.parent, None)[0]

    def explorer(self, env: str, agent: str) -> Explorer:
        """Return the explorer of a task and a policy; the last few are kept."""
        if (env, agent) not in self._made:
            is_first = (env, agent) == (self.env, self.agent)
            kwargs = self._kwargs
            if not is_first:
                kwargs = known_task(Path(agent).parent if agent else None, env)[1]
            played, model = load_agent(agent) if agent else None, self._model if is_first else None
            self._made[env, agent] = Explorer(env, kwargs, played, model=model)
            for old in list(self._made)[:-MOST_KEPT]:
                del self._made[old]
        return self._made[env, agent]

    def rules(self, env: str, agent: str) -> list[str]:
        """Return the rules that are shown first."""
        explorer = self.explorer(env, agent)
        return [*(self._rewards or usual_rewards(env, explorer.env_kwargs))]

    def begin(self, agent: str | None, env: str) -> tuple[str, str, list[str], str, float]:
        """Return policy, task, rules, first prompt and temperature; see `choose_policy`."""
        agent, env = self.choose_policy(agent, env)
        explorer = self.explorer(env, agent)
        own = explorer.temperature
        rules, prompt = self.rules(env, agent), explorer.draw_prompt(0)
        return agent, env, rules, prompt, 1.0 if own is None else own

    def draw(self, agent: str, env: str) -> str:
        """Return another prompt."""
        return self.explorer(env, agent).draw_prompt(secrets.randbits(32))

    def sample(
        self, env: str, agent: str, rules: Sequence[str], prompt: str, seed: int, temperature: float
    ) -> Shown:
        """Return a response to a prompt; temperature 0 takes the likeliest tokens."""
        if not prompt.strip():
            raise ValueError("the prompt is empty; type one, or press Another prompt")
        explorer, greedy = self.explorer(env, agent), temperature == 0
        own = None if greedy or explorer.temperature is None else temperature
        response = explorer.sample(prompt, rules, seed=seed, temperature=own, greedy=greedy)
        return Shown(explorer, response, own, greedy, seed)


def launch(page: ExplorePage, *, port: int | None = None, browser: bool = False) -> Any:
    """Serve the page on this machine and return at once.

    Args:
        page: The page.
        port: Port; None takes the first that is free from 7860 on.
        browser: Open it in the browser.

    Returns:
        The running ``gradio.Blocks``; its ``local_url`` is the address.

    Raises:
        ValueError: if Gradio is not installed.
        OSError: if the port is taken.
    """
    check_gradio()
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when gradio is imported
    import gradio
    from starlette.middleware import Middleware

    fonts = ("system-ui", "Segoe UI", "Roboto", "Liberation Sans", "sans-serif")
    mono = ("ui-monospace", "DejaVu Sans Mono", "monospace")
    blocks = build(page)
    blocks.queue(api_open=False).launch(
        server_name="127.0.0.1",
        server_port=port,
        share=False,
        inbrowser=browser,
        quiet=True,
        prevent_thread_lock=True,
        footer_links=[],
        run_history=False,
        ssr_mode=False,
        pwa=False,
        mcp_server=False,
        enable_monitoring=False,
        theme=gradio.themes.Base(font=fonts, font_mono=mono, primary_hue="blue"),
        css=FRAME,
        app_kwargs={"middleware": [Middleware(_ContentPolicy)]},
    )
    return blocks


def build(page: ExplorePage) -> Any:
    """Return the page's components, wired to its functions."""
    import gradio as gr

    with gr.Blocks(title="tokengym explore", analytics_enabled=False) as blocks:
        parts = _components(page)
        _wire(blocks, page, parts)
    return blocks


def _components(page: ExplorePage) -> SimpleNamespace:
    """Return the page's components, laid out."""
    import gradio as gr

    tasks = [(task.name, task.id) for task in registered_tasks()]
    if page.env not in dict(tasks).values():
        tasks.append((page.env, page.env))
    parts = SimpleNamespace(shown=gr.State())
    gr.HTML("<h1>tokengym explore</h1>")
    with gr.Row():
        parts.task = gr.Dropdown(tasks, value=page.env, label="Task", min_width=200)
        parts.policy = gr.Dropdown(
            [(UNTRAINED, ""), *((agent, agent) for agent in page.agents)],
            value=page.agent,
            label="Policy, or folder of a saved agent",
            allow_custom_value=True,
            min_width=300,
            scale=2,
        )
    parts.rules = gr.Dropdown(
        registered_rewards(), multiselect=True, allow_custom_value=True, label="Credit rules"
    )
    parts.prompt = gr.Textbox(label="Prompt", lines=2)
    with gr.Row():
        parts.seed = gr.Number(0, label="Seed", precision=0, min_width=110)
        parts.temperature = gr.Number(
            1.0, label="Temperature (0: greedy)", minimum=0, step=0.1, min_width=110
        )
    with gr.Row():
        parts.draw = gr.Button("Another prompt", min_width=140)
        parts.sample = gr.Button("Sample a response", variant="primary", min_width=140)
    parts.heat = gr.HTML(css_template=styles(), js_on_load=PICK, elem_id="response")
    parts.token = gr.Dropdown([], label="Token (choose one here, or above)")
    parts.alternatives = gr.Radio([], label="What the policy could have said there")
    parts.count = gr.Slider(1, 64, value=16, step=1, label="Continuations of each")
    parts.fork = gr.Button("Take the alternative", variant="primary")
    parts.result = gr.HTML(css_template=styles(), js_on_load=None, elem_id="fork")
    return parts


def _wire(blocks: Any, page: ExplorePage, parts: SimpleNamespace) -> None:
    """Connect the components."""
    import gradio as gr

    def pick(event: gr.EventData) -> Any:
        return event.index

    def on(event: Any, function: Callable[..., Any], inputs: Any, outputs: Any) -> Any:
        return event(_guarded(function), inputs, outputs, show_progress="hidden")

    chosen = [parts.policy, parts.task]
    begun = [*chosen, parts.rules, parts.prompt, parts.temperature]
    asked = [parts.task, parts.policy, parts.rules, parts.prompt, parts.seed, parts.temperature]
    sampled = [parts.shown, parts.heat, parts.token, parts.alternatives, parts.result]
    forked = [parts.shown, parts.token, parts.alternatives, parts.count]
    for event in (
        on(blocks.load, page.begin, chosen, begun),
        on(parts.policy.input, page.begin, chosen, begun),
        on(parts.task.input, partial(page.begin, None), parts.task, begun),
        on(parts.draw.click, page.draw, chosen, parts.prompt),
    ):
        on(event.success, partial(_sample, page), asked, sampled)
    on(parts.sample.click, partial(_sample, page), asked, sampled)
    parts.heat.select(pick, None, parts.token, show_progress="hidden")
    on(parts.token.change, _choose, [parts.shown, parts.token], [parts.heat, *sampled[-2:]])
    on(parts.fork.click, _fork, forked, parts.result)


def _sample(page: ExplorePage, *asked: Any) -> tuple[Any, ...]:
    """Return a response, its page, its tokens to choose from, and the rest empty."""
    import gradio as gr

    shown = page.sample(*asked)
    texts = (printable(text).strip() for text in shown.response.tokens)
    choices = [(f"{place + 1} \u00b7 {text}", place) for place, text in enumerate(texts)]
    cleared = gr.Dropdown(choices, value=None), gr.Radio([], value=None), ""
    return shown, render_response(shown.response), *cleared


def _choose(shown: Shown | None, place: int | None) -> tuple[Any, ...]:
    """Return the response with a token outlined, the alternatives there, and no fork."""
    import gradio as gr

    if shown is None or place is None or place >= len(shown.response.tokens):
        return gr.skip(), gr.Radio([], value=None), ""
    found = shown.explorer.alternatives(shown.response, place, temperature=shown.temperature)
    choices = [(alternative_label(each), each.token_id) for each in found]
    first = next((each.token_id for each in found if not each.is_taken), None)
    return render_response(shown.response, place), gr.Radio(choices, value=first), ""


def _fork(shown: Shown | None, place: int | None, token_id: int | None, count: int) -> str:
    """Return the page of a fork."""
    if shown is None or place is None or token_id is None:
        raise ValueError("choose a token of the response and an alternative first")
    found = shown.explorer.fork(
        shown.response,
        place,
        token_id,
        n=int(count),
        greedy=shown.greedy,
        seed=shown.seed,
        temperature=shown.temperature,
    )
    return render_fork(shown.response, found)


def _guarded(function: Callable[..., Any]) -> Callable[..., Any]:
    """Run one call at a time, and show what is wrong with the input as one line."""
    import gradio as gr

    def guarded(*arguments: Any) -> Any:
        with _LOCK:
            try:
                return function(*arguments)
            except (ValueError, TypeError, OSError) as error:
                said = " ".join(printable(str(error)).split())
                raise gr.Error(html.escape(said), print_exception=False) from error

    return guarded


_LOCK = threading.Lock()


class _ContentPolicy:
    """Adds the content policy to every answer."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def send_with_policy(message: Any) -> None:
            if message["type"] == "http.response.start":
                extra = (b"content-security-policy", POLICY.encode())
                message = {**message, "headers": [*message.get("headers", []), extra]}
            await send(message)

        await self.app(scope, receive, send_with_policy)
