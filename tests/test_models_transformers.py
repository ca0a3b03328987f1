"""PaSST, CED and BEATs against PyTorch: what they compute, what of their files is read, what starts
from them.
"""

import json

import numpy as np
import pytest
from tagger_oracles import saved
from transformer_oracles import BEATS_CONFIG, EAT_CONFIG, beats, ced, eat, passt, save_beats

from ast_jax.errors import InputError
from ast_jax.models import abstract, build, family, host_variables, num_parameters
from ast_jax.models.base import split
from ast_jax.models.beats import bucket
from ast_jax.weights import (
    beats_layout,
    ced_layout,
    eat_layout,
    layouts,
    load_model,
    passt_layout,
    published,
    read_source,
)
from ast_jax.weights.pretrained import initialise

CED_SIZES = {"tiny": 5.5, "mini": 9.6, "small": 22, "base": 86}


@pytest.mark.parametrize(("variant", "millions"), CED_SIZES.items())
def test_ced_has_the_published_number_of_parameters(variant, millions):
    config = family("ced").Config.variant(variant)
    assert num_parameters(abstract("ced", config)) == pytest.approx(millions * 1e6, rel=0.02)


def features(frames: int, bins: int, mean: float, std: float) -> np.ndarray:
    """Of two clips, each with bands of its own."""
    rng = np.random.default_rng(frames)
    bands = 2 * rng.normal(size=(2, 1, bins)) + np.linspace(-2, 2, frames)[:, None]
    return (mean + std * (bands + rng.normal(size=(2, frames, bins)))).astype(np.float32)


def close(got, wanted):
    """1e-4 of their size: float32 through a few layers, in another order; and the model does hear."""
    wanted = wanted.detach().numpy()
    assert np.abs(wanted[0] - wanted[1]).max() > 0.05 * np.abs(wanted).max()
    np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-4 * np.abs(wanted).max())


@pytest.mark.parametrize(("stride", "distilled"), [(10, True), (16, True), (10, False)])
def test_passt_is_the_published_class(tmp_path, stride, distilled):
    torch = pytest.importorskip("torch")
    model = passt(stride=stride, distilled=distilled)
    saved(model, tmp_path / "passt.pt")
    loaded = load_model(tmp_path / "passt.pt", facts={"num_heads": 2})
    config = loaded.model.config
    assert (config.num_frames, config.strides, loaded.front_end.kind) == (200, (stride, stride), "passt")
    assert any("a frame every 10 ms" in note for note in loaded.assumed)
    x = features(200, 128, -4.5, 5.0)
    close(loaded.logits(x), model(torch.from_numpy((x + 4.5) / 5).transpose(1, 2)[:, None])[0])


def test_ced_is_the_published_arithmetic(tmp_path):
    """At its own length and at a shorter one, which takes the first positions."""
    torch = pytest.importorskip("torch")
    model = ced()
    saved(model, tmp_path / "ced.pt")
    for frames in (200, 100):
        loaded = load_model(tmp_path / "ced.pt", facts={"num_heads": 2}, num_frames=frames)
        assert loaded.front_end.kind == "htk_decibels"
        x = features(frames, 64, -30.0, 10.0)
        # digital silence is far below what is heard
        x[0, 20:] = -100.0
        x[0, :10] += 90
        close(loaded.logits(x), model(torch.from_numpy(x).transpose(1, 2)))


@pytest.mark.parametrize("classes", [5, 0])
def test_beats_is_the_published_arithmetic(tmp_path, classes):
    torch = pytest.importorskip("torch")
    model = beats(classes=classes)
    for frames, old_names in ((208, True), (330, False)):
        save_beats(model, tmp_path / "beats.pt", old_names=old_names)
        loaded = load_model(tmp_path / "beats.pt", num_frames=frames)
        assert loaded.new_head == (not classes)
        x = features(frames, 128, beats_layout.MEAN, 13.0)
        wanted = model(torch.from_numpy((x - loaded.front_end.mean) / (2 * beats_layout.STD)))
        if classes:
            close(loaded.logits(x), wanted)
        else:
            close(loaded.embeddings(x), wanted.mean(1))


def test_distances_have_t5s_buckets():
    """By hand, of 32 buckets: 8 near ones a distance each, then by logarithm up to 60; 16 more for the other
    sign.
    """
    assert bucket(np.array([0, -1, -7, 1, 7]), 32, 60).tolist() == [0, 1, 7, 17, 23]
    assert bucket(np.array([-8, -60, -1000, 1000]), 32, 60).tolist() == [8, 15, 15, 31]
    steps = bucket(-np.arange(200), 32, 60)
    assert np.all(np.diff(steps) >= 0)


