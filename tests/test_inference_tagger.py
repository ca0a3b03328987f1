"""The tagger from Python: one model or several, and a sound in every form that Python has for one."""

import io
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
import soundfile
from flax import nnx

from ast_jax.errors import InputError
from ast_jax.inference import embed, predict
from ast_jax.inference.answers import Tags
from ast_jax.inference.predict import Tagger
from ast_jax.models import AST, ASTConfig
from ast_jax.weights import LoadedModel

CONFIG = ASTConfig(num_classes=3, num_frames=16, width=8, depth=1, num_heads=1, strides=(16, 16))


def model(seed: int) -> LoadedModel:
    net = AST(CONFIG, rngs=nnx.Rngs(seed))
    return LoadedModel(net, ["dog", "rain", "bell"], net.front_end.with_statistics(-4.0, 4.0), "softmax")


@pytest.fixture
def opened(monkeypatch) -> list:
    """What was asked for, each answered with a model drawn by the length of its name."""
    asked: list = []
    monkeypatch.setattr(predict, "load_model", lambda source: asked.append(source) or model(len(str(source))))
    return asked


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, Path]:
    """A mono file at 16 kHz and a stereo one at 44.1 kHz, of several windows each."""
    root, rng = tmp_path_factory.mktemp("sounds"), np.random.default_rng(0)
    soundfile.write(root / "mono.wav", rng.normal(0, 0.1, 8000), 16_000)
    soundfile.write(root / "stereo.flac", rng.normal(0, 0.1, (22_050, 2)), 44_100)
    return {"mono": root / "mono.wav", "stereo": root / "stereo.flac"}


def test_a_string_is_one_model_and_a_list_are_several(opened, files):
    one, path, two = Tagger("mono"), Tagger(Path("mono")), Tagger(["a", "bb"])
    assert opened == ["mono", Path("mono"), "a", "bb"]
    assert [len(tagger.models) for tagger in (one, path, two)] == [1, 1, 2]
    sound = soundfile.read(files["mono"], dtype="float32")
    alone = [Tagger(name).tag(sound).scores for name in ("a", "bb")]
    assert np.abs(alone[0] - alone[1]).max() > 1e-3
    np.testing.assert_allclose(two.tag(sound).scores, np.mean(alone, axis=0), atol=1e-6)


@pytest.mark.parametrize("kind", ["mono", "stereo"])
def test_every_form_of_a_sound_gets_the_same_answer(opened, files, kind):
    tagger, path = Tagger("m"), files[kind]
    samples, rate = soundfile.read(path, dtype="float32")
    wanted = tagger.tag(path)
    assert len(wanted.scores) > 3
    with path.open("rb") as file:
        forms = [str(path), path.read_bytes(), io.BytesIO(path.read_bytes()), file]
        forms += [
            (samples, rate),
            (samples.astype(np.float64), float(rate)),
            (samples.tolist(), np.int64(rate)),
        ]
        for form in forms:
            found = tagger.tag(form)
            np.testing.assert_array_equal(found.scores, wanted.scores)
            np.testing.assert_array_equal(found.times_s, wanted.times_s)
            assert found.best(2) == wanted.best(2)


@pytest.mark.parametrize(
    ("sound", "said"),
    [
        (7, "a int is no sound: give a path, bytes"),
        (None, "a NoneType is no sound"),
        (np.zeros(100, np.float32), "a ndarray is no sound: .*samples, rate in Hz"),
        ((np.zeros(100), 16_000, 1), "a tuple is no sound"),
        (io.StringIO("text"), "a file of str is no sound: .* a file open for bytes"),
        ((np.zeros(100, np.int16), 16_000), r"samples are int16 \[100\]: wanted floats in"),
        ((np.zeros((2, 16_000)), 16_000), r"samples are float64 \[2, 16000\]: .*\[samples, channels\]"),
        ((np.zeros(100), "16 kHz"), "the rate of the samples is '16 kHz': wanted 1,000 to"),
        ((np.zeros(100), 0), "the rate of the samples is 0: wanted 1,000 to"),
        ((np.zeros(100), float("nan")), "the rate of the samples is nan: wanted 1,000 to"),
    ],
)
def test_what_is_no_sound_is_refused_in_one_line(opened, sound, said):
    with pytest.raises(InputError, match=said) as caught:
        Tagger("m").tag(sound)
    assert "\n" not in str(caught.value)


PNG = b"\x89PNG\r\n\x1a\n"


