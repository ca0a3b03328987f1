"""Every command with every kind of tagger: of log-mels, of samples, of steps, of scores."""

import functools
import json

import jax
import numpy as np
import pytest
import soundfile
from ml_collections import ConfigDict
from starlette.testclient import TestClient
from tagger_oracles import random_model

from ast_jax.commands import invoke
from ast_jax.commands.plan import facts
from ast_jax.config import base
from ast_jax.inference.predict import Tagger
from ast_jax.inference.serve.app import make_app
from ast_jax.inference.serve.limits import Limits
from ast_jax.models import num_parameters
from ast_jax.planning import slices
from ast_jax.weights import LoadedModel, stablehlo
from ast_jax.weights.convert import save

LABELS, FRAMES = ["bell", "rain", "siren"], 96
# Fields of each family's Config, and how wide its embeddings are.
TAGGERS = {
    "cnn6": ({"channels": (4, 4, 8, 8)}, 8),
    "cnn14_decision_att": ({"channels": (4, 4, 4, 8)}, 8),
    "wavegram_logmel_cnn14": ({"channels": (4, 8)}, 8),
    "psla": ({"scale": "tiny"}, 320),
    "vggish_mlp": ({"channels": (4, 4, 8, 8), "width": 16, "hidden": 8}, 8),
}


class Made:
    """A saved model, what it says of one sound that lasts as long as it hears, and that sound."""

    def __init__(self, name: str, directory):
        self.name, (self.fields, self.width) = name, TAGGERS[name]
        model = random_model(name, num_classes=len(LABELS), num_frames=FRAMES, **self.fields)
        stated = (-5.0, 4.0) if name == "psla" else (0.0, 1.0)
        loaded = LoadedModel(model, LABELS, model.front_end.with_statistics(*stated), "sigmoid")
        self.model, self.sound = directory / "model", directory / "sound.wav"
        save(loaded, self.model, facts={"source": "random numbers"})
        rate_hz = loaded.front_end.sample_rate_hz
        wave = np.random.default_rng(0).normal(0, 0.1, loaded.front_end.span(FRAMES))
        soundfile.write(self.sound, wave, rate_hz, subtype="FLOAT")
        self.tagger = Tagger(self.model)
        self.loaded = self.tagger.models[0]
        self.fbank = self.loaded.front_end.features(wave.astype(np.float32))[None, :FRAMES]
        self.scores = np.asarray(self.loaded.scores(self.fbank))[0]
        assert np.ptp(self.scores) > 0.01


@pytest.fixture(scope="module")
def quick():
    """Programs are compiled unoptimised, in a third of the time."""
    options = {"xla_backend_optimization_level": 0, "xla_cpu_use_fusion_emitters": False}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax, "jit", functools.partial(jax.jit, compiler_options=options))
        yield


@pytest.fixture(scope="module", params=TAGGERS)
def made(request, quick, tmp_path_factory) -> Made:
    return Made(request.param, tmp_path_factory.mktemp(request.param))


def test_it_is_explained_by_gradients_alone(made, tmp_path):
    invoke("explain", [f"--model={made.model}", str(made.sound), "--top=1", f"--out={tmp_path / 'e.png'}"])
    assert (tmp_path / "e.png").read_bytes().startswith(b"\x89PNG")
    with np.load(tmp_path / "e.npz") as drawn:
        assert drawn["labels"].tolist() == [LABELS[made.scores.argmax()]]
        np.testing.assert_allclose(drawn["scores"], made.scores, atol=1e-4)
        assert drawn["gradient"].shape == (1, *drawn["fbank"].shape) == (1, *made.fbank.shape[1:])
        assert np.isfinite(drawn["gradient"]).all()
        assert np.ptp(drawn["gradient"]) > 0
        assert not {"attention", "rollout"} & set(drawn.files)


def test_it_is_embedded(made, tmp_path):
    invoke("embed", [f"--model={made.model}", str(made.sound), f"--out={tmp_path / 'e.npz'}"])
    with np.load(tmp_path / "e.npz") as rows:
        assert rows["embeddings"].shape == (1, made.width)
        np.testing.assert_allclose(rows["embeddings"], made.loaded.embeddings(made.fbank), rtol=1e-3)


def test_it_is_probed(made, tmp_path, capsys):
    """Noise of two loudnesses."""
    rng = np.random.default_rng(0)
    for label, size in (("soft", 0.001), ("loud", 0.3)):
        (tmp_path / label).mkdir()
        for i in range(5):
            soundfile.write(tmp_path / label / f"{i}.wav", rng.normal(0, size, 4_000), 16_000)
    invoke("probe", [f"--model={made.model}", str(tmp_path), "--json"])
    told = json.loads(capsys.readouterr().out)
    assert told["clips"] == 10
    assert told["kinds"].keys() == {"token", "mean", "both"}
    assert max(kind["accuracy"] for kind in told["kinds"].values()) > 0.8


def test_it_is_served(made):
    limits = Limits(upload_bytes=600_000, sound_s=5.0, decode_time_s=20.0)
    with TestClient(make_app(made.tagger, limits), base_url="http://127.0.0.1") as client:
        reply = client.post("/api/tags?top=3", content=made.sound.read_bytes())
    assert reply.status_code == 200, reply.text
    told = {tag["label"]: tag["score"] for tag in reply.json()["tags"]}
    assert [told[label] for label in LABELS] == pytest.approx(made.scores.tolist(), abs=1e-3)


def test_it_runs_as_stablehlo(made, tmp_path):
    save(made.loaded, tmp_path / "program", facts={"source": "random numbers"})
    stablehlo.write_program(made.loaded, tmp_path / "program" / stablehlo.PROGRAM)
    logits, scores = stablehlo.load_exported(tmp_path / "program")(made.fbank)
    np.testing.assert_allclose(scores[0], made.scores, atol=1e-5)
    np.testing.assert_allclose(jax.nn.sigmoid(logits), scores, atol=1e-6)


def test_it_is_planned(made):
    """What is known without compiling the step, which is the one that training compiles."""
    config = base()
    config.model.family, config.model.options = made.name, ConfigDict(made.fields)
    config.num_frames, config.model.dtype = FRAMES, "float32"
    found = facts(config, "mine", len(LABELS), slices.here())
    assert (found["family"], found["parameters"]) == (made.name, num_parameters(made.loaded.model))
    assert found["train_flops"] == 3 * found["forward_flops"] > 0
    assert all(kept > made.fbank.nbytes for kept in found["activation_bytes"].values())
