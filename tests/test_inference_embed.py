"""Embeddings against the model's own tokens, their times, both file formats; the probe against a direct
computation.
"""

import json

import jax.numpy as jnp
import numpy as np
import pytest
import soundfile
from flax import nnx

from ast_jax.commands import invoke
from ast_jax.errors import InputError
from ast_jax.features import load_audio, log_mel
from ast_jax.inference import probe
from ast_jax.models import AST, ASTConfig
from ast_jax.weights import LoadedModel

RATE = 16_000
CONFIG = ASTConfig(num_classes=2, num_frames=64, width=8, depth=2, num_heads=1, strides=(16, 12))


@pytest.fixture(scope="module")
def loaded():
    model = AST(CONFIG, rngs=nnx.Rngs(0))
    return LoadedModel(model, ["high", "low"], model.front_end.with_statistics(-4.0, 4.0), "softmax")


@pytest.fixture
def model(loaded, monkeypatch):
    monkeypatch.setattr("ast_jax.weights.pretrained.load_model", lambda source, **options: loaded)
    return "--model=m"


@pytest.fixture(scope="module")
def sounds(tmp_path_factory):
    """Two classes told apart by loudness, six clips each, lengths from .3 to .85 s (the model hears
    .655 s).
    """
    root, rng = tmp_path_factory.mktemp("sounds"), np.random.default_rng(0)
    for i in range(12):
        kind = "low" if i % 2 else "high"
        wave = rng.normal(0, 0.01 if kind == "low" else 0.1, int((0.3 + 0.05 * i) * RATE))
        (root / kind).mkdir(exist_ok=True)
        soundfile.write(root / kind / f"clip{i:02d}.wav", wave, RATE)
    return root


def tokens_of(loaded, file, layer):
    """The tokens [N, D] that a layer makes of the first window of a file, block by block; and its frames of
    sound.
    """
    fbank = log_mel(load_audio(file))[:64]
    padded = np.pad(fbank, ((0, 64 - len(fbank)), (0, 0)))[None]
    model, x = loaded.model, jnp.asarray((padded + 4.0) / 8.0, jnp.float32)
    prefix = [jnp.broadcast_to(token[...], (1, 1, 8)) for token in (model.cls_token, model.dist_token)]
    x = jnp.concatenate([*prefix, model.patch_embed(x)], axis=1) + model.pos_embed[...]
    for block in list(model.blocks)[:layer]:
        x = block(x)
    return np.asarray(model.norm(x) if layer == 2 else x)[0], len(fbank)


@pytest.mark.parametrize("layer", [0, 1, 2])
@pytest.mark.parametrize("kind", ["token", "mean", "frames"])
def test_embeddings_are_the_tokens_pooled(loaded, model, sounds, tmp_path, kind, layer):
    file = sounds / "high" / "clip00.wav"  # .3 s: 28 frames, whose steps of time begin at 0, 12 and 24
    out = tmp_path / "emb.npz"
    invoke("embed", [model, f"--kind={kind}", f"--layer={layer}", f"--out={out}", str(file)])
    tokens, frames = tokens_of(loaded, file, layer)
    grid = tokens[2:].reshape(8, 5, 8)  # f x t x D
    assert frames == 28
    heard = grid[:, :2]  # the middles of the third step's patches, frame 32, are beyond the end
    wanted = {
        "token": tokens[None, :2].mean(axis=1),
        "mean": heard.reshape(1, -1, 8).mean(axis=1),
        "frames": heard.mean(axis=0),
    }[kind]
    with np.load(out) as found:
        np.testing.assert_allclose(found["embeddings"], wanted, atol=2e-5)
        assert set(found["files"]) == {str(file)}
        assert (str(found["kind"]), str(found["layer"])) == (kind, str(layer))


