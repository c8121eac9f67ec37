"""A sequence classifier as scorer, with what it says about each token in the same pass."""

import copy
import logging
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
from numpy.typing import NDArray

from tokengym.base.errors import TokenizerError
from tokengym.base.files import read_json
from tokengym.base.settings import check_choice, check_count
from tokengym.base.stored.adapters import unwrapped
from tokengym.envs.episode import Episode
from tokengym.envs.prompts.tokenization import encodes_alike, unknown_share
from tokengym.rewards.attribution import last_row
from tokengym.rewards.attribution.alignment import Form, Retokenized, Retokenizer
from tokengym.rewards.errors import ScorerError
from tokengym.rewards.maths.redistribution import normalize_weights
from tokengym.rewards.models.forward import (
    Classifier,
    Labels,
    has_heads,
    named_goal,
    reading,
)
from tokengym.rewards.models.loading import (
    check_lengths,
    check_vocabularies,
    load_on_backbone,
    load_pretrained,
    load_tokenizer,
    loaded_once,
    longest_input,
    named_backbone,
    shares_tokenizer,
    vocabulary_size,
)
from tokengym.rewards.scorers.base import Scorer, Scores, Shared, register_scorer
from tokengym.rewards.scores import SIGNED_KINDS

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


FORM_KEY = "tokengym_form"
"""Entry of a model's configuration: the form that it was trained in."""
FORM_FILE = "form.json"
"""File that has the entry beside adapters, which are stored without a configuration."""

_LOG = logging.getLogger(__name__)


@cache
def _say_once(text: str) -> None:
    """Log a warning the first time that it is due in a process."""
    _LOG.warning(text)


def _guessed_goal(classifier: Classifier) -> str | None:
    """Return what is to be said of a head of two classes whose names do not tell the goal."""
    if classifier.labels is None:
        return None
    config: Any = classifier.model.config
    names = {int(index): str(name) for index, name in config.id2label.items()}
    if named_goal(names) is not None:
        return None
    positive, negative = classifier.labels
    assert negative is not None
    return f"the score is {names[positive]!r} - {names[negative]!r}; labels= chooses"


def _on_tokens(
    rows: Sequence[NDArray[np.float64]], texts: Sequence[Retokenized] | None, *, normalized: bool
) -> list[NDArray[np.float64]]:
    """Return attributions of the model's tokens as those of the policy's; ``texts`` None: same."""
    if texts is not None:
        rows = [text.spread(row) for text, row in zip(texts, rows, strict=True)]
    return [normalize_weights(row) if normalized else row for row in rows]


