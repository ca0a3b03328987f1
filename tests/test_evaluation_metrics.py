"""The figures are scikit-learn's, ties and empty classes included, and quick enough for AudioSet's evaluation
set."""

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
    """Random scores and multi-hot targets. Kinds: plain, rounded (many ties), half (float16 sigmoids),
    constant."""
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


def test_scores_that_float32_cannot_tell_apart_are_ranked_in_float64():
    scores, targets = np.array([[0.5], [0.5 + 1e-12]]), np.array([[0], [1]])
    assert metrics.average_precision(scores, targets) == metrics.roc_auc(scores, targets) == 1


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
    assert all(np.isnan(got[name]) for name in metrics.METRICS)


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


def test_accuracy_takes_the_first_of_equal_scores_and_any_target_above_0():
    scores = np.array([[0.5, 0.5, 0.1], [0.2, 0.7, 0.7]])
    assert metrics.accuracy(scores, np.array([[1, 0, 0], [0, 1, 0]])) == 1
    assert metrics.accuracy(scores, np.array([[0, 1, 0], [0, 0, 1]])) == 0
    assert metrics.accuracy(scores, np.array([[0.3, 0, 0.7], [1, 0, 0]])) == 0.5


# ---- Decisions: F1 and its thresholds; ranks within a clip: top-5 and lwlrap


def best_f1_by_trial(true: np.ndarray, scores: np.ndarray) -> float:
    """scikit-learn's F1 at every threshold that decides differently."""
    return max(sk.f1_score(true, scores >= threshold) for threshold in np.unique(scores))


@pytest.mark.parametrize("kind", ["plain", "rounded", "half", "constant"])
@pytest.mark.parametrize(("clips", "classes"), [(1, 1), (2, 3), (17, 5), (120, 9)])
def test_thresholds_give_each_classs_best_f1_and_the_means_are_scikit_learns(kind, clips, classes):
    scores, targets = drawn(clips + classes, clips, classes, kind=kind)
    scored = metrics.Scored(scores, targets)
    there = np.flatnonzero(targets.any(axis=0))
    assert np.isnan(scored.thresholds).tolist() == (~targets.any(axis=0)).tolist()
    for c in there:
        assert scored.f1[c] == pytest.approx(best_f1_by_trial(targets[:, c] > 0, scores[:, c]), abs=EXACT)
        # between two scores of this set, so that another set's that lie beside them are found as these are
        others = scores[scores[:, c] < scored.thresholds[c], c]
        assert others.size == 0 or others.max() < scored.thresholds[c]
    if len(there):
        true, found = targets[:, there] > 0, scores[:, there] >= scored.thresholds[there][None]
        figures = metrics.summary(scores, targets)
        macro = np.mean([sk.f1_score(true[:, c], found[:, c]) for c in range(len(there))])
        assert figures["f1_macro"] == pytest.approx(macro, abs=EXACT)
        assert figures["f1_micro"] == pytest.approx(sk.f1_score(true.ravel(), found.ravel()), abs=EXACT)


def test_a_threshold_lies_half_way_to_the_next_lower_score():
    scores = np.array([[0.9], [0.6], [0.3], [0.2]], np.float32)
    scored = metrics.Scored(scores, np.array([[1], [1], [0], [0]]))
    assert scored.thresholds == pytest.approx([0.45], abs=1e-7)
    assert scored.f1.tolist() == [1.0]
    lowest = metrics.Scored(np.array([[0.6], [0.2]], np.float32), np.array([[1], [0]]))
    assert lowest.thresholds == pytest.approx([0.4], abs=1e-7)
    # one hit of one found is as good as two of four: the higher threshold
    equal = metrics.Scored(scores, np.array([[1], [0], [0], [1]]))
    assert equal.thresholds == pytest.approx([0.75], abs=1e-7)
    # the neighbouring float32 below: half way would round up to the found clip's own score, or down to the
    # other's
    below = np.nextafter(np.float32(0.6), np.float32(0))
    close = metrics.Scored(np.array([[0.6], [below]], np.float32), np.array([[1], [0]]))
    assert close.f1.tolist() == [1.0]


def test_thresholds_of_another_set_decide_where_they_are_given():
    scores, targets = drawn(4, 300, 6, kind="half")
    given = metrics.Scored(*drawn(5, 300, 6, kind="half")).thresholds
    figures = metrics.summary(scores, targets, thresholds=given)
    wanted = sk.f1_score(targets > 0, scores >= given[None], average="macro")
    assert figures["f1_macro"] == pytest.approx(wanted, abs=EXACT)
    assert figures["f1_macro"] < metrics.summary(scores, targets)["f1_macro"]
    targets[:, 2] = 0  # what is found of a class without true clips counts in no mean
    there = [0, 1, 3, 4, 5]
    wanted = sk.f1_score(targets[:, there].ravel() > 0, (scores >= given[None])[:, there].ravel())
    assert metrics.summary(scores, targets, thresholds=given)["f1_micro"] == pytest.approx(wanted, abs=EXACT)


