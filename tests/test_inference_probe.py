"""A probe is a model: fitted in closed sight of held-out clips, kept, and taken by every command."""

import dataclasses
import json
import re

import jax.numpy as jnp
import numpy as np
import pytest
import soundfile
from flax import nnx
from scipy.spatial.distance import cdist
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sound_trees import tiny_flags, write_rows

from ast_jax.commands import invoke
from ast_jax.errors import InputError
from ast_jax.features import Kaldi
from ast_jax.inference import nearest, probe
from ast_jax.inference.predict import Tagger
from ast_jax.models import AST, ASTConfig, build, family
from ast_jax.models.probed import ProbedConfig
from ast_jax.weights import LoadedModel, load_model
from ast_jax.weights.convert import save

CONFIG = ASTConfig(num_frames=48, strides=(16, 16), width=16, depth=2, num_heads=2, num_classes=3)
CLASSES = ["high", "low", "noise"]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """An untrained AST: its patches tell high from low already."""
    front_end = Kaldi(mean=-6.0, std=4.0)
    loaded = LoadedModel(AST(CONFIG, rngs=nnx.Rngs(0)), ["a", "b", "c"], front_end, "sigmoid")
    path = tmp_path_factory.mktemp("base") / "model"
    save(loaded, path, facts={"source": "here"})
    return path


@pytest.fixture(scope="module")
def sounds(tmp_path_factory):
    root, rng = tmp_path_factory.mktemp("sounds"), np.random.default_rng(0)
    time = np.arange(8000) / 16_000
    for number in range(8):
        waves = {
            "high": np.sin(2 * np.pi * rng.uniform(3000, 6000) * time),
            "low": np.sin(2 * np.pi * rng.uniform(100, 400) * time),
            "noise": rng.normal(0, 0.3, len(time)),
        }
        for label, wave in waves.items():
            (root / label).mkdir(exist_ok=True)
            soundfile.write(root / label / f"{label}{number}.wav", 0.3 * wave, 16_000)
    return root


@pytest.fixture(scope="module")
def kept(base, sounds, tmp_path_factory):
    path = tmp_path_factory.mktemp("probe") / "kept"
    invoke(
        "probe", [f"--model={base}", str(sounds), f"--save={path}", "--layers=all", "--pools=token,mean,max"]
    )
    return path


@pytest.mark.parametrize(("clips", "numbers", "classes"), [(60, 8, 3), (30, 200, 3), (30, 200, 2)])
def test_the_regression_is_scikit_learns_on_standardised_vectors(clips, numbers, classes):
    rng = np.random.default_rng(0)
    labels = np.arange(clips) % classes
    vectors = rng.normal(2, 3, (clips, numbers)) + 2 * (labels[:, None] == np.arange(numbers) % classes)
    kernel, bias = probe.regression(vectors, labels, 0.1, classes)
    theirs = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=5000, tol=1e-8))
    theirs.fit(vectors, labels)
    other = rng.normal(2, 3, (20, numbers))
    # both stop where the gradient is small
    np.testing.assert_allclose(softmax(other @ kernel + bias, axis=1), theirs.predict_proba(other), atol=2e-3)


def test_a_class_without_clips_is_never_found():
    vectors, labels = np.random.default_rng(0).normal(size=(20, 4)), np.array([0, 2] * 10)
    kernel, bias = probe.regression(vectors, labels, 1.0, 3)
    assert softmax(vectors @ kernel + bias, axis=1)[:, 1].max() < 1e-6


def test_the_temperature_makes_up_for_logits_that_are_too_sure():
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, (4000, 3))
    labels = np.array([rng.choice(3, p=row) for row in softmax(logits, axis=1)])
    assert probe._temperature(5 * logits, labels) == pytest.approx(5, rel=0.1)
    assert probe._temperature(logits / 3, labels) == pytest.approx(1 / 3, rel=0.1)


def test_accuracy_and_thresholds_are_of_clips_held_out():
    """Labels that nothing tells: whoever sees them in the fit is right, here nobody is."""
    rng = np.random.default_rng(0)
    vectors, labels = rng.normal(size=(100, 300)), rng.integers(0, 2, 100)
    found = probe.fit_probe(vectors, labels, np.array([f"fold{i % 5}" for i in range(100)]), 2)
    assert 0.3 < found.accuracy < 0.7
    assert min(probe.STRENGTHS) == found.chosen
    assert ((vectors @ found.head["kernel"] + found.head["bias"]).argmax(axis=1) == labels).mean() > 0.8


