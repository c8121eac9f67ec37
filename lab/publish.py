"""Trained agents on the Hugging Face hub, each with a card made from its run."""

import csv
import json
import re
import shutil
import tempfile
from collections.abc import Mapping
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import numpy as np

from tokengym.base import (
    check_links,
    content_hash,
    copy_of,
    markdown,
    replacing,
    split_file_word,
    write_csv,
)
from tokengym.evaluation.report import level_percent, read_curves, save_figure, summarize
from tokengym.evaluation.runs import (
    Run,
    RunSpec,
    check_files,
    fixed,
    flat,
    load_agent,
    task_name,
    trusted_spec,
)
from tokengym.evaluation.statistics import student_interval

CARD, PICTURE, CURVE = "README.md", "curve.png", "curve.csv"
FIGURES = {"score": "score", "gold_score": "gold score", "kl": "KL to the reference, nats"}
FIGURES |= {"length": "response tokens"}
_FOLDERS = re.compile(r"(?<![\w./-])/(?:[^/:,\n]+/)+")
"""The folders of an absolute path, whose names may hold spaces."""


def push_to_hub(
    out: Path,
    repo_id: str,
    *,
    private: bool = True,
    token: str | None = None,
    trust_code: bool = False,
) -> str:
    """Upload a trained agent with its card, and return the address of the commit.

    Args:
        out: Folder that ``tokengym train`` wrote.
        repo_id: "user/name" on the hub; made if it does not exist.
        private: Whether a repository that is made is private.
        token: Token of the hub; None takes the one that ``hf auth login`` stored.
        trust_code: As of `export_agent`.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.utils import validate_repo_id

    validate_repo_id(repo_id)
    api = HfApi(token=token)
    with tempfile.TemporaryDirectory() as scratch:
        folder = export_agent(out, Path(scratch) / "agent", name=repo_id, trust_code=trust_code)
        api.create_repo(repo_id, private=private, exist_ok=True)
        message = "Upload an agent trained with tokengym"
        return str(api.upload_folder(repo_id=repo_id, folder_path=folder, commit_message=message))


def from_hub(
    repo_id: str | Path,
    *,
    revision: str | None = None,
    agent_class: str | None = None,
    token: str | None = None,
    trust_code: bool = False,
) -> Any:
    """Return an agent of the hub, to be played.

    What is downloaded is safetensors and JSON; none of it is code that is run, nor has any of it
    code of this machine run unless it is trusted.

    Args:
        repo_id: "user/name" on the hub, or a folder that `export_agent` wrote.
        revision: Branch, tag or commit.
        agent_class: Class of an agent that is not tokengym's, "file.py:MyAgent".
        token: Token of the hub; None takes the stored one.
        trust_code: Run the files of code that the agent names.
    """
    from huggingface_hub import snapshot_download

    if not (folder := Path(repo_id)).is_dir():
        folder = Path(snapshot_download(str(repo_id), revision=revision, token=token))
    return load_agent(folder / "agent", agent_class, trust_code=trust_code)


def export_agent(
    out: Path, folder: Path, *, name: str = "user/name", trust_code: bool = False
) -> Path:
    """Write a trained agent, its learning curve and its card into a folder, and return that.

    The saved agent is measured once more, on the prompts of its learning curve: the card has the
    interval of its score.

    Args:
        out: Folder that ``tokengym train`` wrote.
        folder: The folder to make.
        name: Name on the hub, for the card's example.
        trust_code: Run the files of code that the run names, to measure the agent.
    """
    results = sorted(out.glob("*/seed-*/run.json"))
    if len(results) != 1 or not (out / "agent").is_dir():
        raise ValueError(
            f"{out} holds no trained agent with its run; name a folder that tokengym train wrote"
        )
    if folder.exists():
        raise ValueError(f"{folder} already exists; name a new folder")
    check_links(out)
    of_run = results[0].parent
    spec = trusted_spec(of_run, trust_code=trust_code)
    run = Run(of_run).result
    check_files(spec.code, spec.data, of_run / "spec.json")
    kind = spec.training.agent
    plugins = entry_points(group="tokengym.agents", name=kind)
    is_foreign = any(not point.value.startswith("tokengym.") for point in plugins)
    agent_class = kind if split_file_word(kind) or is_foreign else None
    with results[0].with_name(CURVE).open(encoding="utf-8", newline="") as file:
        rows = [{**row, "credit": _shareable(row["credit"])} for row in csv.DictReader(file)]
    evaluator = spec.evaluator()
    draws = spec.evaluation.draws(spec.seed, int(rows[-1]["step"]))  # as the curve's end had
    agent = load_agent(out / "agent", agent_class, trust_code=trust_code)
    evaluation = evaluator(agent, draws=draws)
    envs: Any = evaluator.envs
    bundle, dataset = envs.unwrapped.bundle, spec.task.dataset
    data = {} if bundle is None else {"SHA-256 of the bundle": content_hash(bundle.path)}
    if dataset is not None and Path(dataset).exists():
        data["SHA-256 of the data set"] = content_hash(Path(dataset))
    evaluator.close()
    with replacing(folder) as part:
        shutil.copytree(out / "agent", part / "agent")
        for path in spec.code:
            (part / "code").mkdir(exist_ok=True)
            shutil.copyfile(copy_of(path, out / "code"), part / "code" / Path(path).name)
        write_csv(part / CURVE, rows, [*rows[0]])
        curves = read_curves(part / CURVE, group_by=())
        first = {measure: float(values[0]) for measure, values in curves[0].values.items()}
        save_figure(part / PICTURE, summarize(curves), curves)
        text = agent_card(spec, run, first, evaluation, data, name=name)
        (part / CARD).write_text(text, encoding="utf-8")
    return folder


def agent_card(
    spec: RunSpec,
    run: Mapping[str, Any],
    before: Mapping[str, float],
    evaluation: Any,
    data: Mapping[str, str],
    *,
    name: str,
) -> str:
    """Return the model card of an agent: front matter and Markdown.

    Args:
        spec: Its run.
        run: Contents of run.json.
        before: Measurements before the first update.
        evaluation: Those of the trained agent.
        data: Hashes of its bundle and its data set.
        name: Name on the hub.
    """
    from huggingface_hub import EvalResult, ModelCardData

    task, after = task_name(spec.env), evaluation.metrics
    scores = np.array([e.score for e in evaluation.episodes])
    _, low, high, _ = student_interval(scores, spec.compared["level"])
    result = EvalResult(
        task_type="reinforcement-learning",
        dataset_type=_shareable(spec.env.text if spec.env.file else spec.env_id),
        dataset_name=task,
        metric_type="score",
        metric_value=round(after["score"], 4),
    )
    front = ModelCardData(
        library_name="tokengym",
        tags=["tokengym", "reinforcement-learning", "text-generation"],
        model_name=f"{spec.training.agent} on {task}",
        eval_results=[result],
    )
    rows = [
        f"| {label} | {fixed(before[measure], 3)} | {fixed(after[measure], 3)} |"
        for measure, label in FIGURES.items()
        if measure in before and measure in after
    ]
    settings = {
        Path(key).name if key in spec.code or key in spec.data else key: _shareable(value)
        for key, value in flat(spec.settings()).items()
    }
    made = {**(run.get("versions") or {}), **(run.get("made") or {})}
    facts = [f"| {markdown(k)} | {markdown(str(v))} |" for k, v in {**data, **made}.items() if v]
    return _CARD.format(
        front=front.to_yaml(),
        agent=markdown(str(_shareable(spec.training.agent))),
        task=markdown(task),
        reward=markdown(str(_shareable(spec.rewards[0].text))),
        seed=run["seed"],
        name=name,
        rows="\n".join(rows),
        level=level_percent(spec.compared["level"]),
        low=fixed(float(low), 3),
        high=fixed(float(high), 3),
        episodes=len(scores),
        settings=json.dumps(settings, indent=1, sort_keys=True).replace("`", "'"),
        facts="\n".join(facts),
    )


_CARD = """---
{front}
---

# {agent} on {task}

A policy trained with tokengym by {agent} under the reward {reward}, seed {seed}.

![Learning curve](curve.png)

| on held-out prompts | before training | after |
|---|---|---|
{rows}

The {level} interval of the score after training is {low} to {high}:
Student's, over {episodes} held-out prompts answered by this one policy.
It does not say how much another training seed would change.

```python
from tokengym.lab.publish import from_hub

agent = from_hub("{name}")
```

## Settings

```json
{settings}
```

## Made with

| | |
|---|---|
{facts}
"""


def _shareable(value: Any) -> Any:
    """Return a setting without the folders of absolute paths, which are nobody else's business.

    Example:
        >>> _shareable(["/home/an n/rules.py:Mine", "toxicity:path=/home/me/judge", "org/model", 3])
        ['rules.py:Mine', 'toxicity:path=judge', 'org/model', 3]
    """
    if isinstance(value, (list, tuple)):
        return [_shareable(item) for item in value]
    return _FOLDERS.sub("", value) if isinstance(value, str) else value