def test_beats_classes_are_named_in_its_own_order(tmp_path):
    names = published.identifiers()[:5][::-1]
    save_beats(beats(), tmp_path / "named.pt", label_dict=dict(enumerate(names)))
    source = read_source(tmp_path / "named.pt")
    assert source.label_names == published.labels("audioset")[:5][::-1]
    assert source.activation == "sigmoid"
    save_beats(beats(), tmp_path / "unnamed.pt")
    assert any("--labels gives it" in note for note in read_source(tmp_path / "unnamed.pt").notes)


def test_another_architecture_than_beats_is_refused(tmp_path):
    model = beats()
    save_beats(model, tmp_path / "other.pt", cfg=BEATS_CONFIG | {"deep_norm": False})
    with pytest.raises(InputError, match=r"no BEATs as published: its cfg has deep_norm False, not True"):
        read_source(tmp_path / "other.pt")


def test_identifiers_are_audiosets():
    found = published.identifiers()
    assert len(set(found)) == len(published.labels("audioset")) == 527
    assert published.named(["/m/09x0r", "/m/0bt9lr", "/m/07hvw1", "else"]) == [
        *("Speech", "Dog", "Field recording"),
        "else",
    ]


TABLES = {
    "passt": passt_layout.rows_of,
    "ced": ced_layout.rows_of,
    "beats": beats_layout.rows_of,
    "eat": eat_layout.rows_of,
}
SMALL = {
    "passt": {"num_frames": 100, "width": 8, "depth": 1, "num_heads": 2, "num_classes": 3},
    "ced": {"num_frames": 100, "width": 8, "depth": 1, "num_heads": 2, "num_classes": 3},
    "eat": {"num_frames": 100, "width": 8, "depth": 1, "num_heads": 2, "num_classes": 3},
    "beats": {"num_frames": 100, "patch_width": 6, "width": 8, "depth": 1, "num_heads": 2, "mlp_width": 12}
    | {"kernel": 4, "groups": 2, "buckets": 8, "num_classes": 3},
}


@pytest.mark.parametrize("name", TABLES)
def test_what_a_table_writes_it_reads(name):
    """Bit for bit, but for the weights that are a size times a direction."""
    config = family(name).Config(**SMALL[name])
    arrays = host_variables(build(name, config))
    rows = TABLES[name](config)
    again = layouts.read(rows, layouts.write(rows, arrays), where="here", check=lambda found: [])
    assert again.keys() == arrays.keys()
    for path, value in arrays.items():
        np.testing.assert_allclose(again[path], value, rtol=1e-6 if path == "place/kernel" else 0)


@pytest.mark.parametrize("name", TABLES)
def test_it_trains_and_a_longer_or_shorter_one_starts_from_it(name, tmp_path):
    """Every parameter gets a gradient in training; a run of ours starts from another length."""
    import jax
    import jax.numpy as jnp

    from ast_jax.models import merge
    from ast_jax.weights.source import Source

    config = family(name).Config(**SMALL[name])
    model = build(name, config)
    graphdef, params, statistics = split(model)
    x = jnp.asarray(features(100, model.front_end.num_mel_bins, 0.0, 1.0))
    keys = jax.random.split(jax.random.key(0), 2)

    def loss(params):
        return jnp.square(merge(graphdef, params, statistics)(x, key=keys)[0]).sum()

    grads = jax.jit(jax.grad(loss))(params)
    without = [path for path, grad in grads.items() if not np.abs(grad).max() > 0]
    # a key's bias moves all scores of a query alike
    assert without == []
    fields = {**SMALL[name], "num_frames": 100}
    source = Source("here", name, False, host_variables(model), fields, mean=0.0, std=1.0, family=name)
    for frames in (60, 160):
        longer = build(name, family(name).Config(**{**SMALL[name], "num_frames": frames, "num_classes": 4}))
        said = initialise(longer, source)
        assert "head new" in said
        if name in ("passt", "ced"):
            assert "positions in time" in said
            places = host_variables(longer)["time_positions"]
            if frames == 60:
                np.testing.assert_array_equal(places, source.arrays["time_positions"][: len(places)])


def hugging_face(tmp_path, model, **changes):
    """CED's directory as transformers saves it."""
    torch = pytest.importorskip("torch")
    from safetensors.torch import save_file

    state = {}
    for key, value in model.state_dict().items():
        name = key.replace("init_bn.1.", "init_bn.")
        state[name if name.startswith("outputlayer") else f"encoder.{name}"] = value.contiguous().clone()
    assert isinstance(next(iter(state.values())), torch.Tensor)
    save_file(state, tmp_path / "model.safetensors")
    config = {"model_type": "ced", "num_heads": 2, "pooling": "mean", "outputdim": 5, "n_mels": 64}
    config |= {"id2label": {str(i): f"sound {i}" for i in range(5)}} | changes
    (tmp_path / "config.json").write_text(json.dumps(config))
    stated = {"feature_size": 64, "sampling_rate": 16_000, "f_max": None, "hop_size": 160}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(stated))
    return tmp_path


