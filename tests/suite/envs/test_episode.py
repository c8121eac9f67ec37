import json

import numpy as np
import pytest

from tokengym.envs import Episode

EPISODE = Episode(
    prompt="a b",
    response="c \u2028 <i>",
    prompt_ids=(3, 4),
    response_ids=(5, 6, 1),
    reference="c",
    query_type="CONSTRAINED",
    score=0.75,
    score_parts={"gold": 0.5},
    token_rewards=np.array([0.5, 0.0, 0.25], np.float32),
    log_probs=np.array([-0.5, -1.25, -0.1], np.float32),
    finish_reason="eos",
    metadata={"policy_attention": object(), "item": {"numbers": [3, 4]}},
)


def test_an_episode_survives_json():
    record = json.loads(json.dumps(EPISODE.to_record()))
    back = Episode.from_record(record)
    assert back == EPISODE  # arrays and metadata are left out of the comparison
    np.testing.assert_array_equal(back.token_rewards, EPISODE.token_rewards)
    np.testing.assert_array_equal(back.log_probs, EPISODE.log_probs)
    assert back.metadata == {"item": {"numbers": [3, 4]}}  # what JSON can hold


def test_what_a_record_lacks_is_not_known():
    bare = {"prompt": "p", "response": "r", "response_ids": [5], "seed": 3, "tokens": ["r"]}
    episode = Episode.from_record(bare, prompt_ids=[7])
    assert (episode.prompt_ids, episode.response_ids) == ((7,), (5,))
    assert episode.score is None
    assert episode.log_probs is None
    stored = Episode.from_record({**bare, "prompt_ids": [8]}, prompt_ids=[7])
    assert stored.prompt_ids == (8,)  # what was played goes before what would be played now


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prompt_ids": None}, "lacks prompt_ids"),
        ({"response_ids": None, "response": None}, "response_ids"),
        ({"response_ids": 5}, "wrong kind"),
        ({"log_probs": [0.0]}, r"log_probs.*\(3,\)"),
        ({"query_type": "OPEN"}, "query_type.*'OPENENDED'"),
        ({"finish_reason": "abort"}, r"finish_reason.*'eos', 'length'"),
    ],
)
def test_records_that_are_no_episodes(change, message):
    with pytest.raises(ValueError, match=message):
        Episode.from_record({**EPISODE.to_record(), **change})
