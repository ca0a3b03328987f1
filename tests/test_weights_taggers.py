"""Files of PANNs and PSLA: read and written back bit for bit, torn, with too much in them; what starts from
them and from ImageNet's EfficientNets.
"""

import json
import re

import jax
import numpy as np
import pytest
from tagger_oracles import efficientnet, panns_model, psla_model, random_model, randomised, saved
from weights_oracles import timm

from ast_jax.errors import InputError
from ast_jax.models import abstract, family, host_variables, merge, split
from ast_jax.models.efficientnet import SCALES
from ast_jax.weights import LoadedModel, initialise, load_model, read_source
from ast_jax.weights.convert import convert
from ast_jax.weights.model_card import CARD

PARTS = ("kernel", "bias")


@pytest.mark.parametrize("name", ["cnn6", "cnn14_decision_att", "wavegram_logmel_cnn14", "psla"])
def test_their_files_come_back_bit_for_bit(tmp_path, name):
    """Into our model and out again, every entry that is not a count of batches or the frozen front end."""
    torch = pytest.importorskip("torch")
    is_psla = name == "psla"
    model = psla_model(SCALES["tiny"]) if is_psla else panns_model(name)
    saved(model, tmp_path / "theirs.pth", **({} if is_psla else {"iteration": 3}))
    stated = {"mean": 0.0, "std": 1.0} if is_psla else {}
    convert(tmp_path / "theirs.pth", tmp_path / "ours", to="flax", **stated)
    convert(tmp_path / "ours", tmp_path / "again.pth", to="psla" if is_psla else "panns")
    again = torch.load(tmp_path / "again.pth", weights_only=True)
    again = {k.removeprefix("module."): v for k, v in again.items()} if is_psla else again["model"]
    for key, value in model.state_dict().items():
        if key.endswith("num_batches_tracked") or key.startswith(("effnet._fc", "att_block.bn_att")):
            continue
        if key.startswith(("spectrogram_extractor", "logmel_extractor")):
            np.testing.assert_allclose(again[key], value, atol=1e-6)
        else:
            assert torch.equal(again[key], value), key
    model.load_state_dict(again, strict=not is_psla)  # psla's has the ImageNet classes beside
    assert load_model(tmp_path / "again.pth").card() == load_model(tmp_path / "ours").card()


@pytest.mark.parametrize("scale", ["b0", "b2"])
def test_an_imagenet_net_is_the_same_from_both_libraries(tmp_path, scale):
    """Both hold its layers in the order of the paper: the same arrays, by place, under either's names."""
    torch = pytest.importorskip("torch")
    theirs = efficientnet(SCALES[scale], colours=3).state_dict()
    counts = [key for key in theirs if key.endswith("num_batches_tracked")]
    theirs = {key: torch.rand(value.shape) for key, value in theirs.items() if key not in counts}
    other = timm().create_model(f"efficientnet_{scale}", pretrained=False).state_dict()
    other = [key for key in other if not key.endswith("num_batches_tracked")]
    renamed = dict(zip(other, theirs.values(), strict=True))
    for name, state in {"theirs.pth": theirs, "timm.pth": renamed}.items():
        torch.save(state, tmp_path / name)
    first, second = (read_source(tmp_path / name) for name in ("theirs.pth", "timm.pth"))
    assert first.model == second.model == {"scale": scale}
    assert first.arrays.keys() == second.arrays.keys()
    for path, value in first.arrays.items():
        np.testing.assert_array_equal(second.arrays[path], value, err_msg=path)
    taken = first.arrays["net/blocks/3/depthwise/kernel"]
    np.testing.assert_array_equal(taken, theirs["_blocks.3._depthwise_conv.weight"].permute(2, 3, 1, 0))


def test_a_front_end_that_is_another_is_refused(tmp_path):
    pytest.importorskip("torch")
    model = panns_model("cnn6")
    model.logmel_extractor.melW.data[3] += 0.01
    saved(model, tmp_path / "panns.pth", iteration=7)
    with pytest.raises(InputError, match=r"melW is of another front end"):
        read_source(tmp_path / "panns.pth")


# ---- Files that are not whole


@pytest.fixture(scope="module")
def states() -> dict[str, dict]:
    """A PANN's and a PSLA model's, as published."""
    pytest.importorskip("torch")
    return {"cnn6": panns_model("cnn6").state_dict(), "psla": psla_model(SCALES["tiny"]).state_dict()}


@pytest.mark.parametrize(
    ("name", "gone", "told"),
    [
        ("cnn6", "fc_audioset.bias", r"looks like a PANN and lacks fc_audioset\.bias: is it whole\?"),
        ("cnn6", "conv_block2.conv1.weight", r"looks like a PANN and lacks conv_block2\.conv1\.weight"),
        ("cnn6", "bn0.running_var", r"1 unfilled parameters: bn0/var \(from bn0\.running_var\)"),
        ("psla", "attention.cla.0.bias", r"looks like a PSLA model and lacks attention\.cla\.0\.bias"),
        ("psla", "effnet._conv_head.weight", r"has 10 blocks and no feature maps: wanted EfficientNet tiny"),
        ("psla", "effnet._blocks.3._bn1.weight", r"1 unfilled parameters: net/blocks/3/depthwise_norm/scale"),
    ],
    ids=lambda value: value if re.fullmatch(r"[\w.]+", value) else "",
)
def test_a_torn_file_is_told(states, tmp_path, name, gone, told):
    state = {key: value for key, value in states[name].items() if key != gone}
    assert len(state) == len(states[name]) - 1
    pytest.importorskip("torch").save(state, tmp_path / "torn.pth")
    with pytest.raises(InputError, match=told) as error:
        read_source(tmp_path / "torn.pth")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "key"), [("cnn6", "conv_block1.conv3.weight"), ("psla", "attention.att.4.weight")]
)
def test_what_a_file_has_too_much_is_told(states, tmp_path, name, key):
    torch = pytest.importorskip("torch")
    torch.save(states[name] | {key: torch.ones(4, 4)}, tmp_path / "more.pth")
    with pytest.raises(InputError, match=rf"more\.pth does not fit: 1 unknown keys: {re.escape(key)}$"):
        read_source(tmp_path / "more.pth")


