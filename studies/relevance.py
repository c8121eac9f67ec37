"""Do scorers prefer the answer about the thing that was asked? Kim et al.'s triplets, our scorers.

Kim et al. 2024 (arXiv:2402.03469) build 530 triplets of a query ("Please tell me about {entity}"),
an answer about the entity and an answer about another one, and report how often a reward model
scores the first answer higher. Here a triplet is made of queries that exist: the answer is the
query's reference, the other answer the reference of a query about another thing, of the same type
and of the nearest length.

    python -m studies.relevance run --data DATA --out runs/relevance
    python -m studies.relevance publish --out runs/relevance    # fills docs/results/rewards.md

DATA has the typed queries of the R3 paper's release (r3/alpacafarm_val.json). The scores of a
scorer are a file that is not made twice. SmolLM2 takes about ten CPU minutes, the others one.
"""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tokengym.agents import chosen_log_probs, load_causal_lm
from tokengym.base import Split
from tokengym.envs import Episode, bundled, unknown_share
from tokengym.lab.makers.corpora.questions import all_questions
from tokengym.lab.makers.corpora.world import entities
from tokengym.lab.study import (
    DOCS,
    Data,
    Docs,
    Out,
    command_line,
    read_rows,
    write_rows,
)
from tokengym.lab.tables import NONE, fill, markdown_table, share_of
from tokengym.rewards import Relevance, RewardModel, make_reward

Row = dict[str, Any]
PAGE, PUBLISHED = "rewards.md", "rewards/relevance.csv"
TRIPLETS, SEED = 530, 0
"""As many as in the paper, and the seed of what is drawn."""
LONGEST_QUERY, ANSWER_WORDS = 40, (5, 60)
"""Most words of a typed query, fewest and most of its reference."""
LEAST_LETTERS = 4
"""Shortest word that says what a query is about."""
EMPTY = frozenset(
    "about also could does each from give given have into like list make name over such tell than "
    "that their them then there these they this those what when where which will with would write "
    "your following explain describe create generate provide sentence".split()
)
"""Words that say nothing of it."""
NAMELESS = "it"
"""What stands for the thing's name where names are taken out."""
SETS = {
    "questions": "bundled questions, another kind of thing",
    "typed": "typed queries, another subject",
    "same kind": "bundled questions, another thing of the kind",
    "no name": "bundled questions, another kind, names taken out",
    "shared word": "typed queries, another query with a word of the subject",
}
"""Set of triplets -> head of its column. The first two are the paper's comparison."""
MAIN = ("questions", "typed")
TASKS = ("question_answer", "dialogue", "summarize", "detox", "movie_review")
"""Bundles whose reward models are asked."""
ON_SMOLLM2 = "SmolLM2 with the reward model of film reviews"
"""It is asked for the paper's comparison alone: it takes minutes, and nothing depends on it."""
CHAT = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
ROWS = 8
"""Texts of one forward pass of SmolLM2."""
Scores = NDArray[np.float64]
Pairs = Sequence[tuple[str, str]]
"""(query, answer)."""


