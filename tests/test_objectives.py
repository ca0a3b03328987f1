"""Each objective against a direct float64 statement, its gradients where sigmoids saturate, weights,
smoothing, names."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.special import log_softmax

from ast_jax import objectives
from ast_jax.errors import InputError
from ast_jax.objectives import OBJECTIVES, objective, stated_activation
from ast_jax.settings import Objective

CLASSES = 4
LOGITS = np.random.default_rng(0).normal(0, 3, (6, CLASSES))


def labels_for(loss: str) -> np.ndarray:
    """Hard ones, one or several a clip; shares for losses of soft labels, with 0, 1 and sums other than 1
    among them."""
    rng = np.random.default_rng(1)
    if loss == "ce":
        return np.eye(CLASSES)[rng.integers(CLASSES, size=len(LOGITS))]
    if loss.startswith("soft"):
        return np.clip(rng.uniform(-0.3, 1.3, LOGITS.shape), 0, 1)
    return (rng.random(LOGITS.shape) < 0.5).astype(float)


def given(logits, labels) -> tuple[dict, dict]:
    """What a model gave and the batch, as objectives take them."""
    return {"logits": jnp.float32(logits)}, {"labels": jnp.float32(labels)}


# ---- The formulas, float64, written as in the papers; p_t is the probability of what is true


def direct(loss: str, z: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Each clip's loss, at the default settings."""
    p, log_p = 1 / (1 + np.exp(-z)), log_softmax(z, axis=1)
    bce = -(y * np.log(p) + (1 - y) * np.log(1 - p))
    # of a clip without steps, frames_bce is its own
    if loss in ("bce", "frames_bce"):
        return bce.mean(1)
    if loss == "ce":
        return -(y * log_p).sum(1)
    if loss == "focal":  # Lin et al. 2017, equation 4: -(1 - p_t)^gamma log(p_t), gamma 2
        p_t = np.where(y == 1, p, 1 - p)
        return (-((1 - p_t) ** 2) * np.log(p_t)).mean(1)
    if loss == "asymmetric":  # Ridnik et al. 2021, equations 4 to 7: gamma- 4, gamma+ 1, margin .05
        p_m = np.maximum(p - 0.05, 0)
        return -np.where(y == 1, (1 - p) * np.log(p), p_m**4 * np.log(1 - p_m)).mean(1)
    if loss == "soft_bce":  # the divergence of two coins, summed over their two sides
        with np.errstate(divide="ignore", invalid="ignore"):
            present, absent = y * np.log(y / p), (1 - y) * np.log((1 - y) / (1 - p))
        return (np.where(y > 0, present, 0) + np.where(y < 1, absent, 0)).mean(1)
    if loss == "soft_ce":  # Kullback and Leibler's, of labels brought to the sum 1
        y = y / y.sum(1, keepdims=True)
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(y > 0, y * (np.log(y) - log_p), 0).sum(1)
    raise KeyError(loss)


@pytest.mark.parametrize("loss", OBJECTIVES)
def test_every_row_is_its_formula(loss):
    y = labels_for(loss)
    got = objective(Objective(loss=loss)).per_clip(*given(LOGITS, y))
    np.testing.assert_allclose(got, direct(loss, LOGITS, y), rtol=1e-5, atol=1e-6)  # float32


def test_steps_that_are_known_count_as_much_as_the_clip_and_others_not_at_all():
    rng = np.random.default_rng(3)
    y, steps = labels_for("bce"), rng.normal(size=(len(LOGITS), 5, CLASSES))
    frames = (rng.random(steps.shape) < 0.5).astype(float)
    known = (rng.random(steps.shape[:2]) < 0.7).astype(float)
    known[0] = 0
    out, batch = given(LOGITS, y)
    out, more = out | {"frames": jnp.float32(steps)}, {"frames": frames, "frames_known": known}
    got = objective(Objective(loss="frames_bce")).training(out, batch | jax.tree.map(jnp.float32, more))
    p = 1 / (1 + np.exp(-steps))
    each = -(frames * np.log(p) + (1 - frames) * np.log(1 - p)).mean(2)
    clip = direct("bce", LOGITS, y)
    wanted = [
        (own + each[i][known[i] > 0].mean()) / 2 if known[i].any() else own for i, own in enumerate(clip)
    ]
    np.testing.assert_allclose(got, wanted, rtol=1e-5)
    assert got[0] == pytest.approx(clip[0], rel=1e-5)


