"""Training reward and preference models: pairs in, a stored and measured model out."""

import copy
import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from fractions import Fraction
from math import ceil, floor
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from tokengym.base import drawn_from, from_pretrained, say_shared, select_device
from tokengym.envs import DatasetError, Prompt, without_beginning
from tokengym.lab.scorers.preference_model import (
    ANSWERS,
    TEMPLATE,
    check_template,
    missing_tokens,
    store_format,
)
from tokengym.lab.training.fitting import Report, RewardTraining, fit, let_learn
from tokengym.lab.training.readers import (
    Collator,
    LearnedPair,
    PairModule,
    PairReader,
    PreferenceReader,
    RewardReader,
    Sequences,
    bootstrap,
)
from tokengym.lab.training.results import (
    TrainedReward,
    TrainerPaths,
    accuracy_again,
    fingerprint,
    hash_weights,
    measure_pairs,
)
from tokengym.rewards import PreferencePair, PreferencePairs, RewardError, read_pairs
from tokengym.rewards.models import load_tokenizer, longest_input
from tokengym.rewards.pairs import TableSource

if TYPE_CHECKING:
    from peft import LoraConfig
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_LOG = logging.getLogger(__name__)
MAX_PROMPTS = 10**6
"""Most prompts of which one is held out: a smaller share is taken as 0."""


@dataclass(frozen=True, kw_only=True)
class StartingPoint:
    """Starting point of a training."""

    kind: str
    """"reward" or "preference"."""
    source: str
    """Origin of the model, for messages and the record."""
    model: "PreTrainedModel"
    """The model that is trained."""
    tokenizer: "PreTrainedTokenizerBase"
    """Its own."""
    make_reader: "Callable[[PreTrainedModel], PairReader]"
    """Reads pairs with the model, or with the same one after adapters were put in."""
    lora: "LoraConfig | None"
    """Settings of the adapters, if any."""
    merge: bool = True
    """Whether adapters are added to the model's weights before it is stored."""
    format: Mapping[str, Any] = field(default_factory=dict)
    """Everything else that the training depends on."""


class ReadablePairs(NamedTuple):
    """Pairs that the model can read, with their ids."""

    pairs: PreferencePairs
    sequences: list[Sequences]


def _train_on_pairs(
    start: StartingPoint,
    pairs: TableSource,
    *,
    output_dir: str | Path,
    held_out: float | TableSource,
    training: RewardTraining,
    report: Report | None,
) -> TrainedReward:
    """Train, measure on held-out pairs, and store; see `train_reward_model`."""
    train_pairs, test_pairs = divide(pairs, held_out)
    reader = start.make_reader(start.model)
    train, test = (
        encode_side(side, reader, start.tokenizer, training) for side in (train_pairs, test_pairs)
    )
    skipped = Counter(train.pairs.skip_counts()) + Counter(test.pairs.skip_counts())
    batch_size = training.micro_batch_size
    workplace = TrainerPaths(
        output_dir,
        {
            "kind": start.kind,
            "model": start.source,
            "weights": hash_weights(start.model),
            **{
                name: fingerprint(map(_content_of, side.pairs))
                for name, side in (("pairs", train), ("held_out", test))
            },
            "lora": None if start.lora is None else start.lora.to_dict(),
            "merge": start.merge,
            **start.format,
            **training.what_counts(),
        },
    )
    with workplace.begun():
        model, losses = _fit(start, reader, train, training, workplace, report)
        reader = start.make_reader(model if start.merge else model.get_base_model())
        metrics = measure_pairs(reader, test.pairs, test.sequences, batch_size=batch_size)
        reader.describe(model.config, train.pairs)
        if start.tokenizer.pad_token_id is not None:  # transformers looks for texts' ends by it
            model.config.pad_token_id = start.tokenizer.pad_token_id
        model.eval()
        trained = TrainedReward(
            path=workplace.result,
            metrics=metrics,
            train_loss=sum(losses) / len(losses),
            train_accuracy=accuracy_again(reader, train.sequences, batch_size=batch_size),
            pairs=len(train.pairs),
            skipped=dict(skipped),
        )
        measures = {
            "held_out": asdict(metrics),
            "trained_on": trained.pairs,
            "train_accuracy": trained.train_accuracy,
            "undertrained": trained.undertrained,
            "skipped": trained.skipped,
            "losses": losses,
        }
        workplace.store(model, start.tokenizer, measures)
    _LOG.info("%s model in %s: %s", start.kind, workplace.result, metrics)
    return trained


