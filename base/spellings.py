"""What other tools call a thing, and what is written for it here: one table, asked first.

An unknown option or argument is looked up here before near matches are, since a name that another
tool has is no slip of the keyboard: ``--timesteps`` is closer to a setting that it does not mean.
"""

import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

SB3, ZOO = "Stable-Baselines3", "rl-zoo3"
TRL, VERL, CLEANRL = "TRL", "verl", "CleanRL"
VALUE = "{}"
"""Stands for the value that was given, in what is to be written."""
USUAL = "N"
"""Stands for it where none is at hand."""


@dataclass(frozen=True)
class Spelling:
    """A thing by the names that other tools have for it."""

    names: tuple[str, ...]
    """Names as arguments, or options with "_" for "-"; a short option with its dash."""
    tools: tuple[str, ...]
    """Tools that have these names."""
    here: str
    """What it is here, a noun phrase."""
    option: str = ""
    """What is written on a command line; empty where there is nothing to write there."""
    argument: str = ""
    """What is written in Python; empty likewise."""

    is_learner: bool = False
    """Whether its value names a learner."""

    def translate(self, value: str) -> str:
        """Return what is written here for a value."""
        if not self.is_learner or ":" in value:
            return value
        return word_answer(value).removeprefix("write ") or value.lower()

    def fits(self, written: str, known: Collection[str]) -> bool:
        """Return whether all that is to be written exists where the name was used.

        A call has its arguments; whether they exist is not a question of where it is named.
        """
        bare = re.sub(r"\([^()]*(\([^()]*\)[^()]*)*\)", "", written)
        names = re.findall(r"--([a-z-]+)|(?<![:\w])(\w+)=", bare)
        return bool(written) and all((option or name) in known for option, name in names)


