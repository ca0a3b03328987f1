"""Batches: every example once an epoch, the partial one masked, the position enough to go on.

Sampling and mixup against the reference's definitions, by distribution.
"""

import collections
import sys

import numpy as np
import pytest
from scipy import stats

from ast_jax.datasets.pipeline import (
    Draws,
    EvalStream,
    HostRows,
    Mixup,
    RoundRobinDraws,
    TrainStream,
    WeightedDraws,
    balanced_weights,
    batches,
    fit,
    steps_per_epoch,
)

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


def stream_of(source, *, batch_size: int, epochs: int, seed: int, mixup: float = 0.0, weights=None):
    draws = Draws(len(source), seed=seed) if weights is None else WeightedDraws(weights, seed=seed)
    return TrainStream(source, draws, batch_size=batch_size, epochs=epochs, mixup=Mixup(mixup))


@pytest.fixture(scope="module")
def epochs() -> list:
    return run(stream_of(Clips(), batch_size=BATCH, epochs=3, seed=5))


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
    again = run(stream_of(Clips(), batch_size=BATCH, epochs=3, seed=5), num_threads=4)
    other = run(stream_of(Clips(), batch_size=BATCH, epochs=3, seed=6))
    assert numbers(again) == numbers(epochs) != numbers(other)


@pytest.mark.parametrize("step", [1, 2, 3, 7])
def test_starting_at_a_step_continues_the_same_batches(epochs, step):
    rest = run(stream_of(Clips(), batch_size=BATCH, epochs=3, seed=5), start_step=step)
    assert len(rest) == 9 - step
    for ours, theirs in zip(rest, epochs[step:], strict=True):
        for key in ours:
            np.testing.assert_array_equal(ours[key], theirs[key])


def test_evaluation_is_complete_and_in_order():
    rows = run(EvalStream(Clips(), batch_size=BATCH))
    assert numbers(rows) == list(range(SIZE))
    assert sum(batch["mask"].sum() for batch in rows) == SIZE


