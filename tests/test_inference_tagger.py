"""The tagger from Python: one model or several, and a sound in every form that Python has for one."""

import io
from pathlib import Path

import numpy as np
import pytest
import soundfile
from flax import nnx

from ast_jax.errors import InputError
from ast_jax.inference import predict
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
