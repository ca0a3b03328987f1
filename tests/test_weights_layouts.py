"""Key tables: exact both ways, every key accounted for, dialects brought to one form."""

import ml_dtypes
import numpy as np
import pytest
from weights_oracles import our_params

from ast_jax.errors import InputError
from ast_jax.weights import layouts, vit_layout

TABLES = {
    "timm": (vit_layout.timm(2, distilled=False), {"distilled": False, "channels": 3, "classes": 0}),
    "timm distilled": (vit_layout.timm(2, distilled=True), {"channels": 3, "classes": 0}),
    "reference": (vit_layout.reference(2, distilled=True), {}),
    "hugging face": (vit_layout.hugging_face(2, distilled=True), {"channels": 3, "classes": 0}),
    "hugging face ast": (vit_layout.hugging_face_ast(2), {}),
    "google": (vit_layout.google(2, num_heads=3), {"distilled": False, "channels": 3, "classes": 0}),
    "ours": ([layouts.same(path) for path in our_params()], {}),
}


@pytest.mark.parametrize("name", TABLES)
def test_round_trip_is_bit_exact(name):
    rows, kind = TABLES[name]
    params = our_params(**kind)
    theirs = layouts.write(rows, params)
    back = vit_layout.read(rows, theirs, where="x")
    assert back.keys() == params.keys()
    for path, array in params.items():
        np.testing.assert_array_equal(back[path], array, err_msg=path)
    again = layouts.write(rows, back)
    assert all(np.array_equal(again[key], theirs[key]) for key in theirs)


def test_shapes_are_the_published_ones():
    timm = layouts.write(TABLES["timm"][0], our_params(**TABLES["timm"][1]))
    assert timm["patch_embed.proj.weight"].shape == (24, 3, 4, 4)
    assert timm["blocks.1.attn.qkv.weight"].shape == (72, 24)
    assert timm["blocks.1.mlp.fc1.weight"].shape == (96, 24)
    google = layouts.write(TABLES["google"][0], our_params(**TABLES["google"][1]))
    attention = "Transformer/encoderblock_1/MultiHeadDotProductAttention_1"
    assert google[f"{attention}/query/kernel"].shape == (24, 3, 8)
    assert google[f"{attention}/out/kernel"].shape == (3, 8, 24)
    assert google["embedding/kernel"].shape == (4, 4, 3, 24)
    assert google["Transformer/encoderblock_1/MlpBlock_3/Dense_0/kernel"].shape == (24, 96)


def test_reference_keys_are_the_published_ones():
    keys = set(layouts.write(TABLES["reference"][0], our_params()))
    assert {"v.cls_token", "v.dist_token", "v.patch_embed.proj.weight", "v.blocks.1.attn.qkv.bias"} <= keys
    assert {"v.norm.weight", "mlp_head.0.bias", "mlp_head.1.weight"} <= keys
    assert len(keys) == 3 + 2 + 2 * 12 + 2 + 4
    keys = set(layouts.write(TABLES["hugging face ast"][0], our_params()))
    base = vit_layout.HUGGING_FACE_AST
    embeddings = ("cls_token", "distillation_token", "position_embeddings")
    assert {f"{base}embeddings.{name}" for name in embeddings} <= keys
    assert {f"{base}encoder.layer.1.layernorm_before.bias", "classifier.dense.weight"} <= keys


def test_every_problem_is_in_one_line():
    rows, _ = TABLES["reference"]
    theirs = layouts.write(rows, our_params())
    del theirs["v.blocks.0.norm2.weight"], theirs["mlp_head.1.bias"]
    theirs["v.blocks.1.extra"] = np.zeros(3, np.float32)
    theirs["v.norm.bias"] = np.zeros(24, np.int64)
    theirs["v.norm.weight"] = np.full(24, np.nan, np.float32)
    theirs["mlp_head.0.weight"] = np.where(np.arange(24) == 3, np.inf, 0).astype(np.float32)
    with pytest.raises(InputError) as caught:
        vit_layout.read(rows, theirs, where="some.pth")
    message = str(caught.value)
    assert "\n" not in message
    for part in (
        "some.pth",
        "1 unknown keys: v.blocks.1.extra",
        "2 unfilled parameters",
        "blocks/0/norm2/scale (from v.blocks.0.norm2.weight)",
        "head/bias (from mlp_head.1.bias)",
        "v.norm.bias has type int64",
        "v.norm.weight holds values that are not finite",
        "mlp_head.0.weight holds values that are not finite",
    ):
        assert part in message


