"""Which model answers which row: never one that was trained on it."""

import numpy as np
import pytest

from nodes.zoo.digits.plan import Fitted, Job, inner_answers, jobs_of_all_folds, jobs_to_ship, outer_answers

NAME = "digits-linear"
FOLD_N = np.arange(50, dtype=np.uint8) % 5


@pytest.fixture
def trained() -> dict[Job, Fitted]:
    """Models whose answer to every row is, per fold, 1 where the fold was left out of their training."""
    return {job: _confession(job) for job in jobs_of_all_folds([NAME])}


def _confession(job: Job) -> Fitted:
    left_out = np.isin(np.arange(5), job.left_out).astype(np.float32)
    return Fitted(np.tile(left_out, (len(FOLD_N), 1)), weights={}, train_s=0.0)


def test_fifteen_models_give_the_folds_and_five_of_them_ship() -> None:
    jobs = jobs_of_all_folds([NAME])
    assert len(set(jobs)) == len(jobs) == 15
    assert {job.left_out for job in jobs_to_ship([NAME])} == {(0,), (0, 1), (0, 2), (0, 3), (0, 4)}


def test_outer_answers_come_from_outsiders_to_the_row(trained: dict[Job, Fitted]) -> None:
    np.testing.assert_array_equal(outer_answers(trained, NAME, FOLD_N), np.eye(5, dtype=np.float32)[FOLD_N])


@pytest.mark.parametrize("outer_fold", range(5))
def test_inner_answers_come_from_outsiders_to_row_and_outer_fold(trained: dict[Job, Fitted], outer_fold: int) -> None:
    left_out_nk = inner_answers(trained, NAME, FOLD_N, outer_fold=outer_fold)
    expected_nk = np.eye(5, dtype=np.float32)[FOLD_N]
    expected_nk[:, outer_fold] = 1
    expected_nk[outer_fold == FOLD_N] = 0
    np.testing.assert_array_equal(left_out_nk, expected_nk)
