"""Events of whole sets: steps beside what is heard in them, learned thresholds, figures as of tables."""

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest
import soundfile
from flax import nnx

from ast_jax.commands import invoke
from ast_jax.datasets.pipeline import FrameGrid
from ast_jax.datasets.prepare import prepare
from ast_jax.datasets.prepared import PreparedSet
from ast_jax.evaluation import events
from ast_jax.evaluation.events import StepScores, told
from ast_jax.evaluation.metrics import Scored
from ast_jax.evaluation.scoring import Scorer
from ast_jax.events import Event, Rules, write_events
from ast_jax.events.metrics import ALL, event_based, overlap_based
from ast_jax.inference.predict import Tagger
from ast_jax.models import AST, ASTConfig, abstract, host_variables, set_variables, split
from ast_jax.objectives import objective
from ast_jax.settings import Objective
from ast_jax.sharding import make_layout
from ast_jax.weights import LoadedModel

GRID = FrameGrid(first_s=0.02, step_s=0.04, num=50)


def drawn(seed: int, clips: int = 30) -> StepScores:
    """Clips of 2 s, one event of each of three classes in most; the first class is never scored above .4, the
    second above .3 where it is not, the third is never heard.
    """
    rng, own, scores = np.random.default_rng(seed), [], []
    for _ in range(clips):
        found, heard = [], np.zeros((GRID.num, 3), bool)
        for label in (0, 1):
            if rng.random() < 0.8:
                start, length = rng.integers(0, 35), rng.integers(5, 15)
                found.append((start * GRID.step_s, (start + length) * GRID.step_s, label))
                heard[start : start + length, label] = True
        own.append(np.array(found).reshape(-1, 3))
        likely = np.where(heard, [0.3, 0.85, 0], [0.05, 0.27, 0.1]) + rng.uniform(-0.05, 0.05, heard.shape)
        scores.append(likely.astype(np.float16))
    ids = [f"clip{number}" for number in range(clips)]
    lengths = [2.0] * clips, own, GRID, [GRID.num] * clips
    return StepScores(ids, ("low", "high", "never"), *lengths, np.concatenate(scores))


def test_learned_thresholds_find_events_of_other_clips_better_than_a_half():
    learned, other = drawn(0).thresholds, drawn(1)
    assert learned[0] < 0.35
    assert learned[1] > 0.5
    assert np.isnan(learned[2])
    f1 = lambda thresholds: event_based(other.truth, other.found(thresholds)).micro.f1
    assert f1(learned) > 0.95
    assert f1(learned) > f1(np.full(3, 0.5)) + 0.3
    # a class without a threshold has .5
    assert not any(event.label == "never" for event in other.found(learned))


def test_thresholds_know_that_an_event_goes_on_below_them():
    """Of noisy steps; with the threshold of single steps events would grow into what is beside them."""

    def noisy(seed: int) -> StepScores:
        clean, rng = drawn(seed), np.random.default_rng(seed)
        logits = 4 * clean.labels - 3 + rng.normal(size=clean.labels.shape)
        return dataclasses.replace(clean, scores=(1 / (1 + np.exp(-logits))).astype(np.float16))

    scored, other = noisy(0), noisy(1)
    single = Scored(scored.scores, scored.labels).thresholds
    f1 = lambda thresholds: overlap_based(other.truth, other.found(thresholds)).micro.f1
    assert f1(scored.thresholds) > f1(single) + 0.05
    assert np.isnan(scored.thresholds).tolist() == [False, False, True]