@pytest.mark.parametrize(("hosts", "rows"), [(1, 4), (2, 4), (4, 4), (2, 6), (4, 8)])
def test_hosts_read_the_pieces_of_each_batch_one_behind_the_other(hosts, rows):
    """Batches of 4; where the devices take more rows, the last hosts' pieces are filled up."""
    stream = EvalStream(Clips(), batch_size=BATCH)
    own = [HostRows(stream, batch_size=BATCH, rows=rows, host=host, hosts=hosts) for host in range(hosts)]
    assert {len(part) for part in own} == {3 * rows // hosts}
    for step in range(3):
        per = rows // hosts
        read = [part[step * per + row].get("id") for part in own for row in range(per)]
        here = [f"clip{i}" if i < SIZE else None for i in range(step * BATCH, (step + 1) * BATCH)]
        assert read == here + [None] * (rows - BATCH)


def test_lengths_padding_and_cutting():
    for i, (clip, length) in enumerate(
        (fit({**Clips()[i], "index": i}, kind="log_mel", num_frames=10, num_classes=3), 5 + i)
        for i in range(SIZE)
    ):
        assert clip["length"] == min(length, 10)
        assert (clip["fbank"][: clip["length"]] == i + 1).all()
        assert not clip["fbank"][clip["length"] :].any()
    rising = {"fbank": np.arange(12, dtype=np.float16)[:, None] * np.ones(128, np.float16), "index": 0}
    cut = fit({**rising, "labels": np.array([1])}, kind="log_mel", num_frames=10, num_classes=3)
    np.testing.assert_array_equal(cut["fbank"][:, 5], np.arange(10))  # its end is cut


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


# ---- Balanced sampling: the reference's weights, with replacement


class Numbered:
    """Clips that are nothing but their own number and labels."""

    def __init__(self, label_sets: list[tuple[int, ...]]):
        self.label_sets = [np.array(labels, np.int64) for labels in label_sets]

    def __len__(self) -> int:
        return len(self.label_sets)

    def __getitem__(self, i: int) -> dict:
        return {"id": i, "labels": self.label_sets[i]}


SKEWED = [(0,)] * 30 + [(1,)] * 12 + [(2,)] * 6 + [(3,)] * 2
SEVERAL = [(0,)] * 20 + [(0, 1)] * 15 + [(1, 2)] * 9 + [(0, 1, 2, 3)] * 2 + [(3,)] * 3 + [()]
DRAWS = 10_000  # 200 epochs of 50 clips


def references_weights(label_sets) -> list[float]:
    """Line by line: count every label, weigh it 1000 / (count + 0.01), add up over a clip's labels."""
    count = collections.Counter(label for labels in label_sets for label in labels)
    return [sum(1000 / (count[label] + 0.01) for label in labels) for labels in label_sets]


def our_weights(source: Numbered) -> np.ndarray:
    return balanced_weights(source.label_sets, np.bincount(np.concatenate(source.label_sets)))


def drawn(source: Numbered, weights: np.ndarray | None, **mix) -> list[dict]:
    stream = stream_of(source, batch_size=1, epochs=DRAWS // len(source), seed=1, weights=weights, **mix)
    assert len(stream) == DRAWS
    return [stream[position] for position in range(DRAWS)]


def frequencies(source: Numbered, clips: list[dict]) -> tuple[np.ndarray, np.ndarray]:
    """How often each clip was drawn, and each class."""
    by_clip = np.bincount([clip["id"] for clip in clips], minlength=len(source))
    return by_clip, np.bincount(np.concatenate([clip["labels"] for clip in clips]))


@pytest.mark.parametrize("label_sets", [SKEWED, SEVERAL], ids=["one label", "several"])
def test_weights_are_the_references(label_sets):
    np.testing.assert_allclose(our_weights(Numbered(label_sets)), references_weights(label_sets), rtol=1e-12)


def test_balanced_draws_follow_the_references_weights_and_uniform_ones_do_not():
    """Chi-square of class frequencies over 10,000 draws."""
    source, expected = Numbered(SKEWED), np.zeros(4)
    for (label,), weight in zip(SKEWED, references_weights(SKEWED), strict=True):
        expected[label] += weight
    expected *= DRAWS / expected.sum()
    pvalue = lambda weights: stats.chisquare(frequencies(source, drawn(source, weights))[1], expected).pvalue
    assert pvalue(our_weights(source)) > 0.01
    assert pvalue(np.ones(len(source))) < 1e-6  # uniform, with replacement
    assert pvalue(None) < 1e-6  # shuffled


def test_clips_of_several_labels_are_drawn_by_the_sum_of_their_weights():
    """Chi-square over clips; one without labels never comes."""
    source, weights = Numbered(SEVERAL), np.array(references_weights(SEVERAL))
    by_clip, _ = frequencies(source, drawn(source, our_weights(source)))
    assert by_clip[-1] == weights[-1] == 0
    assert stats.chisquare(by_clip[:-1], DRAWS * weights[:-1] / weights.sum()).pvalue > 0.01


def test_balanced_epochs_are_as_long_as_the_set_and_drawn_anew():
    source = Numbered(SKEWED)
    stream = stream_of(source, batch_size=20, epochs=3, seed=1, weights=our_weights(source))
    assert len(stream) == 3 * 60  # three batches an epoch, the last one filled up
    orders = [[stream[60 * epoch + slot].get("id") for slot in range(60)] for epoch in range(3)]
    assert all(order[50:] == [None] * 10 and None not in order[:50] for order in orders)
    assert len({tuple(order) for order in orders}) == 3
    assert len(set(orders[0][:50])) < 45  # with replacement


# ---- Round robin, and epochs of a length of their own


def test_round_robin_gives_each_class_a_turn_a_round_and_each_clip_its_turn_in_its_class():
    """The 4 turns of a round are 4 classes, and a class gives each of its clips before one comes again."""
    source = Numbered(SKEWED)
    draws = RoundRobinDraws(source.label_sets, 5, seed=3, size=30)  # class 4 has no clip: no turn
    turns = [(draws.at(e, n), draws.at(e, n, partner=True)) for e in range(4) for n in range(30)]
    clips = np.array(turns).reshape(-1)
    classes = np.array([source.label_sets[clip][0] for clip in clips]).reshape(-1, 4)
    assert (np.sort(classes, axis=1) == np.arange(4)).all()
    assert len({tuple(row) for row in classes}) > 10
    for label in range(4):
        own = [clip for clip in clips if source.label_sets[clip][0] == label]
        size = sum(labels[0] == label for labels in source.label_sets)
        for first in range(0, len(own) - size + 1, size):
            assert len(set(own[first : first + size])) == size


def test_an_epoch_may_be_shorter_or_longer_than_the_set():
    for size in (4, 30):
        stream = TrainStream(Clips(), Draws(SIZE, seed=5, size=size), batch_size=2, epochs=11)
        ids = [stream[position]["id"] for position in range(len(stream))]
        assert len(stream) == 11 * size
        for first in range(0, len(ids) - SIZE + 1, SIZE):
            assert len(set(ids[first : first + SIZE])) == SIZE


def test_a_partner_may_be_drawn_as_clips_are():
    """Every clip has one, mixed or not, and in a pass each is a partner once."""
    stream = TrainStream(
        Clips(), Draws(SIZE, seed=5), batch_size=1, epochs=2, mixup=Mixup(0.5, alpha=1.0, sampled=True)
    )
    examples = [stream[position] for position in range(SIZE)]
    assert sorted(e["partner"]["id"] for e in examples) == sorted(e["id"] for e in examples)
    assert [e["partner"]["id"] for e in examples] != [e["id"] for e in examples]
    assert {e["share"] < 1 for e in examples} == {True, False}


# ---- Mixup


@pytest.fixture(scope="module")
def mixes() -> list:
    """10,000 draws of a balanced stream that mixes every clip."""
    source = Numbered(SKEWED)
    return drawn(source, our_weights(source), mixup=1.0)


def test_lambda_is_beta_10_10_and_not_folded(mixes):
    shares = np.array([clip["share"] for clip in mixes])
    assert stats.kstest(shares, stats.beta(10, 10).cdf).pvalue > 0.01
    assert (
        stats.kstest(np.maximum(shares, 1 - shares), stats.beta(10, 10).cdf).pvalue < 1e-6
    )  # folded, it would show


def test_partners_are_drawn_uniformly_not_by_the_weights(mixes):
    source = Numbered(SKEWED)
    by_clip, by_class = frequencies(source, [clip["partner"] for clip in mixes])
    assert stats.chisquare(by_clip).pvalue > 0.01
    balanced = np.full(4, DRAWS / 4)
    assert stats.chisquare(by_class, balanced).pvalue < 1e-6
    pairs = np.zeros((4, 4))
    for clip in mixes:
        pairs[clip["labels"][0], clip["partner"]["labels"][0]] += 1
    assert stats.chi2_contingency(pairs).pvalue > 0.01  # whoever the clip is


@pytest.mark.parametrize("rate", [0.0, 0.3, 0.5])
def test_clips_are_mixed_at_the_rate(rate):
    clips = drawn(Numbered(SKEWED), None, mixup=rate)
    mixed = ["partner" in clip for clip in clips]
    assert stats.binomtest(sum(mixed), DRAWS, rate).pvalue > 0.01
    assert all((clip.get("share", 1.0) < 1) == is_mixed for clip, is_mixed in zip(clips, mixed, strict=True))


def test_a_mix_is_not_drawn_from_the_stream_of_an_epochs_order(mixes):
    """Orders are drawn from (seed, epoch): with the same key a share would tell the order of its epoch."""
    for position in range(20):
        rng = np.random.default_rng((1, position))
        assert rng.random() < 1
        assert rng.beta(10, 10) != mixes[position]["share"]


def test_no_two_uses_share_a_stream_of_random_numbers(monkeypatch):
    """numpy leaves the last zeros of a seed away: (0, 1, 0) is (0, 1)."""
    uses, make = {}, np.random.default_rng

    def noted(words):
        while words and not words[-1]:
            words = words[:-1]
        uses.setdefault(words, set()).add(sys._getframe(1).f_code.co_name)
        return make(words)

    monkeypatch.setattr(np.random, "default_rng", noted)
    for draws in (Draws(9, seed=0), RoundRobinDraws([np.array([i % 3]) for i in range(9)], 3, seed=0)):
        for sampled in (False, True):
            source, mixup = [{"id": "x"}] * 9, Mixup(1.0, 1.0, sampled=sampled)
            stream = TrainStream(source, draws, batch_size=3, epochs=6, mixup=mixup)
            assert len([stream[position] for position in range(len(stream))]) == 54
    assert {len(names) for names in uses.values()} == {1}
    assert {name for names in uses.values() for name in names} == {"__getitem__", "_rng", "_class_order"}


def test_after_so_many_views_the_same_ones_come_again():
    """Clips, partners, shares and positions, which everything random goes by."""
    make = lambda views: TrainStream(
        Clips(), Draws(SIZE, seed=3), batch_size=BATCH, epochs=5, mixup=Mixup(0.5), views=views
    )
    again, ever = make(2), make(0)
    assert len(again) == len(ever) == 60
    rows = [again[position] for position in range(60)]
    for position, row in enumerate(rows):
        first = ever[position % 24]
        assert row.keys() == first.keys()
        assert row["index"] == position % 24
        assert (row.get("id"), row["share"]) == (first.get("id"), first["share"])
        assert row.get("partner", {}).get("id") == first.get("partner", {}).get("id")
    assert [row.get("id") for row in rows[:12]] != [row.get("id") for row in rows[12:24]]
    assert again.ids(24, 4) == again.ids(0, 4)


def test_ids_name_the_clips_mixed_in_and_no_empty_row():
    stream = stream_of(Clips(), batch_size=BATCH, epochs=1, seed=5, mixup=0.5)
    examples = [stream[position] for position in range(len(stream))]
    told = [e["id"] + (f"+{e['partner']['id']}" if "partner" in e else "") for e in examples[:SIZE]]
    assert stream.ids(0, len(stream)) == told
    assert any("+" in name for name in told)
    assert stream.ids(SIZE - 1, 2) == told[-1:]


def test_mixing_leaves_the_order_of_the_clips_alone():
    source = Numbered(SKEWED)
    orders = [[clip["id"] for clip in drawn(source, our_weights(source), mixup=rate)] for rate in (0.0, 0.5)]
    assert orders[0] == orders[1]


@pytest.mark.parametrize(
    ("own", "other", "labels"),
    [
        ([0], [2], [0.25, 0, 0.75]),
        ([1], [1], [0, 1, 0]),
        ([0, 1], [1, 2], [0.25, 1, 0.75]),
        ([], [2], [0, 0, 0.75]),
    ],
)
def test_labels_add_up_by_their_shares(own, other, labels):
    partner = {"fbank": np.ones((4, 128), np.float16), "labels": np.array(other, np.int64)}
    example = {**partner, "labels": np.array(own, np.int64), "index": 0, "share": 0.25, "partner": partner}
    got = fit(example, kind="log_mel", num_frames=10, num_classes=3)
    np.testing.assert_allclose(got["labels"], labels, rtol=1e-6)
    assert got["labels"].dtype == np.float32


def test_a_mixed_label_is_known_where_it_is_of_both():
    def clip(*known):
        return {
            "fbank": np.ones((4, 128), np.float16),
            "labels": np.array([0]),
            "known": np.array(known, bool),
        }

    shape = {"kind": "log_mel", "num_frames": 10, "num_classes": 3, "partly": True}
    own = {**clip(1, 1, 0), "index": 0}
    assert fit(own, **shape)["known"].tolist() == [1, 1, 0]
    # there is a partner wherever clips are mixed as features; at a share of 1 nothing of it is heard
    for share, known in ((0.25, [1, 0, 0]), (1.0, [1, 1, 0])):
        got = fit({**own, "share": share, "partner": clip(1, 0, 1)}, **shape)
        assert got["known"].tolist() == known
        assert got["known"].dtype == np.float32
    whole = {key: value for key, value in own.items() if key != "known"}
    assert fit(whole, **shape)["known"].tolist() == [1, 1, 1]
    assert "known" not in fit(own, **{**shape, "partly": False})


class Sounds(Clips):
    """The clips as waveforms, of 500 to 2500 samples."""

    def __getitem__(self, i: int) -> dict:
        return {
            "id": f"clip{i}",
            "waveform": np.full(500 + 200 * i, i + 1, np.int16),
            "labels": np.array([i % 3]),
        }


@pytest.mark.parametrize(
    ("kind", "source", "count"),
    [("log_mel", Clips, "partner_length"), ("waveform", Sounds, "partner_samples")],
)
def test_batches_carry_the_partner_of_either_kind(kind, source, count):
    stream = stream_of(source(), batch_size=BATCH, epochs=2, seed=5, mixup=0.5)
    stored, seen = ("fbank" if kind == "log_mel" else "waveform"), set()
    for batch in run(stream, kind=kind):
        assert batch["partner"].shape == batch[stored].shape
        assert batch["partner"].dtype == batch[stored].dtype
        assert (batch["share"].dtype, batch[count].dtype) == (np.float32, np.int32)
        for row, position in enumerate(batch["index"]):
            example = stream[int(position)]
            partner = example.get("partner", {}).get(stored, np.zeros((0, 128)))
            size = min(len(partner), batch["partner"].shape[1])
            assert batch["share"][row] == np.float32(example["share"])
            assert batch[count][row] == size
            assert (batch["partner"][row, :size] == (partner[0] if size else 0)).all()
            assert not batch["partner"][row, size:].any()
            seen.add(("labels" in example, size > 0))
    assert seen == {
        (True, True),
        (True, False),
        (False, False),
    }  # mixed, not mixed, and rows that only fill a batch


@pytest.mark.parametrize("step", [1, 4])
def test_starting_at_a_step_continues_the_same_mixes(step):
    stream = lambda: stream_of(
        Clips(), batch_size=BATCH, epochs=2, seed=5, mixup=0.5, weights=np.arange(1.0, SIZE + 1)
    )
    whole, rest = run(stream()), run(stream(), start_step=step, num_threads=3)
    assert len(rest) == len(whole) - step
    assert any((batch["share"] < 1).any() for batch in rest)
    for ours, theirs in zip(rest, whole[step:], strict=True):
        assert ours.keys() == theirs.keys() >= {"share", "partner", "partner_length"}
        for key in ours:
            np.testing.assert_array_equal(ours[key], theirs[key], err_msg=key)
