"""Prompts of given pairs: a part is held out of learning, and the policy is measured on them."""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from tokengym.agents.offline.settings import DPOSettings, SFTSettings
from tokengym.base.chat import Chat
from tokengym.base.errors import DatasetError
from tokengym.base.prompt import Prompt, PromptSet
from tokengym.envs.prompts.tables import SkippedRow
from tokengym.rewards.pairs.encode import (
    EncodedTexts,
    TextEncoding,
    encode_examples,
    pair_rows,
    response_rows,
)
from tokengym.rewards.pairs.read import Example, read_table, reply_text

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

HELD_OUT = 0.1
"""Share of the distinct prompts that are held out."""
_TEXTS = ("prompt", "chosen", "rejected", "completion", "response")
_NO_METADATA = {*_TEXTS, *(f"{name}_ids" for name in _TEXTS)}


@dataclass(frozen=True, kw_only=True)
class OwnTexts:
    """Given pairs, or responses, as ids, those of held-out prompts apart."""

    train: EncodedTexts
    """What is learned from, with the rows that were left out."""
    held_out: EncodedTexts
    """What is not, with the rows of ``eval_pairs`` that were left out."""
    train_prompts: PromptSet
    """Their distinct prompts."""
    test_prompts: PromptSet
    """Those of what is held out."""

    @property
    def longest_prompt(self) -> int:
        """Most tokens of a prompt."""
        return max(len(row.prompt) for row in (*self.train.rows, *self.held_out.rows))

    @property
    def longest_response(self) -> int:
        """Most tokens of a response, EOS included."""
        rows = (*self.train.rows, *self.held_out.rows)
        return max(len(ids) for row in rows for ids in row.responses)


def text_encoding(settings: SFTSettings, **how: Any) -> TextEncoding:
    """Return how a run's file is read."""
    return TextEncoding(
        on_error=settings.on_error,
        overlong=settings.overlong_rows,
        learn_on=settings.learn_on,
        prompt_column=settings.pairs_prompt_column,
        **how,
    )


def check_files(settings: SFTSettings, batch_size: int) -> None:
    """Refuse files of data that are not there or cannot be read, before anything is made.

    Raises:
        DatasetError: naming the file.
    """
    del batch_size
    for source in (settings.pairs, settings.eval_pairs):
        if source is not None:
            read_table(source, of="data", texts=(settings.pairs_prompt_column,))


def read_own(
    settings: SFTSettings,
    tokenizer: "PreTrainedTokenizerBase",
    encoding: TextEncoding,
    *,
    max_positions: int | None,
) -> OwnTexts | None:
    """Return the pairs, or responses, of a run's file, divided; None if their prompts are no texts.

    Which prompts are held out depends on their texts alone, not on the order of the rows: all rows
    of a prompt stand on one side. Those of ``eval_pairs`` are held out where they are given: rows
    of ``pairs`` that share a prompt with them are left out.
    """
    read = pair_rows if isinstance(settings, DPOSettings) else response_rows

    def sides(source: Any) -> tuple[EncodedTexts, dict[int, Prompt]] | None:
        table = read_table(source, of="data", texts=(encoding.prompt_column,))
        rows, skipped = read(table, encoding)
        examples = {row.row: row for row in rows}
        columns = {n: told for n, told in enumerate(table) if n in examples}
        encoded = encode_examples(rows, skipped, tokenizer, encoding, max_positions)
        numbers = [row.row for row in encoded.rows]
        # Rows that were collected have ids, and the text of the prompt beside them.
        if any(_said(examples[n], columns[n]) is None for n in numbers):
            return None
        return encoded, {n: _prompt(examples[n], columns[n], encoding) for n in numbers}

    if (given := sides(settings.pairs)) is None:
        return None
    texts, prompts = given
    if settings.eval_pairs is None:
        names = {_key(prompt) for prompt in prompts.values()}
        ranked = sorted(names, key=lambda name: hashlib.sha256(name.encode()).digest())
        if len(ranked) < 2:
            raise DatasetError(
                f"the data have {len(ranked)} distinct prompt, so that none can be held out to "
                "measure on; give more, or pass eval_pairs="
            )
        held = set(ranked[: max(1, round(HELD_OUT * len(ranked)))])
        measured = [row for row in texts.rows if _key(prompts[row.row]) in held]
        held_out, held_prompts = EncodedTexts(rows=tuple(measured), skipped=()), prompts
        skipped = list(texts.skipped)
    else:
        if (other := sides(settings.eval_pairs)) is None:
            raise DatasetError(
                f"eval_pairs={settings.eval_pairs!r} has token ids and no texts of prompts, on "
                "which the policy would be measured; add a column prompt, or pass "
                "own_prompts=False to measure on the task's prompts"
            )
        held_out, held_prompts = other
        held = {_key(prompt) for prompt in held_prompts.values()}
        skipped = [
            *texts.skipped,
            *(
                SkippedRow(
                    row=n,
                    kind="with prompts of eval_pairs",
                    reason=f"row {n} of the data has the prompt {prompt.text[:40]!r}, which "
                    "eval_pairs holds out",
                )
                for n, prompt in prompts.items()
                if _key(prompt) in held
            ),
        ]
    learned = [row for row in texts.rows if _key(prompts[row.row]) not in held]
    train = replace(texts, rows=tuple(learned), skipped=tuple(skipped))
    if not learned:
        raise DatasetError(
            f"nothing is left to learn from: {train.report()}; {skipped[-1].reason}; give "
            "eval_pairs other prompts"
        )
    return OwnTexts(
        train=train,
        held_out=held_out,
        train_prompts=_distinct(prompts[row.row] for row in learned),
        test_prompts=_distinct(held_prompts[row.row] for row in held_out.rows),
    )


def _key(prompt: Prompt) -> str:
    """Return what two prompts that read the same share."""
    return repr((prompt.text, prompt.messages))


def _distinct(prompts: Iterable[Prompt]) -> PromptSet:
    return PromptSet({_key(prompt): prompt for prompt in prompts}.values())


def _said(row: Example[Any], told: Mapping[str, Any]) -> Any:
    """Return a row's prompt as a text or conversation; None if it has ids alone, or no prompt."""
    prompt = row.prompt if isinstance(row.prompt, str | Chat) else told.get("prompt")
    return prompt if isinstance(prompt, str | Chat) and prompt else None


def _prompt(row: Example[Any], told: Mapping[str, Any], encoding: TextEncoding) -> Prompt:
    """Return a row's prompt, its first response as reference, its other columns as metadata."""
    others = {*_NO_METADATA, encoding.prompt_column}
    columns = {name: value for name, value in told.items() if name not in others}
    prompt, chosen = _said(row, told), row.responses[0]
    if isinstance(chosen, Chat | list):
        chosen = reply_text(list(chosen))
    reference = chosen if isinstance(chosen, str) else told.get("chosen")
    if isinstance(prompt, Chat):
        return Prompt.from_messages(prompt, reference=reference, metadata=columns)
    return Prompt(prompt, reference=reference, metadata=columns)
