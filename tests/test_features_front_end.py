"""The front end as a value: what the card stores, what tells shards apart, and the reference's numbers."""

import numpy as np
import pytest

from ast_jax.errors import InputError
from ast_jax.features import Kaldi, log_mel
from ast_jax.features.front_end import from_card


def test_the_card_gives_the_front_end_back_without_its_statistics():
    given = Kaldi(num_mel_bins=64).with_statistics(-4.0, 3.0)
    again = from_card(given.card())
    assert (again, again.identity) == (Kaldi(num_mel_bins=64), given.identity)
    assert from_card(None, num_mel_bins=64) == Kaldi(num_mel_bins=64)


@pytest.mark.parametrize(
    "stated", [{"kind": "kaldy"}, {"kind": "kaldi", "bins": 3}, {"kind": "kaldi", "frame_shift": 80}]
)
def test_a_card_with_an_unknown_front_end_is_refused(stated):
    with pytest.raises(InputError):
        from_card(stated)


def test_frames_and_samples_are_those_of_log_mel():
    front_end, sound = Kaldi(), np.random.default_rng(0).normal(0, 0.1, 16_000).astype(np.float32)
    made = front_end.features(sound)
    np.testing.assert_array_equal(made, log_mel(sound))
    assert len(made) == front_end.num_frames(16_000) == 98
    assert front_end.num_frames(front_end.span(98)) == 98 > front_end.num_frames(front_end.span(98) - 1)
    assert front_end.seconds(100) == 1.0
    cut = front_end.features(sound[None], num_samples=np.array([8000]))
    np.testing.assert_array_equal(cut, log_mel(sound[None], num_samples=np.array([8000])))
    assert (cut[0, -1] == np.float32(front_end.silence)).all()


def test_a_card_from_before_front_ends_means_the_references_with_the_models_mel_bins():
    assert from_card(None, num_mel_bins=64) == Kaldi(num_mel_bins=64)


def test_normalised_as_the_reference_does():
    x = np.array([[-4.2677393, 4.5689974]])
    assert Kaldi().normalise(x) == pytest.approx(x)
    front_end = Kaldi().with_statistics(-4.2677393, 4.5689974)
    assert front_end.normalise(x)[0] == pytest.approx([0.0, (4.5689974 + 4.2677393) / (2 * 4.5689974)])


@pytest.mark.parametrize(("mean", "std"), [(0.0, 0.0), (0.0, -1.0), (float("nan"), 1.0), (0.0, float("inf"))])
def test_statistics_that_would_give_nan_are_refused(mean, std):
    with pytest.raises(InputError, match="std above 0"):
        Kaldi().with_statistics(mean, std)
