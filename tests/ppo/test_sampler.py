"""The order of rows, and what makes pairs impossible."""

import pytest

from rlrec.ppo.sampler import RolloutSampler, check_pairs


def sampler(rows=10, rows_per_rollout=4, repeat_rows=1, repeat=1, unit=1, shuffle=True, seed=0, epoch=0):
    return RolloutSampler(
        rows,
        rows_per_rollout,
        repeat_rows=repeat_rows,
        repeat=repeat,
        unit=unit,
        shuffle=shuffle,
        seed=seed,
        epoch=lambda: epoch,
    )


def test_rollouts_are_repeated_as_a_whole():
    assert list(sampler(shuffle=False, repeat=2)) == [0, 1, 2, 3, 0, 1, 2, 3, 4, 5, 6, 7, 4, 5, 6, 7]


def test_each_row_is_repeated_for_its_generations():
    assert list(sampler(rows=4, rows_per_rollout=2, repeat_rows=3, shuffle=False)) == [
        0,
        0,
        0,
        1,
        1,
        1,
        2,
        2,
        2,
        3,
        3,
        3,
    ]


@pytest.mark.parametrize("unit", [1, 2])
def test_length_is_what_iterating_gives(unit):
    made = sampler(rows=11, repeat_rows=2, repeat=3, unit=unit)
    assert len(list(made)) == len(made) == 2 * 4 * 2 * 3


def test_pairs_stay_together_in_shuffled_order():
    order = list(sampler(rows=100, rows_per_rollout=20, unit=2))
    assert all(first % 2 == 0 and second == first + 1 for first, second in zip(order[::2], order[1::2]))
    assert sorted(order) == list(range(100))
    assert order != list(range(100))


def test_order_depends_on_seed_and_epoch_alone():
    made = sampler(epoch=1)
    assert list(made) == list(made) == list(sampler(epoch=1))
    assert list(made) != list(sampler(epoch=2))
    assert list(made) != list(sampler(epoch=1, seed=1))


def test_pairs_are_checked():
    check_pairs([7, 7, 3, 3], rows_per_rank=4, num_generations=2)
    with pytest.raises(ValueError, match="3 rows: pairs need an even number"):
        check_pairs([1, 1, 2], 4, 1)
    with pytest.raises(ValueError, match="Rows 2 and 3 must be a pair, but their pair_id is 2 and 3"):
        check_pairs([1, 1, 2, 3], 4, 1)
    with pytest.raises(ValueError, match=r"samples 6 completions per rollout .* make it a multiple of 4"):
        check_pairs([1, 1], 6, 2)


def test_a_dataset_smaller_than_a_rollout_is_refused():
    with pytest.raises(ValueError, match="The dataset has 3 rows, but one rollout samples completions for 4"):
        sampler(rows=3)