# ---- Starting


def test_a_model_starts_from_a_panns_file_whatever_its_classes(states, tmp_path):
    """All but the head; one of another width is refused."""
    pytest.importorskip("torch").save({"model": states["cnn6"], "iteration": 7}, tmp_path / "panns.pth")
    widths = {"num_frames": 64, "channels": (4, 8, 8, 16)}
    model = random_model("cnn6", num_classes=3, **widths)
    before = host_variables(model)
    account = initialise(model, tmp_path / "panns.pth")
    assert account.endswith("panns.pth, head new")
    after, theirs = host_variables(model), states["cnn6"]
    np.testing.assert_array_equal(after["blocks/1/norms/0/var"], theirs["conv_block2.bn1.running_var"])
    np.testing.assert_array_equal(after["fc1/kernel"], theirs["fc1.weight"].T)
    kept = {path for path in after if np.array_equal(after[path], before[path])}
    assert kept == {"head/kernel", "head/bias"}
    wider = abstract("cnn6", family("cnn6").Config(num_classes=3, **widths | {"channels": (4, 8, 8, 32)}))
    with pytest.raises(InputError, match=r"another size than the model.*fc1/kernel has shape \(16, 16\)"):
        initialise(wider, tmp_path / "panns.pth")


def test_psla_starts_from_an_imagenet_net_but_for_its_stem(tmp_path):
    """Its features are the ImageNet net's own, once that has our new stem: 1e-4 of their size, float32."""
    torch = pytest.importorskip("torch")
    theirs = efficientnet(SCALES["tiny"], colours=3)
    randomised(theirs, torch.randn(2, 3, 96, 96))
    torch.save(theirs.state_dict(), tmp_path / "imagenet.pth")
    model = random_model("psla", num_classes=3, num_frames=64, scale="tiny")
    before = host_variables(model)
    account = initialise(model, tmp_path / "imagenet.pth")
    assert account.endswith("its first convolution and the heads new")
    after = host_variables(model)
    kept = {path for path in after if np.array_equal(after[path], before[path])}
    heads = {f"{kind}/{i}/{part}" for kind in ("attend", "classify") for i in range(4) for part in PARTS}
    assert kept == {"net/stem/kernel", "weights"} | heads
    theirs._change_in_channels(1)
    theirs._conv_stem.weight.data = torch.from_numpy(after["net/stem/kernel"].transpose(3, 2, 0, 1).copy())
    x = np.random.default_rng(0).normal(0, 1, (2, 64, 128)).astype(np.float32)
    with torch.no_grad():
        wanted = theirs.eval().extract_features(torch.from_numpy(x[:, None]).transpose(2, 3)).mean(dim=2)
    graphdef, *arrays = split(model)
    seen = lambda arrays, x: merge(graphdef, *arrays)(x)[1]["sequence"]
    found = jax.jit(seen, compiler_options={"xla_backend_optimization_level": 0})(arrays, x)
    wanted = wanted.transpose(1, 2).numpy()
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-4 * np.abs(wanted).max())


def test_psla_starts_from_no_imagenet_net_of_another_scale(tmp_path):
    torch = pytest.importorskip("torch")
    torch.save(efficientnet(SCALES["tiny"], colours=3).state_dict(), tmp_path / "imagenet.pth")
    other = abstract("psla", family("psla").Config(num_classes=3, num_frames=64, scale="b0"))
    with pytest.raises(InputError, match=r"is an EfficientNet tiny, the model has b0: choose the same"):
        initialise(other, tmp_path / "imagenet.pth")


# ---- Programs


@pytest.mark.parametrize("name", ["psla", "wavegram_logmel_cnn14", "vggish_mlp"])
def test_they_run_as_onnx(tmp_path, name):
    """The parity line has the largest difference of logits, of random features."""
    pytest.importorskip("jax2onnx")
    pytest.importorskip("onnxruntime")
    options = {
        "psla": {"scale": "tiny"},
        "wavegram_logmel_cnn14": {"channels": (4, 8)},
        "vggish_mlp": {"channels": (4, 4, 8, 8), "width": 16, "hidden": 8},
    }[name]
    model = random_model(name, num_classes=3, num_frames=96, **options)
    if name == "vggish_mlp":
        # far from a score of 1, where float32 is coarse
        model.classifier.head.kernel[...] *= 0.01
    card = {"label_names": list("abc"), "activation": "sigmoid", "channels": "mean"}
    loaded = LoadedModel(model, front_end=model.front_end, **card)
    np.savez(tmp_path / "ours.npz", **host_variables(model), **{CARD: json.dumps(loaded.card())})
    line = convert(tmp_path / "ours.npz", tmp_path / "onnx", to="onnx")[-1]
    assert float(re.search(r"differ by at most (\S+)", line)[1]) < 1e-3, line
