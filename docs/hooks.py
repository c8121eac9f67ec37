"""Pages of the site that are not Markdown of docs/, and links to them that work there too.

README, CONTRIBUTING and CHANGELOG are stored at the root; pages of the commands, the metrics and
the public names are written from the code; notebooks become pages, and a folder of raw numbers gets
a list of its files.
"""

import base64
import json
import re
import sys
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path
from typing import Any

import griffe
import gymnasium as gym
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure import StructureItem
from mkdocs.structure.files import File, Files
from mkdocs.structure.nav import Navigation, Section
from mkdocs.structure.pages import Page

from tokengym.base.plugins import plugins

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))  # mkdocs is no script of the checkout

from docs.makers import build_episodes  # noqa: E402
from docs.makers.build_docs import SITE, title_of  # noqa: E402

FROM_ROOT = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "SECURITY.md": "security.md",
    "CODE_OF_CONDUCT.md": "conduct.md",
    "CITATION.cff": "CITATION.cff",
}


_VERB = "(?<!to )(?<!you )(?<!not )(?<!may )(?<!will )"
TERMS = {
    "advantage": "advantages?(?! (of|over|that|to|in)\\b)",
    "best-of-n": "best[- ]of[- ](n|4|8|16|64)",
    "control": "controls?(?! (tokens?|groups?|flow|characters?|over|of)\\b)",
    "credit-credit-rule": f"{_VERB}(token )?credit(?! (for|to)\\b)",
    "critic-value": "(?<!judge and )critic",
    "dpo": "DPO",
    "drift-leap": f"{_VERB}(?<!texts )(drift|leap)(?! (apart|away|off|from|to|too)\\b)",
    "eos": "EOS",
    "gae": "GAE",
    "gold-score": "gold( score)?",
    "held-out": "held-out",
    "kl": "KL",
    "kl-coefficient-price": "KL coefficient",
    "lambda": "lambda",
    "nat": "nats?",
    "normalised-score": "normalised score",
    "pair": "pairs(?! (of|with|up)\\b)",
    "ppo": "PPO",
    "rlhf": "RLHF",
    "score-at-equal-kl": "(score )?at equal KL",
    "sft": "SFT",
    "way": "(share|%) of the way",
}
"""Headings of the glossary, and how sentences name what they explain. Words that also mean other
things say beside what they do not: a control token is no control, and to drift apart no drift."""
RULES = ("sparse", "uniform", "abc", "abc-signed", "red")
GALLERY = {
    "MovieReview": RULES,
    "Forks": RULES,
    "QuestionAnswer": ("sparse", "abc", "abc-signed", "r3", "r3-dense"),
}
"""Tasks whose responses the gallery shows, and under which rules."""
_EPISODES = """What the policies write: one prompt of each environment, answered by the bundled
policy, by the same policy after a minute of training, and by the best of 16 of the bundled one.
Blue tokens are paid by the rule that trained it, orange ones are blamed. The pages behind the
titles name the commands."""
_GALLERY = """What the commands write, to look at without installing anything: each page is one file
that needs no network. On the replay pages the same responses are coloured by what each rule pays
their tokens, beside the truth where the task knows it."""
_PICTURE = "![{title}: a trained response, written token by token](images/episodes/{name}.svg)"
_BUTTONS = """[Get started](guide/getting_started.md){ .md-button .md-button--primary }
[See what it shows](gallery.md){ .md-button }
"""
_COLAB = "https://colab.research.google.com"
_CARD = """<meta property="og:type" content="website">
<meta property="og:title" content="{title}">
<meta property="og:description" content="{description}">
<meta property="og:image" content="{url}images/social.png">
<meta name="twitter:card" content="summary_large_image">
"""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are not Markdown of docs/."""
    docs = ROOT / "docs"
    for name, page in FROM_ROOT.items():
        text = _below_docs((ROOT / name).read_text(encoding="utf-8"))
        if page == "index.md":
            text = text.replace("\n## Install", f"\n{_BUTTONS}\n## Install", 1)
        if config.site_url and config.repo_url:  # only a deployment knows its addresses
            address = f"  url     = {{{config.site_url}}},\n"
            if "  url     = " not in text:
                text = text.replace("  version = {", f"{address}  version = {{")
            if page == "CITATION.cff":
                text += f'url: "{config.site_url}"\n'
                if "repository-code:" not in text:
                    text += f'repository-code: "{config.repo_url}"\n'
        files.append(File.generated(config, page, content=text))
    for page, write in SITE.items():
        files.append(File.generated(config, page, content=write()))
    _add_gallery(files, config)
    for path in sorted((docs / "notebooks").glob("*.ipynb")):
        _add_notebook(path, files, config)
    for folder in (path for path in (docs / "results").rglob("*") if path.is_dir()):
        names = sorted(path.name for path in folder.iterdir() if path.is_file())
        text = "---\nsearch:\n  exclude: true\n---\n"  # names of files are no answers
        text += "\n".join((f"# Files of {folder.name}\n", *(f"- [{n}]({n})" for n in names)))
        page = f"{folder.relative_to(docs)}/files.md"
        files.append(File.generated(config, page, content=text))
    return files


def _below_docs(text: str) -> str:
    """Return a page of the root with its paths as from docs/, and without badges.

    Badges are fetched from elsewhere, and the site has all it shows.
    """
    text = re.sub(r'(\]\(|(?:src|srcset)=")docs/', r"\1", text)
    return re.sub(r"(?m)^!\[[^]]*\]\(https://img\.shields\.io.*\n\n", "", text)


def _add_gallery(files: Files, config: MkDocsConfig) -> None:
    """Add pages that the commands wrote: responses of three tasks under five rules."""
    from tokengym.agents import PPO, collect
    from tokengym.envs.tasks import registered_tasks
    from tokengym.lab.replay.page import render_replay
    from tokengym.lab.replay.replay import replay

    rows = []
    for task, rules in GALLERY.items():
        envs = gym.make_vec(f"tokengym/{task}-v0", num_envs=6)
        policy = PPO("CausalLMPolicy", envs, n_minibatches=1, seed=0)
        episodes = collect(policy, envs, 6, seed=0)
        found = replay(episodes, rules, env=task, source="six responses of the untrained policy")
        files.append(File.generated(config, f"gallery/{task}.html", content=render_replay(found)))
        command = f"`tokengym replay --env {task} --rewards {' '.join(rules)}`"
        rows.append(
            f"| [{task}: each token under {len(rules)} rules](gallery/{task}.html) | {command} |"
        )
    shown = []
    for known in registered_tasks():
        if known.name in build_episodes.RULES:
            page = f"environments/{known.name.lower()}.md"
            shown.append(f"## [{title_of(known.name)}]({page})\n\n{known.summary}")
            shown.append(build_episodes.as_text(known.name))
            shown.append(_PICTURE.format(title=title_of(known.name), name=known.name.lower()))
    table = "\n".join(["| page | written by |", "|---|---|", *rows])
    heading = "## Pages that the commands write"
    text = "\n\n".join(["# Gallery", _EPISODES, *shown, heading, _GALLERY, table])
    files.append(File.generated(config, "gallery.md", content=text + "\n"))


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Return a page whose links to notebooks, folders and files of the root lead to pages."""
    # A page that begins with a comment, as generated ones do, would be titled by its file's name.
    markdown = re.sub(r"\A\s*<!--.*?-->\s*", "", markdown, flags=re.DOTALL)
    root = "../" * page.file.src_uri.count("/")
    for name, target in FROM_ROOT.items():
        markdown = re.sub(rf"\]\({root}(\.\./)?{name}(?=[)#])", f"]({root}{target}", markdown)
    markdown = re.sub(r"\]\(((?:\.\./)*notebooks/\w+)\.ipynb\)", r"](\1.md)", markdown)
    if page.file.src_uri.startswith(("guide/", "results/", "agents/", "rewards/")):
        markdown = _with_terms(markdown, f"{root}guide/glossary.md")
    if page.file.src_uri.startswith("results/"):
        markdown = re.sub(r"\]\(((?:\.\./)*[\w/]+?)/?\)", r"](\1/files.md)", markdown)
    return re.sub(r"(?ms)^```math\n(.*?)^```$", lambda block: _formula(block[1]), markdown)


