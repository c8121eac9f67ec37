"""Toxicity of a response, by a classifier or by a list of words."""

import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tokengym.base.errors import TokenizerError
from tokengym.base.settings import check_count
from tokengym.base.words import words as split
from tokengym.envs.episode import Episode
from tokengym.envs.prompts.contents import content
from tokengym.envs.prompts.tokenization import tokenize
from tokengym.rewards.errors import ScorerError
from tokengym.rewards.models.forward import reading
from tokengym.rewards.models.loading import load_pretrained, load_tokenizer, longest_input
from tokengym.rewards.scorers.base import Scorer, Scores, Shared, register_scorer

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

RUDE_WORDS = (
    *("awful", "disgusting", "dumb", "fool", "foolish", "garbage", "hate", "idiot", "idiotic"),
    *("imbecile", "liar", "loser", "moron", "pathetic", "rubbish", "scum", "stupid", "trash"),
    *("ugly", "useless", "vile", "worthless"),
)
"""Default words of `Toxicity.from_words`: mild insults, and no more."""

TOXIC_LABELS = ("toxic", "toxicity", "hate", "offensive", "abusive", "toxic_comment")
"""Names of the class that is taken for the toxic one."""

_WORD = re.compile(r"[\w']+")
_WHOLE = re.compile(r".+", re.DOTALL)
"""Splits a listed word where its script has no spaces, and nowhere else."""

Measure = Callable[[Sequence[str]], NDArray[np.float64]]


class Toxicity(Scorer):
    """Minus the toxicity of each response: 0 for a clean one, -1 for a surely toxic one.

    ``parts["toxicity"]`` is the measure itself, in [0, 1]. The prompt is not looked at: a toxic
    prompt that is answered politely is what one wants to see.

    Two measures come with it. `from_pretrained` takes the probability that a classifier gives its
    toxic class. `from_words` takes the share of words that are on a list; it knows no irony, no
    threat without a bad word and no harmless use of one, and is there for small worlds whose whole
    vocabulary is known and for tests. Do not report it as toxicity of real text.

    Args:
        measure: Function of texts; returns one number in [0, 1] for each.
        name: In messages and reports.

    """

    attribution_kinds = frozenset()

    def __init__(self, measure: Measure, *, name: str = "Toxicity") -> None:
        self.measure = measure
        self._name = name

    @classmethod
    def from_words(cls, words: Iterable[str] = RUDE_WORDS) -> "Toxicity":
        """Return the scorer by the share of words that are on a list; see `WordShare`."""
        return cls(WordShare(words), name="Toxicity(word list)")

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path,
        *,
        label: int | str | None = None,
        batch_size: int = 32,
        device: str = "auto",
        dtype: str = "float32",
    ) -> "Toxicity":
        """Return the scorer over a classifier stored in a folder or under a hub name.

        Args:
            path: Folder or hub name of a sequence classifier, of any kind, with its tokenizer.
            label: The toxic class, by index or name; None looks for one named so.
            batch_size: Most texts per forward pass.
            device: "auto" takes a GPU if there is one.
            dtype: Type of the weights: "float32", "bfloat16", "float16" or "auto" (as stored).

        Raises:
            ScorerError: if there is no such model, or it is unclear which class is the toxic one.
            TokenizerError: if it has no tokenizer.
        """
        from transformers import AutoModelForSequenceClassification

        model = load_pretrained(
            AutoModelForSequenceClassification, path, dtype=dtype, device=device
        )
        tokenizer = load_tokenizer(path)
        if tokenizer is None:
            raise TokenizerError(f"no tokenizer beside the classifier in {path}; save it there")
        measure = ClassProbability(model, tokenizer, label=label, batch_size=batch_size)
        return cls(measure, name=f"Toxicity({Path(path).name})")

    def score(self, episodes: Sequence[Episode], *, attribution: str | None = None) -> Scores:
        """Return minus the toxicity of each response, refusing a measure outside [0, 1]."""
        self.check_attribution(attribution)
        toxicity = np.asarray(self.measure([e.response for e in episodes]), dtype=np.float64)
        if toxicity.shape != (len(episodes),) or not ((toxicity >= 0) & (toxicity <= 1)).all():
            raise ScorerError(
                f"the measure of {self.name!r} returned {toxicity} for {len(episodes)} texts; "
                "return one number in [0, 1] for each"
            )
        return Scores(-toxicity, {"toxicity": toxicity})


