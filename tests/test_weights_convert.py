"""What is written is read back bit for bit, PyTorch computes the same from it; what does not fit leaves
nothing.
"""

import dataclasses
import json
import sys
from typing import get_args

import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import save_file
from weights_oracles import hugging_face_model, reference_model, save_hugging_face

from ast_jax.commands.convert import Format
from ast_jax.errors import InputError
from ast_jax.models import AST, ASTConfig, host_variables, variables
from ast_jax.weights import load_model
from ast_jax.weights.convert import FORMATS, convert
from ast_jax.weights.convert import LAYOUTS as ALL_LAYOUTS
from ast_jax.weights.families import EXPORTS
from ast_jax.weights.model_card import CARD
from ast_jax.weights.pretrained import LoadedModel

CONFIG = ASTConfig(
    num_classes=5,
    num_frames=64,
    num_mel_bins=48,
    width=32,
    depth=2,
    num_heads=2,
    patch_shape=(16, 16),
    strides=(10, 8),
)


def model_of_ours(directory, config=CONFIG):
    """A directory of ours with weights of std 0.2, and its parameters."""
    model = nnx.eval_shape(lambda: AST(config, rngs=nnx.Rngs(0)))
    rng = np.random.default_rng(0)
    shapes = {path: value.shape for path, value in variables(model).items()}
    random = {path: rng.normal(0, 0.2, shape).astype(np.float32) for path, shape in shapes.items()}
    for path in random:
        if path.endswith("scale"):
            random[path] += 1
    names = ["dog", "rain", "sneezing, loud", "été", "clock"][: config.num_classes]
    front_end = model.front_end.with_statistics(-5.5, 3.25)
    loaded = LoadedModel(model, names, front_end, "sigmoid", channels="first")
    directory.mkdir()
    save_file(random, directory / "model.safetensors")
    (directory / CARD).write_text(json.dumps(loaded.card()))
    return random


def test_the_command_offers_every_format():
    assert get_args(Format) == FORMATS


# an AST's
LAYOUTS = tuple(to for to in ALL_LAYOUTS if "ast" in EXPORTS.get(to, ("ast",)))


@pytest.mark.parametrize("to", LAYOUTS)
def test_round_trip_is_bit_exact(tmp_path, to, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)  # writing needs no torch, nor does reading back
    params = model_of_ours(tmp_path / "ours")
    lines = convert(tmp_path / "ours", tmp_path / "out", to=to)
    assert sum("parity" in line for line in lines) == 1
    again = load_model(tmp_path / "out")
    got = host_variables(again.model)
    assert got.keys() == params.keys()
    for path, array in params.items():
        np.testing.assert_array_equal(got[path], array, err_msg=path)
    assert (again.front_end.mean, again.front_end.std, again.activation) == (-5.5, 3.25, "sigmoid")
    assert again.label_names == ["dog", "rain", "sneezing, loud", "été", "clock"]
    if to == "huggingface":  # the one fact its config has no place for
        assert again.model.config == dataclasses.replace(CONFIG, head_norm_eps=CONFIG.norm_eps)
    else:
        assert again.model.config == CONFIG
        assert again.channels == "first"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ours", "out"]


def test_a_chain_through_every_layout_ends_where_it_began(tmp_path):
    params = model_of_ours(tmp_path / "0", dataclasses.replace(CONFIG, head_norm_eps=1e-6))
    for i, to in enumerate(LAYOUTS):
        convert(tmp_path / str(i), tmp_path / str(i + 1), to=to)
    last = load_model(tmp_path / str(len(LAYOUTS)))
    assert last.model.config == dataclasses.replace(CONFIG, head_norm_eps=1e-6)
    for path, array in host_variables(last.model).items():
        np.testing.assert_array_equal(array, params[path])


@pytest.mark.parametrize(
    ("to", "change", "message"),
    [
        ("reference", {"patch_shape": (16, 8)}, "16 x 16 patches only"),
        ("reference", {"distilled": False}, "always has a distillation token"),
        ("reference", {"mask_even": True}, "attends to padding"),
        ("huggingface", {"mask_even": True}, "attends to padding"),
        ("huggingface", {"patch_shape": (16, 8)}, "square patches only"),
        ("huggingface", {"distilled": False}, "always has a distillation token"),
    ],
)
def test_what_a_layout_cannot_hold_is_refused_and_nothing_written(tmp_path, to, change, message):
    model_of_ours(tmp_path / "ours", dataclasses.replace(CONFIG, **change))
    with pytest.raises(InputError, match=message) as caught:
        convert(tmp_path / "ours", tmp_path / "new" / "out", to=to)
    assert "\n" not in str(caught.value)
    assert not any((tmp_path / "new").iterdir())
    convert(tmp_path / "ours", tmp_path / "out.npz", to="npz")  # where it fits


