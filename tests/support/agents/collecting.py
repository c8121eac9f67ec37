"""A collected episode."""

from tokengym.envs import Episode


def episode(response, score, prompt="p"):
    return Episode(
        prompt=prompt,
        response=response,
        prompt_ids=[1, 2],
        response_ids=[3, len(response)],
        score=score,
        finish_reason="eos",
    )