def test_the_cross_entropies_are_optaxs():
    z = jnp.float32(LOGITS)
    several, one = jnp.float32(labels_for("bce")), jnp.float32(labels_for("ce"))
    wanted = optax.sigmoid_binary_cross_entropy(z, several).mean(axis=-1)
    of = lambda loss, y: objective(Objective(loss=loss)).per_clip(*given(z, y))
    np.testing.assert_allclose(of("bce", several), wanted, rtol=1e-6)
    np.testing.assert_allclose(of("ce", one), optax.softmax_cross_entropy(z, one), rtol=1e-6)


def test_soft_labels_that_agree_cost_nothing():
    z = jnp.float32(LOGITS)
    for loss, agreeing in (("soft_bce", jax.nn.sigmoid(z)), ("soft_ce", jax.nn.softmax(z))):
        what = objective(Objective(loss=loss))
        np.testing.assert_allclose(what.per_clip(*given(z, agreeing)), 0, atol=1e-6)


@pytest.mark.parametrize(("gamma", "margin"), [(0.0, 0.05), (0.5, 0.0), (2.0, 0.05)])
@pytest.mark.parametrize("loss", OBJECTIVES)
def test_gradients_stay_finite_where_sigmoids_saturate(loss, gamma, margin):
    """Logits of +-50 and beyond what float32 tells from 1, right and wrong, with labels of 0, 1 and
    between."""
    settings = Objective(loss=loss, focal_gamma=gamma, asymmetric=(2 * gamma, gamma, margin))
    z = jnp.float32([[50, -50, 200, -200, 0]])
    for y in ([1, 1, 0, 0, 1], [0.3, 0.3, 1, 0, 0.5], [0, 0, 0, 0, 0]):
        total = lambda z, y=y: objective(settings).training(*given(z, [y])).sum()
        value, slope = jax.value_and_grad(total)(z)
        assert np.isfinite(value)
        assert np.isfinite(slope).all()
        if loss == "bce":  # which goes on pulling however wrong it is
            np.testing.assert_allclose(slope[0], (jax.nn.sigmoid(z[0]) - jnp.float32(y)) / 5, atol=1e-6)


def test_exponents_and_margin_are_those_that_were_set():
    y = labels_for("focal")
    run = lambda settings: objective(settings).per_clip(*given(LOGITS, y))
    plain = direct("bce", LOGITS, y)
    np.testing.assert_allclose(run(Objective(loss="focal", focal_gamma=0.0)), plain, rtol=1e-5)
    none = Objective(loss="asymmetric", asymmetric=(0.0, 0.0, 0.0))
    np.testing.assert_allclose(run(none), plain, rtol=1e-5)
    forgiving = Objective(loss="asymmetric", asymmetric=(4.0, 1.0, 1.0))  # absent labels cost nothing at all
    p = 1 / (1 + np.exp(-LOGITS))
    np.testing.assert_allclose(run(forgiving), (-y * (1 - p) * np.log(p)).mean(1), rtol=1e-5, atol=1e-7)


# ---- What training adds


@pytest.mark.parametrize(("loss", "towards"), [("bce", 1 / 2), ("ce", 1 / CLASSES), ("focal", 1 / 2)])
def test_smoothing_spreads_a_share_of_the_labels(loss, towards):
    y = labels_for(loss)
    what = objective(Objective(loss=loss, label_smoothing=0.2))
    soft = jnp.float32(0.8 * y + 0.2 * towards)
    hard = objective(Objective(loss=loss))
    z = jnp.float32(LOGITS)
    np.testing.assert_allclose(what.training(*given(z, y)), hard.per_clip(*given(z, soft)), rtol=1e-5)
    # evaluation reports the loss without
    np.testing.assert_array_equal(what.per_clip(*given(z, y)), hard.per_clip(*given(z, y)))


