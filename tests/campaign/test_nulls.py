"""Reports of identical rewards."""

import numpy as np
import pytest

from tests.campaign.nulls import areas_of, false_headlines


@pytest.mark.parametrize("seeds", [5, 10])
def test_reports_of_identical_rewards_rarely_claim_a_difference(seeds: int):
    """Headlines of whole reports agree with the signs of 20,000 simulated comparisons of five."""
    areas = areas_of("normal", (20_000, seeds, 5), np.random.default_rng(seeds))
    assert false_headlines(areas) <= 0.06