class RewardModel(Shared, Scorer):
    """Scores prompt + response by a sequence classifier.

    The score is the model's one logit, the logit of one class, or the difference of two. A causal
    model is read at the last token, the EOS where one was sampled; where EOS is also its padding,
    at the token before, as transformers reads it. Ids of its own tokenizer that are plain text are
    never decoded and tokenised again; conversations are written in the model's chat template, and a
    policy with another tokenizer is scored by its texts (`bind`), as it is for every bidirectional
    model and every ``form`` but "text". Of a model trained with several heads the score is their
    mean, and the part "disagreement" their standard deviation.

    Args:
        model: A causal model with a ``score`` head, as ``AutoModelForSequenceClassification``
            builds from GPT-2, Llama, Qwen2, OPT, ..., or a bidirectional one (BERT, RoBERTa,
            DistilBERT, DeBERTa, ...). It is put in eval mode while it scores.
        tokenizer: The model's tokenizer, compared to the policy's by `bind`; None takes the
            policy's ids for the model's.
        labels: For a head of several classes the one whose logit is the score, or (positive,
            negative) for logit[positive] - logit[negative], by index or by name in the model's
            config; "positive+negative" in words. None takes two classes by their names where it
            is known which one is wanted (`GOALS`), and is (1, 0) otherwise, which is said once.
            Other weights of classes are a sum of scorers: ``0.5 * RewardModel(model, labels=2)``.
        form: What the model reads: "text", prompt and response joined; "pair", both as the two
            texts of its tokenizer; "chat", a conversation in its tokenizer's chat template. None
            takes the form that the model was trained in by `train_reward_model`. Where it says
            none, conversations are read in its chat template, if it has one, and all else as text;
            a bundle's model, whose tokenizer is the policy's, reads what was sampled.
        batch_size: Most sequences per forward pass; they are sorted by length.
        name: In messages and reports.

    Raises:
        ScorerError: if the head does not give one score, ``labels`` does not fit it, or ``form`` is
            another than the model was trained in.
    """

    reads_text = False

    def __init__(
        self,
        model: "PreTrainedModel",
        *,
        tokenizer: "PreTrainedTokenizerBase | None" = None,
        labels: Labels | None = None,
        form: Form | None = None,
        batch_size: int = 64,
        name: str = "RewardModel",
    ) -> None:
        self.model = model = unwrapped(model)
        trained = getattr(model.config, FORM_KEY, None)
        if trained is not None and form not in (None, trained):
            raise ScorerError(
                f"{name} was trained in the form {trained!r}, which is stored with it, got form="
                f"{form!r}; leave form out"
            )
        self.form = form = form or trained
        self._adds_end = trained == "chat"
        self.tokenizer = tokenizer
        self.batch_size = batch_size
        check_count(self, "batch_size", error=ScorerError)
        check_choice(self, "form", (*get_args(Form), None), error=ScorerError)
        self._name = name
        self._classifier = Classifier.of(model, labels, pairs=form == "pair")
        self._guessed = None if labels is not None else _guessed_goal(self._classifier)
        if self._guessed is not None:
            _say_once(f"{name}: {self._guessed}")
        self.disagrees = self._classifier.labels is None and has_heads(model)
        self._is_encoder = self._classifier.reads_both_ways
        self._always_text = form in ("pair", "chat") or self._is_encoder
        if self._always_text and tokenizer is None:
            raise ScorerError(
                f"{type(model).__name__} with form={form!r} reads texts in tokens of its own, got "
                "tokenizer=None; pass its tokenizer"
            )
        self.attribution_kinds = self._classifier.kinds
        self._limit = longest_input(model)
        self._reads_samples = False
        self._vocab_size = vocabulary_size(model)
        self._retokenizer: Retokenizer | None = None
        self._rewrites_chats = False

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path,
        *,
        labels: Labels | None = None,
        form: Form | None = None,
        batch_size: int = 64,
        device: str = "auto",
        dtype: str = "float32",
        backbone: "PreTrainedModel | None" = None,
    ) -> "RewardModel":
        """Return the reward model stored in a folder or under a hub name.

        Args:
            path: Folder or hub name of a sequence classifier, or of adapters that make one of their
                base; a tokenizer beside it is read too.
            labels: As for the class.
            form: As for the class.
            batch_size: As for the class.
            device: "auto" takes a GPU if there is one.
            dtype: Type of the weights: "float32", "bfloat16", "float16" or "auto" (as stored).
            backbone: A causal language model on whose weights the folder's adapters go; it can be
                the policy's, whose own adapters are put on afterwards. It is frozen, and stays
                where it is and of the type that it has. None: of adapters of a model found by
                name ("smollm2"), the one that policies with adapters share too.

        Raises:
            ScorerError: if the folder holds no classifier, or one without a trained head.
        """
        from transformers import AutoModelForSequenceClassification

        backbone = backbone or named_backbone(path, device=device)
        if backbone is not None:
            model = load_on_backbone(path, backbone)
        else:
            model = load_pretrained(
                AutoModelForSequenceClassification, path, dtype=dtype, device=device
            )
        if (stored := Path(path) / FORM_FILE).is_file():
            setattr(model.config, FORM_KEY, read_json(stored).get(FORM_KEY))
        judge = cls(
            model,
            tokenizer=load_tokenizer(path),
            labels=labels,
            form=form,
            batch_size=batch_size,
            name=f"RewardModel({Path(path).name})",
        )
        judge._reads_samples = shares_tokenizer(path)
        return judge

    @property
    def title(self) -> str:
        """The name, and which class is the goal where that was guessed."""
        return self.name if self._guessed is None else f"{self.name} ({self._guessed})"

    @property
    def is_causal(self) -> bool:
        """Whether the score is read at a token of a causal model, so that prefixes have one too."""
        return not self._is_encoder

    @property
    def backbone(self) -> "torch.nn.Module":
        """The model below the head."""
        return self._classifier.backbone

    def linear_score(self) -> "tuple[torch.Tensor, torch.Tensor]":
        """Return weight (width,) and bias () that make the score of `backbone`'s hidden state."""
        return self._classifier.linear_score()

    def oov_fraction(self, episodes: Sequence[Episode]) -> NDArray[np.float64]:
        """Return the share of each text that its tokenizer has no tokens for, (batch,)."""
        return unknown_share(self.tokenizer, [f"{e.prompt} {e.response}" for e in episodes])

    def bind(self, tokenizer: "PreTrainedTokenizerBase") -> "RewardModel":
        """Return the scorer for responses of a policy's tokenizer.

        Where it encodes as the model's own does (`encodes_alike`), or the model's is not known, ids
        are read as they are. Otherwise texts are written in the model's tokens, and attributions
        travel back by character offsets; scores of prefixes ("prefix") are not to be had then,
        because the tokens of a prefix are not a prefix of the tokens.

        Raises:
            TokenizerError: if an id would be outside the model, or the model's tokenizer gives no
                offsets.
        """
        native = self.tokenizer
        alike = not self._always_text and (native is None or encodes_alike(tokenizer, native))
        # A conversation is written anew as the model reads it, whatever the policy's template: a
        # judge has one number for it, as transformers has.
        rewrites_chats = (
            alike
            and native is not None
            and (self.form == "text" or bool(native.chat_template and not self._reads_samples))
        )
        if alike:  # the model may have more ids: embeddings are padded
            check_vocabularies(policy=tokenizer, model=None, size=self._vocab_size, name=self.name)
        if alike and not rewrites_chats and self._retokenizer is None:
            return self
        bound = copy.copy(self)
        bound.reads_text = not alike
        bound.attribution_kinds = self._classifier.kinds - (set() if alike else {"prefix"})
        bound._rewrites_chats = rewrites_chats
        bound._retokenizer = None
        if not alike or rewrites_chats:
            assert native is not None
            ends = {"adds_end": self._adds_end, "keeps_end": self._is_encoder}
            bound._retokenizer = Retokenizer(tokenizer, native, form=self.form, **ends)
        return bound

    def _texts(self, episodes: Sequence[Episode], kinds: Sequence[str]) -> list[Retokenized] | None:
        """Return the episodes in the model's tokens; None where those are the policy's."""
        written = self._retokenizer
        if written is None or (self._rewrites_chats and not any(e.messages for e in episodes)):
            return None
        if not self._rewrites_chats:
            return written(episodes)
        if "prefix" in kinds:
            raise ScorerError(
                f"{self.name} reads conversations in its own form, whose beginnings have no scores "
                "of their own; take a credit that does not read them"
            )
        return [written([e])[0] if e.messages else Retokenized.as_sampled(e) for e in episodes]

    def score(self, episodes: Sequence[Episode], *, attribution: str | None = None) -> Scores:
        """Return the score of each episode, and what it says about each token if asked.

        The score of an empty response is read at the prompt's last token; an empty text has 0.

        Args:
            episodes: Episodes to score.
            attribution: None for none, or

                - "attention": the last layer's attention of the last response token, averaged over
                  heads, restricted to the response and normalised;
                - "signed-attention": attention times what each value vector does to the score;
                - "prefix": by how much each token moved the score of the text before it;
                - "gradient", "integrated-gradients" and "deeplift" of tokengym-lab: by gradients of
                  the score; what the sum over the tokens misses is the part "attribution_gap".

        Raises:
            ScorerError: if an episode is longer than the model reads.
            TokenizerError: if an id is outside the model's vocabulary.
        """
        (scores,) = self._read(episodes, [] if attribution is None else [attribution])
        return scores

    def score_accounts(
        self, episodes: Sequence[Episode], kinds: Sequence[str]
    ) -> dict[str, Scores]:
        """Return the scores with each kind; the attentions and "prefix" come from one pass."""
        return dict(zip(kinds, self._read(episodes, kinds), strict=True))

    def _read(self, episodes: Sequence[Episode], kinds: Sequence[str]) -> list[Scores]:
        """Return the scores with each kind of attribution; without any where there is no kind."""
        for kind in kinds:
            self.check_attribution(kind)
        texts = self._texts(episodes, kinds)
        if texts is None:
            sequences = [[*e.prompt_ids, *e.response_ids] for e in episodes]
            sizes = np.array([len(e.response_ids) for e in episodes])
            after = np.zeros_like(sizes)
        else:
            sequences = [text.ids for text in texts]
            sizes = np.array([text.size for text in texts])
            after = np.array([text.after for text in texts])  # ids behind the response's
        self._check_readable(sequences)
        padding = self._padding(sequences)
        sequences = [ids[: len(ids) - n] for ids, n in zip(sequences, padding, strict=True)]
        unread = np.minimum(np.maximum(padding - after, 0), sizes)  # tokens of the response
        after, sizes = np.maximum(after - padding, 0), sizes - unread
        values = np.zeros(len(episodes), dtype=np.float32)
        parts = {"disagreement": np.zeros_like(values)} if self.disagrees else {}
        gaps: dict[str, NDArray[np.float32]] = {}
        read = {kind: [np.zeros(0)] * len(episodes) for kind in kinds}
        with reading(
            self.model,
            sequences,
            batch_size=self.batch_size,
            pad_id=self._classifier.pad_id,
            padding_side=self._classifier.padding_side,
            positions=self._classifier.takes_positions,
            gradients=True,  # some attributions are gradients
        ) as batches:
            for batch in batches:
                chosen, ends = batch.indices, batch.ends
                starts = ends + 1 - after[chosen] - sizes[chosen]
                inputs = self._classifier.inputs(batch, starts)
                logits, readings = last_row.read(self._classifier, inputs, kinds)
                values[chosen] = self._classifier.of_logits(logits).cpu().numpy()
                if self.disagrees:
                    parts["disagreement"][chosen] = logits.float().cpu().numpy().std(axis=1)
                for kind, (_, columns, gap) in readings.items():
                    if gap is not None:
                        gaps.setdefault(kind, np.zeros_like(values))[chosen] = gap.float().cpu()
                    assert columns is not None
                    table = columns.float().cpu().numpy().astype(np.float64)
                    # Weights on what follows the response are dropped, as those on the prompt are.
                    pasts = ends + 1 - (after[chosen] if kind == "attention" else 0)
                    for row, index in enumerate(chosen):
                        of_text = table[row, starts[row] : pasts[row]]
                        if kind == "attention" and len(of_text) > 1 and not of_text.any():
                            raise ScorerError(
                                f"{self.name} reads its score where no attention falls on the "
                                f"{len(of_text)} tokens of episode {index}'s response, which gives "
                                "them no weights; take credit 'uniform' or another reward model"
                            )
                        read[kind][index] = np.append(of_text, np.zeros(unread[index]))
        scores = Scores(values, parts)
        return [
            scores.with_attributions(
                _on_tokens(read[kind], texts, normalized=kind == "attention"),
                signed=kind in SIGNED_KINDS,
                parts={"attribution_gap": gaps[kind]} if kind in gaps else {},
            )
            for kind in kinds
        ] or [scores]

    def _padding(self, sequences: Sequence[Sequence[int]]) -> NDArray[np.int64]:
        """Return the ids at each end that transformers takes for padding, (sequences,).

        It reads a causal model at the last id that does not pad, which an EOS that pads is not.
        """
        config: Any = self.model.config
        ends = config.eos_token_id if self.tokenizer is None else self.tokenizer.eos_token_id
        counts, pad = np.zeros(len(sequences), dtype=np.int64), config.pad_token_id
        if self._is_encoder or pad is None or pad not in np.atleast_1d(ends):
            return counts
        for row, ids in enumerate(sequences):
            while counts[row] < len(ids) - 1 and ids[-1 - counts[row]] == pad:
                counts[row] += 1
        return counts

    def _check_readable(self, sequences: Sequence[Sequence[int]]) -> None:
        """Refuse texts, and ids, that the model cannot read."""
        if self._always_text and self._retokenizer is None:
            raise ScorerError(
                f"scorer {self.name!r} reads texts and does not know the policy's tokenizer; "
                "call bind(tokenizer) first"
            )
        check_lengths(sequences, self._limit, self.name)
        for index, ids in enumerate(sequences):
            if ids and (max(ids) >= self._vocab_size or min(ids) < 0):
                raise TokenizerError(
                    f"episode {index} has token ids from {min(ids)} to {max(ids)}, scorer "
                    f"{self.name!r} has a vocabulary of {self._vocab_size}; score with a model of "
                    "the policy's tokenizer"
                )


register_scorer("reward-model", loaded_once(RewardModel.from_pretrained))
