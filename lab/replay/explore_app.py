"""The page of ``tokengym explore``: Gradio components around an `ExplorePage`."""

import html
import logging
import os
import secrets
from collections.abc import Callable
from functools import partial, wraps
from importlib.util import find_spec
from types import SimpleNamespace
from typing import Any

from tokengym.envs import printable
from tokengym.lab.replay.explore_page import (
    alternative_label,
    render_fork,
    render_response,
    styles,
)
from tokengym.lab.replay.explore_requests import MAX_CONTINUATIONS, ExplorePage, Shown
from tokengym.lab.replay.explore_server import HOST, Server, listen

logger = logging.getLogger(__name__)

MAX_MESSAGE_CHARACTERS = 500
"""Longest line that says what is wrong, characters."""
UNTRAINED = "the policy that training starts from"
INTRODUCTION = """<h1>tokengym explore</h1>
<p>A policy continues a prompt; every line below shows what one credit rule pays its tokens. Press a
token to see what the policy could have said instead, and what that would have changed.</p>"""
FRAME = """.gradio-container { max-width: min(1120px, 100vw) !important; margin: 0 auto; }
.gradio-container main { width: 100%; }
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


def launch(page: ExplorePage, *, port: int | None = None) -> Server:
    """Serve the page on this machine and return at once.

    Args:
        page: The page.
        port: Port; 0 takes any that is free, None the first free one from 7860 on.

    Raises:
        ValueError: if Gradio is not installed.
        OSError: if the port is taken.
    """
    check_gradio()
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when gradio is imported
    import gradio
    from fastapi import FastAPI

    listening, root = listen(port), f"/{secrets.token_hex(16)}"
    fonts = ("system-ui", "Segoe UI", "Roboto", "Liberation Sans", "sans-serif")
    mono = ("ui-monospace", "DejaVu Sans Mono", "monospace")
    # Several calls of one function may wait for their turn: in Gradio's queue they would for ever.
    blocks = build(page).queue(api_open=False, default_concurrency_limit=4, max_size=32)
    app = gradio.mount_gradio_app(
        FastAPI(openapi_url=None),
        blocks,
        path=root,
        server_name=HOST,
        server_port=listening.getsockname()[1],
        root_path="",
        footer_links=[],
        run_history=False,
        ssr_mode=False,
        pwa=False,
        mcp_server=False,
        enable_monitoring=False,
        theme=gradio.themes.Base(font=fonts, font_mono=mono, primary_hue="blue"),
        css=FRAME,
    )
    return Server(app, root, listening)


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

    tasks = [(name, env) for env, name in page.tasks.items()]
    parts = SimpleNamespace(shown=gr.State())
    gr.HTML(INTRODUCTION)
    with gr.Row():
        parts.task = gr.Dropdown(tasks, value=page.env, label="Task", min_width=200)
        parts.policy = gr.Dropdown(
            [(UNTRAINED, ""), *((agent, agent) for agent in page.agents)],
            value=page.agent,
            label="Policy",
            min_width=300,
            scale=2,
        )
    parts.rules = gr.Dropdown(
        page.rewards, multiselect=True, allow_custom_value=True, label="Credit rules"
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
    shown = partial(gr.HTML, css_template=styles(), min_height=160)  # room to show that it computes
    parts.heat = shown(js_on_load=PICK, elem_id="response")
    parts.token = gr.Dropdown([], label="Token (choose one here, or above)")
    parts.alternatives = gr.Radio([], label="What the policy could have said there")
    parts.count = gr.Slider(1, MAX_CONTINUATIONS, value=16, step=1, label="Continuations of each")
    parts.fork = gr.Button("Take the alternative", variant="primary")
    parts.result = shown(js_on_load=None, elem_id="fork")
    return parts


def _wire(blocks: Any, page: ExplorePage, parts: SimpleNamespace) -> None:
    """Connect the components."""
    import gradio as gr

    def pick(shown: Any, event: gr.EventData) -> Any:
        index = getattr(event, "index", None)
        if not isinstance(index, int):
            raise TypeError(f"the index of a token must be a whole number, got {index!r}")
        return index, *_choose(page, shown, index)

    def on(
        event: Any, function: Callable[..., Any], inputs: Any, outputs: Any, *, slow: Any = None
    ) -> Any:
        """Connect an event; work that takes seconds is shown on the component ``slow``."""
        shown = {"show_progress": "hidden" if slow is None else "full", "show_progress_on": slow}
        return event(_guarded(function), inputs, outputs, **shown)

    chosen = [parts.policy, parts.task]
    begun = [*chosen, parts.rules, parts.prompt, parts.temperature]
    asked = [parts.task, parts.policy, parts.rules, parts.prompt, parts.seed, parts.temperature]
    sampled = [parts.shown, parts.heat, parts.token, parts.alternatives, parts.result]
    forked = [parts.shown, parts.token, parts.alternatives, parts.count]
    for event in (
        on(blocks.load, page.begin, chosen, begun, slow=parts.heat),
        on(parts.policy.input, page.begin, chosen, begun, slow=parts.heat),
        on(parts.task.input, partial(page.begin, None), parts.task, begun, slow=parts.heat),
        on(parts.draw.click, page.draw, chosen, parts.prompt, slow=parts.heat),
    ):
        on(event.success, partial(_sample, page), asked, sampled, slow=parts.heat)
    on(parts.sample.click, partial(_sample, page), asked, sampled, slow=parts.heat)
    picked = [parts.heat, parts.alternatives, parts.result]
    on(parts.heat.select, pick, parts.shown, [parts.token, *picked])
    on(parts.token.input, partial(_choose, page), [parts.shown, parts.token], picked)
    on(parts.fork.click, partial(_fork, page), forked, parts.result, slow=parts.result)


def _sample(page: ExplorePage, *asked: Any) -> tuple[Any, ...]:
    """Return a response, its page, its tokens to choose from, and the rest empty."""
    import gradio as gr

    shown = page.sample(*asked)
    texts = (printable(text).strip() for text in shown.response.tokens)
    choices = [(f"{index + 1} \u00b7 {text}", index) for index, text in enumerate(texts)]
    cleared = gr.Dropdown(choices, value=None), gr.Radio([], value=None), ""
    return shown, render_response(shown.response), *cleared


def _choose(page: ExplorePage, shown: Shown | None, index: int | None) -> tuple[Any, ...]:
    """Return the response with a token outlined, the alternatives there, and no fork."""
    import gradio as gr

    if shown is None or index is None or index >= len(shown.response.tokens):
        return gr.skip(), gr.Radio([], value=None), ""
    choosable = page.choose(shown, index)
    choices = [(alternative_label(each), each.token_id) for each in choosable]
    first = next((each.token_id for each in choosable if not each.is_taken), None)
    return render_response(shown.response, index), gr.Radio(choices, value=first), ""


def _fork(
    page: ExplorePage,
    shown: Shown | None,
    index: int | None,
    token_id: int | None,
    count: int | None,
) -> str:
    """Return the page of a fork."""
    if shown is None or index is None or token_id is None:
        raise ValueError("choose a token of the response and an alternative first")
    return render_fork(shown.response, page.fork(shown, index, token_id, count))


def _guarded(function: Callable[..., Any]) -> Callable[..., Any]:
    """Show what is wrong with the input, or with the program, as one line."""
    import gradio as gr

    @wraps(function)
    def guarded(*arguments: Any) -> Any:
        try:
            return function(*arguments)
        except Exception as error:
            said = str(error) or type(error).__name__
            if not isinstance(error, ValueError | TypeError | OSError):
                logger.exception("a request failed")
                said = f"{type(error).__name__}: {error}; the traceback is on the terminal"
        said = html.escape(" ".join(printable(said).split())[:MAX_MESSAGE_CHARACTERS])
        raise gr.Error(said, print_exception=False)

    return guarded