def _content_of(pair: PreferencePair) -> tuple[Any, ...]:
    """Return all that a training reads of a pair."""
    said = (pair.messages, pair.replies) if pair.messages else ()
    return (pair.prompt, pair.chosen, pair.rejected, pair.margin, *said)


def divide(
    pairs: TableSource, held_out: float | TableSource
) -> tuple[PreferencePairs, PreferencePairs]:
    """Return the pairs to train on, and those held out."""
    everything = read_pairs(pairs)
    if not isinstance(held_out, (int, float)):
        others = read_pairs(held_out)
        say_shared(
            *([p.prompt or (p.chosen, p.rejected) for p in side] for side in (everything, others))
        )
        return everything, others
    train, test = split_pairs(everything, held_out)
    return everything.select(train), replace(everything.select(test), skipped=())


def encode_side(
    pairs: PreferencePairs,
    reader: PairReader,
    tokenizer: "PreTrainedTokenizerBase",
    training: RewardTraining,
) -> ReadablePairs:
    """Return the pairs that the model can read, with their ids.

    Args:
        pairs: To train on, or held out.
        reader: Says what of them is read.
        tokenizer: The model's.
        training: Says how long texts may be, and what happens to longer ones.
    """
    limit = min(training.max_tokens, longest_input(reader.model) or training.max_tokens)
    sequences = reader.encode(pairs, tokenizer)
    while training.overlong == "left":  # what is too long even without its prompt is dropped
        cut = {
            place: shorter
            for place, both in enumerate(sequences)
            if (excess := max(map(len, both)) - limit) > 0
            and (shorter := _without_beginning(pairs[place], tokenizer, excess))
        }
        if not cut:
            break
        pairs = replace(pairs, pairs=tuple(cut.get(n, pair) for n, pair in enumerate(pairs)))
        sequences = reader.encode(pairs, tokenizer)
    lengths = [max(map(len, both)) for both in sequences]
    fitting = limit_lengths(pairs, lengths, max_tokens=limit, drop=training.overlong != "error")
    kept = set(fitting.rows)
    chosen = [ids for row, ids in zip(pairs.rows, sequences, strict=True) if row in kept]
    return ReadablePairs(pairs=fitting, sequences=chosen)


def _without_beginning(
    pair: PreferencePair, tokenizer: "PreTrainedTokenizerBase", count: int
) -> PreferencePair | None:
    """Return a pair with a shorter prompt; None where none would be left."""
    if not pair.prompt.strip():
        return None
    prompt = Prompt(pair.prompt, messages=pair.messages)
    cut = without_beginning(prompt, tokenizer, count)
    return None if cut is None else replace(pair, prompt=cut.text, messages=cut.messages)


