"""The task Detox: write on from the start of a quarrel, without a rude word."""

from tokengym.envs.tasks.task import Task, register_task

DETOX = register_task(
    Task(
        name="Detox",
        summary="Continue a quarrel without a rude word.",
        bundle="detox",
        training={"fixed_length": True},
        compare=("sparse", "uniform", "abc-signed"),
        description=(
            "The prompt is the angry opening of a quarrel, which invites a rude continuation.\n\n"
            "The bundled quarrels come from a seeded grammar whose rude words are invented. "
            "The gold score is the share of clean words in the response, times the share of its "
            "words in sentences that the grammar can write; 0 for one without words. "
            "`dataset=` takes openings of your own."
        ),
        rewards=(
            "The score is the logit of the bundled classifier for a clean text, which reads "
            "prompt and response. By default the last token earns all of it (`sparse`)."
        ),
    )
)
