"""A prompt that is too long has one truth: it is cut to another prompt, which all readers read."""

from typing import Any

import gymnasium
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from tokengym.agents import DPO, SFT
from tokengym.base.prompt import Prompt
from tokengym.envs.prompts.cutting import without_beginning
from tokengym.rewards.pairs.encode import TextEncoding

LONG = "the film is good and bad who is it that sings numbers 1 2 3"


@pytest.fixture(scope="module")
def with_bos() -> Any:
    """Bytes that merge, and a BOS that the tokenizer puts before texts."""
    words = Tokenizer(models.BPE())
    words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    words.decoder = decoders.ByteLevel()
    special = ["<pad>", "<eos>", "<s>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    words.train_from_iterator(
        [LONG] * 6,
        trainers.BpeTrainer(vocab_size=300, special_tokens=special, initial_alphabet=alphabet),
    )
    words.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", words.token_to_id("<s>"))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=words, eos_token="<eos>", pad_token="<pad>", bos_token="<s>"
    )


def test_all_readers_of_a_cut_prompt_read_its_bos_and_its_end(with_bos):
    policy = GPT2LMHeadModel(
        GPT2Config(vocab_size=len(with_bos), n_embd=8, n_layer=1, n_head=1, n_positions=64)
    )
    read: list[str] = []

    def reads(prompt: str, response: str) -> float:
        read.append(prompt)
        return 1.0

    env = gymnasium.make(
        "tokengym/TokenGeneration-v0",
        tokenizer=with_bos,
        prompts=[LONG],
        reward=reads,
        max_new_tokens=1,
        max_prompt_tokens=10,
        overlong="left",
    )
    info = env.reset(seed=0)[1]
    end = env.step(5)[4]
    ids = list(end["prompt_ids"])
    assert 5 < len(ids) <= 10
    assert with_bos.decode(ids) == "<s>" + info["prompt"]
    assert LONG.endswith(info["prompt"])
    assert read == [info["prompt"]] == list(env.unwrapped.prompts.texts)  # type: ignore[attr-defined]
    how = TextEncoding(max_length=14, overlong="left")
    pair = {"prompt": LONG, "chosen": " is good", "rejected": " is bad"}
    told = {"prompt": LONG, "response": " is good"}
    for learner in (
        DPO(policy, [pair], tokenizer=with_bos, encoding=how),
        SFT(policy, [told], tokenizer=with_bos, encoding=how),
    ):
        kept = with_bos.decode(learner.train_dataset[0]["prompt_ids"])
        assert kept.startswith("<s>")
        assert LONG.endswith(kept.removeprefix("<s>"))


def test_what_is_left_is_a_later_part_of_the_text(with_bos):
    prompt: Prompt | None = Prompt("\N{GRINNING FACE} film", reference="r")
    seen = []
    while (prompt := without_beginning(prompt, with_bos, 1)) is not None:
        seen.append(prompt.text)
        assert prompt.reference == "r"
    assert seen
    assert all("\N{GRINNING FACE} film".endswith(text) for text in seen)
