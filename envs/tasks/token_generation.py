"""The task TokenGeneration: any tokenizer, any prompts, any score."""

from tokengym.envs.tasks.task import Task, register_task

TOKEN_GENERATION = register_task(
    Task(
        name="TokenGeneration",
        summary="Any tokenizer, any prompts, any score.",
        bundle="movie_review",
        needs_prompts=True,
        reward=None,
        description=(
            "The generic environment: pass a Hugging Face tokenizer (byte-level, BPE, "
            "Unigram, WordPiece, word-level) and prompts, as texts, as conversations for its "
            "chat template, or as a data set. With nothing given, MovieReview's tokenizer and "
            "prompts serve.\n\n"
            "A tokenizer without EOS token is refused; `eos_token=` names tokens of its "
            "vocabulary that end a text, one or several. EOS pads where neither `pad_token=` nor "
            "the tokenizer names another."
        ),
        rewards=(
            "None by default: every step earns 0. `reward=` takes a function of prompt and "
            "response, a scorer, or the name of a credit together with `scorer=`."
        ),
    )
)