@pytest.mark.parametrize(
    ("key", "shape", "message"),
    [
        (
            "v.blocks.1.mlp.fc2.weight",
            (24, 95),
            r"blocks/1/mlp/fc2/kernel has shape \(95, 24\), wanted \(96, 24\)",
        ),
        ("v.pos_embed", (14, 24), r"pos_embed has shape \(14, 24\)"),
        ("v.patch_embed.proj.weight", (24, 16), "patch_embed/kernel cannot be made of"),
        ("v.blocks.0.attn.qkv.bias", (24,), r"qkv/bias has shape \(24,\), wanted \(72,\)"),
        ("mlp_head.1.weight", (6, 24), r"head/kernel has shape \(24, 6\), wanted \(24, 5\)"),
    ],
)
def test_wrong_shapes_are_named(key, shape, message):
    rows, _ = TABLES["reference"]
    theirs = layouts.write(rows, our_params()) | {key: np.zeros(shape, np.float32)}
    with pytest.raises(InputError, match=message):
        vit_layout.read(rows, theirs, where="x")


def test_only_allowed_keys_may_be_left_over():
    rows, kind = TABLES["timm"]
    theirs = layouts.write(rows, our_params(**kind)) | {"head.weight": np.zeros((2, 24), np.float32)}
    assert "head.weight" not in vit_layout.read(rows, theirs, where="x", unused=("head.",))
    with pytest.raises(InputError, match=r"unknown keys: head\.weight"):
        vit_layout.read(rows, theirs, where="x")


@pytest.mark.parametrize("dtype", [np.float16, np.float64, ml_dtypes.bfloat16])
def test_other_floats_become_float32(dtype):
    rows, _ = TABLES["ours"]
    params = {path: x.astype(dtype) for path, x in our_params().items()}
    read = vit_layout.read(rows, params, where="x")
    assert all(x.dtype == np.float32 for x in read.values())
    np.testing.assert_array_equal(read["head/kernel"], params["head/kernel"].astype(np.float32))


def test_layer_scale_folds_into_the_projection_before_it():
    rng = np.random.default_rng(1)
    weight, bias, gamma, y = (
        rng.normal(size=(6, 6)),
        rng.normal(size=6),
        rng.normal(size=6),
        rng.normal(size=6),
    )
    names = {
        "blocks.3.attn.proj.weight": weight,
        "blocks.3.attn.proj.bias": bias,
        "blocks.3.ls1.gamma": gamma,
    }
    folded = vit_layout.fold_layer_scale(names, where="x")
    assert set(folded) == {"blocks.3.attn.proj.weight", "blocks.3.attn.proj.bias"}
    scaled = folded["blocks.3.attn.proj.weight"] @ y + folded["blocks.3.attn.proj.bias"]
    np.testing.assert_allclose(scaled, gamma * (weight @ y + bias), rtol=1e-5)
    for key in ("reg_token", "register_tokens"):
        with pytest.raises(InputError, match=f"register tokens \\({key}\\)"):
            vit_layout.fold_layer_scale({key: np.zeros((1, 4, 6))}, where="x")


@pytest.mark.parametrize(
    ("tokens", "prefix", "zeros", "side"), [(17, 1, 0, 4), (16, 1, 1, 4), (198, 2, 0, 14), (196, 2, 2, 14)]
)
def test_positions_with_and_without_their_class_token(tokens, prefix, zeros, side):
    table = np.random.default_rng(0).normal(size=(1, tokens, 3)).astype(np.float32)
    positions, found = vit_layout.embed_all_tokens(table, prefix, where="x")
    assert found == side
    assert positions.shape == (1, prefix + side * side, 3)
    np.testing.assert_array_equal(positions[:, zeros:], table)
    assert not positions[:, :zeros].any()
    with pytest.raises(InputError, match="15 positions are no square grid"):
        vit_layout.embed_all_tokens(table[:, :15], prefix, where="x")


