"""Peak memory of one PPO update at a real vocabulary, above what stood before it.

    python benchmarks/update_memory.py

A Llama of one block and width 64 with 49,152 tokens plays 64 responses of 16 tokens: what counts is
(tokens, vocabulary), of which one copy in float32 has 192 MiB. Each figure is the median of five
processes: what an allocator holds at its highest differs by a hundred MiB between them.
"""

import resource
import statistics
import subprocess
import sys

ROWS, TOKENS, VOCABULARY = 64, 16, 49_152
CASES = {
    "exact KL": {},
    "exact KL, micro_batch_size=8": {"micro_batch_size": 8},
    "k1": {"kl_estimator": "k1"},
    "k1, micro_batch_size=8": {"kl_estimator": "k1", "micro_batch_size": 8},
}


def peak() -> float:
    """Return the largest memory that the process has had so far, MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(case: str) -> None:
    """Print the peak of a case above the start of its first update."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    from tokengym.agents import PPO
    from tokengym.envs import TokenGenerationVectorEnv
    from tokengym.rewards import UniformReward

    words = {word: i for i, word in enumerate(["<pad>", "<eos>", *map(str, range(VOCABULARY - 2))])}
    backend = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", eos_token="<eos>"
    )
    envs = UniformReward(
        TokenGenerationVectorEnv(
            num_envs=ROWS,
            tokenizer=tokenizer,
            prompts=["1 2 3 4"],
            max_new_tokens=TOKENS,
            min_new_tokens=TOKENS,
        ),
        lambda prompt, response: float(len(response)),
    )
    sizes = dict(hidden_size=64, intermediate_size=128, num_attention_heads=2)
    model = LlamaForCausalLM(LlamaConfig(vocab_size=VOCABULARY, num_hidden_layers=1, **sizes))
    settings = {"policy_kwargs": {"model": model}, "value_network": "trunk"}
    agent = PPO("CausalLMPolicy", envs, seed=0, **settings, **CASES[case])
    before = peak()
    agent.learn(1)
    print(f"{peak() - before:.0f}")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        measure(sys.argv[1])
    else:
        print("| one update | peak, MiB | least and most of 5 |\n|---|---|---|")
        for case in CASES:
            command = [sys.executable, __file__, case]
            peaks = [
                float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
                for _ in range(5)
            ]
            median = statistics.median(peaks)
            print(f"| {case} | {median:.0f} | {min(peaks):.0f} to {max(peaks):.0f} |", flush=True)
