"""Models of PyTorch's world and ours agree; checkpoints are recognised, adapted and refused."""

import dataclasses
import functools
import json
import re

import jax
import ml_dtypes
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import save_file
from weights_oracles import (
    hugging_face_model,
    our_params,
    randomise,
    reference_model,
    save_hugging_face,
    timm,
)

from ast_jax.errors import InputError
from ast_jax.inference.predict import Tagger
from ast_jax.models import AST, ASTConfig, host_variables, kernels_on
from ast_jax.weights import LoadedModel, initialise, layouts, load_model, read_source, torch_file, vit_layout
from ast_jax.weights.onnx_model import OnnxModel
from ast_jax.weights.pretrained import with_config

# Both sides compute in float32; with weights of std 0.2 logits are of size 1 to 10 and differ by some 1e-6 of
# that.
PARITY = 1e-4


def test_a_digest_is_of_all_that_answers_follow_from_and_of_nothing_else():
    """Weights, what is heard, the config, the activation; not the device's arithmetic, nor thresholds."""
    shape = {"num_classes": 2, "num_frames": 32, "width": 8, "depth": 1, "num_heads": 1}
    net = AST(ASTConfig(**shape), rngs=nnx.Rngs(0))
    loaded = LoadedModel(net, ["a", "b"], net.front_end.with_statistics(-4.0, 4.0), "softmax")
    own, other = loaded.digest(), AST(ASTConfig(**shape), rngs=nnx.Rngs(1))
    changes = [
        {"front_end": net.front_end.with_statistics(-4.0, 4.5)},
        {"front_end": dataclasses.replace(loaded.front_end, spread=1.0)},
        {"activation": "sigmoid"},
        {"label_names": ["b", "a"]},
        {"channels": "first"},
        {"model": other},
    ]
    digests = [dataclasses.replace(loaded, **change).digest() for change in changes]
    digests.append(with_config(loaded, mask_even=True).digest())
    assert len({own, *digests}) == 1 + len(digests)
    assert with_config(loaded, dtype="bfloat16").digest() == own
    assert dataclasses.replace(loaded, thresholds=[0.1, 0.2], notes=["said"]).digest() == own
    onnx = OnnxModel(*(getattr(loaded, name) for name in ("model", "label_names", "front_end", "activation")))
    digests = [dataclasses.replace(onnx, **change).digest() for change in changes[:5]]
    digests += [onnx.digest(), dataclasses.replace(onnx, file_digest="another file").digest()]
    assert len(set(digests)) == 7


def fbank(loaded, batch=2, frames=None):
    config = loaded.model.config
    shape = (batch, frames or config.num_frames, config.num_mel_bins)
    return np.random.default_rng(1).normal(-4, 4, shape).astype(np.float32)


def torch_logits(model, loaded, x):
    import torch

    with torch.no_grad():
        out = model(torch.from_numpy(loaded.front_end.normalise(x)))
    return getattr(out, "logits", out).numpy()


def tokens(loaded, image):
    """Ours of grey images [B, height, width]: their width is time."""
    return nnx.jit(lambda m, x: m(x)[1]["tokens"])(loaded.model, image.swapaxes(1, 2))


SHAPES = [
    {},
    {"hidden_size": 96, "num_attention_heads": 3, "intermediate_size": 200},
    {"hidden_size": 48, "num_attention_heads": 3, "intermediate_size": 192},
    {"num_hidden_layers": 3, "intermediate_size": 64},
    {"frequency_stride": 10, "time_stride": 8},
    {"frequency_stride": 16, "time_stride": 16},
    {"num_mel_bins": 64, "max_length": 100},
    {"patch_size": 8, "frequency_stride": 5, "time_stride": 7, "num_labels": 3},
    {"layer_norm_eps": 1e-3},
    {"qkv_bias": False, "num_labels": 35},
    {"num_hidden_layers": 1, "num_attention_heads": 4, "max_length": 37},
]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_hugging_face_ast_gives_the_same_logits(tmp_path, shape):
    model = hugging_face_model(**shape)
    loaded = load_model(save_hugging_face(model, tmp_path, mean=-3.5, std=2.5))
    assert (loaded.front_end.mean, loaded.front_end.std) == (-3.5, 2.5)
    x = fbank(loaded)
    expected = torch_logits(model, loaded, x)
    assert np.abs(expected).max() > 0.5
    np.testing.assert_allclose(loaded.logits(x), expected, atol=PARITY)


