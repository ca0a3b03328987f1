"""Batches: every example once an epoch, the partial batch masked, the position enough to go on, lengths and padding right."""

import numpy as np
import pytest

from ast_jax.datasets.pipeline import EvalStream, TrainStream, batches, fit, steps_per_epoch

SIZE, BATCH = 11, 4


class Clips:
    """Eleven clips of 5 to 15 frames, each filled with its own number + 1."""

    def __len__(self) -> int:
        return SIZE

    def __getitem__(self, i: int) -> dict:
        return {
            "id": f"clip{i}",
            "fbank": np.full((5 + i, 128), i + 1, np.float16),
            "labels": np.array([i % 3]),
        }


def run(stream, **changes) -> list:
    shape = {"kind": "log_mel", "batch_size": BATCH, "num_frames": 10, "num_classes": 3, "num_threads": 2}
    return list(batches(stream, **{**shape, **changes}))


def numbers(rows) -> list[int]:
    return [
        int(clip[0, 0]) - 1
        for batch in rows
        for clip, real in zip(batch["fbank"], batch["mask"], strict=True)
        if real
    ]


@pytest.fixture(scope="module")
def epochs() -> list:
    return run(TrainStream(Clips(), batch_size=BATCH, epochs=3, seed=5))


def test_each_epoch_holds_every_clip_once_in_its_own_order(epochs):
    assert steps_per_epoch(SIZE, BATCH) == 3
    orders = [numbers(epochs[3 * e : 3 * e + 3]) for e in range(3)]
    assert all(sorted(order) == list(range(SIZE)) for order in orders)
    assert len({tuple(order) for order in orders}) == 3


def test_the_last_batch_is_filled_with_masked_rows(epochs):
    last = epochs[2]
    np.testing.assert_array_equal(last["mask"], [1, 1, 1, 0])
    assert not last["fbank"][3].any()
    assert not last["labels"][3].any()
    assert all(batch["fbank"].shape == (BATCH, 10, 128) for batch in epochs)


def test_index_is_the_position_in_the_stream(epochs):
    np.testing.assert_array_equal(
        np.concatenate([batch["index"] for batch in epochs]), np.arange(3 * 3 * BATCH)
    )


def test_same_seed_same_batches_other_seed_others(epochs):
    again = run(TrainStream(Clips(), batch_size=BATCH, epochs=3, seed=5), num_threads=4)
    other = run(TrainStream(Clips(), batch_size=BATCH, epochs=3, seed=6))
    assert numbers(again) == numbers(epochs) != numbers(other)


@pytest.mark.parametrize("step", [1, 2, 3, 7])
def test_starting_at_a_step_continues_the_same_batches(epochs, step):
    rest = run(TrainStream(Clips(), batch_size=BATCH, epochs=3, seed=5), start_step=step)
    assert len(rest) == 9 - step
    for ours, theirs in zip(rest, epochs[step:], strict=True):
        for key in ours:
            np.testing.assert_array_equal(ours[key], theirs[key])


def test_evaluation_is_complete_and_in_order():
    rows = run(EvalStream(Clips(), batch_size=BATCH))
    assert numbers(rows) == list(range(SIZE))
    assert sum(batch["mask"].sum() for batch in rows) == SIZE


def test_lengths_padding_and_cutting():
    for i, (clip, length) in enumerate(
        (fit({**Clips()[i], "index": i}, kind="log_mel", num_frames=10, num_classes=3), 5 + i)
        for i in range(SIZE)
    ):
        assert clip["length"] == min(length, 10)
        assert (clip["fbank"][: clip["length"]] == i + 1).all()
        assert not clip["fbank"][clip["length"] :].any()


def test_waveforms_carry_samples_and_frames():
    example = {"waveform": np.arange(1, 1001, dtype=np.int16), "labels": np.array([0, 2]), "index": 4}
    clip = fit(example, kind="waveform", num_frames=10, num_classes=3)
    assert clip["waveform"].shape == (400 + 9 * 160,)
    assert clip["num_samples"] == 1000
    assert clip["length"] == 1 + (1000 - 400) // 160
    np.testing.assert_array_equal(clip["labels"], [1, 0, 1])
    cut = fit({**example, "waveform": np.ones(5000, np.int16)}, kind="waveform", num_frames=10, num_classes=3)
    assert (cut["num_samples"], cut["length"]) == (1840, 10)
    empty = fit({"index": 9}, kind="waveform", num_frames=10, num_classes=3)
    assert (empty["mask"], empty["length"], empty["num_samples"]) == (0, 0, 0)