SEARCH = (
    *("-optimize", "optimize", "optimize_hyperparameters", "optimization_log_path", "n_trials"),
    *("max_total_trials", "n_startup_trials", "sampler", "pruner", "study_name", "storage"),
)
"""Names of rl-zoo3's search of hyperparameters."""
SPELLINGS = (
    # --- how long, how often, where ---
    Spelling(
        ("timesteps", "n_timesteps", "total_timesteps", "-n"),
        (SB3, ZOO, CLEANRL),
        "the tokens of a run, since a timestep is one token",
        "--tokens {}",
        "tokens={}",
    ),
    Spelling(
        ("timesteps", "n_timesteps", "total_timesteps"),
        (SB3, ZOO, CLEANRL),
        "the argument of learn, in tokens",
        "",
        "agent.learn(total_timesteps={})",
    ),
    Spelling(
        ("steps", "max_steps", "total_training_steps", "num_updates"),
        (TRL, VERL, CLEANRL),
        "the number of updates",
        "--updates {}",
        "updates={}",
    ),
    Spelling(
        ("num_train_epochs", "total_epochs", "total_episodes"),
        (TRL, VERL),
        "the number of updates, each of one batch of prompts",
        "--updates N",
        "updates=N",
    ),
    Spelling(
        ("num_train_epochs", "total_epochs"),
        (TRL, VERL),
        "the number of passes over given data",
        "--epochs {}",
    ),
    Spelling(
        ("steps", "max_steps", "total_training_steps", "num_updates"),
        (TRL, VERL, CLEANRL),
        "the number of passes over given data, a step being --batch-size of its rows",
        "--epochs N",
    ),
    Spelling(
        ("seed",), (SB3, ZOO, TRL, CLEANRL), "the lowest seed", "--first-seed {}", "first_seed={}"
    ),
    Spelling(
        (
            *("-f", "log_folder", "log_dir", "exp_name", "output_dir", "default_local_dir"),
            *("run_name", "logging_dir", "experiment_name"),
        ),
        (ZOO, CLEANRL, TRL, VERL),
        "the folder of the results",
        "--out {}",
        "out={}",
    ),
    Spelling(
        ("-i", "trained_agent", "resume_from_checkpoint", "resume_mode", "resume"),
        (ZOO, TRL, VERL, CLEANRL),
        "the same command again, which resumes what was stopped (one that has finished goes on in "
        "Python, by PPO.load)",
        "--out FOLDER",
        "out=FOLDER",
    ),
    Spelling(
        ("verbose", "progress", "progress_bar", "-P", "log_interval"),
        (SB3, ZOO),
        "always on: progress is shown, and the log is in train.csv of each run",
        "nothing in its place",
        "nothing in its place",
    ),
    Spelling(
        ("hyperparams", "hyperparameters", "conf_file", "-params", "-conf"),
        (ZOO,),
        "an option for each setting",
        "--learning-rate 1e-3",
        "learning_rate=1e-3",
    ),
    Spelling(
        SEARCH,
        (ZOO,),
        "a comparison of settings",
        "--agents ppo ppo:learning_rate=1e-3",
        'agents=["ppo", "ppo:learning_rate=1e-3"]',
    ),
    Spelling(
        SEARCH,
        (ZOO,),
        "a comparison of settings, which is another command",
        "tokengym compare, with such agents as ppo:learning_rate=1e-3",
    ),
    Spelling(("algo",), (ZOO,), "the learner", "--agent {}", 'agent="{}"', is_learner=True),
    Spelling(
        ("algo", "algos"), (ZOO,), "the learners", "--agents {}", 'agents=["{}"]', is_learner=True
    ),
    Spelling(
        ("load_best", "load_checkpoint", "load_last_checkpoint", "exp_id"),
        (ZOO,),
        "the folder of a saved agent, before the options",
        "tokengym evaluate FOLDER/agent",
    ),
    Spelling(("env_id", "gym_id"), (CLEANRL,), "the environment", "--env {}", 'env="{}"'),
    Spelling(
        ("env_kwargs",),
        (ZOO,),
        "an option for each setting of the environment",
        "--max-new-tokens 24",
        "max_new_tokens=24",
    ),
    Spelling(
        ("tensorboard_log", "report_to", "logger", "wandb_project_name", "wandb_entity", "-tb"),
        (SB3, TRL, VERL, CLEANRL),
        "the tracker that gets the log",
        "--track tensorboard",
        'track="tensorboard"',
    ),
    Spelling(
        ("eval_freq", "eval_steps", "test_freq"),
        (SB3, ZOO, TRL, VERL),
        "the number of updates between two evaluations",
        "--eval-every N",
        "eval_every=N",
    ),
    Spelling(
        ("n_eval_episodes", "num_eval_episodes"),
        (SB3, ZOO),
        "the number of held-out prompts of an evaluation",
        "--eval-episodes {}",
        "eval_episodes={}",
    ),
    Spelling(
        ("episodes", "n_episodes", "eval_episodes", "n_eval_episodes", "num_eval_episodes"),
        (CLEANRL, SB3),
        "the number of episodes",
        "--num-episodes {}",
        "num_episodes={}",
    ),
    Spelling(
        ("timesteps", "n_timesteps", "total_timesteps", "-n"),
        (SB3, ZOO, CLEANRL),
        "the number of episodes, each of as many tokens as its response",
        "--num-episodes N",
    ),
    Spelling(
        ("save_freq", "save_steps", "save_interval"),
        (SB3, ZOO, TRL, VERL),
        "the number of evaluations between two checkpoints",
        "--checkpoint-every N",
        "checkpoint_every=N",
    ),
    Spelling(
        ("save_freq", "save_steps", "save_interval"),
        (SB3, ZOO, TRL, VERL),
        "the number of updates between two evaluations, at each of which train keeps a checkpoint",
        "--eval-every N",
    ),
    Spelling(
        ("log_completions", "num_completions_to_print", "capture_video"),
        (TRL, CLEANRL),
        "the number of an evaluation's responses that are kept, with the credit of their tokens",
        "--samples N",
        "samples=N",
    ),
    Spelling(
        ("vec_env", "use_vllm", "vllm_mode", "tensor_model_parallel_size"),
        (ZOO, TRL, VERL),
        "not needed: the policy answers all prompts of a batch at once, in its own process",
        "nothing in its place",
        "nothing in its place",
    ),
    Spelling(
        ("n_jobs", "workers", "num_workers", "nproc"),
        (ZOO, TRL, VERL),
        "the number of runs at a time",
        "--jobs {}",
        "jobs={}",
    ),
    Spelling(("num_threads",), (ZOO,), "torch's threads of a run", "--threads {}", "threads={}"),
    Spelling(
        ("cuda", "use_cuda", "no_cuda"),
        (CLEANRL, TRL),
        "the device",
        "--device cuda",
        'device="cuda"',
    ),
    # --- the batch ---
    Spelling(
        ("num_envs", "n_envs", "train_batch_size", "per_device_train_batch_size"),
        (SB3, ZOO, CLEANRL, VERL, TRL),
        "the number of environment rows, each of which plays one episode per update",
        "--batch-size {}",
        "batch_size={}",
    ),
    Spelling(
        ("num_envs", "n_envs"),
        (SB3, ZOO, CLEANRL),
        "of the environment",
        "",
        "gym.make_vec(id, num_envs={})",
    ),
    Spelling(
        ("n_steps", "num_steps"),
        (SB3, CLEANRL),
        "the length of an episode, of which each row plays one per update",
        "--max-new-tokens N",
        "max_new_tokens=N",
    ),
    Spelling(
        ("n_steps", "num_steps"),
        (SB3, CLEANRL),
        "an episode in each row of the environment",
        "",
        "gym.make_vec(id, num_envs=64, max_new_tokens=N)",
    ),
    Spelling(
        ("batch_size",),
        (SB3,),
        "a part of the round, which is cut into so many",
        "",
        "n_minibatches=4",
    ),
    Spelling(
        ("minibatch_size", "ppo_mini_batch_size"),
        (CLEANRL, VERL),
        "a part of the round, which is cut into so many",
        "--n-minibatches 4",
        "n_minibatches=4",
    ),
    Spelling(
        ("num_minibatches", "num_mini_batches"),
        (CLEANRL, TRL),
        "the number of gradient steps in a pass over the round",
        "--n-minibatches {}",
        "n_minibatches={}",
    ),
    Spelling(
        ("gradient_accumulation_steps", "ppo_micro_batch_size_per_gpu", "ppo_micro_batch_size"),
        (TRL, VERL),
        "the number of responses in one pass, which changes memory and no gradient",
        "--micro-batch-size N",
        "micro_batch_size=N",
    ),
    Spelling(
        ("update_epochs", "num_ppo_epochs", "num_iterations", "ppo_epochs"),
        (CLEANRL, TRL, VERL),
        "the number of passes over a round",
        "--n-epochs {}",
        "n_epochs={}",
    ),
    Spelling(
        ("num_generations", "n", "rloo_k"),
        (TRL, VERL),
        "the number of responses to one prompt",
        "--group-size {}",
        "group_size={}",
    ),
    # --- the loss ---
    Spelling(
        ("lr", "actor_lr"),
        (TRL, VERL),
        "the learning rate",
        "--learning-rate {}",
        "learning_rate={}",
    ),
    Spelling(
        ("anneal_lr", "lr_scheduler_type"),
        (CLEANRL, TRL),
        "the schedule of the learning rate",
        "--learning-rate-schedule linear",
        'learning_rate_schedule="linear"',
    ),
    Spelling(
        ("beta", "init_kl_coef", "kl_loss_coef", "kl_beta"),
        (TRL, VERL),
        "the price of a nat of KL",
        "--kl-coef {}",
        "kl_coef={}",
    ),
    Spelling(
        ("use_kl_loss",),
        (VERL,),
        "the place of the KL penalty: the loss, not each token's reward",
        "--kl-in loss",
        'kl_in="loss"',
    ),
    Spelling(
        ("use_kl_in_reward",),
        (VERL,),
        "the place of the KL penalty: each token's reward, which is the default",
        "--kl-in reward",
        'kl_in="reward"',
    ),
    Spelling(
        ("kl_penalty", "kl_loss_type"),
        (VERL,),
        "the estimator of the KL",
        "--kl-estimator exact",
        'kl_estimator="exact"',
    ),
    Spelling(
        ("clip_coef", "cliprange", "clip_ratio", "clip_ratio_low", "epsilon"),
        (CLEANRL, TRL, VERL),
        "the largest move of the probability ratio",
        "--clip-range {}",
        "clip_range={}",
    ),
    Spelling(
        ("epsilon_high", "clip_ratio_high"),
        (TRL, VERL),
        "the largest move of the ratio upwards",
        "--clip-range-high {}",
        "clip_range_high={}",
    ),
    Spelling(
        ("cliprange_value", "clip_vloss"),
        (TRL, CLEANRL),
        "the largest move of a value, in reward units",
        "--clip-range-vf 0.2",
        "clip_range_vf=0.2",
    ),
    Spelling(
        ("grad_clip",),
        (VERL,),
        "the largest norm of a gradient",
        "--max-grad-norm {}",
        "max_grad_norm={}",
    ),
    Spelling(
        ("critic_warmup",),
        (VERL,),
        "the number of updates of the critic alone, before the policy's first",
        "--n-value-warmup {}",
        "n_value_warmup={}",
    ),
    Spelling(
        ("loss_agg_mode",),
        (VERL,),
        "what the loss is a mean over: all tokens, or each response's and then the responses",
        "--loss-mean token, or sequence",
        'loss_mean="token", or "sequence"',
    ),
    Spelling(
        ("warmup_steps", "lr_warmup_steps"),
        (TRL, VERL),
        "the number of updates until the learning rate is whole",
        "--n-warmup-updates {}",
        "n_warmup_updates={}",
    ),
    Spelling(("lam",), (TRL, VERL), "lambda of GAE", "--gae-lambda {}", "gae_lambda={}"),
    Spelling(
        ("entropy_coeff", "entropy_coef"),
        (VERL,),
        "the weight of the entropy",
        "--ent-coef {}",
        "ent_coef={}",
    ),
    Spelling(
        ("adv_estimator", "loss_type"),
        (VERL, TRL),
        "the estimator of the advantages",
        "--advantage {}",
        'advantage="{}"',
    ),
    Spelling(
        (
            *("normalize_advantage", "norm_adv", "whiten_rewards", "scale_rewards"),
            "norm_adv_by_std_in_grpo",
        ),
        (SB3, CLEANRL, TRL, VERL),
        "part of the estimator: gae whitens a batch, dr-grpo divides by nothing",
        "--advantage gae",
        'advantage="gae"',
    ),
    Spelling(
        (
            *("logging_steps", "warmup_ratio", "warmup_steps", "weight_decay", "optim"),
            *("eval_strategy", "save_strategy", "gradient_checkpointing"),
        ),
        (TRL,),
        "an argument of transformers",
        "",
        "args=transformers.TrainingArguments(...)",
    ),
    # --- models and data ---
    Spelling(
        ("model_name_or_path", "model_name", "model_path"),
        (TRL, VERL),
        "the policy's model",
        "--model {}",
        'model="{}"',
    ),
    Spelling(
        (
            "model_name_or_path",
            "model_name",
            "model_path",
            "model",
            "dtype",
            "torch_dtype",
            "ref_model",
        ),
        (TRL, VERL),
        "an argument of the policy",
        "",
        "policy_kwargs=dict(model=..., dtype=..., lora=...)",
    ),
    Spelling(
        ("net_arch", "activation_fn", "features_extractor_class", "features_extractor_kwargs"),
        (SB3, ZOO),
        "the language model, which is the network",
        "",
        "model=FOLDER",
    ),
    Spelling(
        ("rollout_buffer_class", "rollout_buffer_kwargs"),
        (SB3, ZOO),
        "not needed: token rewards are read from the episodes",
        "",
        "nothing in its place",
    ),
    Spelling(
        ("use_sde", "sde_sample_freq"),
        (SB3, ZOO),
        "noise of continuous actions, which tokens are not",
        "",
        "nothing in its place",
    ),
    Spelling(
        ("lora_r", "use_peft", "peft_config"),
        (TRL, VERL),
        "low-rank adapters",
        "--lora-rank 8",
        "lora_rank=8",
    ),
    Spelling(
        ("lora_r", "lora_alpha", "lora_dropout", "use_peft", "peft_config", "lora"),
        (TRL, VERL),
        "an argument of the policy",
        "",
        "policy_kwargs=dict(lora=LoraConfig(...))",
    ),
    Spelling(
        ("lora_target_modules",),
        (TRL,),
        "the names of the adapted layers",
        "--lora-targets {}",
        "lora_targets={}",
    ),
    Spelling(("torch_dtype",), (TRL,), "the type of the weights", "--dtype {}", 'dtype="{}"'),
    Spelling(
        ("bf16", "fp16"),
        (TRL,),
        "the precision: --dtype of the weights, --precision of the computation",
        "--dtype bfloat16, or --precision bf16-mixed",
        'dtype="bfloat16"',
    ),
    Spelling(
        ("bf16", "fp16"),
        (TRL,),
        "an argument of the policy",
        "",
        'policy_kwargs=dict(dtype="bfloat16")',
    ),
    Spelling(
        ("max_completion_length", "response_length", "max_response_length", "max_tokens"),
        (TRL, VERL),
        "the longest response, in tokens",
        "--max-new-tokens {}",
        "max_new_tokens={}",
    ),
    Spelling(
        ("max_completion_length", "response_length", "max_response_length"),
        (TRL, VERL),
        "of the environment",
        "",
        "gym.make_vec(id, max_new_tokens={})",
    ),
    Spelling(
        ("max_prompt_length",),
        (TRL, VERL),
        "the longest prompt, in tokens",
        "--max-prompt-tokens {}",
        "max_prompt_tokens={}",
    ),
    Spelling(
        ("prompts", "dataset_name", "train_dataset", "train_files"),
        (TRL, VERL),
        "the file, folder or hub name of prompts",
        "--dataset {}",
        "dataset={}",
    ),
    Spelling(
        ("reward_funcs", "reward_fn", "custom_reward_function"),
        (TRL, VERL),
        "the scorer",
        "--scorer {}",
        "scorer={}",
    ),
    Spelling(
        ("reward_funcs", "reward_model", "reward_fn"),
        (TRL, VERL),
        "of the environment",
        "",
        "gym.make_vec(id, scorer=function) or reward_model=FOLDER there",
    ),
)
"""All of them. Of several with one name the first counts that can be written where it is asked."""