@pytest.mark.parametrize("prefix", ["", "params/", "opt/target/"])
@pytest.mark.parametrize("stacked", [True, False])
def test_google_dialects_are_one(prefix, stacked):
    rows, kind = TABLES["google"]
    plain = layouts.write(rows, our_params(**kind))
    dialect: dict[str, np.ndarray] = {}
    for key, value in plain.items():
        for theirs, big_vision in [
            ("LayerNorm_2", "LayerNorm_1"),
            ("Attention_1", "Attention_0"),
            ("MlpBlock_3", "MlpBlock_0"),
            ("Transformer/posembed_input/pos_embedding", "pos_embedding"),
        ]:
            key = key.replace(theirs, big_vision)
        dialect[prefix + key] = value
    if stacked:
        layers = {key.replace("encoderblock_0", "encoderblock") for key in dialect if "encoderblock_0" in key}
        for key in layers:
            parts = [dialect.pop(key.replace("encoderblock", f"encoderblock_{i}")) for i in range(2)]
            dialect[key] = np.stack(parts)
    back = vit_layout.google_dialect(dialect)
    assert back.keys() == plain.keys()
    assert all(np.array_equal(back[key], plain[key]) for key in plain)


def test_google_bfloat16_comes_back_from_its_raw_bytes():
    values = np.array([1.5, -2.0], ml_dtypes.bfloat16)
    np.testing.assert_array_equal(vit_layout.google_dialect({"cls": values.view("V2")})["cls"], values)


def test_hugging_face_dialects_are_one():
    rows = vit_layout.hugging_face_ast(2, prefix="")
    plain = layouts.write(rows, our_params())
    names = {
        "encoder.layer.": "layers.",
        "attention.attention.query": "attention.q_proj",
        "attention.attention.key": "attention.k_proj",
        "attention.attention.value": "attention.v_proj",
        "attention.output.dense": "attention.o_proj",
        "intermediate.dense": "mlp.fc1",
        "output.dense": "mlp.fc2",
    }
    modern = {}
    for key, value in plain.items():
        for old, new in names.items():
            key = key.replace(old, new)
        modern[key if key.startswith("classifier") else vit_layout.HUGGING_FACE_AST + key] = value
    back = vit_layout.hugging_face_dialect(modern, base=vit_layout.HUGGING_FACE_AST, qkv_bias=True)
    assert back.keys() == plain.keys()
    assert all(np.array_equal(back[key], plain[key]) for key in plain)


def test_biases_that_the_config_leaves_out_are_zero():
    plain = layouts.write(vit_layout.hugging_face_ast(2, prefix=""), our_params())
    bare = {
        key: value
        for key, value in plain.items()
        if not key.endswith(("query.bias", "key.bias", "value.bias"))
    }
    filled = vit_layout.hugging_face_dialect(bare, base="", qkv_bias=False)
    assert filled.keys() == plain.keys()
    assert not filled["encoder.layer.1.attention.attention.key.bias"].any()
    assert vit_layout.hugging_face_dialect(bare, base="", qkv_bias=True).keys() == bare.keys()


def test_query_key_and_value_stand_in_this_order():
    """Each layout's own three, told apart by their values: in ours the query's columns come first."""
    ours = our_params(distilled=False, channels=3, classes=0)
    query, key, value = np.split(ours["blocks/1/attention/qkv/kernel"], 3, axis=1)
    google = layouts.write(TABLES["google"][0], ours)
    attention = "Transformer/encoderblock_1/MultiHeadDotProductAttention_1"
    hugging_face = layouts.write(vit_layout.hugging_face(2, distilled=False), ours)
    for name, part in (("query", query), ("key", key), ("value", value)):
        np.testing.assert_array_equal(google[f"{attention}/{name}/kernel"].reshape(24, 24), part)
        np.testing.assert_array_equal(
            hugging_face[f"encoder.layer.1.attention.attention.{name}.weight"], part.T
        )
