"""The figures are scikit-learn's, ties and empty classes included, and quick enough for AudioSet's evaluation set."""

import json
import time
from functools import partial

import numpy as np
import pytest
from scipy.special import ndtri
from sklearn import metrics as sk

from ast_jax.errors import InputError
from ast_jax.evaluation import metrics

EXACT = 1e-9  # both sides count in float64: what is left is the order of additions


def drawn(seed: int, clips: int, classes: int, *, kind: str = "plain", share: float = 0.2):
    """Random scores and multi-hot targets. Kinds: plain, rounded (many ties), half (float16 sigmoids), constant."""
    rng = np.random.default_rng(seed)
    targets = (rng.random((clips, classes)) < share).astype(np.float32)
    scores = rng.normal(size=(clips, classes)) + targets
    if kind == "rounded":
        scores = np.round(scores)
    if kind == "half":
        scores = (1 / (1 + np.exp(6 - 4 * scores))).astype(np.float16)
    if kind == "constant":
        scores = np.full_like(scores, 0.25)
    return scores if kind == "half" else scores.astype(np.float32), targets


@pytest.mark.filterwarnings(
    "ignore::sklearn.exceptions.UndefinedMetricWarning", "ignore:No positive class found"
)
@pytest.mark.parametrize("kind", ["plain", "rounded", "half", "constant"])
@pytest.mark.parametrize(("clips", "classes"), [(1, 1), (2, 3), (17, 5), (257, 70), (1200, 130)])
def test_ap_and_auc_are_scikit_learns(kind, clips, classes):
    scores, targets = drawn(clips + classes, clips, classes, kind=kind)
    ap, auc = metrics.average_precision(scores, targets), metrics.roc_auc(scores, targets)
    for c in range(classes):
        true = targets[:, c] > 0
        if true.any():
            assert ap[c] == pytest.approx(sk.average_precision_score(true, scores[:, c]), abs=EXACT)
        else:
            assert np.isnan(ap[c])
        if true.any() and not true.all():
            assert auc[c] == pytest.approx(sk.roc_auc_score(true, scores[:, c]), abs=EXACT)
        else:
            assert np.isnan(auc[c])


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("target_dtype", [bool, np.int64, np.float32])
def test_every_dtype_gives_the_same_ranks(dtype, target_dtype):
    scores, targets = drawn(3, 300, 9, kind="half")
    expected = sk.average_precision_score(targets, scores.astype(np.float64), average="macro")
    got = metrics.mean_average_precision(scores.astype(dtype), targets.astype(target_dtype))
    assert got == pytest.approx(expected, abs=EXACT)


def test_summary_leaves_out_and_counts_classes_without_positives():
    scores, targets = drawn(5, 400, 12, kind="rounded")
    targets[:, [2, 7]] = 0  # no true clip: neither AP nor AUC
    targets[:, 4] = 1  # no untrue clip: AP is 1, AUC has no meaning
    got = metrics.summary(scores, targets)
    with_ap = [c for c in range(12) if c not in (2, 7)]
    with_auc = [c for c in with_ap if c != 4]
    assert (got["classes_left_out"], got["classes_left_out_of_auc"], got["num_examples"]) == (2, 3, 400)
    assert got["mAP"] == pytest.approx(
        sk.average_precision_score(targets[:, with_ap], scores[:, with_ap], average="macro"), abs=EXACT
    )
    mean_auc = sk.roc_auc_score(targets[:, with_auc], scores[:, with_auc], average="macro")
    assert got["auc"] == pytest.approx(mean_auc, abs=EXACT)
    assert got["d_prime"] == pytest.approx(2**0.5 * ndtri(mean_auc), abs=EXACT)


def test_summary_of_nothing_is_nan_and_does_not_warn():
    got = metrics.summary(np.zeros((0, 3), np.float32), np.zeros((0, 3), np.float32))
    assert got["num_examples"] == 0
    assert got["classes_left_out"] == 3
    assert all(np.isnan(got[k]) for k in ("accuracy", "mAP", "auc", "d_prime"))


def test_accuracy_with_one_label_a_clip_is_scikit_learns():
    rng = np.random.default_rng(0)
    labels = rng.integers(10, size=500)
    targets = np.eye(10, dtype=np.float32)[labels]
    scores = rng.normal(size=(500, 10)) + targets
    assert metrics.accuracy(scores, targets) == pytest.approx(
        sk.accuracy_score(labels, scores.argmax(axis=1)), abs=EXACT
    )


def test_accuracy_with_several_labels_asks_whether_the_top_one_is_true():
    targets = np.array([[1, 0, 1], [1, 0, 1], [0, 0, 0], [0, 1, 1]])
    scores = np.array([[0.1, 0.2, 0.9], [0.9, 0.2, 0.1], [0.9, 0.2, 0.1], [0.9, 0.2, 0.8]])
    assert metrics.accuracy(scores, targets) == 0.5  # 1 and 2 right, no label and a wrong label wrong
    assert (
        scores.argmax(1) == targets.argmax(1)
    ).mean() == 0.5  # the reference: 2 right, and the unlabelled clip too


@pytest.mark.parametrize("auc", [0.5, 0.6, 0.979441, 0.980985, 1e-6, 1 - 1e-9])
def test_d_prime_is_the_probit(auc):
    assert metrics.d_prime(auc) == pytest.approx(2**0.5 * ndtri(auc), abs=EXACT)


def test_d_prime_of_the_published_ensembles():
    # AUC and d' of Ensemble-S and Ensemble-M as the reference logged them, six digits each.
    assert metrics.d_prime(0.979441) == pytest.approx(2.888303, abs=2e-5)
    assert metrics.d_prime(0.980985) == pytest.approx(2.933840, abs=2e-5)