def limit_lengths(
    pairs: PreferencePairs, lengths: Sequence[int], *, max_tokens: int, drop: bool
) -> PreferencePairs:
    """Return the pairs that a model can read.

    Args:
        pairs: The pairs.
        lengths: (pairs,) tokens of each pair's longer text, prompt included.
        max_tokens: Most tokens of a text.
        drop: Whether pairs with a longer one are left out; otherwise they stop everything.
    """
    long = {
        index: f"row {row} of the pairs: its longer text has {length} tokens, more than max_tokens="
        f"{max_tokens}; raise max_tokens, or pass overlong='left' or 'drop'"
        for index, (row, length) in enumerate(zip(pairs.rows, lengths, strict=True))
        if length > max_tokens
    }
    if not long:
        return pairs
    if not drop:
        others = f" ({len(long) - 1} more rows likewise)" if len(long) > 1 else ""
        raise DatasetError(next(iter(long.values())) + others)
    fitting = pairs.without(long, "overlong")
    if not fitting:
        raise DatasetError(f"no pair is left: {fitting.report()}; {next(iter(long.values()))}")
    return fitting


def split_pairs(pairs: Sequence[PreferencePair], share: float) -> tuple[list[int], list[int]]:
    """Return which pairs to train on, and which are held out: all those of a share of the prompts.

    Every k-th prompt is held out where the share is 1/k; others are spread as evenly. Pairs without
    a prompt count as having one each. The same pairs are split the same way.

    Args:
        pairs: All of them.
        share: Share of prompts to hold out, in (0, 1).

    Returns:
        Places in ``pairs``, ascending; no prompt is on both sides.

    Example:
        >>> texts = "aabbccdd"
        >>> pairs = [PreferencePair(prompt=text, chosen="x", rejected="y") for text in texts]
        >>> split_pairs(pairs, 0.25)
        ([0, 1, 2, 3, 4, 5], [6, 7])
    """
    if not 0.0 < share < 1.0:
        raise DatasetError(f"held_out must be a share in (0, 1), or pairs, got {share}")
    exact = Fraction(share).limit_denominator(MAX_PROMPTS)  # as a float 1/49 of 49 is below 1
    groups: dict[str | int, list[int]] = {}
    for number, pair in enumerate(pairs):
        groups.setdefault(pair.prompt or number, []).append(number)
    sides: tuple[list[int], list[int]] = ([], [])
    for number, places in enumerate(groups.values()):
        is_held_out = floor((number + 1) * exact) > floor(number * exact)
        sides[is_held_out].extend(places)
    rest, held_out = sorted(sides[0]), sorted(sides[1])
    if not rest or not held_out:
        least = ceil(100 / len(groups)) / 100 if len(groups) > 1 else None
        raise DatasetError(
            f"{len(pairs)} pairs of {len(groups)} prompts with held_out={share} leave {len(rest)} "
            f"to train on and {len(held_out)} held out; "
            + (f"pass held_out={least:g}" if least else "give pairs of other prompts")
        )
    return rest, held_out


def load_start(
    model: Any, auto_class: Any, seed: int, *, device: str, dtype: str, **options: Any
) -> "PreTrainedModel":
    """Return the model to start from; weights that it lacks, such as a head, are drawn anew."""
    if not isinstance(model, (str, Path)):
        for name, value in (("device", device), ("dtype", dtype)):
            if value != "auto":
                raise RewardError(
                    f"{name}={value!r} has no effect on a model that is loaded already; leave it "
                    "out, and move the model, or pass its folder"
                )
        _LOG.warning("a copy of the model object learns; what it has learned is in output_dir")
        return copy.deepcopy(model)
    with drawn_from(seed):
        try:
            precision = "float32" if dtype == "auto" else dtype
            if "num_labels" in options:
                options |= _new_head(model, options["num_labels"])
            network = from_pretrained(auto_class, model, dtype=precision, **options)
        except ValueError as error:
            raise RewardError(str(error)) from error
    return network.to(select_device(device))


def _new_head(model: str | Path, num_labels: int) -> dict[str, Any]:
    """Return how a stored classifier of another number of classes is loaded, and say so."""
    from transformers import AutoConfig

    config = from_pretrained(AutoConfig, model)
    is_classifier = any("SequenceClassification" in one for one in config.architectures or ())
    if not is_classifier or config.num_labels == num_labels:
        return {}
    _LOG.warning(
        "the head of %s gives %d numbers (num_labels), and %d must be learned: a new one is drawn, "
        "and what the old one knew is lost",
        *(model, config.num_labels, num_labels),
    )
    return {"ignore_mismatched_sizes": True}