def parts(z, y):
    """Each class's cross-entropy."""
    return np.log1p(np.exp(-np.abs(z))) + np.maximum(z, 0) - z * y


COUNTS = np.array([50, 25, 100, 0])  # of 120 clips; a class without any counts as one


@pytest.mark.parametrize(
    ("text", "weights"), [("counts", 44 / np.array([50, 25, 100, 1])), ("1,2,0,0.5", [1, 2, 0, 0.5])]
)
def test_class_weights_weigh_a_classes_part(text, weights):
    y, z = labels_for("bce"), jnp.float32(LOGITS)
    what = objective(Objective(class_weights=text), COUNTS, 120)
    wanted = (np.asarray(weights) * parts(LOGITS, y)).mean(1)
    np.testing.assert_allclose(what.training(*given(z, y)), wanted, rtol=1e-5)
    np.testing.assert_allclose(what.per_clip(*given(z, y)), direct("bce", LOGITS, y), rtol=1e-5)
    one = labels_for("ce")
    what = objective(Objective(loss="ce", class_weights=text), COUNTS, 120)
    wanted = -(np.asarray(weights) * one * log_softmax(LOGITS, axis=1)).sum(1)
    np.testing.assert_allclose(what.training(*given(z, jnp.float32(one))), wanted, rtol=1e-5)


def test_a_class_that_is_in_every_clip_still_weighs_something():
    what = objective(Objective(pos_weight="counts"), np.array([120, 60]), 120)
    assert what.pos_weight == pytest.approx((1 / 120, 1))


@pytest.mark.parametrize(
    ("text", "weights"), [("counts", [70 / 50, 95 / 25, 20 / 100, 119]), ("1,2,0,0.5", [1, 2, 0, 0.5])]
)
def test_pos_weight_weighs_what_is_there_as_pytorchs_does(text, weights):
    torch = pytest.importorskip("torch")
    y = labels_for("bce")
    what = objective(Objective(pos_weight=text), COUNTS, 120)
    their = torch.nn.BCEWithLogitsLoss(pos_weight=torch.tensor(weights), reduction="none")
    wanted = their(torch.tensor(LOGITS), torch.tensor(y)).mean(1).numpy()
    np.testing.assert_allclose(what.training(*given(LOGITS, y)), wanted, rtol=1e-5)


def test_weights_from_counts_wait_for_the_counts():
    """Before the data is opened the shape of the program is wanted, and no weight of it."""
    assert objective(Objective(class_weights="counts", pos_weight="counts")).class_weights == ()


# ---- Labels that are not known

KNOWN = np.array([[1, 1, 0], [0, 1, 0], [0, 0, 0]])
THREE = np.array([[1.5, -0.5, 3.0], [-2.0, 0.5, 1.0], [0.3, 0.2, -1.0]])
TRUE = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 0]])


def with_known(y, known=KNOWN, **more) -> tuple[dict, dict]:
    out, batch = given(THREE, y)
    return out, batch | {key: jnp.float32(value) for key, value in {"known": known, **more}.items()}


def test_a_clips_loss_is_the_mean_over_what_is_known_of_it():
    """Three clips by hand: two classes known, one, none; weights of classes and of labels that are there."""
    each = parts(THREE, TRUE)
    wanted = [(each[0, 0] + each[0, 1]) / 2, each[1, 1], 0]
    np.testing.assert_allclose(objective(Objective()).per_clip(*with_known(TRUE)), wanted, rtol=1e-5)
    weighed = objective(Objective(class_weights="2,3,5", pos_weight="7,11,13"))
    wanted = [(2 * 7 * each[0, 0] + 3 * each[0, 1]) / 2, 3 * 11 * each[1, 1], 0]
    np.testing.assert_allclose(weighed.training(*with_known(TRUE)), wanted, rtol=1e-5)
    whole = objective(Objective()).training(*with_known(TRUE, np.ones((3, 3))))
    np.testing.assert_allclose(whole, objective(Objective()).training(*given(THREE, TRUE)), rtol=1e-6)


