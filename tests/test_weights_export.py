"""Programs for machines without this package, and the card for people: each against its model."""

import json
import logging
import subprocess
import sys

import jax
import numpy as np
import pytest
from flax import nnx

from ast_jax.errors import InputError
from ast_jax.models import AST, ASTConfig
from ast_jax.weights import LoadedModel, card, load_model
from ast_jax.weights import convert as convert_module
from ast_jax.weights.convert import convert
from ast_jax.weights.onnx_file import onnx_runner
from ast_jax.weights.stablehlo import load_exported

pytest.importorskip("flatbuffers", reason="flatbuffers, of the extra [export], is not installed")
LABELS = ["dog", "rain", "bell"]


def model(seed=0, **changes) -> LoadedModel:
    """Weights five times as large as at the start, so that faults show in the logits."""
    shape = {"num_classes": 3, "num_frames": 32, "width": 8, "depth": 2, "num_heads": 2, "strides": (16, 16)}
    net = AST(ASTConfig(**shape | changes), rngs=nnx.Rngs(seed))
    nnx.update(net, jax.tree.map(lambda value: 5 * value, nnx.state(net)))
    front_end = net.front_end.with_statistics(-6.5, 5.0)
    return LoadedModel(net, LABELS, front_end, "sigmoid", notes=["2 blocks from somewhere/weights.npz"])


@pytest.fixture(scope="module")
def loaded():
    return model()


@pytest.fixture(scope="module")
def exported(loaded, tmp_path_factory):
    """(directory, lines) of a StableHLO export."""
    directory = tmp_path_factory.mktemp("export") / "tagger"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            convert_module, "load_model", lambda src, **options: load_model(src) if options == {} else loaded
        )
        return directory, convert("somewhere/weights.npz", directory, to="stablehlo")


def features(batch):
    return np.random.default_rng(batch).normal(-6.5, 5, (batch, 32, 128)).astype(np.float32)


@pytest.mark.parametrize("batch", [1, 5])
def test_the_program_gives_the_models_logits_and_scores_at_any_batch(loaded, exported, batch):
    logits, scores = load_exported(exported[0])(features(batch))
    np.testing.assert_allclose(logits, loaded.logits(features(batch)), atol=2e-5)
    np.testing.assert_allclose(scores, jax.nn.sigmoid(logits), atol=1e-6)
    assert np.ptp(logits) > 0.3, "a model whose logits are all alike shows nothing"


def test_one_file_holds_the_program_for_cpu_gpu_and_tpu(exported):
    program = jax.export.deserialize(bytearray((exported[0] / "model.stablehlo").read_bytes()))
    assert program.platforms == ("cpu", "cuda", "tpu")
    assert str(program.in_avals[-1].shape[0]) == "batch"
    assert (exported[0] / "model.stablehlo").stat().st_size < 100_000, "the weights are beside it, not inside"


def test_the_program_follows_the_weights_beside_it(exported, tmp_path):
    """Other weights, other answers: nothing is baked in."""
    from safetensors.numpy import load_file, save_file

    (tmp_path / "model.stablehlo").write_bytes((exported[0] / "model.stablehlo").read_bytes())
    params = load_file(exported[0] / "model.safetensors")
    save_file(params | {"head/bias": params["head/bias"] + 1}, tmp_path / "model.safetensors")
    moved = load_exported(tmp_path)(features(2))[0] - load_exported(exported[0])(features(2))[0]
    np.testing.assert_allclose(moved, 1, atol=1e-5)


def test_it_says_how_far_it_is_from_the_model(exported):
    (line,) = [line for line in exported[1] if "StableHLO" in line]
    assert float(line.split("at most ")[1].split()[0]) < 2e-5


