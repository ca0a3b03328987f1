"""Saved scores: what is written is read, and what is something else is told from what is damaged."""

import dataclasses

import numpy as np
import pytest

from ast_jax.errors import InputError
from ast_jax.evaluation.predictions import Predictions


@pytest.fixture
def saved(tmp_path):
    rng = np.random.default_rng(0)
    scores, targets = rng.random((50, 7), np.float32), np.eye(7, dtype=np.float32)[rng.integers(7, size=50)]
    predictions = Predictions([f"clip{i}" for i in range(50)], scores, targets, loss=0.25)
    predictions.save(tmp_path / "scores.npz")
    return predictions


def test_what_is_saved_is_read(saved, tmp_path):
    read = Predictions.read(tmp_path / "scores.npz")
    assert (read.ids, read.loss) == (saved.ids, saved.loss)
    np.testing.assert_array_equal(read.scores, saved.scores)
    np.testing.assert_array_equal(read.targets, saved.targets)


def test_other_arrays_are_no_scores(tmp_path):
    np.savez(tmp_path / "weights.npz", kernel=np.zeros(3))
    assert Predictions.load(tmp_path / "weights.npz") is None
    with pytest.raises(InputError, match="holds no scores"):
        Predictions.read(tmp_path / "weights.npz")


@pytest.mark.parametrize("kept", [0, 3, 0.5, 0.9])
def test_a_cut_file_is_an_error_of_one_line(saved, tmp_path, kept):
    path = tmp_path / "scores.npz"
    whole = path.read_bytes()
    path.write_bytes(whole[: kept if isinstance(kept, int) else int(kept * len(whole))])
    with pytest.raises(InputError, match=r"scores\.npz cannot be read"):
        Predictions.load(path)


def test_arrays_that_do_not_belong_together_are_an_error_of_one_line(saved, tmp_path):
    arrays = {"ids": np.array(saved.ids), "scores": saved.scores, "targets": saved.targets}
    for broken in (
        {"ids": arrays["ids"][1:]},
        {"scores": saved.scores[:, 1:]},
        {"targets": saved.targets[0]},
    ):
        np.savez(tmp_path / "scores.npz", **arrays | broken)
        with pytest.raises(InputError, match=r"(49|50) ids, scores .* targets"):
            Predictions.load(tmp_path / "scores.npz")


def test_bytes_that_changed_are_an_error_of_one_line(saved, tmp_path):
    path = tmp_path / "scores.npz"
    content = bytearray(path.read_bytes())
    for place in range(len(content) // 3, len(content) // 3 + 40):
        content[place] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"scores\.npz cannot be read"):
        Predictions.load(path)


def test_one_label_a_clip_is_told_from_several(saved):
    assert saved.single_label
    both = saved.targets.copy()
    both[0] = 1
    assert not Predictions(saved.ids, saved.scores, both, 0.0).single_label


def test_an_ensemble_is_the_mean_of_its_members_scores_and_losses(saved):
    other = Predictions(saved.ids, saved.scores[::-1] ** 2, saved.targets, loss=0.75)
    mean = Predictions.mean([saved, other])
    np.testing.assert_allclose(mean.scores, (saved.scores + saved.scores[::-1] ** 2) / 2, rtol=1e-6)
    assert mean.loss == pytest.approx(0.5)
    assert mean.ids == saved.ids


def test_members_that_do_not_know_the_same_are_an_ensemble(saved):
    targets = saved.targets.copy()
    targets[::3, 2] = np.nan
    one, other = (dataclasses.replace(saved, targets=targets.copy()) for _ in range(2))
    np.testing.assert_array_equal(Predictions.mean([one, other]).targets, targets)
    other.targets[1, 2] = np.nan
    with pytest.raises(InputError, match="different clips or labels"):
        Predictions.mean([one, other])


OTHERS = [{"ids": [f"other{i}" for i in range(50)]}, {"targets": np.ones((50, 7), np.float32)}]


@pytest.mark.parametrize("change", OTHERS)
def test_members_of_other_clips_or_labels_are_no_ensemble(saved, change):
    with pytest.raises(InputError, match="different clips or labels"):
        Predictions.mean([saved, dataclasses.replace(saved, **change)])


def test_classes_in_another_order_take_their_targets_along(saved):
    columns = np.array([3, 0, 1, 2, 6, 5, 4])
    turned = saved.with_classes(columns)
    np.testing.assert_array_equal(turned.scores[:, 0], saved.scores[:, 3])
    np.testing.assert_array_equal(turned.targets[:, 1], saved.targets[:, 0])