@pytest.mark.parametrize("loss", OBJECTIVES)
def test_what_is_not_known_has_no_say_and_no_gradient(loss):
    """Whatever label stands there; a loss of all classes at once wants all of them known."""
    what = objective(Objective(loss=loss, label_smoothing=0.1))
    known = np.array([[1, 1, 1], [0, 1, 0], [0, 0, 0]])

    def total(z, y):
        out, batch = with_known(y, known)
        return what.training(out | {"logits": z}, batch).sum()

    other = np.where(known > 0, TRUE, 1 - TRUE)
    z = jnp.float32(THREE)
    (value, slope), (again, same) = (jax.value_and_grad(total)(z, y) for y in (TRUE, other))
    assert value == again > 0
    np.testing.assert_array_equal(slope, same)
    counts = known if what.activation == "sigmoid" else known.min(axis=1, keepdims=True) * np.ones(3)
    assert not np.asarray(slope)[counts == 0].any()
    assert np.asarray(slope)[0].all()


def test_a_teacher_speaks_of_what_is_not_known_too():
    """Of a clip without labels its part at its share is all; others have both."""
    scores = np.random.default_rng(2).uniform(0.1, 0.9, (3, 3))
    what = objective(Objective(teacher="a", teacher_weight=0.75))
    theirs, own = direct("soft_bce", THREE, scores), parts(THREE, TRUE)
    labels = np.array([own[0, :2].mean(), own[1, 1], 0])
    got = what.training(*with_known(TRUE, taught=scores))
    np.testing.assert_allclose(got, 0.75 * theirs + 0.25 * labels, rtol=1e-5)


def test_a_loss_without_parts_by_class_is_of_clips_that_are_known_as_a_whole(monkeypatch):
    monkeypatch.setitem(OBJECTIVES, "one", objectives.Row(lambda out, batch, _: out["logits"].sum(axis=-1)))
    known = np.array([[1, 1, 1], [0, 1, 0], [0, 0, 0]])
    got = objective(Objective(loss="one")).per_clip(*with_known(TRUE, known))
    np.testing.assert_allclose(got, [4.0, 0, 0], rtol=1e-6)


def test_labels_that_are_there_weigh_against_those_known_to_be_absent():
    what = objective(Objective(pos_weight="counts"), np.array([5, 1, 0]), np.array([20, 2, 0]))
    assert what.pos_weight == pytest.approx((15 / 5, 1, 1))


# ---- Names


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"loss": "focall"}, "did you mean 'focal'"),
        ({"loss": "mse"}, "choose one of bce, ce"),
        ({"loss": "nowhere:loss"}, "cannot be imported"),
        ({"class_weights": "1,two"}, "wanted counts, or a number a class by commas"),
        ({"class_weights": "1,2"}, "2 numbers for 4 classes"),
        ({"class_weights": "1,2,3,-1"}, "finite numbers, at least 0"),
        ({"pos_weight": "1,2,3,nan"}, "finite numbers, at least 0"),
        ({"loss": "ce", "pos_weight": "counts"}, "for losses of sigmoids"),
        ({"loss": "test_objectives:TANH"}, "sigmoid or softmax"),
    ],
)
def test_what_is_not_there_is_refused_in_one_line(change, message):
    with pytest.raises(InputError, match=message) as error:
        objective(Objective(**change), COUNTS, 120)
    assert "\n" not in str(error.value)


TANH = objectives.Row(lambda out, batch, _: jnp.square(jnp.tanh(out["logits"]) - batch["labels"]), "tanh")
SQUARES = objectives.Row(lambda out, batch, _: jnp.square(jax.nn.sigmoid(out["logits"]) - batch["labels"]))


