"""Messages and calls, joined to a prompt, what followed it, and a mask."""

import pytest

from tokengym.bridges.conversations import Conversation, join_calls, join_messages


def test_messages_begin_their_response_with_the_policys_first_token():
    found = join_messages([([1], []), ([2, 3], [0, 1]), (None, None), ([4], None), ([5], [1])])
    assert found == Conversation(prompt_ids=[1, 2], response_ids=[3, 4, 5], written=[1, 0, 1])
    assert join_messages([([1, 2], None)]) == ([1, 2], [], [])
    with pytest.raises(ValueError, match=r"message 1.*2 tokens.*mask of 1"):
        join_messages([([1], None), ([2, 3], [1])])


def test_calls_of_one_conversation_are_one_response_with_the_answers_in_it():
    found, answers = join_calls(
        [([1, 2], [3, 4]), ([1, 2, 3, 4, 5], [6]), ([1, 2, 3, 4, 5, 6], [])]
    )
    assert found == Conversation([1, 2], [3, 4, 5, 6], [1, 1, 0, 1])
    assert [found.response_ids[place] for place in answers] == [[3, 4], [6], []]
    assert join_calls([]) == (([], [], []), [])
    for torn in ([1, 2, 9, 4], [1, 2, 3]):
        with pytest.raises(ValueError, match=r"call 1.*begin"):
            join_calls([([1, 2], [3, 4]), (torn, [6])])