def test_ceds_hugging_face_directory_is_the_same_model(tmp_path):
    torch = pytest.importorskip("torch")
    model = ced()
    loaded = load_model(hugging_face(tmp_path, model), num_frames=200)
    assert loaded.label_names == [f"sound {i}" for i in range(5)]
    x = features(200, 64, -30.0, 10.0)
    close(loaded.logits(x), model(torch.from_numpy(x).transpose(1, 2)))


def test_names_of_another_number_of_classes_are_refused(tmp_path):
    """As in every other Hugging Face directory."""
    names = {str(i): f"sound {i}" for i in range(4)}
    with pytest.raises(InputError, match="id2label names 4 classes, the head has 5"):
        load_model(hugging_face(tmp_path, ced(), id2label=names))
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({k: v for k, v in config.items() if k != "id2label"}))
    assert load_model(tmp_path).label_names == [f"class {i}" for i in range(5)]


@pytest.mark.parametrize("shape", [(), (3,), (0, 4), (2, 2, 2, 2)])
@pytest.mark.parametrize("name", ["passt", "ced", "beats", "eat"])
def test_arrays_of_another_shape_are_one_line(name, shape, tmp_path):
    """Each of a file's arrays in turn; what is wrong is a user's mistake, never a fault of the program."""
    torch = pytest.importorskip("torch")
    model = {"passt": passt, "ced": ced, "beats": beats, "eat": eat}[name]()
    state = model.state_dict()
    for key in list(state)[:14]:
        changed = {**state, key: torch.zeros(shape)}
        if name == "eat":
            from safetensors.torch import save_file

            arrays = {f"model.{k}": v.contiguous().clone() for k, v in changed.items()}
            save_file(arrays, tmp_path / "model.safetensors")
            (tmp_path / "config.json").write_text(json.dumps(EAT_CONFIG))
        else:
            torch.save(changed, tmp_path / "x.pt")
        if key.endswith("num_batches_tracked"):
            continue
        with pytest.raises(InputError):
            read_source(tmp_path if name == "eat" else tmp_path / "x.pt", facts={"num_heads": 2})


@pytest.mark.parametrize("change", [{"mlp_ratio": "4"}, {"norm_eps": None}, {"img_size": 3}, {"depth": -1}])
def test_a_config_that_makes_no_sense_is_one_line(change, tmp_path):
    with pytest.raises(InputError):
        load_model(eat_directory(tmp_path, eat(), **change))


def eat_directory(tmp_path, model, **changes):
    """As the authors' code for transformers saves it."""
    from safetensors.torch import save_file

    state = {f"model.{key}": value.contiguous().clone() for key, value in model.state_dict().items()}
    save_file(state, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(EAT_CONFIG | changes))
    return tmp_path


@pytest.mark.parametrize("classes", [5, 0])
def test_eat_is_the_published_arithmetic(tmp_path, classes):
    torch = pytest.importorskip("torch")
    model = eat(classes=classes)
    loaded = load_model(eat_directory(tmp_path, model))
    mean, std = published.AUDIOSET
    assert (loaded.front_end.mean, loaded.front_end.std, loaded.model.config.num_frames) == (mean, std, 208)
    x = features(208, 128, mean, 2 * std)
    wanted = model(torch.from_numpy((x - mean) / (2 * std)))
    if classes:
        close(loaded.logits(x), wanted)
    else:
        close(loaded.embeddings(x), wanted[:, 0])
        assert loaded.new_head


def test_another_eat_is_refused(tmp_path):
    model = eat()
    with pytest.raises(InputError, match="layer_norm_first True, not False: not what is computed here"):
        load_model(eat_directory(tmp_path, model, layer_norm_first=True))
    model.fixed_positional_encoder.positions.data[0, 3] += 0.01
    with pytest.raises(InputError, match="its positions are not the sines and cosines"):
        load_model(eat_directory(tmp_path, model))


@pytest.mark.parametrize("change", [{"pooling": "token"}, {"hop_size": 320}])
def test_another_ced_is_refused(tmp_path, change):
    ((key, value),) = change.items()
    with pytest.raises(
        InputError, match=rf"config\.json has {key} {value!r}, not .*not what is computed here"
    ):
        load_model(hugging_face(tmp_path, ced(), **change))
