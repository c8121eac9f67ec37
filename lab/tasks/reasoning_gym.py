"""The task ReasoningGym: questions that reasoning-gym generates and verifies."""

from tokengym.envs import Task
from tokengym.lab.envs.reasoning import INSTALL, generated_prompts

REASONING_GYM = Task(
    name="ReasoningGym",
    summary="Answer questions that reasoning-gym generates, judged by its verifiers.",
    bundle="reasoning_gym",
    options={"dataset": "spell_backward", "max_new_tokens": 12},
    read_dataset=generated_prompts,
    chat_where_possible=True,
    scorer="reasoning-gym",
    models_know="prompts and responses of up to 256 bytes together",
    training={"max_new_tokens": 12, "learning_rate": 1e-3},
    compare=("sparse", "uniform", "abc", "red", "recency"),
    description=(
        "The questions and verifiers of the library reasoning-gym "
        f'(`{INSTALL}`), one data set at a time: `dataset="spell_backward"`, '
        '`"letter_counting"`, `"chain_sum"` or any of its others. Options follow the name: '
        '`"spell_backward:level=2"` takes a level of the library\'s curriculum for the data '
        'set, `"chain_sum:max_terms=3,max_digits=1"` sets fields of its configuration, `seed` '
        "is that of the generator (0), and `size` the number of prompts of each split (256; "
        "lower it where a data set is slow).\n\n"
        "Item i is drawn from the seed plus i. Questions that an earlier item asked are left "
        "out; of the others every second is for training and the rest for testing, so that "
        "the splits share no item and no question.\n\n"
        "The question is the user's message where the tokenizer has a chat template "
        "(`chat_template=False` turns that off). The bundled models read bytes. On "
        "`spell_backward` the policy has a mean score of 0.45 and 0.02 of its words right, "
        "and it was shown `letter_counting` and `chain_sum` with short questions. "
        "`max_new_tokens` is that of a word: raise it for longer answers."
    ),
    rewards=(
        "The score is the verdict of the library's verifier under every reward but those of "
        "R3: 1 for a right answer and often a part of it for a nearly right one. Of a "
        "response with `<answer>` tags the verifier reads what is within the last pair. A "
        "response that its code fails on is worth 0. By default the last token earns all of "
        "the score (`sparse`). Some verifiers evaluate an answer as code: they get it only "
        "where it is a list of constants, or arithmetic of integers, and data sets whose "
        "answers cannot be told from code are refused. `scorer_timeout=` ends a verifier that "
        "hangs, with the episodes kept."
    ),
)
