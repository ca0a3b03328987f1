"""Training step by step against PyTorch: the reference's loop on timm's blocks and ours give the same losses
and the same updates.

Nine epochs of eight steps. The warm-up climbs in stairs of 3 steps to step 12, and a decay at step 8 falls
into it: the stair at step 9 writes it away (the reference's quirk). Steps 12 to 55 run at the full rate, then
a second decay stays. The last batch of each epoch is a clip short. Rate and weight decay are large, so that
the coupling of the decay into the moments shows.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from weights_oracles import reference_model

from ast_jax.features import Kaldi
from ast_jax.models import AST, ASTConfig, kernels_on, split
from ast_jax.objectives import objective
from ast_jax.settings import Objective
from ast_jax.training.optim import adam, rate_stairs, schedule
from ast_jax.training.step import Step, init_state, train_step
from ast_jax.weights import vit_layout

CONFIG = ASTConfig(num_classes=5, num_frames=64, num_mel_bins=32, width=32, depth=2, num_heads=2)
EPOCHS, EPOCH_STEPS, BATCH = 9, 8, 4
LR, WEIGHT_DECAY, B1, B2, EPS = 1e-3, 1e-2, 0.95, 0.999, 1e-8
WARMUP, STAIR, DECAY, MILESTONES = 12, 3, 0.5, (1, 7)  # PyTorch counts milestones in epochs gone by
MEAN, STD = -4.0, 4.5
RATE = {"steps_per_epoch": EPOCH_STEPS, "warmup_steps": WARMUP, "warmup_stair": STAIR, "decay": DECAY}
RIGHT_RATE = schedule(*rate_stairs(LR, decay_epochs=[milestone + 1 for milestone in MILESTONES], **RATE))

FAULTS = {
    "AdamW": lambda rate: optax.adamw(rate, B1, B2, EPS, weight_decay=WEIGHT_DECAY),
    "no decay": lambda rate: adam(rate, weight_decay=0.0),
    "another beta1": lambda rate: adam(rate, b1=0.9, weight_decay=WEIGHT_DECAY),
    "no bias correction": lambda rate: optax.chain(
        optax.add_decayed_weights(WEIGHT_DECAY), uncorrected_adam(), optax.scale_by_learning_rate(rate)
    ),
    "milestone one epoch off": lambda _: adam(
        schedule(*rate_stairs(LR, decay_epochs=MILESTONES, **RATE)), weight_decay=WEIGHT_DECAY
    ),
}


def make_batches(loss: str) -> list[dict[str, np.ndarray]]:
    """Noise around a pattern for each class, of 20 to 64 frames; clips of two classes where the loss
    allows."""
    rng = np.random.default_rng(0)
    patterns = rng.normal(0, 3, (CONFIG.num_classes, CONFIG.num_frames, CONFIG.num_mel_bins))
    found = []
    for step in range(EPOCHS * EPOCH_STEPS):
        labels = np.eye(CONFIG.num_classes)[rng.integers(CONFIG.num_classes, size=BATCH)]
        if loss == "bce":
            labels = np.maximum(
                labels, np.eye(CONFIG.num_classes)[rng.integers(CONFIG.num_classes, size=BATCH)]
            )
        fbank = (
            MEAN + np.einsum("bc,ctf->btf", labels, patterns) + rng.normal(0, 3, (BATCH, *patterns.shape[1:]))
        )
        mask = np.ones(BATCH)
        mask[BATCH - 1] = (step + 1) % EPOCH_STEPS != 0
        rows = {"fbank": fbank, "labels": labels, "mask": mask}
        whole = {
            "length": rng.integers(20, CONFIG.num_frames + 1, BATCH),
            "index": BATCH * step + np.arange(BATCH),
        }
        found.append(
            {key: np.float32(x) for key, x in rows.items()} | {key: np.int32(x) for key, x in whole.items()}
        )
    return found


def run_reference(loss: str) -> tuple[list[float], dict, dict]:
    """Losses, initial and final parameters (under our paths) of the reference's loop, in PyTorch."""
    import torch

    model = reference_model(
        mel_bins=CONFIG.num_mel_bins, frames=CONFIG.num_frames, classes=CONFIG.num_classes
    )
    model.train()  # no dropout in it: nothing changes
    optimizer = torch.optim.Adam(
        model.parameters(), lr=LR, betas=(B1, B2), eps=EPS, weight_decay=WEIGHT_DECAY
    )
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, list(MILESTONES), gamma=DECAY)
    loss_fn = torch.nn.BCEWithLogitsLoss() if loss == "bce" else torch.nn.CrossEntropyLoss()
    losses, before = [], our_names(model)
    for step, batch in enumerate(make_batches(loss)):
        if step <= WARMUP and step % STAIR == 0:
            for group in optimizer.param_groups:
                group["lr"] = step / WARMUP * LR
        fbank = batch["fbank"] * (
            np.arange(CONFIG.num_frames)[None, :, None] < batch["length"][:, None, None]
        )
        real = batch["mask"] > 0
        logits = model(torch.tensor(((fbank - MEAN) / (2 * STD))[real]))
        labels = torch.tensor(batch["labels"][real])
        value = loss_fn(logits, labels if loss == "bce" else labels.argmax(dim=1))
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        losses.append(value.item())
        if (step + 1) % EPOCH_STEPS == 0:
            scheduler.step()
    return losses, before, our_names(model)