def tokenizer_of(
    model: "str | Path | PreTrainedModel", tokenizer: "PreTrainedTokenizerBase | None"
) -> "PreTrainedTokenizerBase":
    """Return the tokenizer that was given, or the one beside the model.

    Args:
        model: A folder, a hub name, or the model itself.
        tokenizer: What was given.
    """
    if tokenizer is None and isinstance(model, (str, Path)):
        tokenizer = load_tokenizer(model)
    if tokenizer is None:
        raise RewardError("the model needs its tokenizer; pass tokenizer=")
    return tokenizer


def _fit(
    start: StartingPoint,
    reader: PairReader,
    side: ReadablePairs,
    training: RewardTraining,
    workplace: TrainerPaths,
    report: Report | None,
) -> tuple[Any, list[float]]:
    """Return the trained model, adapters merged if they are to be, and the loss of each step."""
    weights = bootstrap(len(side.sequences), training.heads, training.seed).tolist()
    rows = [
        LearnedPair(
            sequences=sequences,
            margin=0.0 if pair.margin is None else pair.margin,
            weights=tuple(row),
        )
        for pair, sequences, row in zip(side.pairs, side.sequences, weights, strict=True)
    ]

    def trained(module: torch.nn.Module, reader: PairReader) -> list[float]:
        return fit(
            PairModule(module, reader, training.label_smoothing),
            rows,
            Collator(reader.padding_side),
            training,
            device=reader.model.device,
            folder=workplace.checkpoints,
            report=report,
        )

    if start.lora is None:
        let_learn(start.model, training)
        return start.model, trained(start.model, reader)
    from peft import get_peft_model

    with drawn_from(training.seed):
        adapted: Any = get_peft_model(start.model, start.lora)
    # The layers are replaced inside the model, so the reader of the base reads the adapters too.
    losses = trained(adapted, start.make_reader(adapted.get_base_model()))
    return (adapted.merge_and_unload() if start.merge else adapted), losses


# --- reward models --------------------------------------------------------------------------------