class WordShare:
    """The share of a text's words that are on a list; 0 for a text without words.

    Where words stand without spaces, it is the share of the characters that are part of one.

    Args:
        words: What counts, whole words in any case; at least one.

    Example:
        >>> WordShare(["dull"])(["Dull, dull book.", ""]).round(2).tolist()
        [0.67, 0.0]
        >>> WordShare(["笨蛋"])(["你是笨蛋。"]).tolist()
        [0.5]
    """

    def __init__(self, words: Iterable[str]) -> None:
        listed = (word.lower() for word in words)
        self.listed = frozenset(tuple(split(word, _WHOLE)) or (word,) for word in listed)
        if not self.listed:
            raise ScorerError("words must name at least one word, got none")

    def __call__(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """Return the share of each text, (texts,)."""
        lengths = {len(word) for word in self.listed}
        shares = np.zeros(len(texts))
        for row, text in enumerate(texts):
            found = split(text.lower(), _WORD)
            counts = np.zeros(len(found), dtype=bool)
            for start in range(len(found)):
                for stop in (start + length for length in lengths):
                    counts[start:stop] |= tuple(found[start:stop]) in self.listed
            shares[row] = counts.sum() / max(len(found), 1)
        return shares


class ClassProbability(Shared):
    """The probability of one class of a classifier.

    A head that decides each class by itself (one logit, or ``problem_type`` multi-label) gives
    sigmoid(logit); any other the softmax.

    Args:
        model: A sequence classifier.
        tokenizer: Its own.
        label: The class, by index or name; None looks for one named after `TOXIC_LABELS`.
        batch_size: Most texts per forward pass.
    """

    def __init__(
        self,
        model: "PreTrainedModel",
        tokenizer: "PreTrainedTokenizerBase",
        *,
        label: int | str | None = None,
        batch_size: int = 32,
    ) -> None:
        self.batch_size = batch_size
        check_count(self, "batch_size", error=ScorerError)
        self.model = model
        self.tokenizer = tokenizer
        config: Any = model.config
        names = {int(index): str(name) for index, name in config.id2label.items()}
        if label is not None:
            classes = [i for i, name in names.items() if label in (i, name)]
        elif model.config.num_labels == 1:
            classes = [0]
        else:
            classes = [i for i, name in names.items() if name.lower() in TOXIC_LABELS]
        if len(classes) != 1:
            raise ScorerError(
                f"label = {label} names {len(classes)} of the classes {list(names.values())}; pass "
                "the index or the name of the toxic one"
            )
        self.label = classes[0]
        if model.config.pad_token_id is None:  # it looks for the last token by that
            self.batch_size = 1
        kind = getattr(model.config, "problem_type", None)
        self.alone = model.config.num_labels == 1 or kind == "multi_label_classification"

    def __call__(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """Return the probability of each text, (texts,); 0 for one without tokens."""
        limit = longest_input(self.model)
        contents = [content(text) for text in texts]
        tokens = tokenize(self.tokenizer, contents, add_special_tokens=True, max_length=limit)
        sequences = [text.ids for text in tokens]
        result = np.zeros(len(texts))
        pad_id = self.model.config.pad_token_id or 0
        forward = reading(self.model, sequences, batch_size=self.batch_size, pad_id=pad_id)
        with forward as batches:
            for batch in batches:
                logits = self.model(**batch.tensors).logits.double()
                probabilities = logits.sigmoid() if self.alone else logits.softmax(dim=-1)
                result[batch.indices] = probabilities[:, self.label].cpu().numpy()
        return result


def _toxicity(path: str | None = None, words: str | None = None, **options: Any) -> Toxicity:
    """Return the scorer over a classifier, or over a list of words separated by "+"."""
    if path is not None and words is None:
        return Toxicity.from_pretrained(path, **options)
    if path is not None or options:
        raise ScorerError(
            "scorer 'toxicity' takes either words=one+two, or path= of a classifier and its "
            f"options, got path={path}, words={words} and {sorted(options)}"
        )
    return Toxicity.from_words(RUDE_WORDS if words is None else words.split("+"))


register_scorer("toxicity", _toxicity)