def _formula(latex: str) -> str:
    """Return a formula as MathML, which browsers set without a script or a font of ours."""
    from latex2mathml.converter import convert

    return f'<div class="formula">{convert(" ".join(latex.split()), display="block")}</div>'


def _with_terms(markdown: str, glossary: str) -> str:
    """Return a page whose first use of each term in a sentence leads to the glossary."""
    if glossary == "../guide/glossary.md" and markdown.lstrip().startswith("# Glossary"):
        return markdown
    left = {
        term: re.compile(rf"(?<![\w`/(.-])(?:{found})(?![\w`/)-])") for term, found in TERMS.items()
    }
    lines, is_code = markdown.split("\n"), False
    for index, line in enumerate(lines):
        is_code ^= line.lstrip().startswith("```")
        if is_code or line.startswith(("#", "|", "!", "<", "    ", "```", "[")):
            continue
        pieces = re.split(r"(`[^`]*`|!?\[[^]]*\]\([^)]*\)|<[^>]*>|\$[^$]*\$)", line)
        for term, pattern in list(left.items()):
            for place in range(0, len(pieces), 2):  # between code, links and tags
                linked, count = pattern.subn(rf"[\g<0>]({glossary}#{term})", pieces[place], count=1)
                if count:
                    pieces[place : place + 1] = re.split(r"(\[[^]]*\]\([^)]*\))", linked)
                    del left[term]
                    break
        lines[index] = "".join(pieces)
    return "\n".join(lines)


