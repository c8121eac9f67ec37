"""The task MovieReview: continue a film review, positively."""

from tokengym.envs.tasks.task import Task, register_task

MOVIE_REVIEW = register_task(
    Task(
        name="MovieReview",
        summary="Continue a film review, positively.",
        bundle="movie_review",
        prompt_tokens=(2, 7),
        training={"fixed_length": True},
        compare=("sparse", "uniform", "abc-signed"),
        description=(
            "The prompt is the beginning of a film review and the policy writes on. It is the "
            "setting in which attention-based credit was shown (ABC, Chan et al. 2024, "
            "arXiv:2402.00782).\n\n"
            "The bundled reviews come from a seeded grammar of about 560 words; policy and "
            "reward model were trained on them. The gold score is the grammar's own, polarity "
            "times grammaticality: signed word weights with intensifiers and negations, over "
            "their absolute sum, times the share of the response's words in sentences that the "
            "grammar can write. The reward model learnt polarity only, so that a policy may win "
            "by word salad, whose gold score is 0. `dataset=` takes real reviews, cut to their "
            "first 2 to 7 tokens as in the paper."
        ),
        rewards=(
            "The score is the logit of the bundled reward model, a sequence classifier that "
            "reads the ids as sampled. By default the last token earns all of it (`sparse`)."
        ),
    )
)