@dataclass(frozen=True, kw_only=True)
class Triplet:
    """A query with an answer about the thing asked, and one about another thing."""

    query: str
    answer: str
    other: str


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A query with its reference answer, and what is known about it."""

    text: str
    answer: str
    query_type: str
    about: frozenset[str] = frozenset()
    """Names of the thing, or the words that say what the query is about."""
    kind: str = ""
    """Kind of the thing, of a bundled question."""


def words(text: str) -> list[str]:
    """Return the words of a text in lower case."""
    return re.findall(r"\w+", text.lower())


def subject(text: str) -> frozenset[str]:
    """Return the words that say what a query is about.

    Example:
        >>> sorted(subject("Give three tips for sleeping."))
        ['sleeping', 'three', 'tips']
    """
    return frozenset(w for w in words(text) if len(w) >= LEAST_LETTERS and w not in EMPTY)


def questions(split: Split) -> list[Asked]:
    """Return the bundled questions of a split."""
    made = {question.text: question for question in all_questions()}
    return [
        Asked(
            text=prompt.text,
            answer=prompt.reference or "",
            query_type=prompt.query_type or "",
            about=frozenset({made[prompt.text].entity.name}),
            kind=made[prompt.text].entity.kind,
        )
        for prompt in bundled("question_answer").prompts(split)
    ]


def typed(file: Path) -> list[Asked]:
    """Return the typed queries that name what they are about and bring no text of their own."""
    fewest, most = ANSWER_WORDS
    rows = json.loads(file.read_text(encoding="utf-8"))
    asked = [
        Asked(
            text=row["input"].strip(),
            answer=" ".join(row["output"].split()),
            query_type=row["qtype"],
            about=subject(row["input"]),
        )
        for row in rows
        if "\n" not in row["input"].strip()
        and len(words(row["input"])) <= LONGEST_QUERY
        and fewest <= len(words(row["output"])) <= most
    ]
    return [query for query in asked if query.about]


def other_answer(
    asked: Asked, pool: Sequence[Asked], fits: Callable[[Asked], bool], rng: np.random.Generator
) -> str | None:
    """Return the reference of another query of the type, of the nearest number of words.

    Args:
        asked: The query.
        pool: The queries to choose from.
        fits: Says whether one may be chosen.
        rng: Decides between equals.

    Returns:
        None if none fits.
    """
    size = len(words(asked.answer))
    fitting = [query for query in pool if query.query_type == asked.query_type and fits(query)]
    if not fitting:
        return None
    distances = [abs(len(words(query.answer)) - size) for query in fitting]
    nearest = [
        query for query, far in zip(fitting, distances, strict=True) if far == min(distances)
    ]
    return nearest[int(rng.integers(len(nearest)))].answer


def unrelated(asked: Asked, query: Asked) -> bool:
    """Say whether neither a query nor its answer names what is asked about."""
    return not asked.about & (query.about | {*words(query.answer)})


def triplets_of(
    chosen: Sequence[Asked],
    pool: Sequence[Asked],
    fits: Callable[[Asked, Asked], bool],
    rng: np.random.Generator,
) -> list[Triplet]:
    """Return a triplet of each query that has one.

    Args:
        chosen: The queries.
        pool: Where the other answers are from.
        fits: Says of a query and another one whether the other's answer may be taken.
        rng: Decides between equals.
    """
    found = []
    for asked in chosen:
        other = other_answer(asked, pool, partial(fits, asked), rng)
        if other is not None:
            found.append(Triplet(query=asked.text, answer=asked.answer, other=other))
    return found


def without_names(text: str) -> str:
    """Return a text with the name of every thing replaced.

    Example:
        >>> without_names("the pig lives in farms . poland is far .")
        'the it lives in farms . it is far .'
    """
    return re.sub(rf"\b(?:{'|'.join(map(re.escape, _names()))})\b", NAMELESS, text)


@cache
def _names() -> tuple[str, ...]:
    return tuple(sorted((entity.name for entity in entities()), key=len, reverse=True))


def bundled_triplets() -> dict[str, list[Triplet]]:
    """Return the triplets of the held-out bundled questions: without typed queries."""
    held_out = questions("test")
    pool = [*held_out, *questions("train")]
    kinds: dict[str, Callable[[Asked, Asked], bool]] = {
        "questions": lambda asked, query: query.kind != asked.kind and unrelated(asked, query),
        "same kind": lambda asked, query: query.kind == asked.kind and unrelated(asked, query),
    }
    found = {
        name: triplets_of(held_out, pool, fits, np.random.default_rng(SEED))
        for name, fits in kinds.items()
    }
    found["no name"] = [
        replace(triplet, answer=without_names(triplet.answer), other=without_names(triplet.other))
        for triplet in found["questions"]
    ]
    return found


def typed_triplets(file: Path, count: int) -> dict[str, list[Triplet]]:
    """Return the triplets of typed queries.

    Args:
        file: The R3 paper's release.
        count: How many queries are drawn.
    """
    rng = np.random.default_rng(SEED)
    pool = typed(file)
    chosen = [pool[i] for i in rng.permutation(len(pool))[:count]]
    return {
        "typed": triplets_of(chosen, pool, unrelated, rng),
        "shared word": triplets_of(
            chosen,
            pool,
            lambda asked, query: query is not asked and bool(asked.about & query.about),
            rng,
        ),
    }


def all_triplets(data: Path) -> dict[str, list[Triplet]]:
    """Return the triplets of each set."""
    found = bundled_triplets()
    count = TRIPLETS - len(found["questions"])
    return found | typed_triplets(data / "r3/alpacafarm_val.json", count)


def fingerprint(triplets: Iterable[Triplet]) -> str:
    """Return the hash by which a set of triplets is known."""
    texts = json.dumps([[t.query, t.answer, t.other] for t in triplets], ensure_ascii=False)
    return hashlib.sha256(texts.encode()).hexdigest()[:16]


def shared_words(pairs: Pairs) -> Scores:
    """Return the share of a query's subject that its answer has too."""
    return np.array([len(subject(q) & {*words(a)}) / max(len(subject(q)), 1) for q, a in pairs])


