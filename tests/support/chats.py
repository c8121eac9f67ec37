"""Random conversations, chat templates like known ones, and tokenizers of three kinds."""

import json
import random
from functools import cache
from typing import Any

from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    trainers,
)
from transformers import PreTrainedTokenizerFast

WORDS = (
    "the film was good bad long day sun who sings what is it now yes no please think hard".split()
)
THINK = ("<think>", "</think>")
MARKS = ("<|im_start|>", "<|im_end|>", "<|head|>", "<|/head|>", "<|eot|>", "<turn>", "</turn>")
SPECIAL = ("<pad>", "</s>", "<s>", "[INST]", "[/INST]", *MARKS)
_CALLS = "{% for c in m.tool_calls or [] %}\n<call> {{ c | tojson }} </call>{% endfor %}"
TEMPLATES = {
    "chatml": "{% if tools %}<|im_start|>system\n{{ tools | tojson }}<|im_end|>\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}{{ ' ' + m.name if m.name else '' }}\n"
    "{{ m.content }}{{ m.reasoning_content or '' }}" + _CALLS + "{{ m.tool_call_id or '' }}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
    "llama 3": "<s>{% for m in messages %}<|head|>{{ 'ipython' if m.role == 'tool' else m.role }}"
    "<|/head|>\n\n{% if tools and loop.first %}{{ tools | tojson }}\n{% endif %}"
    "{{ m.content | trim }}" + _CALLS + "<|eot|>{% endfor %}"
    "{% if add_generation_prompt %}<|head|>assistant<|/head|>\n\n{% endif %}",
    "gemma": "<s>{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}"
    "{% endif %}{% for m in messages %}<turn>{{ 'model' if m.role == 'assistant' else m.role }}\n"
    "{{ m.content | trim }}</turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<turn>model\n{% endif %}",
    "qwen 3": "{% if tools %}<|im_start|>system\n{{ tools | tojson }}<|im_end|>\n{% endif %}"
    "{% set ns = namespace(last=0) %}{% for m in messages %}{% if m.role == 'user' %}"
    "{% set ns.last = loop.index0 %}{% endif %}{% endfor %}"
    "{% for m in messages %}{% if m.role == 'assistant' %}{% set c = m.content %}"
    "{% set r = m.reasoning_content or '' %}{% if '</think>' in c %}"
    "{% set r = c.split('</think>')[0].rstrip('\n').split('<think>')[-1].lstrip('\n') %}"
    "{% set c = c.split('</think>')[-1].lstrip('\n') %}{% endif %}<|im_start|>assistant\n"
    "{% if loop.index0 > ns.last and (loop.last or r) %}"
    "<think>\n{{ r.strip('\n') }}\n</think>\n\n{% endif %}{{ c.lstrip('\n') }}"
    + _CALLS
    + "<|im_end|>\n"
    "{% elif m.role == 'tool' %}<|im_start|>user\n<result>\n{{ m.content }}\n</result><|im_end|>\n"
    "{% else %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}"
    "{% endif %}",
    "stripping": "{% for m in messages %}<|im_start|>{{ m.role }}:\n"
    "{% if m.role == 'assistant' and not loop.last %}{{ m.content.split('</think>')[-1].strip() }}"
    "{% else %}{{ m.content.strip() }}{% endif %}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant:\n{% endif %}",
    "alternating": "<s>{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}{% if m.role == 'user' %}"
    "[INST] {{ m.content }} [/INST]{% else %} {{ m.content }}</s>{% endif %}{% endfor %}",
}
"""Six chat templates by name."""


def trained_backend(kind: str) -> Tokenizer:
    """Return a tokenizer without special tokens, trained on all that templates may write."""
    extra = "system user assistant tool ipython model result call name function add search id"
    texts = [" ".join(WORDS), extra, '<call> {"name": "add"} </call>\n: ', *WORDS] * 4
    if kind == "words":
        words = ["<unk>", *WORDS, *extra.split(), *map(chr, range(33, 127))]
        made = Tokenizer(
            models.WordLevel({w: i for i, w in enumerate(dict.fromkeys(words))}, "<unk>")
        )
        made.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation()]
        )
        return made
    if kind == "unigram":
        made = Tokenizer(models.Unigram())
        made.normalizer = normalizers.Replace(" ", "\u2581")
        made.decoder = decoders.Replace("\u2581", " ")
        alphabet = [*map(chr, range(33, 127)), "\u2581", "\n"]
        trainer: Any = trainers.UnigramTrainer(
            vocab_size=300, special_tokens=["<unk>"], unk_token="<unk>", initial_alphabet=alphabet
        )
    else:
        made = Tokenizer(models.BPE())
        made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        made.decoder = decoders.ByteLevel()
        letters = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(vocab_size=400, initial_alphabet=letters)
    made.train_from_iterator(texts, trainer)
    return made