def test_the_cards_own_words_run_without_this_package(exported, loaded, tmp_path):
    """The snippet of README.md, as it stands there, in a Python that cannot see ast_jax."""
    readme = (exported[0] / "README.md").read_text()
    snippet = readme.split("```python\n")[1].split("```")[0]
    np.save(tmp_path / "x.npy", features(2))
    before = f"import numpy, sys\nfbank = numpy.load({str(tmp_path / 'x.npy')!r})"
    after = "assert 'ast_jax' not in sys.modules\nprint(numpy.asarray(logits).tolist())"
    code = f"{before}\n{snippet}\n{after}"
    done = subprocess.run([sys.executable, "-c", code], cwd=exported[0], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    np.testing.assert_allclose(json.loads(done.stdout), loaded.logits(features(2)), atol=2e-5)


def test_an_exported_directory_is_a_model_of_ours_too(exported, loaded):
    again = load_model(exported[0])
    assert again.label_names == LABELS
    np.testing.assert_array_equal(again.logits(features(2)), loaded.logits(features(2)))


def test_damage_and_other_directories_are_one_line(exported, tmp_path):
    with pytest.raises(InputError, match=r"no model\.stablehlo"):
        load_exported(tmp_path)
    (tmp_path / "model.stablehlo").write_bytes((exported[0] / "model.stablehlo").read_bytes()[:1000])
    with pytest.raises(InputError, match="export the model again"):
        load_exported(tmp_path)


@pytest.mark.parametrize(
    "changes", [{}, {"distilled": False, "patch_shape": (16, 8), "strides": (12, 8), "dtype": "bfloat16"}]
)
def test_onnx_runs_any_shape_of_model_at_any_batch(changes, tmp_path, monkeypatch):
    for package in ("jax2onnx", "onnxruntime"):
        pytest.importorskip(package, reason=f"{package}, of the extra [onnx], is not installed")
    monkeypatch.setattr(logging.getLogger("onnx_ir"), "level", logging.ERROR)
    given = model(**changes)
    monkeypatch.setattr(convert_module, "load_model", lambda src, **options: given)
    lines = convert("somewhere/weights.npz", tmp_path / "tagger", to="onnx")
    (line,) = [line for line in lines if "onnxruntime" in line]
    assert float(line.split("at most ")[1].split()[0]) < 2e-5
    run = onnx_runner(tmp_path / "tagger" / "model.onnx")
    exact = model(**changes | {"dtype": "float32"})
    for batch in (1, 4):
        logits, scores = run(features(batch))
        np.testing.assert_allclose(logits, exact.logits(features(batch)), atol=2e-5)
        np.testing.assert_allclose(scores, jax.nn.sigmoid(logits), atol=1e-6)


def test_the_card_says_what_a_run_knows(loaded, tmp_path):
    from fake_run import write_fake_run

    run = write_fake_run(tmp_path / "run")
    (run / "checkpoints").mkdir()
    words = card.text(loaded, to="flax", name="tagger", facts=card.facts_of(run, "best"))
    results = json.loads((run / "results.json").read_text())
    assert f"| mAP | {results['metrics']['mAP']:.4f} |" in words
    assert "| data set | esc50 |" in words
    assert "dog, rain, bell" in words
    assert '"width": 8' in words
    assert "## Intended use" in words


def test_the_card_names_the_family(loaded, monkeypatch):
    facts = card.facts_of("somewhere/weights.npz", "best")
    assert "An Audio Spectrogram Transformer ([Gong" in card.text(loaded, to="flax", name="x", facts=facts)
    stated = loaded.card()
    for family, words in (("cnn14", "PANNs' CNN14 ([Kong"), ("mine", "A model of the family mine of")):
        monkeypatch.setattr(type(loaded), "card", lambda _, family=family: stated | {"family": family})
        written = card.text(loaded, to="flax", name="x", facts=facts)
        assert words in written
        assert "tags: [audio]" in written


def test_the_card_claims_nothing_that_nobody_measured(exported):
    words = (exported[0] / "README.md").read_text()
    assert "Not measured here." in words
    assert "2 blocks from weights.npz" in words, "where it came from, without the directories of a machine"
