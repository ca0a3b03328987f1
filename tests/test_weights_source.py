"""What is known of a checkpoint beside its arrays, and what becomes of it in a model of another shape."""

import dataclasses

import numpy as np
import pytest
from weights_oracles import our_params

from ast_jax.errors import InputError
from ast_jax.models import ASTConfig, abstract, variables
from ast_jax.models.patches import adapt_positions
from ast_jax.weights.adapt import adapted
from ast_jax.weights.source import our_source
from ast_jax.weights.vit_files import image_source, shapes

SMALL = ASTConfig(
    num_classes=5, num_frames=48, num_mel_bins=16, patch_shape=(4, 4), strides=(4, 4), width=24, depth=2,
    num_heads=3,
)  # fmt: skip


def arrays_of(config: ASTConfig, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    wanted = variables(abstract("ast", config))
    return {path: rng.normal(0, 0.2, x.shape).astype(np.float32) for path, x in wanted.items()}


def ours(config: ASTConfig = SMALL, loss: str | None = None, **card):
    facts = {"model": dataclasses.asdict(config), "mean": -4.0, "std": 3.0, **card}
    return our_source("m", arrays_of(config), facts, loss=loss)


def image(*, distilled: bool = False, eps: float = 1e-6):
    arrays = our_params(distilled=distilled, channels=3, classes=0, grid=(3, 3))
    return image_source("x", "timm", arrays, 3, {"num_heads": 3}, eps, [])


def into(source, config: ASTConfig, **options) -> tuple[dict[str, np.ndarray], str]:
    options = {"rgb": "sum", "positions": "bilinear", "head": "new", **options}
    taken, account = adapted(source, config, **options)
    return arrays_of(config, seed=1) | taken, account


def test_what_a_card_says_is_kept():
    source = ours(multi_label=True, channels="first", thresholds=[0.5, None, 0.1, 0.2, 0.3])
    assert (source.mean, source.std, source.channels) == (-4.0, 3.0, "first")
    assert source.thresholds == [0.5, None, 0.1, 0.2, 0.3]
    assert source.config == SMALL
    assert ours(multi_label=True).channels == "mean"


def test_the_loss_of_a_run_decides_where_an_older_card_does_not_say():
    assert ours(multi_label=False, loss="bce").activation == "sigmoid"
    assert ours(multi_label=False).activation == "softmax"
    assert ours(multi_label=False, loss="bce", activation="softmax").activation == "softmax"


def test_an_image_model_is_described_as_the_ast_it_would_be():
    source = image(eps=1e-12)
    patch = source.arrays["patch_embed/kernel"].shape[:2]
    assert source.model["patch_shape"] == source.model["strides"] == patch
    assert (source.model["norm_eps"], source.model["distilled"]) == (1e-12, False)
    assert image(distilled=True).model["distilled"]
    assert source.config.grid[0] == source.config.grid[1]
    assert not source.has_head


@pytest.mark.parametrize("width", [192, 384, 768, 1024])
def test_vits_heads_are_of_64(width):
    kernel = np.broadcast_to(np.float32(0), (width, 3 * width))
    found = shapes("x", {"blocks/0/mlp/fc1/kernel": kernel, "blocks/7/norm1/scale": kernel}, {})
    assert (found["width"], found["mlp_width"], found["num_heads"]) == (width, 3 * width, width // 64)


@pytest.mark.parametrize("mode", ["bilinear", "nearest"])
def test_positions_of_an_image_follow_the_mode(mode):
    source, config = image(), dataclasses.replace(SMALL, distilled=False)
    params, account = into(source, config, positions=mode)
    table = source.arrays["pos_embed"][0]
    old = table[1:].reshape(*source.config.grid, 24)
    wanted = adapt_positions(old, config.grid, mode=mode)
    np.testing.assert_array_equal(params["pos_embed"][0, 1:], wanted.reshape(-1, 24))
    np.testing.assert_array_equal(params["pos_embed"][0, :1], table[:1])
    assert mode in account


@pytest.mark.parametrize(("mode", "mixed"), [("bilinear", True), ("nearest", False)])
def test_positions_of_an_ast_move_by_the_mode(mode, mixed):
    source = ours()
    config = dataclasses.replace(SMALL, strides=(4, 3))
    params, account = into(source, config, positions=mode)
    assert "moved to the new patch centres" in account
    old, new = source.arrays["pos_embed"][0, 2:], params["pos_embed"][0, 2:]
    among = (new[:, None] == old[None]).all(axis=-1).any(axis=1)
    assert among.all() != mixed


def test_tokens_and_their_positions_are_told_apart():
    source, plain = ours(), ours(dataclasses.replace(SMALL, distilled=False))
    same, _ = into(source, SMALL)
    for path in ("cls_token", "dist_token", "patch_embed/bias"):
        np.testing.assert_array_equal(same[path], source.arrays[path], err_msg=path)
    np.testing.assert_array_equal(same["pos_embed"], source.arrays["pos_embed"])
    twice, account = into(plain, SMALL)
    np.testing.assert_array_equal(twice["dist_token"], plain.arrays["cls_token"])
    np.testing.assert_array_equal(twice["pos_embed"][0, :2], plain.arrays["pos_embed"][0, [0, 0]])
    assert "copied from the class token's" in account
    one, account = into(source, plain.config)
    np.testing.assert_array_equal(one["pos_embed"][0, :1], source.arrays["pos_embed"][0, :1])
    assert "left aside" in account


def test_another_eps_is_told_and_another_shape_refused():
    assert "eps" not in into(ours(), SMALL)[1]
    assert (
        "LayerNorm eps 0.001 where the source has 1e-06"
        in into(ours(), dataclasses.replace(SMALL, norm_eps=1e-3))[1]
    )
    for changes, message in (
        ({"num_heads": 4}, "num_heads 3 against 4"),
        ({"depth": 3}, "depth 2 against 3"),
        ({"mlp_width": 50}, "96 against 50"),
        ({"width": 48}, "width 24 against 48"),
    ):
        with pytest.raises(InputError, match=message):
            into(ours(), dataclasses.replace(SMALL, **changes))


def test_a_head_is_kept_for_the_same_classes_only():
    source = ours()
    kept, _ = into(source, SMALL, head="keep")
    np.testing.assert_array_equal(kept["head/kernel"], source.arrays["head/kernel"])
    fresh, account = into(source, SMALL)
    assert (fresh["head/kernel"] != source.arrays["head/kernel"]).all()
    assert "head new" in account
    with pytest.raises(InputError, match="has 5 classes, the model 6"):
        into(source, dataclasses.replace(SMALL, num_classes=6), head="keep")
    with pytest.raises(InputError, match="no AST head"):
        into(image(), dataclasses.replace(SMALL, distilled=False), head="keep")


def test_colours_fold_by_their_sum_or_mean():
    source, config = image(), dataclasses.replace(SMALL, distilled=False)
    kernel = source.arrays["patch_embed/kernel"]
    for rgb in ("sum", "mean"):
        params, _ = into(source, config, rgb=rgb)
        wanted = getattr(kernel, rgb)(axis=2, keepdims=True)
        np.testing.assert_allclose(params["patch_embed/kernel"], wanted, atol=1e-6)
