"""TRL: the advantages of its trainers, audited; the door itself is in tests/suite/bridges.

TRL computes them in the middle of a method, whose statements are run here as they stand.
"""

import shutil
from pathlib import Path

import pytest
import tokengym_audit
import trl

from studies import shipped_trainers as shipped

MAKERS = {
    "grpo": shipped.trl_grpo("sum_then_normalize", "group"),
    "grpo, by batch": shipped.trl_grpo("sum_then_normalize", "batch"),
    "grpo, unscaled": shipped.trl_grpo("sum_then_normalize", "none"),
    "grpo, normalized first": shipped.trl_grpo("normalize_then_sum", "group"),
    "rloo": shipped.trl_rloo(False),
    "rloo, normalized": shipped.trl_rloo(True),
    "async grpo": shipped.trl_async,
}


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> shipped.Source:
    folder = tmp_path_factory.mktemp("trl")
    shutil.copytree(Path(trl.__file__).parent, folder / "code" / "trl")
    (folder / shipped.VERSION).write_text(trl.__version__)
    return shipped.Source(folder)


@pytest.mark.parametrize("name", MAKERS)
def test_a_trainers_advantages_follow_the_gradient(source: shipped.Source, name: str) -> None:
    audit = tokengym_audit.check_estimator(MAKERS[name](source), name=name, pays="outcome")
    assert audit.holds, str(audit)
