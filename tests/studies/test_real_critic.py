"""SmolLM2 as a critic: what is revised, and what the table compares."""

from collections.abc import Sequence

import numpy as np
import pytest

from studies import real_critic as study
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


def test_texts_are_compared_with_the_answer_that_people_liked_less() -> None:
    def rows(text: str, relevance: float, fault: int | None) -> list[study.Row]:
        names = dict.fromkeys(study.FIGURES, 0.5)
        return [
            {"text": text, "pair": pair, **names, "relevance": relevance + pair, "fault": fault}
            for pair in range(4)
        ]

    lines = study.table(
        [*rows(study.LIKED_LESS, 1.0, None), *rows("revised, bare", 3.0, 1)]
    ).splitlines()[2:]
    assert lines[0].split(" | ")[1:3] == ["", "2.50"]
    assert lines[1].split(" | ")[1:3] == ["100%", "**+2.00** (2.00 to 2.00)"]