def on_page_content(html: str, page: Page, **_: Any) -> str:
    """Return a page whose cells of prose can be told from those of numbers: they need width.

    On a page of the API the members of a class are folded, so that a class is about a screen.
    """
    if page.file.src_uri.startswith("reference/api/"):
        html = _with_folded_members(html)
    return re.sub(r"<td>(?=(?:(?!</td>).){90})", '<td class="prose">', html)


def _with_folded_members(html: str) -> str:
    """Return a page with each class's methods and attributes behind a line that opens them."""
    parts, end = [], 0
    for begin in re.finditer(r'<div class="doc doc-children">(?=\s*<div)', html):
        if begin.start() < end:  # of a class within a class
            continue
        depth = 0
        for tag in re.finditer(r"<(/?)div\b", html[begin.start() :]):
            depth += -1 if tag[1] else 1
            if not depth:
                break
        last = begin.start() + tag.start() + len("</div>")
        count = html[begin.start() : last].count("<h4")
        summary = f"{count} methods and attributes" if count > 1 else "One method or attribute"
        parts += [html[end : begin.start()], f"<details><summary>{summary}</summary>"]
        parts += [html[begin.start() : last], "</details>"]
        end = last
    return "".join(parts) + html[end:]


def on_post_page(output: str, page: Page, config: MkDocsConfig, **_: Any) -> str:
    """Return a page with the card that is shown where its address is posted."""
    if not config.site_url:
        return output
    title = escape(f"{page.title} - {config.site_name}")
    said = escape(_summary(page).removeprefix(": ") or config.site_description or "")
    card = _CARD.format(title=title, description=said, url=config.site_url)
    return output.replace("</head>", f"{card}</head>", 1)


def on_nav(nav: Navigation, **_: Any) -> None:
    """Keep the navigation for llms.txt."""
    _nav[:] = nav.items