def test_top5_is_scikit_learns_and_has_no_meaning_for_five_classes():
    rng = np.random.default_rng(0)
    labels, scores = rng.integers(12, size=400), rng.normal(size=(400, 12))
    wanted = sk.top_k_accuracy_score(labels, scores, k=5, labels=range(12))
    assert metrics.summary(scores, np.eye(12)[labels])["top5"] == pytest.approx(wanted, abs=EXACT)
    assert np.isnan(metrics.summary(scores[:, :5], np.eye(5)[labels % 5])["top5"])


@pytest.mark.parametrize("kind", ["plain", "rounded", "constant"])
def test_lwlrap_is_scikit_learns_with_clips_weighed_by_their_labels(kind):
    """As DCASE's own code has it: label_ranking_average_precision_score with sample_weight; clips without
    labels do not count. 900 clips of 2 labels are more rows than are worked on at once."""
    scores, targets = drawn(7, 900, 12, kind=kind)
    some = targets.any(axis=1)
    assert not some.all()
    wanted = sk.label_ranking_average_precision_score(
        targets[some],
        scores[some].astype(np.float64),
        sample_weight=targets[some].astype(np.float64).sum(axis=1),
    )
    assert metrics.summary(scores, targets)["lwlrap"] == pytest.approx(wanted, abs=EXACT)


def test_classes_and_clips_without_labels_leave_the_rest_as_it_is():
    scores, targets = drawn(9, 200, 8)
    wider = np.hstack([scores, np.zeros((200, 1), np.float32)]), np.hstack([targets, np.zeros((200, 1))])
    for name in ("f1_macro", "f1_micro", "mAP", "auc"):
        assert metrics.summary(*wider)[name] == pytest.approx(
            metrics.summary(scores, targets)[name], abs=EXACT
        )
    nothing = metrics.summary(scores, np.zeros_like(targets))
    assert all(np.isnan(nothing[name]) for name in ("f1_macro", "f1_micro", "lwlrap", "mAP"))
    assert nothing["top5"] == 0


LABELS_MISSED = metrics.Metric(
    "Labels missed",
    "missed",
    lambda scored: scored.found[:, 2].sum(),
    "{:.0f}".format,
    higher_is_better=False,
)


def partly_known(scores, targets, seed: int = 5):
    """Targets of which a third is not known, of clip 0 nothing and of clips 1 to 9 everything."""
    unknown = np.random.default_rng(seed).random(targets.shape) < 1 / 3
    unknown[0], unknown[1:10] = True, False
    return np.where(unknown, np.nan, targets), ~unknown


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.UndefinedMetricWarning")
@pytest.mark.parametrize("kind", ["plain", "rounded", "half"])
def test_figures_of_a_class_are_scikit_learns_of_the_pairs_that_are_known(kind):
    scores, targets = drawn(11, 150, 16, kind=kind)
    targets, known = partly_known(scores, targets)
    scored = metrics.Scored(scores, targets)
    rows = metrics.per_class(scores, targets, [str(c) for c in range(16)])
    decisions = []
    for c, row in enumerate(rows):
        true, own = targets[known[:, c], c] > 0, scores[known[:, c], c]
        assert scored.average_precision[c] == pytest.approx(sk.average_precision_score(true, own), abs=EXACT)
        assert scored.roc_auc[c] == pytest.approx(sk.roc_auc_score(true, own), abs=EXACT)
        assert scored.f1[c] == pytest.approx(best_f1_by_trial(true, own), abs=EXACT)
        assert scored.f1[c] == pytest.approx(sk.f1_score(true, own >= scored.thresholds[c]), abs=EXACT)
        assert row["positives"] == true.sum()
        decisions.append((true, own >= scored.thresholds[c]))
    true, found = (np.concatenate(each) for each in zip(*decisions, strict=True))
    assert scored.micro_f1 == pytest.approx(sk.f1_score(true, found), abs=EXACT)


def test_what_asks_for_the_top_class_is_of_clips_known_as_a_whole():
    scores, targets = drawn(12, 200, 7)
    targets, known = partly_known(scores, targets)
    whole = known.all(axis=1)
    names = [str(c) for c in range(7)]
    got, of = metrics.summary(scores, targets), metrics.summary(scores[whole], targets[whole])
    assert 9 <= whole.sum() < 200
    for name in ("accuracy", "top5", "lwlrap"):
        assert got[name] == of[name]
    assert got["num_examples"] == 200
    recalls = [
        [row["accuracy"] for row in metrics.per_class(*each, names)]
        for each in ((scores, targets), (scores[whole], targets[whole]))
    ]
    assert recalls[0] == recalls[1]