def test_d_prime_at_the_ends():
    assert metrics.d_prime(1.0) == np.inf
    assert metrics.d_prime(0.0) == -np.inf
    assert np.isnan(metrics.d_prime(float("nan")))


def test_per_class_rows_are_json_and_agree_with_the_arrays():
    scores, targets = drawn(8, 200, 6)
    targets[:, 3] = 0
    scores[:, 5] = targets[:, 5] * 10  # ranked perfectly: AUC 1, d' infinite, which JSON cannot hold
    rows = metrics.per_class(scores, targets, list("abcdef"))
    assert json.loads(json.dumps(rows, allow_nan=False)) == rows
    assert [r["label"] for r in rows] == list("abcdef")
    assert [r["positives"] for r in rows] == targets.sum(0).astype(int).tolist()
    assert rows[3] == {
        "label": "d",
        "ap": None,
        "auc": None,
        "d_prime": None,
        "positives": 0,
        "accuracy": None,
    }
    assert rows[5]["auc"] == 1.0
    assert rows[5]["d_prime"] is None
    ap = metrics.average_precision(scores, targets)
    top = scores.argmax(1)
    for c in (0, 1, 2, 4, 5):
        assert rows[c]["ap"] == ap[c]
        true = targets[:, c] > 0
        assert rows[c]["accuracy"] == pytest.approx((top[true] == c).mean(), abs=EXACT)


def test_per_class_wants_a_name_for_each_class():
    with pytest.raises(InputError, match="2 label names for 6 classes"):
        metrics.per_class(*drawn(8, 20, 6), ["a", "b"])


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_scores_that_cannot_be_ranked_are_refused(bad):
    scores, targets = drawn(1, 10, 3)
    scores[4, 1] = bad
    with pytest.raises(InputError, match="NaN or infinity"):
        metrics.summary(scores, targets)


def test_shapes_must_agree():
    scores, targets = drawn(1, 10, 3)
    with pytest.raises((InputError, TypeError)):  # jaxtyping's TypeError comes first where shapes are checked
        metrics.summary(scores, targets[:9])
    with pytest.raises(InputError, match=r"\(10, 3\) and targets \(9, 3\)"):
        metrics._check(scores, targets[:9])


def test_bootstrap_covers_the_figure_and_follows_its_seed():
    scores, targets = drawn(2, 300, 4)
    interval = partial(metrics.bootstrap_interval, scores, targets, metrics.accuracy, repeats=400)
    low, high = interval(seed=1)
    share = metrics.accuracy(scores, targets)
    assert low < share < high
    # Accuracy is a share of 300 clips: the width must be near that of the binomial, 2 x 1.96 standard errors.
    assert high - low == pytest.approx(2 * 1.96 * (share * (1 - share) / 300) ** 0.5, rel=0.2)
    assert interval(seed=1) == (low, high)
    assert interval(seed=2) != (low, high)


def test_bootstrap_holds_the_populations_map_about_as_often_as_promised():
    # 60 small evaluation sets, 30 true clips a class, of one population whose mAP a large set tells. 95 % is promised.
    population = metrics.mean_average_precision(*drawn(10**6, 60_000, 3, share=0.05))
    inside = 0
    for seed in range(60):
        scores, targets = drawn(seed, 600, 3, share=0.05)
        low, high = metrics.bootstrap_interval(
            scores, targets, metrics.mean_average_precision, repeats=100, seed=seed
        )
        inside += low <= population <= high
    assert inside >= 51  # plain percentiles, blind to the bias of clips drawn twice, manage 46


def test_bootstrap_leaves_out_draws_without_meaning():
    scores, targets = drawn(2, 10, 2, share=0.0)
    assert np.isnan(
        metrics.bootstrap_interval(scores, targets, metrics.mean_average_precision, repeats=5)
    ).all()
    targets[0, 0] = 1  # a third of the draws miss the only true clip
    low, high = metrics.bootstrap_interval(scores, targets, metrics.mean_average_precision, repeats=50)
    assert low <= high
    with pytest.raises(InputError, match="0 repeats"):
        metrics.bootstrap_interval(scores, targets, metrics.accuracy, repeats=0)


def test_published_gap_alarms_outside_the_band_only():
    curve = {1: 0.4153, 2: 0.4349, 5: 0.4486}
    assert metrics.published_gap(3, 0.4, curve, 0.01) is None
    gap = metrics.published_gap(2, 0.4300, curve, 0.01)
    assert gap.inside
    assert gap.difference == pytest.approx(-0.0049)
    assert metrics.published_gap(2, 0.4449, curve, 0.01).inside  # on the edge, whatever the rounding
    assert not metrics.published_gap(2, 0.4248, curve, 0.01).inside
    assert not metrics.published_gap(2, 0.4451, curve, 0.01).inside  # too good is suspicious as well
    assert not metrics.published_gap(5, float("nan"), curve, 0.01).inside


def test_the_size_of_audiosets_evaluation_set():
    rng = np.random.default_rng(0)
    scores = rng.random((19_185, 527), dtype=np.float32)
    targets = rng.random((19_185, 527)) < 2.7 / 527
    started = time.process_time()
    got = metrics.summary(scores, targets)
    seconds = time.process_time() - started
    print(f"summary of 19,185 x 527: {seconds:.2f} s")
    assert got["mAP"] == pytest.approx(
        0.0056, abs=0.001
    )  # chance: the share of true clips, and a little for small classes
    assert (
        seconds < 3
    )  # about 0.15 s on one core; a slow and busy machine is not the test's matter, the reference's minutes are