def our_names(model) -> dict[str, np.ndarray]:
    state = {key: value.numpy().copy() for key, value in model.state_dict().items()}
    rows = vit_layout.reference(CONFIG.depth, distilled=True)
    return vit_layout.read(rows, state, where="PyTorch", unused=("v.head",))


def run_ours(
    loss: str, start: dict, optimizer: optax.GradientTransformation, **compiler_options
) -> tuple[list[float], dict]:
    """Losses and final parameters of our step, compiled, in float32."""
    graphdef, _, _ = split(AST(CONFIG, rngs=nnx.Rngs(0)))
    what = Step(Kaldi(num_mel_bins=CONFIG.num_mel_bins, mean=MEAN, std=STD), objective(Objective(loss=loss)))
    state = init_state(jax.tree.map(jnp.asarray, start), {}, optimizer)
    losses = []
    forms = kernels_on(jax.devices("cpu")[0])  # as training takes them here
    options = {"graphdef": graphdef, "optimizer": optimizer, "step": what, "forms": forms}
    one_step = functools.partial(train_step, **options)
    with jax.default_matmul_precision("float32"):
        step = jax.jit(one_step, compiler_options=compiler_options)
        for batch in make_batches(loss):
            state, figures = step(state, batch)
            losses.append(float(figures["loss"]))
    return losses, {path: np.asarray(value) for path, value in state["params"].items()}


def assert_same_trajectory(ours: tuple, theirs: tuple) -> None:
    """Losses within 1e-4 of each other at every step, updates within 1e-3 of the updates' norm.

    The key third of the qkv biases is left out: softmax cancels it, so its true gradient is 0 and Adam blows
    rounding up.
    """
    (losses, final), (their_losses, start, their_final) = ours, theirs
    np.testing.assert_allclose(losses, their_losses, rtol=1e-4)
    update = lambda end: np.concatenate(
        [without_key_biases(path, end[path] - start[path]).ravel() for path in sorted(start)]
    )
    difference = np.linalg.norm(update(final) - update(their_final)) / np.linalg.norm(update(their_final))
    assert difference < 1e-3, f"the updates differ by {difference:.1e} of their norm"


def without_key_biases(path: str, value: np.ndarray) -> np.ndarray:
    return (
        np.delete(value, np.s_[CONFIG.width : 2 * CONFIG.width])
        if path.endswith("attention/qkv/bias")
        else value
    )


def uncorrected_adam() -> optax.GradientTransformation:
    """Adam's moments as they are, without the division by 1 - beta^t."""

    def update(grads, moments, params=None):
        first, second = moments
        first = jax.tree.map(lambda m, g: B1 * m + (1 - B1) * g, first, grads)
        second = jax.tree.map(lambda v, g: B2 * v + (1 - B2) * g**2, second, grads)
        return jax.tree.map(lambda m, v: m / (jnp.sqrt(v) + EPS), first, second), (first, second)

    zeros = functools.partial(jax.tree.map, jnp.zeros_like)
    return optax.GradientTransformation(lambda params: (zeros(params), zeros(params)), update)


@pytest.fixture(scope="module")
def reference():
    """The reference's run for a loss, computed once."""
    torch = pytest.importorskip("torch")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # at this size the threads cost more than the arithmetic
    yield functools.cache(run_reference)
    torch.set_num_threads(threads)


@pytest.mark.parametrize("loss", ["bce", "ce"])
def test_the_trajectory_is_the_references(reference, loss):
    theirs = reference(loss)
    assert np.mean(theirs[0][-8:]) < 0.8 * np.mean(
        theirs[0][:8]
    )  # something is learned: the comparison is not of noise
    assert_same_trajectory(run_ours(loss, theirs[1], adam(RIGHT_RATE, weight_decay=WEIGHT_DECAY)), theirs)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_in_the_optimiser_shows(reference, fault):
    theirs = reference("bce")
    ours = run_ours(
        "bce", theirs[1], FAULTS[fault](RIGHT_RATE), xla_backend_optimization_level=0
    )  # compiles twice as fast
    with pytest.raises(AssertionError):
        assert_same_trajectory(ours, theirs)
