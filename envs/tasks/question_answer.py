"""The task QuestionAnswer: answer open-ended and constrained questions."""

from tokengym.envs.tasks.task import Task, register_task

QUESTION_ANSWER = register_task(
    Task(
        name="QuestionAnswer",
        summary="Answer open-ended and constrained questions.",
        bundle="question_answer",
        reward="r3",
        normalize_by="query_type",
        training={"learning_rate": 3e-4, "batch_size": 256, "kl_coef": 0.02, "steps": 15},
        compare=("r3", "r3-dense"),
        description=(
            "The prompt is a question. An open-ended one leaves the answer to the policy; a "
            "constrained one has a right answer, its reference. It is the setting of the "
            "regularised relevance reward (R3, Kim et al. 2024, arXiv:2402.03469).\n\n"
            "The bundled questions about a small world come from a seeded grammar, each with "
            '`query_type` "OPENENDED" or "CONSTRAINED"; policy and encoder were trained on '
            "them. `dataset=` takes questions of your own with `reference_column=` and "
            "`query_type_column=`; `predict_query_types=True` has a bundled classifier fill in "
            "types that are missing.\n\n"
            "The gold score of an answer to a bundled question is 1 if it tells what a reference "
            "answer can (for an open-ended question four sentences of it, or their share), less "
            "0.02 for every word that strays. Other questions have none. Held-out questions ask "
            "about the things of the training questions in other words; on things that training "
            "never asks about, gold gains a third as much (docs/results/rewards.md)."
        ),
        rewards=(
            "The score is the relevance of the answer to the question (or to the reference), "
            "by the bundled encoder, times a length incentive and a repetition penalty; "
            '`info["score_parts"]` names them. By default the last token earns all of it '
            "(`r3`); `r3-dense` splits it exactly over the tokens. The two types of questions are "
            "scored on scales of their own, so `normalize=` centres each by itself; "
            '`normalize="batch:by=none"` does not. Rewards that need a reward model, and '
            "`sparse` and `uniform`, take the bundled one, which learnt the gold score; on answers "
            "to unseen questions it orders 0.74 of the pairs as the gold score does. A comparison "
            "of both kinds is measured by the gold score."
        ),
    )
)