def test_steps_of_time_lie_where_their_patches_do(model, sounds, tmp_path):
    file, out = (
        sounds / "low" / "clip11.wav",
        tmp_path / "emb.npz",
    )  # .85 s: a window of .655 s and what is left
    invoke("embed", [model, "--kind=frames", f"--out={out}", str(file)])
    with np.load(out) as found:
        first = found["start_s"] < 0.654
        np.testing.assert_allclose(found["start_s"][first], 0.12 * np.arange(5))
        np.testing.assert_allclose(found["end_s"][first] - found["start_s"][first], 0.175)  # 16 frames
        assert found["start_s"][5] == pytest.approx(0.655)
        assert found["end_s"][-1] <= 0.85


def test_parquet_holds_the_same_and_a_broken_file_leaves_the_rest(model, sounds, tmp_path, capsys):
    pq = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
    broken = tmp_path / "broken.wav"
    broken.write_text("no sound")
    for name in ("emb.npz", "emb.parquet"):
        with pytest.raises(SystemExit) as status:
            invoke("embed", [model, f"--out={tmp_path / name}", str(sounds / "low"), str(broken)])
        assert status.value.code == 1
        assert "broken.wav: not audio" in capsys.readouterr().err
    table = pq.read_table(tmp_path / "emb.parquet")
    with np.load(tmp_path / "emb.npz") as arrays:
        np.testing.assert_array_equal(np.stack(table["embedding"].to_numpy()), arrays["embeddings"])
        assert table["file"].to_pylist() == arrays["files"].tolist()
        assert len(arrays["files"]) == 8  # six clips, two of them longer than a window
    assert table.schema.metadata[b"kind"] == b"token"


@pytest.mark.parametrize(
    ("flag", "said"),
    [("--out=x.csv", r"\.npz or \.parquet"), ("--layer=3", r"layer is 3: this model has 0 .* to 2")],
)
def test_what_cannot_be_is_refused_at_once(model, sounds, tmp_path, flag, said):
    with pytest.raises(InputError, match=said):
        invoke("embed", [model, f"--out={tmp_path / 'x.npz'}", flag, str(sounds)])


def test_the_probe_on_a_directory_of_classes(model, sounds, capsys):
    invoke("probe", [model, "--json", "--layer=0", str(sounds)])
    found = json.loads(capsys.readouterr().out)
    assert found["clips"] == 12
    assert sorted(found["kinds"]) == ["both", "mean", "token"]
    assert len(found["kinds"]["mean"]["folds"]) == 5
    # before any block the class token has heard nothing: it is one constant, the patches are not
    assert found["kinds"]["mean"]["accuracy"] == 1.0
    assert found["kinds"]["token"]["accuracy"] < 0.8


def test_the_probe_wants_two_classes(tmp_path):
    (tmp_path / "dog").mkdir()
    for i in range(6):
        (tmp_path / "dog" / f"{i}.wav").write_bytes(b"")
    with pytest.raises(InputError, match="one class, dog"):
        probe.labelled(tmp_path)


def test_the_probe_uses_the_folds_of_a_set_that_has_them(shared):
    found = probe.labelled(shared / "data" / "ESC-50-master")
    clips, labels, folds = found.clips, found.labels, found.folds
    assert found.judged is None
    assert len(clips) == 400
    assert sorted(np.unique(labels)) == list(range(10))
    assert all(fold == f"fold{clip.id[0]}" for clip, fold in zip(clips, folds, strict=True))


def test_cross_validation_never_sees_the_fold_it_scores():
    """Labels that only the fold tells: whoever trains on the other folds alone is always wrong."""
    vectors = np.array([[1.0], [1.1], [-1.0], [-1.1]])
    labels, folds = np.array([0, 1, 1, 0]), np.array(["fold1", "fold2", "fold1", "fold2"])
    found = probe.cross_validate(vectors, labels, folds)
    assert found["folds"] == {"fold1": 0.0, "fold2": 0.0}


def test_stratified_folds_spread_each_class_and_want_enough_of_it():
    labels = np.repeat([0, 1], [10, 5])
    folds = probe.stratified_folds(labels)
    assert {name: np.bincount(labels[folds == name]).tolist() for name in folds} == {
        f"fold{i}": [2, 1] for i in range(1, 6)
    }
    with pytest.raises(InputError, match="4 clips"):
        probe.stratified_folds(np.repeat([0, 1], [10, 4]))