def train_reward_model(
    model: "str | Path | PreTrainedModel",
    pairs: TableSource,
    *,
    output_dir: str | Path,
    tokenizer: "PreTrainedTokenizerBase | None" = None,
    held_out: float | TableSource = 0.1,
    lora: "LoraConfig | None" = None,
    device: str = "auto",
    dtype: str = "auto",
    merge: bool = True,
    training: RewardTraining | None = None,
    report: Report | None = None,
) -> TrainedReward:
    """Train a reward model on preference pairs, measure it on held-out pairs, and store it.

    loss = -log sigmoid(R(x, y_w) - R(x, y_l) - margin), R the one logit at the text's last token

    A training that was stopped resumes from its last checkpoint when it is called again with the
    same arguments; the result is the same, number for number.

    Args:
        model: Where it starts from: the folder or name of a causal language model, an encoder of
            BERT's line or a classifier, or a classifier with one logit, a copy of which is trained.
            A missing head is initialised, and so are those of ``training.heads``.
        pairs: From `read_pairs`, or what that reads with its defaults.
        output_dir: Where the model, its tokenizer and ``measures.json`` are stored, whole or not
            at all; ``<output_dir>.unfinished`` holds the checkpoints until then.
        tokenizer: The model's; None loads the one beside it.
        held_out: Share of the prompts whose pairs are held out, or other pairs.
        lora: Trains adapters of this configuration and the head.
        device: Device that trains; "auto" takes a GPU if there is one.
        dtype: Precision of the weights; "auto" is float32. Small steps vanish in bfloat16.
        merge: Adds them to the model's weights before storing. False stores adapters and head
            alone, which ``RewardModel.from_pretrained(..., backbone=)`` puts on a backbone.
        training: How; see `RewardTraining`.
        report: Called after each step with the steps done, all of them, and the loss.

    Raises:
        RewardError: if there is no tokenizer, the loss is no longer finite, the folder is in use,
            or there are no adapters that could stay unmerged.
        ScorerError: if the model has no head for one score.
        DatasetError: if the pairs cannot be read, or a text is too long.
    """
    from transformers import AutoModelForSequenceClassification

    if lora is None and not merge:
        raise RewardError("merge = False stores adapters alone; pass lora=LoraConfig(...)")
    training = training or RewardTraining()
    if training.heads > 1 and not merge:
        raise RewardError(f"merge = False stores one head, got heads={training.heads}; merge them")
    if training.head_only and lora is not None:
        raise RewardError("head_only=True trains no adapters; leave lora or head_only out")
    network = load_start(
        model,
        AutoModelForSequenceClassification,
        training.seed,
        device=device,
        dtype=dtype,
        num_labels=training.heads,
    )
    if network.config.num_labels != training.heads:
        raise RewardError(
            f"heads={training.heads}, but {type(network).__name__} has {network.config.num_labels} "
            "logits; pass its folder, or a model with num_labels of that many"
        )
    if training.heads > 1:
        network.config.reward_heads = training.heads  # so `RewardModel` reads their mean
    model_tokenizer = tokenizer_of(model, tokenizer)
    if merge:
        model_tokenizer = _with_own_pad(model_tokenizer, network, training.seed)
    start = StartingPoint(
        kind="reward",
        source=str(model) if isinstance(model, (str, Path)) else type(model).__name__,
        model=network,
        tokenizer=model_tokenizer,
        make_reader=lambda base: RewardReader(
            base, append_eos=training.append_eos, chat_template=training.chat_template
        ),
        lora=None if lora is None else replace(lora, task_type="SEQ_CLS"),
        merge=merge,
        format={} if dtype == "auto" else {"dtype": dtype},
    )
    return _train_on_pairs(
        start, pairs, output_dir=output_dir, held_out=held_out, training=training, report=report
    )


PAD = "<|pad|>"
"""Token of padding that a tokenizer gets which has none, or has its EOS for it."""


def _with_own_pad(
    tokenizer: "PreTrainedTokenizerBase", network: Any, seed: int
) -> "PreTrainedTokenizerBase":
    """Return a tokenizer whose padding is no EOS, and give the model a row for it if it has none.

    transformers, and TRL, read a score at the last token that is no padding: with an EOS for
    padding that is the token before the text's own EOS, at which it was trained.
    """
    if tokenizer.pad_token_id not in (None, tokenizer.eos_token_id):
        return tokenizer
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.add_special_tokens({"pad_token": PAD})
    _give_rows(network, len(tokenizer), seed)
    return tokenizer


def _give_rows(network: Any, size: int, seed: int) -> None:
    """Give a model embeddings for all ids of a vocabulary."""
    if size > network.get_input_embeddings().num_embeddings:
        with drawn_from(seed):  # new rows are drawn about the others' mean
            network.resize_token_embeddings(size)


# --- preference models ----------------------------------------------------------------------------