@cache
def make_tokenizer(kind: str, template: str) -> Any:
    """Return a tokenizer with a template.

    Args:
        kind: "words", "bytes" or "unigram", with "+think" where the tags of thoughts are special.
        template: Name of the template.
    """
    backend = trained_backend(kind.removesuffix("+think"))
    made = PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", eos_token="</s>", bos_token="<s>"
    )
    more = [AddedToken(token, special=True, normalized=False) for token in SPECIAL]
    made.add_tokens(more, special_tokens=True)
    special = kind.endswith("+think")
    tags = [AddedToken(token, special=special, normalized=False) for token in THINK]
    made.add_tokens(tags, special_tokens=special)
    made.chat_template = TEMPLATES[template]
    return made


KINDS = ("words", "bytes", "unigram", "bytes+think")


def reads_tags(kind: str, template: str) -> bool:
    """Return whether tags in contents are text, or such as the template looks for."""
    return not kind.endswith("+think") or "</think>" in TEMPLATES[template]


class Talks:
    """Random conversations with two replies to each.

    Args:
        seed: Of the draws.
        tags: Whether thoughts may stand in a content between their tags.
    """

    def __init__(self, seed: int, *, tags: bool = True) -> None:
        self._rng = random.Random(seed)
        self._tags = tags

    def row(self) -> dict[str, Any]:
        """Return a row: messages, two replies, and sometimes tools and arguments of a template."""
        rng, row = self._rng, dict[str, Any]()
        messages = [self._said("system")] if rng.random() < 0.4 else []
        for turn in range(rng.randint(1, 3)):
            if turn:
                messages.append(self._answer(thinks=rng.random() < 0.5))
            messages.append(self._said("user"))
            if rng.random() < 0.2:
                messages[-1]["name"] = rng.choice(WORDS)
        if rng.random() < 0.3:
            row["tools"] = [self._tool() for _ in range(rng.randint(1, 2))]
            if rng.random() < 0.5:
                call = {"name": row["tools"][0]["name"], "arguments": {"x": rng.randint(1, 9)}}
                made = {"role": "assistant", "content": "", "tool_calls": [call]}
                result = {**self._said("tool"), "tool_call_id": "id"}
                messages += [made, result]
        thinks = rng.random() < 0.5
        if not thinks and rng.random() < 0.5:
            row["chat_template_kwargs"] = {"enable_thinking": False}
        chosen, rejected = self._answer(thinks=thinks), self._answer(thinks=thinks)
        rejected["content"] += " no"
        return {**row, "prompt": messages, "chosen": [chosen], "rejected": [rejected]}

    def _text(self) -> str:
        return " ".join(self._rng.choices(WORDS, k=self._rng.randint(1, 7)))

    def _said(self, role: str) -> dict[str, Any]:
        return {"role": role, "content": self._text()}

    def _answer(self, *, thinks: bool) -> dict[str, Any]:
        said = self._said("assistant")
        if thinks and (self._rng.random() < 0.5 or not self._tags):
            said["reasoning_content"] = self._text()
        elif thinks:
            said["content"] = f"<think>\n{self._text()}\n</think>\n\n{said['content']}"
        return said

    def _tool(self) -> dict[str, Any]:
        return {"name": self._rng.choice(("add", "search")), "parameters": {"x": "number"}}


def applied(tokenizer: Any, row: dict[str, Any], *reply: Any, ids: bool = True) -> Any:
    """Return what the tokenizer's own method makes of a row; None where the template refuses it."""
    options = {"add_generation_prompt": not reply, **row.get("chat_template_kwargs", {})}
    try:
        text = tokenizer.apply_chat_template(
            json.loads(json.dumps([*row["prompt"], *reply])),
            tools=row.get("tools"),
            tokenize=False,
            **options,
        )
    except Exception:
        return None
    return tokenizer(text, add_special_tokens=False)["input_ids"] if ids else text
