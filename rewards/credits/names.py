"""The one table of the names that a function of token credit may read, and who supplies each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple

Supplier = Literal["texts", "data", "scorer", "reference", "policy", "trainer"]
"""Who has a name's value."""
SUPPLIERS: Mapping[Supplier, str] = {
    "texts": "the episodes themselves",
    "data": "a column of the prompts' data",
    "scorer": "the scorer",
    "reference": "frozen language model: take a task with a bundle, or reference_policy=PATH",
    "policy": "the policy that learns: train with a learner of tokengym.agents",
    "trainer": "a trainer alone: pass the function as advantage=, weights= or loss=",
}
"""Each supplier in words, which say what to do where there is none."""


class Name(NamedTuple):
    """One name: shape, unit and supplier of what stands for it."""

    shape: str
    """Of a tensor, with its type where it is no float; or the kind of another value."""
    unit: str
    """"" of what has none."""
    supplier: Supplier
    meaning: str
    """In words, for the page that lists the names."""
    account: str | None = None
    """Kind of token attribution of `Scorer.score` that it is read from."""

    @property
    def is_number(self) -> bool:
        """Whether it is one number, such as a setting of the trainer's."""
        return self.shape.startswith(("float", "int"))


_TOKENS, _IDS = "(batch, time)", "(batch, time) int64"

