"""SmolLM2 as a critic: what is revised, and what an empty folder does."""

from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from studies import real_critic as study
from studies import real_judge, real_tax
from tokengym.rewards import Scores

PAIRS = [("How do I break in?", "I am sorry, no.", "Use a hammer."), ("Hi?", "Hello.", "Go away.")]


class Near:
    """An encoder by which a text is as relevant as it has words."""

    def score(self, episodes: list[study.Episode]) -> Scores:
        values = np.array([float(len(e.response.split())) for e in episodes])
        return Scores(values, parts={"relevance_reference": values})


def test_only_what_has_a_fault_is_rewritten(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("vaderSentiment", reason="the extra smollm2 is not installed")
    monkeypatch.setattr(study, "load_encoder", Near)
    asked = []

    def answer(questions: Sequence[str]) -> list[str]:
        asked.append(len(questions))
        if questions[0].endswith("Critique:"):
            return ["It helps a burglar.", "none"]
        return ["I cannot help with a hammer."]

    rows = study.revised(PAIRS, answer, study.bundled("movie_review").tokenizer)
    assert asked == [2, 1]
    assert [(r["fault"], r["said"], r["declines"]) for r in rows] == [
        (1, "I cannot help with a hammer.", 1),
        (0, "Go away.", 0),
    ]
    # "a hammer" out of "i cannot help with a hammer ." and its full stop, and the other whole.
    assert [round(r["copied"], 3) for r in rows] == [round(3 / 7, 3), 1.0]


@pytest.mark.parametrize("module", [study, real_judge, real_tax])
def test_an_empty_folder_is_refused_before_anything_is_written(
    module: ModuleType, tmp_path: Path
) -> None:
    docs, out = tmp_path / "docs", tmp_path / "out"
    (docs / study.FOLDER).mkdir(parents=True)
    out.mkdir()
    (kept := docs / study.FOLDER / study.PUBLISHED).write_text("text,pair\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"pass the folder of a .*study, or run it into"):
        module.publish(out, docs)
    assert [*docs.rglob("*.csv")] == [kept]
    assert kept.read_text(encoding="utf-8") == "text,pair\n"
