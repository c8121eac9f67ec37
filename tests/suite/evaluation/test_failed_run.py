"""What a run that a scorer ended leaves behind."""

import json

from tokengym.envs import Episode
from tokengym.evaluation.runs.config import ComparisonConfig, run_folder
from tokengym.evaluation.runs.record import RunRecord
from tokengym.rewards import ScorerError


def test_episodes_that_could_not_be_scored_are_written(tmp_path):
    config = ComparisonConfig(env="MovieReview", rewards=("sparse",))
    record = RunRecord(config.spec("sparse", 3, tmp_path))
    error = ScorerError("scorer 'judge' returned values[0] = nan")
    error.keep([Episode(prompt="p", response="r", prompt_ids=(1,), response_ids=(2,))])
    folder = run_folder(tmp_path, "sparse", 3)
    record.write(error)
    (line,) = (folder / "unscored.jsonl").read_text().splitlines()
    assert json.loads(line)["response_ids"] == [2]
    assert json.loads(line)["score"] is None
    where = f"(1 finished episode is kept in {folder / 'unscored.jsonl'})"
    assert where in json.loads((folder / "run.json").read_text())["error"]
    assert where in str(error)
    assert where in error.for_terminal()
    RunRecord(config.spec("sparse", 3, tmp_path / "other")).write(ValueError("no"))
    assert not (run_folder(tmp_path / "other", "sparse", 3) / "unscored.jsonl").exists()