def test_nothing_known_has_no_figure_and_no_interval():
    scores = drawn(13, 20, 6)[0]
    nothing = np.full(scores.shape, np.nan, np.float32)
    figures = metrics.summary(scores, nothing)
    assert all(np.isnan(figures[name]) for name in metrics.METRICS)
    assert np.isnan(metrics.interval_of(scores, nothing, "mAP")).all()


def test_an_interval_is_drawn_from_what_is_known():
    scores, targets = drawn(14, 400, 3)
    low, high = metrics.interval_of(scores, partly_known(scores, targets)[0], "mAP")
    own = metrics.mean_average_precision(scores, partly_known(scores, targets)[0])
    assert low < own < high
    narrow = metrics.interval_of(scores, targets, "mAP")
    assert high - low > narrow[1] - narrow[0]


def test_a_metric_of_the_users_own():
    scores, targets = drawn(3, 100, 4)
    name = "test_evaluation_metrics:LABELS_MISSED"
    figures = metrics.summary(scores, targets, also=name)
    found = scores >= metrics.Scored(scores, targets).thresholds[None]
    assert figures[name] == (~found & (targets > 0)).sum() > 0
    assert figures.keys() - {name} == metrics.summary(scores, targets).keys()
    most = metrics.metric_called("mAP")
    assert most.better(0.5, than=0.5)  # of equals the later one
    assert not most.better(0.4, than=0.5)
    row = metrics.metric_called(name)
    assert row.better(3, than=4)
    assert row.better(4, than=4)
    assert row.better(4, than=float("nan"))
    assert not row.better(5, than=4)
    assert (row.text(7), row.text(None), row.text(float("nan"))) == ("7", "-", "-")
    with pytest.raises(InputError, match="did you mean 'f1_macro'"):
        metrics.metric_called("f1_makro")


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
    nothing = dict.fromkeys(("ap", "auc", "d_prime", "accuracy", "f1", "threshold"))
    assert rows[3] == {"label": "d", "positives": 0, **nothing}
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
    # 60 small evaluation sets, 30 true clips a class, of one population whose mAP a large set tells. 95 % is
    # promised.
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


def test_an_interval_is_of_the_metric_with_the_whole_sets_thresholds():
    scores, targets = drawn(6, 40, 3)
    given = metrics.Scored(scores, targets).thresholds
    f1 = lambda drawn, true: metrics.METRICS["f1_macro"].of(metrics.Scored(drawn, true, given))
    wanted = metrics.bootstrap_interval(scores, targets, f1, repeats=200)
    assert metrics.interval_of(scores, targets, "f1_macro") == wanted
    low, high = metrics.interval_of(scores, targets, "auc")
    assert metrics.interval_of(scores, targets, "d_prime") == (metrics.d_prime(low), metrics.d_prime(high))


def test_an_interval_has_as_much_on_either_side_and_moves_by_twice_the_bias():
    """A metric that counts the different clips of a draw: 1 - 1/e of them, and the set has all."""
    scores = np.arange(100.0)[:, None]
    different = lambda drawn, _: len(np.unique(drawn)) / 100
    low, high = metrics.bootstrap_interval(scores, scores, different, repeats=2000)
    # 1 - 1/e - 2 (1 - 1/e - 1); a share's standard deviation is sqrt((1/e - 2/e^2) / 100)
    assert (low + high) / 2 == pytest.approx(1 + np.exp(-1), abs=0.01)
    assert high - low == pytest.approx(2 * 1.96 * 0.0312, rel=0.1)
    # the last clip is drawn like any other: once a draw in the mean
    last = lambda drawn, _: float((drawn == 99).sum())
    low, high = metrics.bootstrap_interval(scores, scores, last, repeats=200)
    assert low < 1 < high


def test_the_size_of_audiosets_evaluation_set():
    rng = np.random.default_rng(0)
    scores = rng.random((19_185, 527), dtype=np.float32)
    targets = rng.random((19_185, 527)) < 2.7 / 527
    started = time.process_time()
    got = metrics.summary(scores, targets)
    seconds = time.process_time() - started
    print(f"summary of 19,185 x 527: {seconds:.2f} s")
    # chance: the share of true clips, and a little for small classes
    assert got["mAP"] == pytest.approx(0.0056, abs=0.001)
    # about 0.15 s on one core: a slow and busy machine is not the test's matter, the reference's minutes are
    assert seconds < 3