@pytest.mark.parametrize(
    "shape",
    [
        {},
        {"strides": (10, 8)},
        {"strides": (16, 16), "classes": 3},
        {"width": 64, "heads": 4, "depth": 3, "mel_bins": 64, "frames": 90},
    ],
    ids=str,
)
@pytest.mark.parametrize("parallel", [True, False])
def test_reference_gives_the_same_logits(tmp_path, shape, parallel):
    torch = pytest.importorskip("torch")
    model = reference_model(**shape)
    state = {"module." * parallel + key: value for key, value in model.state_dict().items()}
    if parallel:  # with and without DeiT's unused heads
        state = {key: value for key, value in state.items() if ".head" not in key}
    torch.save(state, tmp_path / "x.pth")
    facts = {
        "num_heads": shape.get("heads", 2),
        "strides": shape.get("strides", (10, 10)),
        "num_frames": shape.get("frames", 64),
        "num_mel_bins": shape.get("mel_bins", 48),
    }
    loaded = load_model(tmp_path / "x.pth", facts=facts, mean=-4.0, std=4.0)
    x = fbank(loaded)
    np.testing.assert_allclose(loaded.logits(x), torch_logits(model, loaded, x), atol=PARITY)


def test_parity_sees_a_tanh_gelu_and_swapped_queries_and_keys(tmp_path, monkeypatch):
    """The two faults that look harmless: were the tests above blind to them, they would prove nothing."""
    model = hugging_face_model()
    right = load_model(save_hugging_face(model, tmp_path))
    x = fbank(right)
    expected = torch_logits(model, right, x)
    assert np.abs(right.logits(x) - expected).max() < PARITY
    # jax's default is the tanh form
    tanh = dataclasses.replace(kernels_on(jax.devices()[0]), gelu=jax.nn.gelu)
    monkeypatch.setattr("ast_jax.models.ast.current", lambda: tanh)
    assert np.abs(load_model(tmp_path).logits(x) - expected).max() > PARITY
    monkeypatch.undo()
    right_order = vit_layout.torch_qkv
    monkeypatch.setattr(
        vit_layout, "torch_qkv", lambda ours, theirs: right_order(ours, [theirs[1], theirs[0], theirs[2]])
    )
    assert np.abs(load_model(tmp_path).logits(x) - expected).max() > PARITY


TIMM = {
    "vit": ("vit_tiny_patch16_224", {"img_size": 48}),
    "vit other patch": ("vit_small_patch32_224", {"img_size": 96}),
    "deit distilled": ("deit_tiny_distilled_patch16_224", {"img_size": 32}),
    "deit3": ("deit3_small_patch16_224", {"img_size": 48}),
    "dinov2": ("vit_small_patch14_dinov2", {"img_size": 42}),
    "vit base": ("vit_base_patch16_224", {"img_size": 32, "depth": 1}),
}


@pytest.mark.parametrize("name", TIMM)
def test_timm_gives_the_same_tokens(tmp_path, name):
    torch = pytest.importorskip("torch")
    model_name, changes = TIMM[name]
    model = randomise(timm().create_model(model_name, **{"depth": 2} | changes))
    torch.save({"model": model.state_dict()}, tmp_path / "x.pth")
    loaded = load_model(tmp_path / "x.pth")
    assert loaded.model.config.distilled == ("distilled" in model_name)
    side = changes["img_size"]
    image = np.random.default_rng(0).normal(size=(2, side, side)).astype(np.float32)
    with torch.no_grad():  # a grey image: three equal channels
        expected = model.forward_features(torch.from_numpy(np.repeat(image[:, None], 3, axis=1))).numpy()
    ours = tokens(loaded, image)
    assert ours.shape == expected.shape
    np.testing.assert_allclose(ours, expected, atol=PARITY)


@pytest.mark.parametrize("stacked", [False, True])
def test_google_files_mean_to_timm_what_they_mean_to_us(tmp_path, stacked):
    """timm reads Google's files by its own rules: an oracle for the table, heads on their own axis,
    stacking.
    """
    torch = pytest.importorskip("torch")
    vit = timm().models.VisionTransformer(
        img_size=24, patch_size=8, embed_dim=24, depth=2, num_heads=3, num_classes=0
    )
    params = our_params(24, 2, distilled=False, grid=(3, 3), patch=(8, 8), channels=3, classes=0)
    theirs = layouts.write(vit_layout.google(2, num_heads=3), params)
    if stacked:  # big_vision's names for it
        new = {"LayerNorm_2": "LayerNorm_1", "Attention_1": "Attention_0", "MlpBlock_3": "MlpBlock_0"}
        blocks: dict[str, list] = {}
        for key in [key for key in theirs if "encoderblock_" in key]:
            name = functools.reduce(lambda k, o: k.replace(o, new[o]), new, key)
            blocks.setdefault(re.sub(r"encoderblock_\d", "encoderblock", name), []).append(theirs.pop(key))
        theirs |= {key: np.stack(layers) for key, layers in blocks.items()}
        theirs["pos_embedding"] = theirs.pop("Transformer/posembed_input/pos_embedding")
        theirs = {f"params/{key}": value for key, value in theirs.items()}
    np.savez(tmp_path / "x.npz", **theirs)
    vit.eval().load_pretrained(str(tmp_path / "x.npz"))
    loaded = load_model(tmp_path / "x.npz")
    image = np.random.default_rng(0).normal(size=(2, 24, 24)).astype(np.float32)
    with torch.no_grad():
        expected = vit.forward_features(torch.from_numpy(np.repeat(image[:, None], 3, axis=1))).numpy()
    ours = tokens(loaded, image)
    np.testing.assert_allclose(ours, expected, atol=PARITY)