def test_a_loss_of_the_users_own():
    y = labels_for("bce")
    what = objective(Objective(loss="test_objectives:SQUARES"))
    got = what.per_clip(*given(LOGITS, y))
    np.testing.assert_allclose(got, ((1 / (1 + np.exp(-LOGITS)) - y) ** 2).mean(1), rtol=1e-5, atol=1e-7)
    assert what.activation == "sigmoid"


def test_an_unknown_activation_is_refused():
    np.testing.assert_allclose(objectives.activation("softmax")(jnp.zeros((1, 4))), 0.25)
    with pytest.raises(InputError, match="activation 'relu': choose sigmoid or softmax"):
        objectives.activation("relu")


@pytest.mark.parametrize(
    ("card", "loss", "activation"),
    [
        ({"activation": "softmax", "multi_label": True}, "bce", "softmax"),
        # cards from before: the run's loss decides, and else whether clips have several labels
        ({"multi_label": False}, "bce", "sigmoid"),
        ({"multi_label": True}, "ce", "softmax"),
        ({"multi_label": False}, None, "softmax"),
        ({"multi_label": True}, None, "sigmoid"),
        ({}, "ce", "softmax"),
        ({}, None, None),
    ],
)
def test_the_activation_that_a_card_states(card, loss, activation):
    assert stated_activation(card, loss) == activation


def test_the_loss_of_a_model_that_states_only_its_activation():
    for activation, loss in (("sigmoid", "bce"), ("softmax", "ce")):
        y = labels_for(loss)
        got = objectives.plain_loss(activation)(*given(LOGITS, y))
        np.testing.assert_allclose(got, direct(loss, LOGITS, y), rtol=1e-5)


def test_a_loss_may_read_whatever_the_model_computed_and_give_one_number_a_clip(monkeypatch):
    agrees = lambda out, batch, _: jnp.square(out["embedding"] - batch["wanted"]).sum(axis=-1)
    monkeypatch.setitem(OBJECTIVES, "agrees", objectives.Row(agrees))
    out = {"logits": jnp.zeros((2, 3)), "embedding": jnp.float32([[1, 2], [3, 4]])}
    batch = {"labels": jnp.zeros((2, 3)), "wanted": jnp.float32([[1, 0], [0, 0]])}
    what = objective(Objective(loss="agrees", label_smoothing=0.1))
    np.testing.assert_allclose(what.training(out, batch), [4, 25])
    np.testing.assert_allclose(what.per_clip(out, batch), [4, 25])
    with pytest.raises(InputError, match="agrees has no parts by class: leave"):
        objective(Objective(loss="agrees", class_weights="1,2,3")).training(out, batch)


@pytest.mark.parametrize("loss", ["bce", "ce"])
def test_how_far_two_views_are_apart(loss):
    """Half of both divergences, summed over classes under a softmax, their mean under sigmoids; each is moved
    towards the other as it stands."""
    rng = np.random.default_rng(3)
    a, b = rng.normal(0, 2, (2, 5, 4))
    what = objective(Objective(loss=loss, consistency=1.0))
    if loss == "ce":
        p, q = (np.exp(z) / np.exp(z).sum(axis=1, keepdims=True) for z in (a, b))
        want = ((p - q) * (np.log(p) - np.log(q))).sum(axis=1) / 2
    else:
        p, q = (1 / (1 + np.exp(-z)) for z in (a, b))
        # of "there" and of "not there"
        want = ((p - q) * (np.log(p / q) - np.log((1 - p) / (1 - q)))).mean(axis=1) / 2
    np.testing.assert_allclose(what.apart(jnp.float32(a), jnp.float32(b)), want, rtol=2e-5)
    np.testing.assert_allclose(what.apart(jnp.float32(a), jnp.float32(a)), 0, atol=1e-6)
    slope = jax.grad(lambda z: what.apart(z, jnp.float32(b)).sum())(jnp.float32(a))
    share = 1 if loss == "ce" else 1 / 4
    np.testing.assert_allclose(slope, share * (p - q) / 2, atol=1e-5)