def test_no_half_written_destination(tmp_path, monkeypatch):
    from ast_jax.weights import parity

    model_of_ours(tmp_path / "ours")

    def fail(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(parity, "with_reference", fail)
    monkeypatch.setattr(parity, "with_transformers", fail)
    for to in ("reference", "huggingface"):
        with pytest.raises(KeyboardInterrupt):
            convert(tmp_path / "ours", tmp_path / "out", to=to)
    assert [path.name for path in tmp_path.iterdir()] == ["ours"]


def test_existing_destinations_and_unknown_layouts_are_refused(tmp_path):
    model_of_ours(tmp_path / "ours")
    (tmp_path / "out").mkdir()
    with pytest.raises(InputError, match="exists already"):
        convert(tmp_path / "ours", tmp_path / "out", to="flax")
    with pytest.raises(InputError, match="choose one of flax, reference"):
        convert(tmp_path / "ours", tmp_path / "other", to="tflite")


def test_damage_to_our_own_files_is_named(tmp_path):
    model_of_ours(tmp_path / "ours")
    card = json.loads((tmp_path / "ours" / CARD).read_text())
    for change, message in [
        ({"width": 64}, r"proj/bias has shape \(32,\), wanted \(64,\)"),
        ({"depth": 3}, "unfilled parameters: blocks/2"),
        ({"wings": 2}, "unknown fields wings"),
    ]:
        (tmp_path / "ours" / CARD).write_text(json.dumps(card | {"model": card["model"] | change}))
        with pytest.raises(InputError, match=message):
            load_model(tmp_path / "ours")
    (tmp_path / "ours" / "model.safetensors").unlink()
    with pytest.raises(InputError, match=r"model\.safetensors"):
        load_model(tmp_path / "ours")


def test_the_reference_loads_our_export_strictly(tmp_path):
    torch = pytest.importorskip("torch")
    model_of_ours(tmp_path / "ours")
    lines = convert(tmp_path / "ours", tmp_path / "out.pth", to="reference")
    state = torch.load(tmp_path / "out.pth", weights_only=True)
    model = torch.nn.Module()
    model.module = reference_model(strides=(10, 8))
    model.load_state_dict(state, strict=True)
    ours = load_model(tmp_path / "out.pth")
    x = np.random.default_rng(0).normal(-5, 5, (2, 64, 48)).astype(np.float32)
    with torch.no_grad():
        theirs = model.module(torch.from_numpy((x + 5.5) / 6.5)).numpy()
    np.testing.assert_allclose(ours.logits(x), theirs, atol=1e-4)
    measured = float(next(line for line in lines if "parity" in line).split("at most ")[1].split()[0])
    assert 0 < measured < 1e-4


def test_transformers_takes_our_export_as_it_is(tmp_path):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    model_of_ours(tmp_path / "ours")
    lines = convert(tmp_path / "ours", tmp_path / "hf", to="huggingface")
    told = next(line for line in lines if "one LayerNorm eps" in line)
    assert "stored the blocks' 1e-06" in told
    model, info = transformers.ASTForAudioClassification.from_pretrained(
        tmp_path / "hf", output_loading_info=True
    )
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert model.config.problem_type == "multi_label_classification"
    assert model.config.id2label[3] == "été"
    extractor = transformers.AutoFeatureExtractor.from_pretrained(tmp_path / "hf")
    assert (extractor.mean, extractor.std, extractor.max_length, extractor.num_mel_bins) == (
        -5.5,
        3.25,
        64,
        48,
    )
    x = np.random.default_rng(0).normal(-5, 5, (2, 64, 48)).astype(np.float32)
    with torch.no_grad():
        theirs = model.eval()(torch.from_numpy((x + 5.5) / 6.5)).logits.numpy()
    np.testing.assert_allclose(load_model(tmp_path / "hf").logits(x), theirs, atol=1e-4)
    pipe = transformers.pipeline("audio-classification", model=str(tmp_path / "hf"), device="cpu")
    noise = np.random.default_rng(0).normal(0, 0.1, 16_000).astype(np.float32)
    scores = pipe(noise, top_k=5)
    assert {entry["label"] for entry in scores} == {"dog", "rain", "sneezing, loud", "été", "clock"}


@pytest.mark.parametrize("eps", [1e-12, 1e-3])
def test_another_eps_shows_in_the_reference_parity(tmp_path, eps):
    pytest.importorskip("torch")
    config = dataclasses.replace(CONFIG, norm_eps=eps, head_norm_eps=eps)
    model_of_ours(tmp_path / "ours", config)
    lines = convert(tmp_path / "ours", tmp_path / "out.pth", to="reference")
    assert any(f"the model's {eps:g} and {eps:g}" in line for line in lines)
    measured = float(next(line for line in lines if "parity" in line).split("at most ")[1].split()[0])
    assert (measured > 1e-4) == (eps == 1e-3)


def test_hugging_face_to_reference_and_back(tmp_path):
    """Between the two PyTorch worlds, through ours: nothing changes but the names."""
    torch = pytest.importorskip("torch")
    model = hugging_face_model(layer_norm_eps=1e-6)
    save_hugging_face(model, tmp_path / "hf")
    convert(tmp_path / "hf", tmp_path / "x.pth", to="reference")
    convert(tmp_path / "x.pth", tmp_path / "back", to="huggingface")
    again = type(model).from_pretrained(tmp_path / "back")
    for (name, a), (_, b) in zip(model.state_dict().items(), again.state_dict().items(), strict=True):
        assert torch.equal(a, b), name