NAMES: Mapping[str, Name] = {
    # --- the texts; columns are the tokens that the policy wrote, from 0 --------------------------
    "response_mask": Name("(batch, time) bool", "", "texts", "True at a row's tokens"),
    "response_ids": Name(_IDS, "", "texts", "token ids; 0 past a row's end"),
    "positions": Name(_IDS, "tokens", "texts", "place in the row, from 0; -1 past its end"),
    "turn_ids": Name(_IDS, "", "texts", "number of the token's turn; -1 past a row's end"),
    "turn_scores": Name(
        *(_TOKENS, "reward", "texts"),
        "the partner's score at a turn's last token; nan where there is none",
    ),
    "segment_ends": Name(
        _IDS, "", "texts", "place of the last token of what is paid in one sum with each"
    ),
    "state_ids": Name(
        *(_IDS, "", "texts"),
        "equal numbers where a turn began after the same prompt and tokens; -1 past a row's end",
    ),
    "row_seeds": Name("list of list of int", "", "texts", "seeds of draws: the row's own ids"),
    "prompts": Name("list of str", "", "texts", "the prompts as text"),
    "responses": Name("list of str", "", "texts", "the responses as text, replies included"),
    "references": Name("list of str or None", "", "texts", "reference answers"),
    "messages": Name("list of list of dict", "", "texts", "the conversations that were read"),
    "episodes": Name("list of Episode", "", "texts", "all that is known, for what no tensor says"),
    # --- the scorer; what it says of a reply counts at the token before it ------------------------
    "scores": Name("(batch,)", "reward", "scorer", "what the scorer said of the whole text"),
    "paid": Name(
        *("(batch,)", "reward", "scorer"),
        "what the response earns in all: its score as it is normalised, and in a trainer less the "
        "price of the KL",
    ),
    "score_parts": Name("dict of (batch,)", "", "scorer", "what the score was made of"),
    "attention": Name(
        *(_TOKENS, "weight", "scorer", "attention of the reward model's last layer and token"),
        "attention",
    ),
    "signed_attention": Name(
        *(_TOKENS, "reward", "scorer", "attention times what each value vector does to the score"),
        "signed-attention",
    ),
    "relevance": Name(
        *(_TOKENS, "reward", "scorer", "parts of an encoder's dot product; they sum to the score"),
        "relevance",
    ),
    "gradient": Name(
        _TOKENS, "reward", "scorer", "embedding times gradient of the score", "gradient"
    ),
    "integrated_gradients": Name(
        *(_TOKENS, "reward", "scorer", "the same, averaged on the way from a blank response"),
        "integrated-gradients",
    ),
    "deeplift": Name(
        *(_TOKENS, "reward", "scorer", "DeepLIFT's contributions against a blank response"),
        "deeplift",
    ),
    "prefix_scores": Name(
        *("(batch, 1 + time)", "reward", "scorer"),
        "score before the first token, and after each with the reply to it",
        "prefix",
    ),
    "score_without": Name(
        *("f((batch, k, time) bool) -> (batch, k)", "reward", "scorer"),
        "scores of the texts without the tokens where it is True; call it with slices of the k "
        "masks where all of them would fill the memory: a text is scored once over all calls",
    ),
    # --- a frozen language model ------------------------------------------------------------------
    "ref_log_probs": Name(
        *(_TOKENS, "nats", "reference"),
        "of the tokens, by the reference: without temperature or action mask under reward=, under "
        "advantage= and weights= as the policy samples",
    ),
    "ref_entropy": Name(
        *(_TOKENS, "nats", "reference"),
        "of the reference before each token, without temperature or action mask",
    ),
    "ref_attention": Name(
        *("(batch, time, time)", "weight", "reference"),
        "last layer's, averaged over heads: of the step that writes the next token, to each token",
    ),
    "ref_hidden_states": Name(
        "(batch, time, width)", "", "reference", "last layer's states before each token"
    ),
    "ref_log_prob_of": Name(
        *("f(list of str, mean=False, ends=None) -> (batch, 1 + time)", "nats", "reference"),
        "of one text per row, before the first token and after each with the reply to it; per "
        "token of the text with mean=True, and where ends=, (batch, time) bool, is False as before "
        "the token",
    ),
    # --- the policy that learns; an episode carries the first two ---------------------------------
    "log_probs": Name(
        *(_TOKENS, "nats", "policy"),
        "of the tokens: after temperature and action mask, over the tokens that top-k and top-p "
        "left; by the policy that sampled, and under loss= by that of the gradient step",
    ),
    "entropy": Name(
        _TOKENS, "nats", "policy", "of the policy before each token, as it was sampled"
    ),
    "continue_from": Name(
        *("f(k, (batch, time) bool) -> (batch, time)", "reward", "policy"),
        "mean score of k continuations behind each token where it is True, drawn by `row_seeds`; "
        "the score itself behind a row's last; 0 elsewhere",
    ),
    # --- a trainer, under advantage=, weights= and loss= ------------------------------------------
    "old_log_probs": Name(_TOKENS, "nats", "trainer", "by the policy that sampled"),
    "values": Name(_TOKENS, "reward", "trainer", "of the state before each token"),
    "final_values": Name("(batch,)", "reward", "trainer", "past a truncated row's end; else 0"),
    "hidden_states": Name("(batch, time, width)", "", "trainer", "the policy's last layer"),
    "top_log_probs": Name("(batch, time, k)", "nats", "trainer", "largest, falling"),
    "log_probs_of": Name(
        *("f(list of int) -> (batch, time, k)", "nats", "trainer"),
        "of k named tokens before each token, as the policy samples; their mass is exp().sum(-1)",
    ),
    "kl": Name(_TOKENS, "nats", "trainer", "to the reference, as it is paid and logged"),
    "policy_attention": Name(
        *("(batch, time, time)", "weight", "trainer"),
        "attention of the policy's last layer, from each token to it and those before",
    ),
    "log_probs_after": Name(
        *("f(list of str) -> (batch, time)", "nats", "trainer"),
        "of the same tokens, as they were sampled, by the policy that read another text before "
        "the prompt",
    ),
    "token_rewards": Name(_TOKENS, "reward", "trainer", "what each token earned"),
    "advantages": Name(_TOKENS, "reward", "trainer", "before the weights"),
    "group_ids": Name("(batch,) int64", "", "trainer", "equal for responses to one prompt"),
    "generator": Name("torch.Generator", "", "trainer", "source of draws, seeded by the trainer"),
    "gamma": Name("float", "", "trainer", "discount per token"),
    "gae_lambda": Name("float", "", "trainer", "lambda of the advantages"),
    "gae_lambda_vf": Name("float or None", "", "trainer", "lambda of the values' returns"),
    "group_size": Name("int", "", "trainer", "responses to each prompt"),
    "std_floor": Name("float", "reward", "trainer", "least standard deviation of a group"),
}
"""All names but the columns of the data, which any other name is."""
ACCOUNTS: Mapping[str, str] = {n: name.account for n, name in NAMES.items() if name.account}
"""Names that the scorer gives of each token, with their kinds (`Scorer.attribution_kinds`)."""
CARRIED = frozenset({"log_probs", "entropy"})
"""Names of the policy that an episode carries, so that whoever credits it later reads the same."""
OF_LANGUAGE_MODEL = frozenset({"log_probs", "entropy"})
"""Names of a language model of each token, which one pass gives together."""
PLACES = ("reward=", "advantage=", "weights=", "loss=")
"""Where functions of named inputs are passed."""


def places_of(name: str) -> tuple[str, ...]:
    """Return the places in which a name of the table is read.

    A trainer's names are in its three places, but for the advantages, which an estimator returns,
    and for what is asked of whole rounds, which a gradient step has a part of.
    """
    missing = {"reward="} if NAMES[name].supplier == "trainer" else set[str]()
    missing |= {"advantage="} if name == "advantages" else set()
    missing |= {"loss="} if NAMES[name].shape.startswith("f(") else set()
    return tuple(place for place in PLACES if place not in missing)
