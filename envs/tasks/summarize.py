"""The task Summarize: sum up a post."""

from tokengym.envs.tasks.task import Task, register_task

SUMMARIZE = register_task(
    Task(
        name="Summarize",
        summary="Summarize a post.",
        bundle="summarize",
        training={"max_new_tokens": 32},
        compare=("sparse", "uniform", "abc"),  # as on Dialogue
        description=(
            'The prompt is a post about a small trouble with the words "summary :" behind it, '
            "and the response its summary.\n\n"
            "The bundled posts come from a seeded grammar; each tells four to six key facts "
            "among other things, and comes with a reference summary. Policy and reward model "
            "learnt from summaries that leave facts out, get some wrong, copy and chat. The "
            "gold score is the share of the facts that the summary names, less prices for "
            "padding, for words copied in runs of five, and for facts that are not in the "
            "post, all times the share of its words in sentences that the grammar can write; a "
            "reference is worth 1. `dataset=` takes posts of your own with "
            "`reference_column=`; the bundled models need the same words at their end."
        ),
        rewards=(
            "The score is the logit of the bundled reward model, which learnt the gold score "
            "without its last factor at every token of a summary. By default the last token "
            "earns all of it (`sparse`)."
        ),
    )
)