def on_post_build(config: MkDocsConfig, **_: Any) -> None:
    """Write llms.txt, the pages by section with the first sentence of each."""
    lines = [f"# {config.site_name}", f"> {config.site_description}", *_listed(_nav)]
    (Path(config.site_dir) / "llms.txt").write_text("\n\n".join(lines) + "\n", encoding="utf-8")


_nav: list[StructureItem] = []


def _listed(items: Sequence[StructureItem]) -> Iterator[str]:
    pages = [item for item in items if isinstance(item, Page)]
    if pages:
        yield "\n".join(f"- [{page.title}]({page.url or './'}){_summary(page)}" for page in pages)
    for section in (item for item in items if isinstance(item, Section)):
        yield f"## {section.title}"
        yield from _listed(section.children)


def _summary(page: Page) -> str:
    """Return the first sentence of a page's text, after a colon; nothing where it has none."""
    text = re.sub(r"(?s)```.*?```|<!--.*?-->", "", page.markdown or "")
    for block in text.split("\n\n"):
        if re.match(r"[\w*`\"\[]", block):
            plain = re.sub(r"\[([^\]]*)\]\([^)]*\)|[*`]", r"\1", " ".join(block.split()))
            return f": {re.split(r'(?<=[.?]) ', plain)[0]}"
    return ""


class Docstrings(griffe.Extension):
    """Adapts docstrings to Markdown, and shows the laboratory's names where users import them."""

    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        """Give packages the names that entry points add to them: source code does not hold them."""
        for point in plugins("names") if pkg.path == "tokengym" else ():
            home, _dot, name = point.name.rpartition(".")
            target = point.value.replace(":", ".")
            place = pkg[home] if home else pkg
            if name not in place.members:
                place.set_member(name, griffe.Alias(name, target, parent=place))

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rewrite one docstring."""
        if obj.docstring is not None:
            text = re.sub(r"(?m)^Example:$", "Examples:", obj.docstring.value)
            blocks = text.split("\n\n")
            obj.docstring.value = "\n\n".join(map(_with_formula, blocks))


def _with_formula(block: str) -> str:
    """Return a paragraph, indented as code if it is a formula such as ``x_t = ...``."""
    is_formula = re.match(r"[\w|(){}^,.* /+-]{1,40}? = ", block) and "``" not in block
    return "\n".join(f"    {line}" for line in block.splitlines()) if is_formula else block


def _add_notebook(path: Path, files: Files, config: MkDocsConfig) -> None:
    """Add a notebook as a page, with its pictures beside it."""
    blocks = []
    for number, cell in enumerate(json.loads(path.read_text(encoding="utf-8"))["cells"]):
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            blocks.append(re.sub(r"\]\((\w+)\.ipynb\)", r"](\1.md)", source))
            continue
        blocks.append(f"```python\n{source}\n```")
        for output in cell["outputs"]:
            data = output.get("data", {})
            if "image/png" in data:
                name = f"{path.stem}_{number}.png"
                content = base64.b64decode(data["image/png"])
                files.append(File.generated(config, f"notebooks/{name}", content=content))
                blocks.append(f"![Output of the code above]({name})")
            elif "text/html" in data:
                blocks.append(f'<div class="output">{"".join(data["text/html"])}</div>')
            else:
                text = "".join(output.get("text", data.get("text/plain", "")))
                blocks.append(f"```text\n{text.rstrip()}\n```")
    links = f"[Download this notebook]({path.name})"
    if config.repo_url:  # a deployment knows where the notebook is
        repository = config.repo_url.removeprefix("https://").strip("/").replace(".com/", "/")
        place = f"{_COLAB}/{repository}/blob/main/docs/notebooks/{path.name}"
        links += f" \u00b7 [Open in Colab]({place})"
    blocks.insert(1, links)
    page = f"notebooks/{path.stem}.md"
    files.append(File.generated(config, page, content="\n\n".join(blocks)))
