"""The example of docs/agents/preferences.md runs as it stands, only shorter."""

import re
from pathlib import Path
from typing import Any

DOCUMENT = Path(__file__).parents[3] / "docs" / "agents" / "preferences.md"


def test_the_example_runs(capsys: Any, tmp_path: Path, monkeypatch: Any):
    (code,) = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    short = code.replace("PROMPTS, TOKENS = 256, 48", "PROMPTS, TOKENS = 24, 10")
    short = short.replace("online.learn(3)", "online.learn(1)").replace("num_envs=32", "num_envs=8")
    assert short.count("24, 10") == short.count("learn(1)") == short.count("num_envs=8") == 1
    monkeypatch.chdir(tmp_path)
    found: dict[str, Any] = {}
    exec(compile(short, "preferences.md", "exec"), found)
    said = capsys.readouterr().out
    names = ("CausalLMPolicy", "DPO", "OnlineDPO", "BestOfN")
    scores = {name: float(re.findall(rf"^{name} (\S+)", said, re.M)[0]) for name in names}
    assert scores["BestOfN"] > scores["CausalLMPolicy"]
    assert "at most 1.84 nats" in said
    assert found["agent"] is found["best"]
    assert (tmp_path / "runs" / "online" / "iteration-001" / "pairs.jsonl").is_file()
