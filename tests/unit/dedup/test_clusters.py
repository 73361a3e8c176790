import numpy as np
import pytest

from alignray.dedup.clusters import connected_components, representatives
from alignray.errors import RecordError


def test_chains_are_one_component() -> None:
    labels = connected_components(6, np.array([[0, 1], [1, 4], [3, 2]], np.int64))
    assert labels.dtype == np.int64
    assert labels[0] == labels[1] == labels[4]
    assert labels[2] == labels[3]
    assert len(set(labels.tolist())) == 3


def test_the_least_id_stays_and_a_better_score_goes_before_it() -> None:
    labels = np.array([0, 1, 0, 0, 1])
    ids = ["c", "x", "a", "b", "w"]
    plain = representatives(labels, ids)
    assert plain.keep.tolist() == [False, False, True, False, True]
    assert plain.keeper.tolist() == [2, 4, 2, 2, 4]
    assert plain.cluster_size.tolist() == [3, 2, 3, 3, 2]
    scored = representatives(labels, ids, [1.0, np.nan, 0.5, 1.0, -9.0])
    assert scored.keep.tolist() == [False, False, False, True, True]


def test_an_id_that_comes_twice_is_refused() -> None:
    with pytest.raises(RecordError, match="'a' comes twice"):
        representatives(np.array([0, 1]), ["a", "a"])