def answer(name: str, known: Collection[str], value: Any = None, *, is_option: bool) -> str:
    """Return the line for a name that another tool has, "" for any other.

    Args:
        name: Name of an unknown argument, or an option without its two dashes.
        known: Names that exist there: of arguments, or of options without dashes.
        value: What was given with it; None where nothing plain was.
        is_option: Whether it was on a command line.

    Example:
        >>> answer("n_timesteps", {"tokens"}, "500", is_option=True)
        'here it is the tokens of a run, since a timestep is one token: write --tokens 500'
        >>> answer("reward_funcs", {"scorer"}, "score.py:one", is_option=False)
        'here it is the scorer: write scorer="score.py:one"'
    """
    key = name.replace("-", "_") if not name.startswith("-") else name
    for one in SPELLINGS:
        written = one.option if is_option else one.argument
        if key in one.names and one.fits(written, known):
            is_plain = isinstance(value, str | int | float) and 0 < len(str(value)) < 60
            shown = one.translate(str(value)) if is_plain else USUAL
            is_text = not is_option and is_plain and isinstance(value, str)
            filled = written.replace(f"={VALUE}", f'="{shown}"') if is_text else written
            filled = filled.replace(VALUE, shown)
            return f"here it is {one.here}: write {filled}"
    return ""