def bag_of_words(pairs: Pairs) -> Scores:
    """Return the cosine of query and answer as bags of words, weighted by rarity.

    weight of w = log((1 + N) / (1 + n_w)),   N texts, of which n_w have w
    """
    texts = sorted({text for pair in pairs for text in pair})
    counts = Counter(word for text in texts for word in {*words(text)})

    def weighted(text: str) -> dict[str, float]:
        return {
            word: count * float(np.log((1 + len(texts)) / (1 + counts[word])))
            for word, count in Counter(words(text)).items()
        }

    bags = {text: weighted(text) for text in texts}
    sizes = {text: float(np.sqrt(sum(w * w for w in bags[text].values()))) or 1.0 for text in texts}
    return np.array(
        [
            sum(bags[q][w] * bags[a].get(w, 0.0) for w in bags[q]) / (sizes[q] * sizes[a])
            for q, a in pairs
        ]
    )


def length(pairs: Pairs) -> Scores:
    """Return the number of words of an answer."""
    return np.array([float(len(words(answer))) for _, answer in pairs])


def relevance(scorer: Relevance, pairs: Pairs, *, bare: bool = False) -> Scores:
    """Return R3 of answers, each query taken as an open-ended one.

    Args:
        scorer: R3 over some encoder.
        pairs: What is scored.
        bare: Whether length incentive and repetition penalty are left out, which leaves r_x.
    """
    regulated = not bare
    chosen = scorer.with_components(
        reward_branching=False, length_incentive=regulated, repetition_penalty=regulated
    )
    return _values(chosen, [episode(q, a, [0], [0]) for q, a in pairs])


def episode(query: str, answer: str, prompt_ids: Sequence[int], ids: Sequence[int]) -> Episode:
    """Return an answer as an episode."""
    return Episode(prompt=query, response=answer, prompt_ids=[*prompt_ids], response_ids=[*ids])


def _values(scorer: Any, episodes: Sequence[Episode]) -> Scores:
    return np.asarray(scorer.score(episodes).values, dtype=np.float64)


def small_model(task: str, pairs: Pairs) -> Scores:
    """Return the scores of a bundled reward model, the answer closed by EOS.

    Args:
        task: Name of the bundle.
        pairs: What is scored.
    """
    bundle = bundled(task)
    tokenizer = bundle.tokenizer
    model = RewardModel.from_pretrained(bundle.reward_model).bind(tokenizer)
    end = [tokenizer.eos_token_id]
    return _values(
        model,
        [episode(q, a, tokenizer(q).input_ids, tokenizer(a).input_ids + end) for q, a in pairs],
    )


def smollm2_model(pairs: Pairs) -> Scores:
    """Return the scores of SmolLM2's reward model, in the chat template."""
    bundle = bundled("smollm2-reviews")
    tokenizer = bundle.tokenizer
    model = RewardModel.from_pretrained(bundle.reward_model, batch_size=ROWS, dtype="float32")
    model = model.bind(tokenizer)
    end = [tokenizer.eos_token_id]

    def framed(query: str, answer: str) -> Episode:
        asked = tokenizer(CHAT.format(query)).input_ids
        return episode(query, answer, asked, tokenizer(answer).input_ids + end)

    return _values(model, [framed(*pair) for pair in pairs])


class Likelihood:
    """SmolLM2 as a language model; what it has read once is remembered."""

    def __init__(self) -> None:
        self._read: dict[tuple[str, str], float] = {}

    def of(self, pairs: Pairs) -> Scores:
        """Return the mean log-probability of a token of each answer to the query beside it."""
        self._read |= _log_likelihood(
            [pair for pair in dict.fromkeys(pairs) if pair not in self._read]
        )
        return np.array([self._read[pair] for pair in pairs])

    def gain(self, pairs: Pairs) -> Scores:
        """Return by how much an answer is likelier to its query than to an empty one."""
        return self.of(pairs) - self.of([("", answer) for _, answer in pairs])