@pytest.mark.parametrize("kind", ["ViTModel", "DeiTForImageClassificationWithTeacher"])
def test_hugging_face_vits_give_the_same_tokens(tmp_path, kind):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    size = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 128,
        "image_size": 48,
    }
    config = (transformers.DeiTConfig if kind.startswith("DeiT") else transformers.ViTConfig)(**size)
    model = randomise(getattr(transformers, kind)(config))
    model.save_pretrained(tmp_path)
    loaded = load_model(tmp_path)
    image = np.random.default_rng(0).normal(size=(2, 48, 48)).astype(np.float32)
    base = getattr(model, "deit", model)
    with torch.no_grad():
        expected = base(torch.from_numpy(np.repeat(image[:, None], 3, axis=1))).last_hidden_state.numpy()
    ours = tokens(loaded, image)
    np.testing.assert_allclose(ours, expected, atol=PARITY)


@pytest.mark.filterwarnings("ignore:At least one mel filter")  # the third is empty, in the reference too
def test_a_real_clip_through_both_front_ends(tmp_path, shared):
    """Sound file to logits, by transformers' feature extractor and model, and by ours."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    from ast_jax.features import load_audio, log_mel

    model = hugging_face_model(num_mel_bins=128, max_length=512, frequency_stride=16, time_stride=16)
    loaded = load_model(save_hugging_face(model, tmp_path, mean=-6.6268077, std=5.358466))
    extractor = transformers.AutoFeatureExtractor.from_pretrained(tmp_path)
    for path in sorted((shared / "data" / "ESC-50-master" / "audio").iterdir())[:400:100]:
        waveform = load_audio(path)
        inputs = extractor(waveform, sampling_rate=16_000, return_tensors="pt")
        with torch.no_grad():
            theirs = model(**inputs).logits.numpy()
        assert np.abs(theirs).max() > 0.5
        fbank = np.asarray(log_mel(waveform), np.float32)[None]
        np.testing.assert_allclose(
            loaded.logits(fbank), theirs, atol=1e-2
        )  # rare cells differ by 3e-3 nats and more
        values = inputs["input_values"].numpy() * 2 * loaded.front_end.std + loaded.front_end.mean
        np.testing.assert_allclose(loaded.logits(values), theirs, atol=PARITY)


def save_timm(path, *, grid=(4, 4), distilled=False, depth=2, width=192, patch=(4, 4)):
    params = our_params(width, depth, distilled=distilled, grid=grid, patch=patch, channels=3, classes=0)
    np.savez(path, **layouts.write(vit_layout.timm(depth, distilled=distilled), params))
    return params


def tiny(**changes):
    small = {
        "num_frames": 48,
        "num_mel_bins": 16,
        "patch_shape": (4, 4),
        "strides": (4, 4),
        "width": 192,
        "depth": 2,
    }
    return ASTConfig(**small | {"num_heads": 3, "num_classes": 7, "distilled": False} | changes)


def test_image_model_becomes_an_ast_and_the_account_says_how(tmp_path):
    params = save_timm(tmp_path / "x.npz")
    model = AST(tiny(patch_shape=(6, 4), strides=(3, 4)), rngs=nnx.Rngs(0))  # grid 4 x 12
    before = host_variables(model)
    account = initialise(model, tmp_path / "x.npz")
    after = host_variables(model)
    for part in (
        "2 blocks of width 192",
        "3 colour kernels summed",
        "PI-resized from 4 x 4 to 6 x 4",
        "head new",
    ):
        assert part in account
    assert "positions 4 x 4 to 4 x 12 (time bilinear)" in account
    for path in ("blocks/1/mlp/fc2/kernel", "norm/bias", "cls_token"):
        np.testing.assert_array_equal(after[path], params[path])
    for path in ("head/kernel", "head_norm/scale", "head/bias"):
        np.testing.assert_array_equal(after[path], before[path])
    np.testing.assert_array_equal(after["pos_embed"][:, 0], params["pos_embed"][:, 0])
    start = after["pos_embed"][0, 1:].reshape(4, 12, -1)[:, 0]
    np.testing.assert_array_equal(start, params["pos_embed"][0, 1:].reshape(4, 4, -1)[:, 0])


def test_kernel_and_position_choices(tmp_path):
    params = save_timm(tmp_path / "x.npz")
    model = AST(tiny(), rngs=nnx.Rngs(0))
    new = host_variables(model)["pos_embed"]
    account = initialise(model, tmp_path / "x.npz", rgb="mean", positions="reinit")
    assert "positions new" in account
    assert "averaged" in account
    np.testing.assert_array_equal(host_variables(model)["pos_embed"], new)
    mean = params["patch_embed/kernel"].mean(2, keepdims=True)
    np.testing.assert_allclose(host_variables(model)["patch_embed/kernel"], mean, atol=1e-6)
    with pytest.raises(InputError, match="bicubic"):
        initialise(model, tmp_path / "x.npz", positions="bicubic")


def test_distillation_token_follows_the_model(tmp_path):
    params = save_timm(tmp_path / "plain.npz")
    model = AST(tiny(distilled=True), rngs=nnx.Rngs(0))
    assert "distillation token and its position copied" in initialise(model, tmp_path / "plain.npz")
    after = host_variables(model)
    np.testing.assert_array_equal(after["dist_token"], params["cls_token"])
    np.testing.assert_array_equal(after["pos_embed"][:, 1], params["pos_embed"][:, 0])
    params = save_timm(tmp_path / "distilled.npz", distilled=True)
    model = AST(tiny(), rngs=nnx.Rngs(0))
    assert "distillation token left aside" in initialise(model, tmp_path / "distilled.npz")
    np.testing.assert_array_equal(host_variables(model)["pos_embed"][:, 0], params["pos_embed"][:, 0])


def test_a_source_says_what_shape_of_model_it_wants(tmp_path):
    save_timm(tmp_path / "x.npz", distilled=True)
    found = read_source(tmp_path / "x.npz").model
    wanted = {"width": 192, "depth": 2, "num_heads": 3, "mlp_width": 768, "distilled": True, "norm_eps": 1e-6}
    assert {name: found[name] for name in wanted} == wanted
    assert "num_classes" not in found


def test_another_size_is_refused(tmp_path):
    save_timm(tmp_path / "x.npz")
    with pytest.raises(InputError, match=r"depth 2 against 3.*choose the same"):
        initialise(AST(tiny(depth=3), rngs=nnx.Rngs(0)), tmp_path / "x.npz")


def save_ours(path, config, *, seed=0, **facts):
    """One of our own directories, written by hand."""
    path.mkdir(exist_ok=True)
    params = host_variables(AST(config, rngs=nnx.Rngs(seed)))
    rng = np.random.default_rng(seed)
    params = {name: rng.normal(0, 0.2, x.shape).astype(np.float32) for name, x in params.items()}
    save_file(params, path / "model.safetensors")
    card = {"model": dataclasses.asdict(config), "label_names": [f"l{i}" for i in range(config.num_classes)]}
    card |= {
        "mean": -4.0,
        "std": 3.0,
        "multi_label": True,
        "sample_rate_hz": 16000,
        "channels": "first",
    } | facts
    (path / "model_card.json").write_text(json.dumps(card))
    return params


def test_our_own_directory_is_taken_as_it_is(tmp_path):
    params = save_ours(tmp_path / "m", tiny())
    loaded = load_model(tmp_path / "m")
    assert loaded.model.config == tiny()
    assert (loaded.front_end.mean, loaded.front_end.std, loaded.channels) == (-4.0, 3.0, "first")
    assert loaded.activation == "sigmoid"
    assert loaded.label_names == ["l0", "l1", "l2", "l3", "l4", "l5", "l6"]
    for path, array in host_variables(loaded.model).items():
        np.testing.assert_array_equal(array, params[path])


def test_arithmetic_is_the_devices_best_whatever_the_device_of_its_training(tmp_path, monkeypatch):
    save_ours(tmp_path / "m", tiny(dtype="bfloat16"))
    assert load_model(tmp_path / "m").model.config.dtype == "float32"
    assert load_model(tmp_path / "m", dtype="bfloat16").model.config.dtype == "bfloat16"
    monkeypatch.setattr("ast_jax.models.base.multiplies_16_bits", lambda device: True)
    loaded = load_model(tmp_path / "m")
    assert loaded.model.config.dtype == "bfloat16"
    assert "products in bfloat16" in " ".join(loaded.notes)
    assert load_model(tmp_path / "m", dtype="float32").model.config.dtype == "float32"


def test_a_run_gives_the_weights_asked_for(tmp_path, monkeypatch):
    from ast_jax import checkpoints

    params = save_ours(tmp_path / "run", tiny())
    (tmp_path / "run" / "checkpoints").mkdir()
    monkeypatch.setattr(
        checkpoints,
        "load_variables",
        lambda workdir, which: {p: x + (which == "last") for p, x in params.items()},
    )
    for which, shift in (("best", 0), ("last", 1)):
        loaded = load_model(tmp_path / "run", which=which)
        np.testing.assert_array_equal(host_variables(loaded.model)["head/bias"], params["head/bias"] + shift)
        assert which in loaded.notes[0]


def test_another_length_and_other_strides(tmp_path):
    """A shorter clip keeps the middle positions (the reference's rule); new strides move them to new
    centres.
    """
    config = tiny(num_frames=100, strides=(3, 4))  # grid 5 x 25
    params = save_ours(tmp_path / "m", config)
    table = params["pos_embed"][0, 1:].reshape(5, 25, -1)
    short = load_model(tmp_path / "m", num_frames=40)
    np.testing.assert_array_equal(
        host_variables(short.model)["pos_embed"][0, 1:].reshape(5, 10, -1), table[:, 7:17]
    )
    assert short.label_names[0] == "l0"  # its head is kept
    assert "time cut" in short.notes[0]
    other = load_model(tmp_path / "m", strides=(3, 8))  # grid 5 x 13, every second centre
    np.testing.assert_allclose(
        host_variables(other.model)["pos_embed"][0, 1:].reshape(5, 13, -1), table[:, ::2], atol=1e-6
    )
    assert "moved to the new patch centres 5 x 13" in other.notes[0]
    new_head = load_model(tmp_path / "m", label_names=["a", "b"])
    assert new_head.model.config.num_classes == 2
    assert "head new" in new_head.notes[0]


def test_logits_pad_cut_and_normalise(tmp_path):
    save_ours(tmp_path / "m", tiny())
    loaded = load_model(tmp_path / "m", mean=-5.0, std=2.0)
    x = fbank(loaded, frames=60)
    whole = loaded.logits(x)
    np.testing.assert_array_equal(loaded.logits(x[:, :48]), whole)
    padded = np.concatenate([x[:, :30], np.zeros((2, 18, 16), np.float32)], axis=1)
    np.testing.assert_array_equal(loaded.logits(x[:, :30]), loaded.logits(padded))
    direct = nnx.jit(lambda m, y: m(y)[0])(loaded.model, (x[:, :48] + 5.0) / 4.0)
    np.testing.assert_allclose(whole, direct, atol=1e-5)  # fused and unfused normalisation round differently


def test_normalisation_must_be_known(tmp_path):
    save_ours(tmp_path / "m", tiny(), mean=None)
    with pytest.raises(InputError, match="does not say the mean and std"):
        load_model(tmp_path / "m")
    loaded = load_model(tmp_path / "m", mean=0.0, std=1.0)
    assert (loaded.front_end.mean, loaded.front_end.std) == (0.0, 1.0)
    assert "features normalised by mean 0, std 1 (as given)" in loaded.notes
    save_ours(tmp_path / "n", tiny())
    assert "features normalised by mean -4, std 3 (the checkpoint's)" in load_model(tmp_path / "n").notes


def test_published_reference_grids_are_known_and_others_asked_for(tmp_path):
    def save(grid):
        params = our_params(192, 1, grid=grid, patch=(16, 16), classes=50)
        torch_file.write(
            tmp_path / "x.pth",
            {
                f"module.{k}": v
                for k, v in layouts.write(vit_layout.reference(1, distilled=True), params).items()
            },
        )

    save((12, 50))
    source = read_source(tmp_path / "x.pth")
    assert (source.model["strides"], source.model["num_frames"], source.mean) == ((10, 10), 512, None)
    assert any("512 frames concluded from its number of positions" in note for note in source.notes)
    save((12, 51))
    with pytest.raises(InputError, match=r"612 positions.*give the strides.*--strides=MEL_BINS,FRAMES"):
        read_source(tmp_path / "x.pth")
    with pytest.raises(InputError, match=r"612 positions.*not a multiple of 8 rows of patches"):
        read_source(tmp_path / "x.pth", facts={"strides": (15, 10)})
    source = read_source(tmp_path / "x.pth", facts={"strides": (10, 10), "num_frames": 520})
    assert source.config.grid == (12, 51)
    # what the model is asked to be is taken for what the file is, where that is not known
    loaded = load_model(tmp_path / "x.pth", strides=(10, 10), num_frames=523, mean=-4.0, std=4.0)
    assert (loaded.model.config.num_frames, loaded.model.config.grid) == (523, (12, 51))
    np.testing.assert_array_equal(host_variables(loaded.model)["pos_embed"], source.arrays["pos_embed"])


def test_only_audiosets_classes_are_taken_for_granted_and_the_rest_can_be_given(tmp_path):
    def save(classes):
        params = our_params(192, 1, grid=(12, 12), patch=(16, 16), classes=classes)
        torch_file.write(tmp_path / "x.pth", layouts.write(vit_layout.reference(1, distilled=True), params))
        return tmp_path / "x.pth"

    with pytest.raises(InputError, match=r"does not say the mean and std.*--mean"):
        load_model(save(35))
    names = [f"word {i}" for i in range(35)]
    plain = load_model(save(35), mean=-4.0, std=4.0)
    given = load_model(save(35), mean=-4.0, std=4.0, label_names=names, activation="sigmoid")
    assert (plain.label_names[0], plain.activation) == ("class 0", "softmax")
    assert (given.label_names, given.activation, given.new_head) == (names, "sigmoid", False)
    assert any("35 classes have no names in the file: --labels" in line for line in plain.assumed)
    assert any("one label or several: taken as one" in line for line in plain.assumed)
    assert not any("one label or several" in line for line in given.assumed)
    audioset = load_model(save(527))
    assert (audioset.label_names[0], audioset.activation) == ("Speech", "sigmoid")
    assert any("taken as AudioSet's in the reference's order" in line for line in audioset.assumed)


def test_a_model_without_a_head_does_not_tag(tmp_path):
    params = hugging_face_files(tmp_path, architectures=["ASTModel"])
    bare = {path: x for path, x in params.items() if "head" not in path}
    rows = vit_layout.hugging_face(2, distilled=True)
    save_file(layouts.write(rows, bare), tmp_path / "model.safetensors")
    (tmp_path / "preprocessor_config.json").write_text('{"max_length": 16, "num_mel_bins": 12}')
    assert load_model(tmp_path).new_head
    tagger = Tagger(tmp_path)
    with pytest.raises(InputError, match="no head for these classes, its scores would be random"):
        tagger.tag((np.zeros(16_000, np.float32), 16_000))
    assert tagger.embed((np.zeros(16_000, np.float32), 16_000)).vectors.shape[1] == 24
    # a name for each of other classes makes no head for them
    hugging_face_files(tmp_path)
    with pytest.raises(InputError, match="no head"):
        Tagger(tmp_path, label_names=["a", "b"]).check_heads()


@pytest.mark.parametrize(
    ("stated", "message"),
    [
        ({"sampling_rate": 8000}, "sampling_rate 8000, not 16000"),
        ({"max_length": 20}, "max_length 20, not 16"),
        ({"feature_extractor_type": "Wav2Vec2FeatureExtractor"}, "'Wav2Vec2FeatureExtractor', not"),
        ({"mean": "loud"}, "has mean 'loud', wanted float"),
    ],
)
def test_other_features_than_these_are_refused(tmp_path, stated, message):
    hugging_face_files(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(stated))
    with pytest.raises(InputError, match=message):
        read_source(tmp_path)


def test_a_null_mean_is_asked_for(tmp_path):
    hugging_face_files(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text('{"mean": null, "std": 4.5}')
    with pytest.raises(InputError, match="does not say the mean and std"):
        load_model(tmp_path)
    front_end = load_model(tmp_path, mean=-4.0).front_end
    assert (front_end.mean, front_end.std) == (-4.0, 4.5)


BROKEN = {
    "empty": (b"", "is no checkpoint"),
    "text": (b"hello, world", "is no checkpoint: it starts with b'hell'"),
    "zip": (b"PK\x03\x04 and no more", "cut short"),
    "safetensors": (b'\x20\x00\x00\x00\x00\x00\x00\x00{"a": 1', "no whole safetensors"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_files_are_one_line(tmp_path, name):
    content, message = BROKEN[name]
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(InputError, match=re.escape(message)) as caught:
        read_source(tmp_path / "x")
    assert "\n" not in str(caught.value)


def test_what_is_no_model_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"neither model_card\.json"):
        read_source(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(InputError, match=r"no weights: wanted model\.safetensors"):
        read_source(tmp_path)
    save_file({"x": np.zeros(2, np.float32)}, tmp_path / "model.safetensors")
    with pytest.raises(InputError, match="model_type 'bert' is not read"):
        read_source(tmp_path)
    with pytest.raises(InputError, match=r"of no layout that is known: its keys are x"):
        read_source(tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(InputError, match="no valid JSON"):
        read_source(tmp_path)
    np.savez(tmp_path / "objects.npz", x=np.array([{}], dtype=object))
    with pytest.raises(InputError, match="plain arrays"):
        read_source(tmp_path / "objects.npz")
    torch_file.write(tmp_path / "nothing.pth", {})
    with pytest.raises(InputError, match="wanted a state dict"):
        read_source(tmp_path / "nothing.pth")
    with pytest.raises(InputError, match="did you mean deit_base_distilled_patch16_384"):
        read_source("deit_base_distilled_patch16_38")


def test_unusual_widths_must_say_their_heads(tmp_path):
    params = our_params(40, 1, distilled=False, grid=(2, 2), channels=3, classes=0)
    np.savez(tmp_path / "x.npz", **layouts.write(vit_layout.timm(1, distilled=False), params))
    with pytest.raises(InputError, match=r"40 wide.*give num_heads"):
        read_source(tmp_path / "x.npz")
    assert read_source(tmp_path / "x.npz", facts={"num_heads": 5}).model["num_heads"] == 5


def test_google_files_with_and_without_class_token(tmp_path):
    params = our_params(24, 2, distilled=False, channels=3, grid=(3, 3), classes=0)
    theirs = layouts.write(vit_layout.google(2, num_heads=3), params)
    np.savez(tmp_path / "x.npz", **theirs, **{"head/kernel": np.zeros((24, 9), np.float32)})
    source = read_source(tmp_path / "x.npz")
    assert source.model["num_heads"] == 3
    np.testing.assert_array_equal(
        source.arrays["blocks/1/attention/qkv/kernel"], params["blocks/1/attention/qkv/kernel"]
    )
    del theirs["cls"]
    name = "Transformer/posembed_input/pos_embedding"
    theirs[name] = theirs[name][:, 1:]
    np.savez(tmp_path / "y.npz", **theirs)
    source = read_source(tmp_path / "y.npz")
    assert "no class token" in source.notes[0]
    assert not source.arrays["cls_token"].any()
    np.testing.assert_array_equal(source.arrays["pos_embed"][:, 1:], params["pos_embed"][:, 1:])


def hugging_face_files(directory, **changes):
    """A Hugging Face AST directory without torch or transformers."""
    config = {
        "model_type": "audio-spectrogram-transformer", "architectures": ["ASTForAudioClassification"],
        "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 96,
        "layer_norm_eps": 1e-12,
        "patch_size": 4, "frequency_stride": 4, "time_stride": 4, "max_length": 16, "num_mel_bins": 12,
        "id2label": {str(i): f"name {i}" for i in range(5)}, "problem_type": "multi_label_classification",
    }  # fmt: skip
    config |= changes
    (directory / "config.json").write_text(json.dumps({k: v for k, v in config.items() if v is not None}))
    params = our_params(24, 2, grid=(3, 4))
    save_file(layouts.write(vit_layout.hugging_face_ast(2), params), directory / "model.safetensors")
    return params


def test_hugging_face_facts_are_honoured(tmp_path):
    params = hugging_face_files(tmp_path)
    source = read_source(tmp_path)
    assert source.label_names == [f"name {i}" for i in range(5)]
    assert source.activation == "sigmoid"
    assert source.model["norm_eps"] == source.model["head_norm_eps"] == 1e-12
    assert any("AudioSet's mean and std" in note for note in source.notes)
    np.testing.assert_array_equal(source.arrays["head/kernel"], params["head/kernel"])
    (tmp_path / "preprocessor_config.json").write_text('{"do_normalize": false, "mean": 3}')
    assert (read_source(tmp_path).mean, read_source(tmp_path).std) == (0.0, 0.5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_act": "gelu_new"}, "hidden_act 'gelu_new' is another function than ours"),
        ({"hidden_act": "relu"}, "hidden_act 'relu' is another function than ours"),
        ({"problem_type": "regression"}, "problem_type 'regression' gives no scores of classes"),
        ({"intermediate_size": 72}, "mlp_width 96 where its config says 72"),
        ({"layer_norm_eps": None}, "lacks layer_norm_eps"),
        ({"max_length": 20}, "num_tokens 14 where its config says 17"),
        ({"num_hidden_layers": 3}, "unfilled parameters: blocks/2"),
        ({"num_hidden_layers": 1}, "unknown keys: encoder.layer.1"),
        ({"id2label": {"0": "a"}}, "id2label names 1 classes, the head has 5"),
        ({"head_dim": 5}, "head_dim 5 does not go with hidden_size 24"),
        ({"hidden_size": "24"}, "its config has hidden_size '24', wanted int"),
    ],
)
def test_hugging_face_contradictions_are_refused(tmp_path, changes, message):
    hugging_face_files(tmp_path, **changes)
    with pytest.raises(InputError, match=re.escape(message)):
        read_source(tmp_path)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float64])
def test_hugging_face_shards_in_other_types(tmp_path, dtype):
    params = hugging_face_files(tmp_path)
    written = layouts.write(vit_layout.hugging_face_ast(2), params)
    arrays = {key: x.astype(dtype) for key, x in written.items()}
    (tmp_path / "model.safetensors").unlink()
    names = sorted(arrays)
    shards = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for shard, keys in shards.items():
        save_file({key: arrays[key] for key in keys}, tmp_path / shard)
    index = {"weight_map": {key: shard for shard, keys in shards.items() for key in keys}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    source = read_source(tmp_path)
    np.testing.assert_array_equal(
        source.arrays["head/kernel"], params["head/kernel"].astype(dtype).astype(np.float32)
    )
    (tmp_path / "b.safetensors").unlink()
    with pytest.raises(InputError, match=r"b\.safetensors cannot be opened"):
        read_source(tmp_path)


def test_a_base_model_without_head_can_start_another(tmp_path):
    params = hugging_face_files(tmp_path, architectures=["ASTModel"])
    rows = vit_layout.hugging_face(2, distilled=True)
    save_file(
        layouts.write(rows, {k: v for k, v in params.items() if "head" not in k}),
        tmp_path / "model.safetensors",
    )
    loaded = load_model(tmp_path, label_names=["a", "b"])
    assert "head new" in loaded.notes[0]
    np.testing.assert_array_equal(host_variables(loaded.model)["norm/bias"], params["norm/bias"])


def test_hugging_face_file_alone_is_not_enough(tmp_path):
    hugging_face_files(tmp_path)
    with pytest.raises(InputError, match="give its directory"):
        read_source(tmp_path / "model.safetensors")


def test_real_dinov2_weights(shared):
    path = shared / "weights" / "vit_small_patch14_dinov2.npz"
    source = read_source(path)
    assert source.config.grid == (37, 37)
    assert source.model["num_heads"] == 6
    assert source.notes == ["LayerScale folded into the projections before it"]
    with np.load(path) as theirs:  # every number but the 24 folded scales has its place
        assert sum(x.size for x in source.arrays.values()) == sum(x.size for x in theirs.values()) - 24 * 384


def test_real_dinov2_weights_give_timms_tokens(shared):
    """The whole of a really pretrained model: twelve blocks, LayerScale, 1370 tokens."""
    torch = pytest.importorskip("torch")
    path = shared / "weights" / "vit_small_patch14_dinov2.npz"
    model = timm().create_model("vit_small_patch14_dinov2").eval()
    with np.load(path) as arrays:
        model.load_state_dict({key: torch.from_numpy(x.astype(np.float32)) for key, x in arrays.items()})
    loaded = load_model(path)
    image = np.random.default_rng(0).normal(size=(1, 518, 518)).astype(np.float32)
    with torch.no_grad():
        expected = model.forward_features(torch.from_numpy(np.repeat(image[:, None], 3, axis=1))).numpy()
    ours = tokens(loaded, image)
    np.testing.assert_allclose(ours, expected, atol=PARITY)


class Counting(AST):
    """Says how often it was traced."""

    traces = 0

    def __call__(self, x, **options):
        Counting.traces += 1
        return super().__call__(x, **options)


class Doubled(nnx.Module):
    """A layer around another, as LoRA's are."""

    def __init__(self, inner):
        self.inner = inner

    def __call__(self, x):
        return 2 * self.inner(x)


def test_a_loaded_model_answers_with_the_weights_it_has_now_and_is_traced_once():
    model = Counting(tiny(), rngs=nnx.Rngs(0))
    loaded = LoadedModel(model, list("abcdefg"), model.front_end, "sigmoid")
    x = fbank(loaded)
    before = loaded.logits(x)
    Counting.traces = 0
    model.head.bias[...] += 1
    np.testing.assert_allclose(loaded.logits(x), before + 1, atol=1e-5)
    np.testing.assert_allclose(loaded.scores(x), jax.nn.sigmoid(before + 1), atol=1e-5)
    assert Counting.traces == 0
    model.head = Doubled(model.head)
    np.testing.assert_allclose(loaded.logits(x), 2 * before + 2, atol=1e-5)
    assert Counting.traces == 1