def train_preference_model(
    model: "str | Path | PreTrainedModel",
    pairs: TableSource,
    *,
    output_dir: str | Path,
    tokenizer: "PreTrainedTokenizerBase | None" = None,
    held_out: float | TableSource = 0.1,
    lora: "LoraConfig | None" = None,
    device: str = "auto",
    dtype: str = "auto",
    training: RewardTraining | None = None,
    template: str = TEMPLATE,
    answers: tuple[str, str] = ANSWERS,
    report: Report | None = None,
) -> TrainedReward:
    """Train a pairwise preference model, measure it on held-out pairs, and store it.

    The model reads the prompt and two responses and answers with one token. Each pair is asked in
    both orders, and each answer has the loss

    -log sigmoid(logit of the right answer - logit of the other - margin)

    which is the cross-entropy over the two answers, the only logits that `PreferenceModel` reads.
    The template and the answers are stored in the model's configuration, where that scorer finds
    them. What the tokenizer does not know of them is added to it, with a new row in the
    embeddings; a tokenizer of bytes or pieces knows them all.

    Args:
        model: Where it starts from: the folder or hub name of a causal language model, or the
            model itself, a copy of which is trained.
        pairs: From `read_pairs`, or what that reads with its defaults.
        output_dir: This and the next six as for `train_reward_model`.
        tokenizer: The model's.
        held_out: Share of the prompts, or other pairs.
        lora: Adapters, which are merged before storing.
        device: Device that trains.
        dtype: Precision of the weights.
        training: How. Settings of a reward model's head and texts are refused.
        template: The question, with ``{context}``, ``{a}`` and ``{b}``.
        answers: What stands for the first and the second response; one token each.
        report: Called after each step with the steps done, all of them, and the loss.

    Raises:
        RewardError: as for `train_reward_model`.
        ScorerError: if the template lacks a field.
        TokenizerError: if the answers are one token.
        DatasetError: if the pairs cannot be read, or a question is too long.

    Source: Dong et al. 2024, "RLHF Workflow", arXiv:2405.07863, section 2.3.
    """
    from transformers import AutoModelForCausalLM

    check_template(template)
    training = training or RewardTraining()
    training.refuse(
        "head_only",
        "heads",
        because="is of the linear layer of a reward model, which a preference model has not",
    )
    training.refuse(
        "append_eos",
        "chat_template",
        because="is of the texts of a reward model; a preference model reads template",
    )
    network = load_start(model, AutoModelForCausalLM, training.seed, device=device, dtype=dtype)
    tokenizer = tokenizer_of(model, tokenizer)
    tokenizer, added = _with_tokens(tokenizer, template, answers)
    if added:
        _give_rows(network, len(tokenizer), training.seed)
        _LOG.info("the tokenizer now knows %s", ", ".join(map(repr, added)))
    store_format(network, template, answers)
    if lora is not None:
        vocabulary = tokenizer.get_vocab()
        new = [vocabulary[token] for token in added]
        lora = replace(lora, task_type="CAUSAL_LM", trainable_token_indices=new or None)
    start = StartingPoint(
        kind="preference",
        source=str(model) if isinstance(model, (str, Path)) else type(model).__name__,
        model=network,
        tokenizer=tokenizer,
        make_reader=lambda base: PreferenceReader(
            base, tokenizer, template=template, answers=answers
        ),
        lora=lora,
        format={"template": template, "answers": list(answers)}
        | ({} if dtype == "auto" else {"dtype": dtype}),
    )
    return _train_on_pairs(
        start, pairs, output_dir=output_dir, held_out=held_out, training=training, report=report
    )


def _with_tokens(
    tokenizer: "PreTrainedTokenizerBase", template: str, answers: tuple[str, str]
) -> "tuple[PreTrainedTokenizerBase, list[str]]":
    """Return a tokenizer that can read the question, and the tokens that were added to it."""
    from transformers import AddedToken

    pieces, unknown = missing_tokens(tokenizer, template, answers)
    if not pieces and not unknown:
        return tokenizer, []
    tokenizer = copy.deepcopy(tokenizer)
    # Not normalised: a tokenizer that lowers case would make them words of the text. The pieces are
    # special, so that the contents of a question cannot write them.
    tokenizer.add_tokens(
        [AddedToken(piece, normalized=False, special=True) for piece in pieces],
        special_tokens=True,
    )
    tokenizer.add_tokens(
        [AddedToken(answer, normalized=False, single_word=True) for answer in unknown]
    )
    return tokenizer, [*pieces, *unknown]