def test_tags_show_their_best_labels():
    times = np.array([0.0, 1.0])
    scores = np.array([[0.2, 0.5, 0.3], [0.2, 0.7, 0.1]], np.float32)
    tags = Tags(times, times + 2, 2.0, scores, ["dog", "<b>rain", "bell"])
    assert repr(tags).splitlines() == [
        "Tags of 3.0 s in 2 windows",
        "  0.6000  <b>rain",
        "  0.2000  dog",
        "  0.2000  bell",
    ]
    page = tags._repr_html_()
    assert page.index("<td>&lt;b&gt;rain</td><td>0.6000</td>") < page.index("<td>dog</td><td>0.2000</td>")
    assert "width:120px" in page
    assert [row["start_s"] for row in tags.rows()] == [0, 1]
    assert tags.rows()[1] == {"start_s": 1, "end_s": 3} | dict(zip(tags.label_names, scores[1], strict=True))


def test_a_sound_is_plotted_and_explained_in_any_form(opened, files):
    tagger, (samples, rate) = Tagger("m"), soundfile.read(files["mono"], dtype="float32")
    assert tagger.plot((samples, rate)).startswith(PNG)
    assert tagger.plot((samples, rate)) == tagger.plot(files["mono"])._repr_png_()
    assert tagger.plot(files["mono"], hop_s=0.02) != tagger.plot(files["mono"])
    assert len(repr(tagger.plot(files["mono"]))) < 40
    found = tagger.explain((samples, rate), ["bell"])
    assert [name for name, _ in found.best()] == ["bell"]
    tags = tagger.tag(files["mono"])
    assert found.start_s == tags.times_s[tags.scores[:, 2].argmax()]
    assert repr(found) == f"Explanation of bell {found.scores[2]:.3f}, from {found.start_s:.2f} s"
    assert found._repr_png_() == found.picture() != tagger.explain(files["mono"], top=1, start_s=0).picture()
    with pytest.raises(InputError, match=r"^<\d+ bytes> lasts 0\.5 s, and --start_s is 2"):
        tagger.explain((samples, rate), start_s=2)


def test_an_explanation_is_of_the_model_as_it_is_now(opened, files):
    tagger = Tagger("m")
    before = tagger.explain(files["mono"], ["dog"], start_s=0)
    kernel = tagger.models[0].model.head.kernel
    kernel[...] = -kernel[...]
    after = tagger.explain(files["mono"], ["dog"], start_s=0)
    assert not np.allclose(before.scores, after.scores)
    # against float32's rounding of sums of some hundred products
    np.testing.assert_allclose(after.gradient, -before.gradient, atol=1e-5 * np.abs(before.gradient).max())


def test_sounds_are_embedded_in_windows_side_by_side(opened, files):
    tagger = Tagger("m")
    rows = tagger.embed(files["mono"], files["stereo"].read_bytes())
    grid = tagger.grid()
    assert rows.vectors.shape == (6, 8)
    assert rows.files == [str(files["mono"])] * 3 + [f"<{files['stereo'].stat().st_size} bytes>"] * 3
    np.testing.assert_allclose(np.diff(rows.starts_s[:3]), grid.window_s)
    heard, _ = soundfile.read(files["mono"], dtype="float32")
    fbank = grid.front_end.features(heard[: grid.window])
    _, out = tagger.models[0].model(jnp.asarray(grid.front_end.normalise(fbank[None])))
    np.testing.assert_allclose(rows.vectors[0], out["embedding"][0], atol=1e-5)  # another compilation's sums
    closer = tagger.embed(files["mono"], hop_s=grid.window_s / 2)
    np.testing.assert_allclose(closer.vectors[::2][:3], rows.vectors[:3], atol=1e-6)
    assert len(closer.vectors) == 5
    with pytest.raises(InputError, match="layer is 7: this model has 0"):
        tagger.embed(files["mono"], layer=7)


def test_embeddings_are_compiled_once_and_of_the_model_as_it_is_now(opened, files, monkeypatch):
    made: list = []
    whole = embed.embedder
    monkeypatch.setattr(embed, "embedder", lambda *given: made.append(given) or whole(*given))
    tagger = Tagger("m")
    before = tagger.embed(files["mono"]).vectors
    np.testing.assert_array_equal(tagger.embed(files["mono"]).vectors, before)
    bias = tagger.models[0].model.norm.bias
    bias[...] = bias[...] + 1
    np.testing.assert_allclose(tagger.embed(files["mono"]).vectors, before + 1, atol=1e-5)
    tagger.embed(files["mono"], kind="mean")
    assert len(made) == 2


def test_an_ensemble_has_scores_and_nothing_else(opened, files):
    tagger = Tagger(["a", "bb"])
    for ask in (tagger.embed, tagger.explain):
        with pytest.raises(InputError, match="an ensemble of 2 models: make a Tagger of one"):
            ask(files["mono"])


def test_taggers_and_models_say_what_they_are(opened):
    shown = repr(Tagger("m"))
    assert shown.startswith("Tagger(<AST of ")
    assert shown.endswith(" parameters; 3 classes: dog, rain, bell (softmax); hears 0.16 s at 16000 Hz>)")
