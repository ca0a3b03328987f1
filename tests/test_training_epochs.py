"""What is gathered over epochs: averages of weights and scores, figures, the best epoch so far."""

import jax.numpy as jnp
import numpy as np
import pytest

from ast_jax.evaluation.metrics import Metric
from ast_jax.evaluation.predictions import Predictions
from ast_jax.settings import Averages, Data, Published, Run, Settings
from ast_jax.training import epochs

# not the same for scores of twice the size
BRIER = Metric(
    "Brier", "Brier", lambda s: float(np.square(s.scores - s.targets).mean()), higher_is_better=False
)
NAME = "test_training_epochs:BRIER"
TARGETS = np.eye(2, dtype=np.float32)


def predictions(share: float) -> Predictions:
    scores = np.array([[share, 1 - share], [1 - share, share]], np.float32)
    return Predictions(["a", "b"], scores, TARGETS, loss=0.5)


@pytest.mark.parametrize(("epoch", "count"), [(1, 0), (2, 1), (3, 2), (4, 3), (5, 3)])
def test_weights_of_the_epochs_asked_for_are_counted(epoch, count):
    assert epochs.num_averaged(Averages(average_epochs=(2, 4)), epoch) == count
    assert epochs.num_averaged(Averages(), epoch) == 0


def test_the_first_epoch_counts_twice_where_a_recipe_says_so():
    """PSLA's published code: from the second epoch on the average holds three, and the first one twice."""
    settings = Averages(average_epochs=(2, 4), average_first_twice=True)
    counts = [epochs.num_averaged(settings, epoch) for epoch in range(1, 6)]
    assert counts == [0, 1, 3, 4, 4]
    weights = {2: 10.0, 3: 100.0, 4: 1000.0, 5: 1e4}
    kept = epochs.initial_averages(settings, {"w": jnp.zeros(2)}, (2, 2))
    means = []
    for epoch, weight in weights.items():
        count = epochs.num_averaged(settings, epoch)
        takes_part = count > epochs.num_averaged(settings, epoch - 1)
        value = {"w": jnp.full(2, weight)}
        kept = epochs.advance(kept, value, predictions(0.5).scores, count=count, takes_part=takes_part)
        means.append(float(kept["average"]["w"][0]))
    assert means == pytest.approx([10, (2 * 10 + 100) / 3, (2 * 10 + 1100) / 4, (2 * 10 + 1100) / 4])


def test_averages_are_the_means_of_what_took_part():
    settings, weights = Averages(average_epochs=(2, 3), cumulative=True), {"w": jnp.zeros(2)}
    kept = epochs.initial_averages(settings, weights, (2, 2))
    shares = [0.5, 0.75, 1.0]
    for epoch, share in enumerate(shares, 1):
        kept = epochs.advance(
            kept,
            {"w": jnp.full(2, 10.0**epoch)},
            predictions(share).scores,
            count=epochs.num_averaged(settings, epoch),
            takes_part=epoch >= 2,
        )
    np.testing.assert_allclose(kept["average"]["w"], (100 + 1000) / 2)
    np.testing.assert_allclose(kept["cumulative"][0], [sum(shares), 3 - sum(shares)])
    assert epochs.initial_averages(Averages(), weights, (2, 2)) == {}


def test_figures_tell_the_ensemble_the_coverage_and_the_published_value():
    published = {"metric": NAME, "curve": {"3": 0.05, "4": 1}, "band": 0.02}
    settings = Settings(run=Run(metric=NAME), data=Data(expected=4), published=Published(published))
    found = epochs.figures(settings, 3, predictions(0.75), {"cumulative": 3 * predictions(0.5).scores})
    assert found[NAME] == pytest.approx(0.0625)
    assert found[f"ensemble_{NAME}"] == pytest.approx(0.25)
    assert (found["expected_examples"], found["coverage"]) == (4, 0.5)
    assert (found["published"], found["inside"]) == (0.05, True)
    assert found["difference"] == pytest.approx(0.0125)
    assert "published" not in epochs.figures(settings, 2, predictions(0.75), {})


def test_averaged_weights_have_a_published_figure_of_their_own():
    """Which is no epoch's, and an epoch's is not theirs."""
    gap = lambda known, averaged: epochs.published_gap(
        Settings(published=Published(known)), 3, {"mAP": 0.452}, averaged=averaged
    )
    known = {"metric": "mAP", "curve": {"3": 0.5}, "average": 0.444, "band": 0.01}
    assert gap(known, True) == {"published": 0.444, "difference": pytest.approx(0.008), "inside": True}
    assert (gap(known, False)["published"], gap(known, False)["inside"]) == (0.5, False)
    assert gap({"metric": "mAP", "average": 0.444, "band": 0.01}, False) == {}
    assert gap({"metric": "mAP", "curve": {"3": 0.5}, "band": 0.01}, True) == {}


def test_the_best_epoch_is_the_later_of_equals_and_the_lower_where_lower_is_better():
    values = enumerate([0.3, 0.5, 0.5, 0.4], 1)
    rows = [{"epoch": n, "step": 10 * n, "mAP": value, NAME: value} for n, value in values]
    for metric, wanted in (("mAP", 3), (NAME, 1)):
        best = None
        for row in rows:
            best = epochs.better(best, row, metric)
        assert (best["epoch"], best["step"], best["metric"]) == (wanted, 10 * wanted, metric)
        assert best["value"] == rows[wanted - 1][metric]
