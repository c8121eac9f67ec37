"""Settings that are stored with a run, to be changed as somebody else would."""

import json
from pathlib import Path
from typing import Any

from tokengym.base.files import write_hashed
from tokengym.evaluation.runs.spec import RunSpec


def settings_of(run: Path) -> dict[str, Any]:
    """Return the settings of a run's comparison."""
    (file,) = run.glob("*/seed-0/spec.json")
    return RunSpec.read(file.parent).settings()


def keep_settings(run: Path, settings: dict[str, Any]) -> None:
    """Store other settings of a run, with a hash that fits them."""
    (file,) = run.glob("*/seed-0/spec.json")

    def word(text: Any) -> Any:
        path, _, name = str(text).partition(".py:")
        of_file = {"name": name, "file": f"{path}.py"}
        return {"text": text, "options": {}, "name": str(text), "file": None} | (
            of_file if name else {}
        )

    spec, rewards = json.loads(file.read_text()), settings.get("rewards")
    spec["rewards"] = [word(one) for one in rewards] if isinstance(rewards, list) else rewards
    spec["env"] = word(settings.get("env"))
    compared = ("agents", "seeds", "first_seed", "level")
    arms = {"arms": spec["compared"]["arms"]}
    spec["compared"] = {name: settings.get(name) for name in compared} | arms
    spec |= {name: settings.get(name) for name in ("training", "evaluation", "task")}
    write_hashed(file, {k: v for k, v in spec.items() if k != "hash"})