def test_figures_are_those_of_the_tables(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(events, "PSDS_THRESHOLDS", np.array([0.25, 0.5]))
    scored, thresholds = drawn(2), np.array([0.25, 0.7, 0.5])
    figures = scored.figures(thresholds)
    tables = {"true": scored.truth, "found": scored.found(thresholds)}
    tables |= {f"at_{value}": scored.found(np.full(3, value)) for value in (0.25, 0.5)}
    for name, table in tables.items():
        (tmp_path / name).write_text(write_events(table, "tsv"))
    asked = [str(tmp_path / "true"), str(tmp_path / "at_0.25"), f"--at={tmp_path / 'at_0.5'}"]
    invoke("score_events", [*asked, f"--hours={30 * 2 / 3600}", "--json"])
    curve = json.loads(capsys.readouterr().out)
    assert figures["psds"] == {key: pytest.approx(curve[key]) for key in ("PSDS 1", "PSDS 2")}
    invoke("score_events", [str(tmp_path / "true"), str(tmp_path / "found"), "--json"])
    assert figures["f1"] == json.loads(capsys.readouterr().out)
    assert (figures["events"], figures["found"]) == (len(scored.truth), len(tables["found"]))
    assert figures["hours"] == pytest.approx(1 / 60)
    assert figures["thresholds"] == {"low": 0.25, "high": 0.7, "never": 0.5}
    assert "thresholds chosen elsewhere" in told(figures)


def test_what_is_left_out_is_told(monkeypatch):
    monkeypatch.setattr(events, "PSDS_MOST", 89)
    figures = json.loads(json.dumps(drawn(0).figures()))
    assert figures["psds"] is None
    assert figures["thresholds"]["never"] is None
    line = told(figures)
    assert "PSDS left out" in line
    assert "30 clips, thresholds chosen on them, which flatters" in line
    assert f"{figures['f1']['events, 0.2 s'][ALL]:.4f} (events, 0.2 s)" in line


CONFIG = ASTConfig(
    num_classes=2, num_frames=48, width=8, depth=1, num_heads=1, patch_shape=(128, 4), strides=(1, 4),
    head="frames",
)  # fmt: skip


@pytest.fixture(scope="module")
def tree(tmp_path_factory) -> tuple[Path, PreparedSet]:
    """Four clips of .3 to .45 s with events, one of .9 s, and one of which it is not known when."""
    root, rng = tmp_path_factory.mktemp("events"), np.random.default_rng(0)
    lengths = {"a": 0.3, "b": 0.35, "c": 0.4, "d": 0.45, "long": 0.9, "weak": 0.4}
    for name, seconds in lengths.items():
        loud = np.repeat(rng.random(20) ** 3, 800)[: round(16_000 * seconds)]
        wave = 0.3 * loud * rng.normal(size=len(loud))
        soundfile.write(root / f"{name}.wav", wave, 16_000)
    rows = "a.wav\t0.1\t0.2\tdog\nb.wav\t\t\t\nc.wav\t0.05\t0.3\train\nd.wav\t0.2\t0.45\tdog\n"
    rows += "long.wav\t0.1\t0.8\tdog\nlong.wav\t0.6\t0.8\train\n"
    (root / "test.tsv").write_text("file\tonset\toffset\tlabel\n" + rows)
    (root / "weak.csv").write_text("file,labels\nweak.wav,dog\n")
    options = {"tables": {"test": "test.tsv"}, "weak": {"vague": "weak.csv"}}
    made = prepare("events", source_dir=root, data_dir=root / "data", kind="waveform", options=options)
    return root, made


def test_steps_of_a_set_lie_beside_what_is_heard_in_them(tree):
    _, prepared = tree
    names, splits = ["weak", "a", "b", "c", "d", "long"], ("vague", "test")
    assert prepared.ids(splits) == names
    model = SimpleNamespace(time_steps=(4, 4, 12), config=SimpleNamespace(num_frames=48))
    frames = [np.full((12, 2), number / 10, np.float16) for number in range(6)]
    found = StepScores.of(model, prepared, splits, iter(frames))
    assert (found.ids, found.unknown, found.cut) == (names[1:], 1, 1)
    # .3 s are 28 frames, of 4 a step; of the longest those that the model hears
    assert found.counts == [7, 8, 10, 11, 12]
    assert np.array_equal(found.scores[:, 0], np.repeat(np.float16([0.1, 0.2, 0.3, 0.4, 0.5]), found.counts))
    assert found.seconds == pytest.approx([0.3, 0.35, 0.4, 0.45, 0.495])
    assert found.truth[-1] == Event("long", 0.1, pytest.approx(0.495), "dog")
    # middles of steps from .0275 s on, .04 s apart
    heard = np.flatnonzero(found.labels[:7, 0])
    assert heard.tolist() == [2, 3, 4]
    assert not found.labels[7:15].any()
    whole, clips = (abstract("ast", dataclasses.replace(CONFIG, head=head)) for head in ("frames", "clip"))
    assert events.judged(whole, prepared, splits)
    assert not events.judged(whole, prepared, ("vague",))
    assert not events.judged(clips, prepared, splits)


def test_events_of_a_set_are_those_that_predict_hears(tree):
    root, prepared = tree
    net, rng = AST(CONFIG, rngs=nnx.Rngs(0)), np.random.default_rng(0)
    set_variables(net, {k: rng.normal(0, 0.4, v.shape).astype("f4") for k, v in host_variables(net).items()})
    front_end = net.front_end.with_statistics(-4.0, 4.0)
    graphdef, params, rest = split(net)
    score = Scorer(
        graphdef,
        make_layout(devices=jax.devices()[:1]),
        front_end=front_end,
        activation="sigmoid",
        loss=objective(Objective()).per_clip,
        num_frames=48,
        batch_size=4,
        columns=[1, 0],
        num_threads=1,
    )
    prepared = prepared.with_front_end(front_end)
    found = StepScores.of(net, prepared, ("test",), score.frame_scores(params | rest, prepared, ("test",)))
    # in the widest gap of the scores in the middle, so that rounding changes nothing
    middle = np.sort(found.scores.astype(float), axis=0)[12:36]
    widest = np.diff(middle, axis=0).argmax(axis=0)
    dog, rain = (float(middle[i : i + 2, label].mean()) for label, i in enumerate(widest))
    tagger = Tagger.__new__(Tagger)
    # the model has the classes in another order
    tagger.models = [LoadedModel(net, ["rain", "dog"], front_end, "sigmoid", frame_thresholds=[rain, dog])]
    tagger.label_names, tagger.thresholds, tagger.num_frames = ["rain", "dog"], None, 48
    ours = found.found(np.array([dog, rain]), Rules(low=1.0))
    assert len(ours) > 12
    for name in "abcd":
        theirs = tagger.events(root / f"{name}.wav", rules=Rules(low=1.0))
        own = sorted(event for event in ours if event.file == name)
        assert [(e.label, e.onset_s, e.offset_s) for e in own] == [
            (e.label, pytest.approx(e.onset_s), pytest.approx(e.offset_s))
            for e in sorted(theirs, key=own_order)
        ]


def own_order(event: Event) -> tuple:
    return event.onset_s, event.offset_s, event.label
