"""How measurements are called where people read them."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class Label:
    """A measurement's name, what it is, and which way is better."""

    title: str
    """As a heading: a few words."""
    meaning: str
    """One sentence, with the unit."""
    better: Literal["higher", "lower", ""] = ""
    """Empty where neither way is better in itself."""


LABELS: dict[str, Label] = {
    "score": Label(
        title="Score",
        meaning="The scorer's own value of held-out responses, before any shaping or centring.",
        better="higher",
    ),
    "net_score": Label(
        title="Score less the KL penalty",
        meaning="Score minus the KL coefficient times KL: what the learner itself maximises.",
        better="higher",
    ),
    "gold_score": Label(
        title="Gold score",
        meaning="The task's true score, which no reward sees: it shows when the score is gamed.",
        better="higher",
    ),
    "normalized_gold_score": Label(
        title="Share of the way to the best gold score",
        meaning="0 is the reference policy, 1 the best policy there is.",
        better="higher",
    ),
    "kl": Label(
        title="KL to the reference",
        meaning="Nats per response by which the policy left its reference: the price of the score.",
        better="lower",
    ),
    "length": Label(title="Length", meaning="Response tokens."),
    "entropy": Label(title="Entropy", meaning="Nats per token that the policy still leaves open."),
    "distinct_1": Label(title="Distinct words", meaning="Share of words that differ."),
    "distinct_2": Label(title="Distinct bigrams", meaning="Share of word pairs that differ."),
    "repetition": Label(
        title="Repetition", meaning="Share of a response's trigrams that repeat.", better="lower"
    ),
    "copy_rate": Label(
        title="Copy rate",
        meaning="Share of a response's trigrams that stand in its prompt.",
        better="lower",
    ),
    "compression": Label(
        title="Compression",
        meaning="How many times smaller the responses pack together: higher is more of the same.",
        better="lower",
    ),
    "self_bleu": Label(
        title="Self-BLEU",
        meaning="BLEU of each response against the others: 100 where all are alike.",
        better="lower",
    ),
    "toxicity": Label(
        title="Toxicity", meaning="Mean toxicity of the responses, 0 to 1.", better="lower"
    ),
    "rouge_1": Label(
        title="ROUGE-1", meaning="Words shared with the reference answer, F1.", better="higher"
    ),
    "rouge_2": Label(
        title="ROUGE-2", meaning="Word pairs shared with the reference answer, F1.", better="higher"
    ),
    "rouge_l": Label(
        title="ROUGE-L",
        meaning="Longest common run of words, gaps allowed, with the reference answer, F1.",
        better="higher",
    ),
    "win_rate": Label(
        title="Win rate", meaning="Share of prompts won, ties counting half.", better="higher"
    ),
    "eos_rate": Label(title="Ended by itself", meaning="Share of responses that end with EOS."),
    "reference_perplexity": Label(
        title="Perplexity under the reference",
        meaning="How surprising the responses are to the reference policy.",
        better="lower",
    ),
    "train_score": Label(
        title="Score in training",
        meaning="Mean score of the training batches since the last point.",
    ),
    "train_kl": Label(
        title="KL in training", meaning="Mean KL of the training batches since the last point."
    ),
}

AXIS_LABELS = {
    "step": "updates",
    "tokens": "tokens generated",
    "episodes": "responses scored",
    "wall_s": "seconds",
}


def label_of(measure: str) -> Label:
    """Return a measurement's label, made from its name if it is not a known one."""
    return LABELS.get(measure) or Label(title=measure.replace("_", " "), meaning="")
