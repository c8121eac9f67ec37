"""What each task is, in words: the reference pages are made of this and of the docstrings."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class TaskDescription:
    """The part of a task's reference page that no class knows."""

    summary: str
    """One sentence."""
    rewards: str
    """What a response is worth by default."""
    description: str = ""
    """What prompts and responses are, and where they come from; empty where the task has an
    environment class of its own, whose docstring says it."""


DESCRIPTIONS: dict[str, TaskDescription] = {
    "movie_review": TaskDescription(
        summary="Continue a film review, positively.",
        description=(
            "The prompt is the beginning of a film review and the policy writes on. It is the "
            "setting in which attention-based credit was shown (ABC, Chan et al. 2024, "
            "arXiv:2402.00782).\n\n"
            "The bundled reviews come from a seeded grammar of about 560 words; policy and reward "
            "model were trained on them. The gold score is the grammar's own: signed word weights "
            "with intensifiers and negations, over their absolute sum, so that over-optimisation "
            "of the reward model shows. `dataset=` takes real reviews, cut to their first 2 to 7 "
            "tokens as in the paper."
        ),
        rewards=(
            "The score is the logit of the bundled reward model, a sequence classifier that "
            "reads the ids as sampled. By default the last token earns all of it (`sparse`)."
        ),
    ),
    "question_answer": TaskDescription(
        summary="Answer open-ended and constrained questions.",
        description=(
            "The prompt is a question. An open-ended one leaves the answer to the policy; a "
            "constrained one has a right answer, its reference. It is the setting of the "
            "regularised relevance reward (R3, Kim et al. 2024, arXiv:2402.03469).\n\n"
            "The bundled questions about a small world come from a seeded grammar, each with "
            '`query_type` "OPENENDED" or "CONSTRAINED"; policy and encoder were trained on them. '
            "`dataset=` takes questions of your own with `reference_column=` and "
            "`query_type_column=`."
        ),
        rewards=(
            "The score is the relevance of the answer to the question (or to the reference), by "
            "the bundled encoder, times a length incentive and a repetition penalty; "
            '`info["score_parts"]` names them. By default the last token earns all of it (`r3`); '
            "`r3-dense` splits it exactly over the tokens."
        ),
    ),
    "dialogue": TaskDescription(
        summary="Answer a request, helpfully and harmlessly.",
        description=(
            "The prompt is what a user says, in the tokenizer's chat template. One request in six "
            "asks for something that should be declined.\n\n"
            "The bundled requests come from a seeded grammar of twenty things to do and twelve "
            "that should not be done; policy and reward model were trained on answers that drift, "
            "insult, and do half of the harm they are asked for. The gold score is the grammar's "
            "own, helpful + harmless, each at most 1: an answer is helpful if it names what the "
            "topic and the kind of question call for and nothing else, and harmless if it declines "
            "what it should and has no insult. `dataset=` takes texts, lists of messages, or "
            "conversations written out as in HH-RLHF (`Human: ... Assistant: ...`), whose last "
            "answer becomes the reference."
        ),
        rewards=(
            "The score is the logit of the bundled reward model, trained on pairs ordered by the "
            "gold score. By default the last token earns all of it (`sparse`)."
        ),
    ),
    "detox": TaskDescription(
        summary="Write on from the start of a quarrel, without a rude word.",
        description=(
            "The prompt is the angry opening of a quarrel, which invites a rude continuation.\n\n"
            "The bundled quarrels come from a seeded grammar whose rude words are invented. The "
            "gold score is the share of clean words in the response, 0 for one without words. "
            "`dataset=` takes openings of your own."
        ),
        rewards=(
            "The score is the logit of the bundled classifier for a clean text, which reads prompt "
            "and response. By default the last token earns all of it (`sparse`)."
        ),
    ),
    "summarize": TaskDescription(
        summary="Sum up a post.",
        description=(
            'The prompt is a post about a small trouble with the words "summary :" behind it, and '
            "the response its summary.\n\n"
            "The bundled posts come from a seeded grammar; each tells four to six key facts among "
            "other things, and comes with a reference summary. Policy and reward model learnt from "
            "summaries that leave facts out, get some wrong, copy and chat. The gold score is the "
            "share of the facts that the summary names, less prices for padding, for words copied "
            "in runs of five, and for facts that are not in the post; a reference is worth 1. "
            "`dataset=` takes posts of your own with `reference_column=`; the bundled models need "
            "the same words at their end."
        ),
        rewards=(
            "The score is the logit of the bundled reward model, which learnt the gold score at "
            "every token of a summary. By default the last token earns all of it (`sparse`)."
        ),
    ),
    "token_generation": TaskDescription(
        summary="Any tokenizer, any prompts, any score.",
        description=(
            "The generic environment: pass a Hugging Face tokenizer (byte-level, BPE, Unigram, "
            "WordPiece, word-level) and prompts, as texts, as conversations for its chat template, "
            "or as a data set. With nothing given, MovieReview's tokenizer and prompts serve.\n\n"
            "A tokenizer without EOS or padding token is refused; `eos_token=` and `pad_token=` "
            "name tokens of its vocabulary that serve."
        ),
        rewards=(
            "None by default: every step earns 0. `reward=` takes a function of prompt and "
            "response, a scorer, or the name of a credit together with `scorer=`."
        ),
    ),
    "oracle": TaskDescription(
        summary="Write up to six words, each of whose worth is known exactly.",
        rewards=(
            "The score is the exact one, `tokengym.envs.oracle.score` of the words by the rules "
            "that hold, under every reward. By default the last token earns all of it (`sparse`). "
            "Rewards that ask a reward model which tokens count (`abc`, `abc-signed`, `red`, "
            "`attribution`) ask the bundled one, which learnt that score: they redistribute the "
            "exact score by its learnt account, `score_parts` holds its own value, and what RED's "
            "increments leave of the score goes to the last token. `red:every_prefix=true` and "
            "`scar` ask the exact score itself. "
            "`scorer=env.unwrapped.bundle.reward_model` makes the learnt score the score, and any "
            "other `scorer=` that one; the exact values then know nothing of it."
        ),
    ),
}
"""Task -> its description."""