def in_place_of_seeds(listed: str, *, is_option: bool) -> str:
    """Return what is written in place of a list of seeds, "" where it lists fewer than two.

    Example:
        >>> in_place_of_seeds("[3, 4, 5]", is_option=False)
        'seeds=3, first_seed=3'
    """
    seeds = [int(seed) for seed in re.findall(r"\d+", listed)]
    if len(seeds) < 2:
        return ""
    count, first = len(seeds), min(seeds)
    if is_option:
        return f"--seeds {count} --first-seed {first}"
    return f"seeds={count}, first_seed={first}"


# --- words, which are values of options and arguments ---------------------------------------------


@dataclass(frozen=True)
class WordSpelling:
    """A word that is written in another way here."""

    pattern: str
    """Regular expression of the whole word, whose groups the answer may name."""
    answer: str
    """What to write, as `re.Match.expand` reads it."""
    shown: str
    """One such word, for the table."""


WORDS = (
    WordSpelling(
        r"(?:stable_baselines3|stable-baselines3):(\w+.*)", r"write sb3:\1", "stable_baselines3:A2C"
    ),
    WordSpelling(r"sb3-contrib:(\w+.*)", r"write sb3_contrib:\1", "sb3-contrib:TRPO"),
    WordSpelling(r"(?i:a2c)", "write sb3:A2C", "a2c"),
    WordSpelling(r"(?i:dqn)", "write sb3:DQN", "dqn"),
    WordSpelling(r"(?i:qrdqn)", "write sb3_contrib:QRDQN", "qrdqn"),
    WordSpelling(r"(?i:trpo)", "write sb3_contrib:TRPO", "trpo"),
    WordSpelling(r"(?i:ppo_lstm|RecurrentPPO)", "write sb3_contrib:RecurrentPPO", "ppo_lstm"),
    WordSpelling(
        r"([^\W\d][\w.+-]*),\s*([^\W\d][\w.+-]*)",
        r'names are apart, not joined by a comma: write \1 \2, in Python ["\1", "\2"]',
        "sparse,uniform",
    ),
    WordSpelling(
        r"(?:n_|num_|total_|global_)?timesteps?|global_step",
        r"write tokens, since a timestep is one token",
        "timesteps",
    ),
    WordSpelling(
        r"lin_(\d.*)",
        r"write \1, which falls to 0 by learning_rate_schedule='linear', the default",
        "lin_3e-4",
    ),
)
"""Words of rewards, agents, a learning rate and the axis of a plot."""


def word_answer(word: str) -> str:
    """Return what to write for a word that is spelled as elsewhere, "" for any other.

    Example:
        >>> word_answer("stable_baselines3:A2C")
        'write sb3:A2C'
    """
    for one in WORDS:
        if found := re.fullmatch(one.pattern, word):
            return found.expand(one.answer)
    return ""