def test_two_folds_choose_strength_and_temperature_as_more_do():
    """Of one fold nothing can be held out by folds: then strength and temperature were of logits of 0."""
    rng = np.random.default_rng(0)
    centres = rng.normal(0, 1, (3, 40))

    def drawn(count: int) -> tuple[np.ndarray, np.ndarray]:
        labels = np.arange(count) % 3
        return centres[labels] + rng.normal(0, 1.5, (count, 40)), labels

    vectors, labels = drawn(90)
    found = probe.fit_probe(vectors, labels, np.array(["fold1", "fold2"])[np.arange(90) // 3 % 2], 3)
    fresh, true = drawn(600)
    logits = fresh @ found.head["kernel"] + found.head["bias"]
    assert found.accuracy > 0.9
    assert probe._loss(logits, true) < 0.25
    assert probe._temperature(logits, true) == pytest.approx(1, rel=0.5)


def test_a_fold_is_judged_by_a_strength_chosen_inside_the_other(monkeypatch):
    chosen, best = [], probe._best
    monkeypatch.setattr(
        probe, "_best", lambda kind, logits, labels: chosen.append(logits) or best(kind, logits, labels)
    )
    rng = np.random.default_rng(0)
    vectors, labels = rng.normal(size=(40, 5)), np.arange(40) % 2
    probe.fit_probe(vectors, labels, np.array(["fold1", "fold2"])[np.arange(40) // 20], 2)
    assert len(chosen) == 3
    assert all(np.abs(logits).max() > 0 for logits in chosen)


def tabled(tmp_path, sounds, whose, split=None):
    """The sounds as a table: `whose` and `split` are of (label, number)."""
    rows = [["file", "labels", "group", *(["split"] if split else [])]]
    for label in CLASSES:
        for n in range(8):
            row = [str(sounds / label / f"{label}{n}.wav"), label, whose(label, n)]
            rows.append([*row, *([split(label, n)] if split else [])])
    return write_rows(tmp_path / "table.csv", rows)


@pytest.mark.parametrize("by", ["column", "pattern"])
def test_folds_keep_groups_whole(tmp_path, sounds, by):
    if by == "pattern":
        own = probe.labelled(sounds, r"(\d)\.wav")
    else:
        own = probe.labelled(tabled(tmp_path, sounds, lambda label, n: f"speaker{n}"))
    whose = np.array([clip.path[-5] for clip in own.clips])
    assert {len(set(own.folds[whose == who])) for who in set(whose)} == {1}
    assert set(own.folds) == {f"fold{n}" for n in range(1, 6)}
    assert own.judged is None
    two = probe.labelled(tabled(tmp_path, sounds, lambda label, n: "ab"[n % 2]))
    assert set(two.folds) == {"fold1", "fold2"}


def test_groups_that_cannot_be_held_out_are_told(tmp_path, sounds):
    with pytest.raises(InputError, match=r"all clips are of one group \(\.wav\)"):
        probe.labelled(sounds, "[.]wav")
    with pytest.raises(InputError, match=r"with fold\d held out one class is left"):
        probe.labelled(tabled(tmp_path, sounds, lambda label, n: "a" if label == "low" else "b"))
    with pytest.raises(InputError, match="'_x_' finds nothing"):
        probe.labelled(sounds, "_x_")
    fold = lambda label, n: f"fold{n % 2}"
    with pytest.raises(InputError, match=r"has folds of its own .*leave --group away"):
        probe.labelled(tabled(tmp_path, sounds, fold, fold), "[a-z]+")


def test_nothing_is_fitted_to_what_the_set_holds_out(base, tmp_path, sounds, capsys):
    """Test clips with the wrong labels: a probe that was fitted to them too would have some of them right."""
    names = {n: "test" if n > 5 else "valid" if n == 5 else "train" for n in range(8)}
    path = tabled(tmp_path, sounds, lambda label, n: f"s{n // 2}", lambda label, n: names[n])
    own = probe.labelled(path)
    assert (own.judged, own.told) == ("test", ("3 clips of valid are left out",))
    assert {names[int(clip.path[-5])] for clip in own.clips} == {"train", "test"}
    test = own.folds == "test"
    assert {names[int(clip.path[-5])] for clip, out in zip(own.clips, test, strict=True) if out} == {"test"}
    assert (test.sum(), set(own.folds[~test])) == (6, {"fold1", "fold2", "fold3"})
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(len(test), 4)) + 4 * np.eye(4)[own.labels]
    right = probe.fit_probe(vectors, own.labels, own.folds, 3, judged="test")
    assert right.folds == {"test": 1.0}
    wrong = np.where(test, (own.labels + 1) % 3, own.labels)
    found = probe.fit_probe(vectors, wrong, own.folds, 3, judged="test")
    np.testing.assert_array_equal(found.head["kernel"], right.head["kernel"])
    assert found.thresholds == right.thresholds
    assert found.accuracy == 0.0
    assert probe.cross_validate(vectors, wrong, own.folds, judged="test")["folds"] == {"test": 0.0}
    invoke("probe", [f"--model={base}", str(path), f"--save={tmp_path / 'kept'}"])
    said = capsys.readouterr()
    assert "fitted to 15 clips, judged on the 6 of test: " in said.out
    assert "3 clips of valid are left out" in said.err
    invoke("probe", [f"--model={base}", str(path)])
    assert "logistic regression fitted to 15 clips, judged on the 6 of test" in capsys.readouterr().out


def test_a_group_on_both_sides_is_told(tmp_path, sounds):
    split = lambda label, n: "test" if n > 5 else "train"
    own = probe.labelled(tabled(tmp_path, sounds, lambda label, n: f"s{n % 3}", split))
    assert own.told == ("2 groups are in test too, which flatters (s0, s1)",)
    with pytest.raises(InputError, match="has test alone"):
        probe.labelled(tabled(tmp_path, sounds, split, lambda label, n: "test"))


def test_a_kept_probe_answers_as_its_parts_do(base, kept, sounds):
    whole, loaded = load_model(kept), load_model(base)
    assert (whole.label_names, whole.activation) == (CLASSES, "softmax")
    assert len(whole.thresholds) == 3
    assert not whole.assumed
    features = np.random.default_rng(0).normal(-6, 4, (2, 48, 128)).astype(np.float32)
    out = loaded.model(jnp.asarray(loaded.front_end.normalise(features)))[1]["layers"]
    read = np.concatenate(
        [
            part
            for layer in out
            for part in (layer["embedding"], layer["sequence"].mean(1), layer["sequence"].max(1))
        ],
        axis=1,
    )
    head = whole.model.head
    wanted = read @ np.asarray(head.kernel[...]) + np.asarray(head.bias[...])
    np.testing.assert_allclose(whole.logits(features), wanted, rtol=1e-4, atol=1e-4)


def test_commands_take_it(kept, sounds, tmp_path, capsys):
    files = [str(sounds / label / f"{label}0.wav") for label in CLASSES]
    invoke("predict", [f"--model={kept}", "--json", *files])
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["tags"][0]["label"] for row in rows] == CLASSES
    invoke("embed", [f"--model={kept}", f"--out={tmp_path / 'e.npz'}", *files])
    invoke("convert", [str(kept), str(tmp_path / "again"), "--to=flax"])
    arrays = [
        load_model(path).logits(np.zeros((1, 48, 128), np.float32)) for path in (kept, tmp_path / "again")
    ]
    np.testing.assert_array_equal(*arrays)
    invoke("probe", [f"--model={kept}", "--json", str(sounds)])
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["clips"] == 24


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--layer=7"], "layer 7: this model has 0 .* to 2"),
        (["--pools=median"], "pools of token, mean, max, min"),
        (["--save={base}"], "exists already"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_heard(base, sounds, tmp_path, flags, said):
    flags = [f"--save={tmp_path / 'new'}", *(flag.format(base=base) for flag in flags)][-2:]
    with pytest.raises(InputError, match=said):
        invoke("probe", [f"--model={base}", str(sounds), *flags[-1:], *flags[:-1][: "save" not in flags[-1]]])
    assert not (tmp_path / "new").exists()


def test_what_an_ast_does_not_hear_counts_in_no_pool():
    """Padding of whole steps, of one value or another."""
    fields = {**vars(CONFIG), "mask_even": True}
    config = ProbedConfig(
        2, 48, fields=tuple(fields.items()), layers=(0, 1, 2), pools=("token", "mean", "max", "min"), width=16
    )
    model = build("probed", config)
    x = np.random.default_rng(0).normal(size=(2, 48, 128)).astype(np.float32)
    x[:, 32:] = -1
    logits, out = model(jnp.asarray(x))
    layer = model.base(jnp.asarray(x))[1]["layers"][1]
    assert np.asarray(layer["heard"]).tolist() == [[True, True, False]] * 2
    np.testing.assert_allclose(out["embedding"][:, 80:96], layer["sequence"][:, :2].mean(axis=1), atol=1e-6)
    x[:, 32:] = 3
    np.testing.assert_allclose(model(jnp.asarray(x))[0], logits, atol=1e-5)
    plain = build("probed", dataclasses.replace(config, fields=tuple(vars(CONFIG).items())))
    assert "heard" not in plain.base(jnp.asarray(x))[1]["layers"][1]


def test_any_family_can_be_its_base():
    fields = {"num_classes": 4, "num_frames": 101, "channels": (8, 8, 8, 8)}
    kind = family("cnn6").Config
    config = ProbedConfig(
        2, 101, base="cnn6", fields=tuple(fields.items()), layers=(0,), pools=("token",), width=8
    )
    assert config.base_config == kind(**fields)
    model = build("probed", config)
    assert model.front_end == model.base.front_end
    assert model.levels[-1] == ("head",)
    with pytest.raises(InputError, match="a base ast with the fields"):
        _ = ProbedConfig(2, 101, fields=(("nonsense", 1),)).base_config


def drawn(classes: int, count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Vectors around a centre a class."""
    centres = np.random.default_rng(7).normal(0, 1, (classes, 12))
    labels = np.arange(count) % classes
    return centres[labels] + np.random.default_rng(seed).normal(3, 1, (count, 12)), labels


@pytest.mark.parametrize("neighbours", [1, 3, 10])
def test_votes_are_scikit_learns_weighted_neighbours(neighbours):
    vectors, labels = drawn(3, 60)
    other, _ = drawn(3, 30, seed=1)
    theirs = make_pipeline(
        StandardScaler(),
        KNeighborsClassifier(
            neighbours, metric="cosine", weights=lambda distances: np.exp((1 - distances) / 0.07)
        ),
    )
    theirs.fit(vectors, labels)
    ours = nearest.logits("knn", vectors, labels, 3, other)[nearest.NEIGHBOURS["knn"].index(neighbours)]
    np.testing.assert_allclose(softmax(ours, axis=1), theirs.predict_proba(other), atol=1e-4)


def test_a_prototype_is_a_classs_mean():
    vectors, labels = drawn(3, 60)
    other, _ = drawn(3, 30, seed=1)
    scaler = StandardScaler().fit(vectors)
    means = np.stack([scaler.transform(vectors)[labels == label].mean(axis=0) for label in range(3)])
    cosines = 1 - cdist(scaler.transform(other), means, "cosine")
    (ours,) = nearest.logits("prototypes", vectors, labels, 3, other)
    np.testing.assert_allclose(softmax(ours, axis=1), softmax(cosines / 0.07, axis=1), atol=1e-4)


@pytest.mark.parametrize("kind", ["knn", "prototypes"])
def test_what_keeps_examples_is_chosen_and_judged_on_clips_held_out(kind):
    vectors, labels = drawn(3, 150)
    noise = np.random.default_rng(0).integers(0, 3, 150)
    folds = np.array([f"fold{i // 3 % 5}" for i in range(150)])
    # one neighbour is right of every clip that it was given
    assert probe.fit_probe(vectors, noise, folds, 3, kind=kind).accuracy < 0.6
    found = probe.fit_probe(vectors, labels, folds, 3, kind=kind)
    assert kind == "prototypes" or found.chosen in nearest.NEIGHBOURS["knn"]
    fresh, true = drawn(3, 300, seed=2)
    own = {name: jnp.asarray(value) for name, value in found.head.items() if name != "temperature"}
    count = int(min(found.chosen, len(own["examples"])))
    logits = np.asarray(nearest.nearest(jnp.asarray(fresh), **own, neighbours=count))
    right = (logits.argmax(axis=1) == true).mean()
    assert right > 0.75
    assert found.accuracy == pytest.approx(right, abs=0.1)
    assert probe._loss(logits / found.temperature, true) < 0.7


@pytest.fixture(scope="module", params=["knn", "prototypes"])
def examples(request, base, sounds, tmp_path_factory):
    """A kept probe of `high` and `low` alone, and the sounds of `noise`."""
    root = tmp_path_factory.mktemp(request.param)
    for label in CLASSES:
        place = root / ("more" if label == "noise" else "first") / label
        place.parent.mkdir(exist_ok=True)
        place.symlink_to(sounds / label)
    flags = [f"--model={base}", f"--kind={request.param}", "--pools=mean"]
    invoke("probe", [*flags, str(root / "first"), f"--save={root / 'kept'}"])
    return root


def test_classes_are_added_by_their_clips_alone(examples, sounds, capsys):
    invoke(
        "probe",
        [f"--model={examples / 'kept'}", str(examples / "more"), "--add", f"--save={examples / 'larger'}"],
    )
    assert "noise added by 8 clips, 3 classes" in capsys.readouterr().out
    old, new = load_model(examples / "kept"), load_model(examples / "larger")
    assert (new.label_names, new.thresholds) == (["high", "low", "noise"], None)
    head, before = new.model.head, old.model.head
    count = len(before.examples[...])
    np.testing.assert_array_equal(head.examples[...][:count], before.examples[...])
    np.testing.assert_array_equal(head.classes[...][:count, :2], before.classes[...])
    # directly: the mean of what the head reads of the new clips, standardised as before
    vectors = np.stack([embedding_of(old, sounds / "noise" / f"noise{n}.wav") for n in range(8)])
    scaled = (vectors - np.asarray(before.centre[...])) / np.asarray(before.deviation[...])
    wanted = scaled if new.model.config.head == "knn" else scaled.mean(axis=0, keepdims=True)
    wanted = wanted / np.linalg.norm(wanted, axis=1, keepdims=True)
    got = np.asarray(head.examples[...][count:])
    np.testing.assert_allclose(np.sort(got, axis=0), np.sort(wanted, axis=0), atol=1e-4)
    files = [str(sounds / label / f"{label}0.wav") for label in CLASSES]
    invoke("predict", [f"--model={examples / 'larger'}", "--json", *files])
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["tags"][0]["label"] for row in rows] == CLASSES
    with pytest.raises(InputError, match="knows noise already"):
        invoke(
            "probe",
            [f"--model={examples / 'larger'}", str(examples / "more"), "--add", f"--save={examples / 'no'}"],
        )


def embedding_of(loaded, file):
    waveform, _ = soundfile.read(file, dtype="float32")
    return np.asarray(loaded.embeddings(loaded.front_end.features(waveform)[None]))[0]


def test_a_regression_takes_no_classes(base, kept, examples, tmp_path):
    for model in (base, kept):
        with pytest.raises(InputError, match="only a probe of examples takes classes"):
            invoke(
                "probe", [f"--model={model}", str(examples / "more"), "--add", f"--save={tmp_path / 'no'}"]
            )
    with pytest.raises(InputError, match="name a new directory with --save"):
        invoke("probe", [f"--model={examples / 'kept'}", str(examples / "more"), "--add"])


def test_neighbours_are_a_mode_without_a_model_to_keep(base, sounds, capsys):
    invoke("probe", [f"--model={base}", str(sounds), "--kind=knn", "--json"])
    found = json.loads(capsys.readouterr().out)["kinds"]
    assert set(found) == {"token", "mean", "both"}
    assert found["mean"]["accuracy"] > 0.6


@pytest.mark.parametrize("which", ["linear", "examples"])
def test_evaluate_explain_and_serve_take_it(which, base, kept, sounds, examples, tmp_path, capsys):
    from starlette.testclient import TestClient

    from ast_jax.inference.serve.app import make_app
    from ast_jax.inference.serve.limits import Limits

    model, tree = (kept, sounds) if which == "linear" else (examples / "kept", examples / "first")
    flags = tiny_flags(tmp_path, **{"dataset.source_dir": tree})
    invoke("evaluate", [str(model), *flags])
    said = capsys.readouterr().out
    assert f"{model}: " in said
    assert float(re.search(r"accuracy ([\d.]+)", said)[1]) == 1.0
    sound = sounds / "low" / "low0.wav"
    invoke("explain", [f"--model={model}", str(sound), f"--out={tmp_path / 'why.png'}"])
    assert np.isfinite(np.load(tmp_path / "why.npz")["gradient"]).all()
    tagger = Tagger(model)
    assert tagger.tag(str(sound)).best()[0][0] == "low"
    with TestClient(make_app(tagger, Limits()), base_url="http://127.0.0.1") as client:
        answer = client.post("/api/tags", content=sound.read_bytes())
    assert answer.json()["tags"][0]["label"] == "low"
