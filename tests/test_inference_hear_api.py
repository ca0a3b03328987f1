"""HEAR's API, and the encoders of X-ARES and MTEB on it, against `embed` of the same sounds."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from ast_jax.inference import hear_api
from ast_jax.inference.predict import Tagger
from ast_jax.models import ASTConfig, build
from ast_jax.weights import LoadedModel
from ast_jax.weights.convert import save

# 1.6 windows of 64 frames
SAMPLES = 16_000
torch = pytest.importorskip("torch")


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> str:
    config = ASTConfig(num_classes=2, num_frames=64, width=8, depth=1, num_heads=2, strides=(16, 16))
    model = build("ast", config)
    loaded = LoadedModel(model, ["a", "b"], model.front_end.with_statistics(-6.0, 5.0), "softmax")
    directory = tmp_path_factory.mktemp("hear") / "model"
    save(loaded, directory, facts={"source": "x"})
    return str(directory)


def sounds() -> np.ndarray:
    rng = np.random.default_rng(0)
    return (rng.normal(size=(3, SAMPLES)) * np.linspace(0.01, 0.3, SAMPLES)).astype(np.float32)


def example(name: str):
    path = Path(__file__).parent.parent / "examples" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_scenes_are_the_mean_of_a_sounds_windows(source):
    model = hear_api.load_model(source)
    assert (model.sample_rate, model.scene_embedding_size, model.timestamp_embedding_size) == (16_000, 8, 8)
    found = hear_api.get_scene_embeddings(sounds(), model)
    tagger = Tagger(source)
    for vector, sound in zip(found, sounds(), strict=True):
        rows = tagger.embed((sound, 16_000), kind="mean")
        assert len(rows.vectors) == 2
        np.testing.assert_allclose(vector, rows.vectors.mean(axis=0), atol=1e-6)


def test_steps_lie_where_they_were_heard(source):
    """Of 16 frames, 160 ms apart but for windows' beginnings; their middles, rising, inside the sound."""
    vectors, times = hear_api.get_timestamp_embeddings(sounds(), hear_api.load_model(source))
    assert vectors.shape == (3, times.shape[1], 8)
    assert np.all(np.diff(times) > 0)
    np.testing.assert_allclose(times[0, :3], [87.5, 247.5, 407.5])
    assert times.max() < 1000 * SAMPLES / 16_000
    rows = Tagger(source).embed((sounds()[1], 16_000), kind="frames")
    np.testing.assert_allclose(vectors[1], rows.vectors, atol=1e-6)


def test_tensors_come_back_as_tensors_and_x_ares_takes_them(source, monkeypatch):
    audio = torch.from_numpy(sounds())
    model = hear_api.load_model(source)
    vectors, times = hear_api.get_timestamp_embeddings(audio, model)
    assert vectors.dtype == times.dtype == torch.float32
    monkeypatch.setenv("AST_JAX_MODEL", source)
    encoder = example("xares_encoder").AstJaxEncoder()
    assert (encoder.sampling_rate, encoder.output_dim, encoder.hop_size_in_ms) == (16_000, 8, 160)
    torch.testing.assert_close(encoder(audio), vectors)
    assert encoder(audio[0]).shape == (1, *vectors.shape[1:])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_mteb_scores_a_run_on_a_task_of_its_own(source):
    """Its ESC50, in which our own sounds stand for the data: noise, loud or quiet, at three rates."""
    mteb = pytest.importorskip("mteb", reason="mteb, for examples/mteb_encoder.py, is not installed")
    from datasets import Dataset, DatasetDict

    rng, labels = np.random.default_rng(0), [0, 1] * 10
    heard = [
        {"array": rng.normal(0, 0.3 if label else 0.001, rate), "sampling_rate": rate}
        for label, rate in zip(labels, np.resize([8000, 16_000, 22_050], 20).tolist(), strict=True)
    ]
    encoder = example("mteb_encoder").AstJaxEncoder(source)
    meta = encoder.mteb_model_meta
    assert (meta.name, meta.embed_dim, meta.modalities) == ("ast_jax/model", 8, ["audio"])
    vectors = encoder.encode([{"audio": heard[:2]}, {"audio": heard[2:3]}])
    for sound, vector in zip(heard, vectors, strict=False):
        samples = (np.asarray(sound["array"], np.float32), sound["sampling_rate"])
        rows = Tagger(source).embed(samples, kind="mean").vectors
        np.testing.assert_allclose(vector, rows.mean(axis=0), atol=1e-6)
    task = mteb.get_task("ESC50")
    task.dataset = DatasetDict({"train": Dataset.from_dict({"audio": heard, "target": labels})})
    task.data_loaded = True
    (result,) = mteb.evaluate(encoder, task, cache=None, show_progress_bar=False)
    assert result.get_score() == 1
