import numpy as np
import pytest
import torch

from tokengym.agents.policy.sequences import ActionMasks, MaskRecorder, Sequences


def test_positions_point_at_each_response_token():
    batch = Sequences.from_ids([[5, 6], [7]], [[1, 2], [3, 4, 5]])
    rows, times, columns = batch.response_positions
    assert batch.input_ids[rows, columns].tolist() == [1, 2, 3, 4, 5]
    assert rows.tolist() == [0, 0, 1, 1, 1]
    assert times.tolist() == [0, 1, 0, 1, 2]
    assert batch.response_mask.tolist() == [[True, True, False], [True, True, True]]


def test_selecting_rows_cuts_the_padding():
    batch = Sequences.from_ids([[5, 6], [7]], [[1], [3, 4, 5]])
    assert batch.select(torch.tensor([0])).input_ids.tolist() == [[5, 6, 1]]


def test_buckets_hold_every_row_once_and_less_than_half_padding():
    lengths = [3, 40, 17, 5, 80, 81, 2, 20]
    batch = Sequences.from_ids([[0]] * 8, [[1] * (n - 1) for n in lengths])
    buckets = [bucket.tolist() for bucket in batch.buckets()]
    assert sorted(row for bucket in buckets for row in bucket) == list(range(8))
    for bucket in buckets:
        longest = max(lengths[row] for row in bucket)
        assert all(2 * lengths[row] >= longest for row in bucket)
    assert [len(bucket) for bucket in batch.buckets(max_size=1)] == [1] * 8


@pytest.mark.parametrize(
    ("fewest", "rows"),
    # By length 81, 80; 40, 20; 17; 5, 3; 2. At 162, two rows of 81 are enough, and five of 40.
    [(0, [2, 2, 1, 2, 1]), (162, [2, 5, 1]), (163, [3, 5]), (244, [4, 4]), (568, [8])],
)
def test_small_groups_take_rows_of_any_length(fewest, rows):
    lengths = [3, 40, 17, 5, 80, 81, 2, 20]
    batch = Sequences.from_ids([[0]] * 8, [[1] * (n - 1) for n in lengths])
    assert [len(bucket) for bucket in batch.buckets(fewest_tokens=fewest)] == rows


def test_bad_texts_are_named():
    with pytest.raises(ValueError, match="1 prompts and 2"):
        Sequences.from_ids([[1]], [[1], [2]])
    with pytest.raises(ValueError, match=r"response 1.*no tokens"):
        Sequences.from_ids([[1], [1]], [[1], []])


def test_masks_are_kept_once_and_found_again():
    generator = np.random.default_rng(0)
    distinct = generator.integers(0, 2, size=(3, 5), dtype=np.int8)
    distinct[:, 0] = 1
    recorder = MaskRecorder()
    steps = []
    for rows in (np.arange(4), np.array([0, 2, 3]), np.array([2])):
        masks = distinct[generator.integers(3, size=len(rows))]
        recorder.add(masks)
        steps.append((rows, masks))
    index = torch.zeros(4, len(steps), dtype=torch.int64)
    columns = np.repeat(np.arange(len(steps)), [len(rows) for rows, _ in steps])
    where = torch.from_numpy(np.concatenate([rows for rows, _ in steps])), torch.from_numpy(columns)
    recorded = recorder.finish(lambda numbers: index.index_put(where, numbers), "cpu")
    assert len(recorded.table) <= 3
    for time, (rows, masks) in enumerate(steps):
        seen = recorded.at(torch.from_numpy(rows), torch.full((len(rows),), time))
        assert np.broadcast_to(seen.numpy(), masks.shape).tolist() == (masks == 1).tolist()


def test_masks_that_forbid_nothing_are_none():
    recorder = MaskRecorder()
    recorder.add(np.ones((2, 3)))
    assert recorder.finish(lambda numbers: numbers[:, None], "cpu") is None
    assert ActionMasks.from_arrays([np.ones((2, 3)), np.ones((1, 3))]) is None
