"""Agents on the hub: a folder stands for it, and nothing is sent."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.agents.checkpoint import OWN_ADVANTAGE, rewrite
from tokengym.agents.loading import load_agent
from tokengym.base.files import content_hash, read_hashed, write_hashed
from tokengym.envs import UntrustedCodeError, bundled
from tokengym.evaluation.measure.evaluate import evaluate
from tokengym.evaluation.runs import EvaluationSettings
from tokengym.lab.publish import export_agent, from_hub, push_to_hub
from tokengym.scripts.cli import main

SEED = EvaluationSettings().seed
TINY = [
    *("--updates", "1", "--batch-size", "4", "--max-new-tokens", "4", "--n-epochs", "1"),
    *("--eval-episodes", "6", "--reward", "abc:beta=0.5"),
]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("trained") / "abc"
    assert main(["train", *TINY, "--out", str(out)]) == 0
    return out


@pytest.fixture(scope="module")
def exported(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_agent(trained, tmp_path_factory.mktemp("exported") / "abc")


def test_the_agent_that_comes_back_is_the_one_that_was_trained(trained: Path, exported: Path):
    lengths = {"min_new_tokens": 4, "max_new_tokens": 4}
    answers = [
        [e.response_ids for e in evaluate(agent, "MovieReview", lengths, num_episodes=4).episodes]
        for agent in (load_agent(trained / "agent"), from_hub(exported))
    ]
    assert answers[0] == answers[1]


def test_the_card_has_figures_interval_settings_and_hashes(trained: Path, exported: Path):
    card = (exported / "README.md").read_text()
    (curve,) = trained.glob("*/seed-0/curve.csv")
    assert (exported / "curve.csv").read_bytes() == curve.read_bytes()
    assert (exported / "curve.png").read_bytes().startswith(b"\x89PNG")
    header, first, last = [line.split(",") for line in curve.read_text().splitlines()]
    for title, name in (("score", "score"), ("gold score", "gold_score")):
        place = header.index(name)
        assert f"| {title} | {float(first[place]):.3f} | {float(last[place]):.3f} |" in card
    (ends,) = re.findall(r"is (\S+) to (\S+):\nStudent's, over 6 held-out prompts", card)
    lengths = {"min_new_tokens": 4, "max_new_tokens": 4}
    agent = load_agent(trained / "agent")
    draws = (0, int(last[header.index("step")]))
    found = evaluate(agent, "MovieReview", lengths, num_episodes=6, seed=SEED, draws=draws).episodes
    scores = np.array([episode.score for episode in found])
    half = 2.570582 * scores.std(ddof=1) / 6**0.5  # t of 5 degrees of freedom, 97.5 %
    expected = [scores.mean() - half, scores.mean() + half]
    np.testing.assert_allclose([float(end) for end in ends], expected, atol=6e-4)
    (settings,) = re.findall(r"```json\n(.*?)```", card, re.DOTALL)
    assert json.loads(settings)["rewards"] == ["abc:beta=0.5"]
    assert content_hash(bundled("movie_review").path) in card
    front = card.split("---\n")[1]
    assert "library_name: tokengym" in front
    assert f"value: {float(last[header.index('score')]):.4f}"[:-1] in front


def test_a_push_uploads_the_same_files_to_a_private_repository(
    trained: Path, exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
):
    asked: list[tuple[str, dict[str, Any]]] = []

    class Hub:
        def __init__(self, token: str | None) -> None:
            assert token is None

        def create_repo(self, repo_id: str, **options: Any) -> None:
            asked.append((repo_id, options))

        def upload_folder(self, *, repo_id: str, folder_path: Path, **_: Any) -> str:
            shutil.copytree(folder_path, tmp_path / repo_id)
            return f"https://hub/{repo_id}"

    monkeypatch.setattr("huggingface_hub.HfApi", Hub)
    assert main(["push", str(trained), "--repo", "me/abc"]) == 0
    assert "https://hub/me/abc" in capsys.readouterr().out
    assert asked == [("me/abc", {"private": True, "exist_ok": True})]
    sent = {str(f.relative_to(tmp_path / "me/abc")) for f in (tmp_path / "me/abc").rglob("*")}
    assert sent == {str(f.relative_to(exported)) for f in exported.rglob("*")}
    assert 'from_hub("me/abc")' in (tmp_path / "me/abc/README.md").read_text()
    with pytest.raises(ValueError, match="me/abc/more"):
        push_to_hub(trained, "me/abc/more")


def test_a_snapshot_of_links_is_loaded(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The hub's cache is made of links into a folder of blobs."""
    (tmp_path / "blobs").mkdir()
    for number, file in enumerate(exported.rglob("*")):
        if file.is_file():
            link = tmp_path / "snapshot" / file.relative_to(exported)
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(shutil.copy(file, tmp_path / "blobs" / str(number)))

    def download(repo_id: str, *, revision: str | None, token: str | None) -> str:
        assert (repo_id, revision, token) == ("me/abc", "v1", None)
        return str(tmp_path / "snapshot")

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    with pytest.raises(ValueError, match=r"snapshot/agent/.* link to.*blobs"):
        from_hub("me/abc", revision="v1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert type(from_hub("me/abc", revision="v1")).__name__ == "PPO"
    record = tmp_path / "snapshot" / "agent" / "checkpoint.json"
    record.unlink()
    record.symlink_to(exported / "agent" / "checkpoint.json")
    with pytest.raises(ValueError, match=r"checkpoint\.json.*link"):
        from_hub("me/abc", revision="v1")


def test_what_cannot_be_pushed_is_said(trained: Path, tmp_path: Path, capsys: Any):
    with pytest.raises(ValueError, match="no trained agent"):
        export_agent(tmp_path, tmp_path / "x")
    with pytest.raises(ValueError, match="already exists"):
        export_agent(trained, tmp_path)
    assert main(["push", str(trained)]) == 2
    assert main(["push", str(trained), "--repo", "a/b", "--folder", "c"]) == 2
    assert capsys.readouterr().err.count("push takes --repo user/name or --folder DIR") == 2


def test_prompts_that_are_gone_are_not_looked_up_on_the_hub(trained: Path, tmp_path: Path):
    shutil.copytree(trained, tmp_path / "run")
    (file,) = (tmp_path / "run").glob("*/seed-0/spec.json")
    spec = read_hashed(file)
    task = spec["task"] | {"dataset": "my/prompts"}
    write_hashed(file, spec | {"task": task, "data": {"my/prompts": "0" * 64}})
    with pytest.raises(ValueError, match=r"spec\.json.*: my/prompts"):
        export_agent(tmp_path / "run", tmp_path / "shared")


def test_own_code_goes_along_and_folders_of_ones_own_do_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    rules = tmp_path / "a secret" / "rules.py"
    rules.parent.mkdir()
    rules.write_text(
        "import gymnasium\n\n\n"
        "def cheerful(prompt, response):\n    return float('!' in response)\n\n\n"
        "def films(num_envs, **options):\n"
        "    return gymnasium.make_vec('tokengym/MovieReview-v0', num_envs=num_envs, **options)\n"
    )
    out = tmp_path / "run"
    own = ["--env", f"{rules}:films", "--reward", f"{rules}:cheerful"]
    assert main(["train", *TINY[:-2], *own, "--out", str(out)]) == 0
    assert main(["push", str(out), "--folder", str(tmp_path / "shared"), "--trust-code"]) == 0
    card = (tmp_path / "shared" / "README.md").read_text()
    assert '"rules.py:cheerful"' in card
    assert "type: rules.py:films" in card
    assert "secret" not in card
    assert str(tmp_path) not in card
    assert "secret" not in (tmp_path / "shared" / "curve.csv").read_text()
    assert (tmp_path / "shared/code/rules.py").read_text() == rules.read_text()


def test_an_agent_with_code_of_its_own_comes_back_to_who_trusts_it(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    own = tmp_path / "own.py"
    own.write_text(OWN_ADVANTAGE)
    shutil.copytree(trained, tmp_path / "run")
    rewrite(tmp_path / "run" / "agent", {"settings": {"advantage": f"{own}:mine"}})
    with pytest.raises(UntrustedCodeError, match=r"own\.py:mine \(SHA-256"):
        from_hub(tmp_path / "run")
    assert from_hub(tmp_path / "run", trust_code=True).estimator.name == "mine"


def test_links_are_not_followed_into_what_is_shared(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """Somebody else's run could have files of this machine uploaded."""
    (tmp_path / "secret").write_text("secret")
    shutil.copytree(trained, tmp_path / "run")
    (tmp_path / "run" / "code").mkdir()
    (tmp_path / "run" / "code" / "rules.py").symlink_to(tmp_path / "secret")
    assert main(["push", str(tmp_path / "run"), "--folder", str(tmp_path / "shared")]) == 2
    assert "code/rules.py is a link" in capsys.readouterr().err
    assert not (tmp_path / "shared").exists()