def _log_likelihood(pairs: Pairs) -> dict[tuple[str, str], float]:
    if not pairs:
        return {}
    tokenizer = bundled("smollm2-reviews").tokenizer
    # A third of the time on a CPU; the answers of a pair differ by far more than it rounds.
    model = load_causal_lm("smollm2", dtype="bfloat16").eval()
    values: dict[tuple[str, str], float] = {}
    texts = [
        (
            tokenizer(CHAT.format(query)).input_ids,
            [*tokenizer(answer).input_ids, tokenizer.eos_token_id],
        )
        for query, answer in pairs
    ]
    order = sorted(range(len(pairs)), key=lambda row: sum(map(len, texts[row])))
    for start in range(0, len(order), ROWS):
        rows = order[start : start + ROWS]
        longest = max(sum(map(len, texts[row])) for row in rows)
        ids = torch.zeros(len(rows), longest, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for line, row in enumerate(rows):
            text = torch.tensor([*texts[row][0], *texts[row][1]])
            ids[line, : len(text)], mask[line, : len(text)] = text, 1
        with torch.no_grad():
            logits = model(input_ids=ids, attention_mask=mask).logits
        for line, row in enumerate(rows):
            first, said = (len(part) for part in texts[row])
            read = logits[line, first - 1 : first + said - 1].float()
            tokens = ids[line, first : first + said]
            values[pairs[row]] = float(chosen_log_probs(read, tokens).mean())
    return values


def scorers() -> dict[str, Callable[[Pairs], Scores]]:
    """Return what scores, by the name that the table gives it."""
    encoder = Relevance.from_pretrained(bundled("question_answer").encoder)
    minilm = make_reward("r3", encoder=bundled("smollm2-answers").encoder).scorer
    assert isinstance(minilm, Relevance)
    smollm2 = Likelihood()
    return {
        "length in words": length,
        "words in common": shared_words,
        "bag of words": bag_of_words,
        **{f"reward model of {task}": partial(small_model, task) for task in TASKS},
        "r_x, bundled encoder": partial(relevance, encoder, bare=True),
        "R3, bundled encoder": partial(relevance, encoder),
        "r_x, MiniLM": partial(relevance, minilm, bare=True),
        "R3, MiniLM": partial(relevance, minilm),
        ON_SMOLLM2: smollm2_model,
        "SmolLM2, log-probability": smollm2.of,
        "SmolLM2, log-probability over that without the query": smollm2.gain,
    }


def run(data: Data, out: Out) -> None:
    """Score what is missing.

    Args:
        data: Folder of the texts.
        out: Folder of the scores.
    """
    by_set = all_triplets(data)
    order = [*MAIN, *(kind for kind in by_set if kind not in MAIN)]
    known = scorers()
    for kind in order:
        triplets = by_set[kind]
        for number, (name, score) in enumerate(known.items()):
            file = out / f"{number:02d}-{kind.replace(' ', '-')}.csv"
            if file.exists() or (name == ON_SMOLLM2 and kind not in MAIN):
                continue
            pairs = [(t.query, text) for t in triplets for text in (t.answer, t.other)]
            values = score(pairs)
            better = values[::2] - values[1::2]
            row = {"set": kind, "scorer": name, "triplets": len(triplets)}
            row |= {"wins": int((better > 0).sum()), "ties": int((better == 0).sum())}
            write_rows(
                file, [row | {"unknown": unknown(name, pairs), "sha256": fingerprint(triplets)}]
            )
            print(row, flush=True)


def unknown(name: str, pairs: Pairs) -> float | None:
    """Return the share of an answer's tokens that a bundled reward model has no word for."""
    task = name.removeprefix("reward model of ")
    if task == name:
        return None
    tokenizer = bundled(task).tokenizer
    return round(float(unknown_share(tokenizer, [answer for _, answer in pairs]).mean()), 4)


def publish(out: Out, docs: Docs = DOCS) -> None:
    """Store the counts beside the page, without the texts, and fill its table.

    Args:
        out: Folder of the scores.
        docs: Folder of the results' pages.
    """
    rows = read_rows(*sorted(out.glob("*.csv")), text=("set", "scorer", "sha256"))
    write_rows(docs / PUBLISHED, rows)
    page(docs)


def page(docs: Path) -> None:
    """Fill the page's table.

    Args:
        docs: Folder of the results' pages.
    """
    rows = read_rows(docs / PUBLISHED, text=("set", "scorer", "sha256"))
    fill(docs / PAGE, {"relevance": table(rows)})


def accuracy(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the share of triplets whose answer about the thing scores higher; a tie is a half."""
    total = sum(int(row["triplets"]) for row in rows)
    if not total:
        return NONE
    return share_of(sum(row["wins"] + row["ties"] / 2 for row in rows), total)


def table(rows: Sequence[Row]) -> str:
    """Return the accuracy of each scorer, over the paper's comparison and by set."""
    names = list(dict.fromkeys(row["scorer"] for row in rows))
    lines = []
    for name in names:
        own = [row for row in rows if row["scorer"] == name]
        columns = [MAIN, *((kind,) for kind in SETS)]
        lines.append(
            [name, *(accuracy([r for r in own if r["set"] in kinds]) for kinds in columns)]
        )
    first = [row for row in rows if row["scorer"] == names[0] and row["set"] in MAIN]
    count = sum(int(row["triplets"]) for row in first)
    return markdown_table(["scorer", f"the {count} triplets", *SETS.values()], lines)


if __name__ == "__main__":
    command_line(__doc__, run, publish)
