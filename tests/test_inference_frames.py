"""When sounds are heard: steps put together over windows, models with and without them, long files, work that
is stopped.
"""

import dataclasses
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
import soundfile
from flax import nnx

from ast_jax.commands import invoke
from ast_jax.commands.events import Progress, _table_names
from ast_jax.errors import InputError
from ast_jax.events import FORMS, Decoder, Rules, read_events, read_files
from ast_jax.features import REFERENCE
from ast_jax.inference.frames import Steps, Track, events_of, live_events, steps_of
from ast_jax.inference.predict import Tagger
from ast_jax.inference.windows import Grid, Heard
from ast_jax.models import AST, ASTConfig, build, host_variables, set_variables
from ast_jax.models.base import family
from ast_jax.weights import LoadedModel, load_model
from ast_jax.weights.convert import save

ROOT = Path(__file__).resolve().parents[1]
CONFIG = ASTConfig(
    num_classes=3,
    num_frames=48,
    width=8,
    depth=1,
    num_heads=1,
    patch_shape=(128, 4),
    strides=(1, 4),
    head="frames",
)
RULES = Rules(low=1.0, min_gap_s=0.1)
# of steps
STEPS = [0.5, None, 0.9]


def model(seed: int = 0, **changes) -> LoadedModel:
    """Weights at 2, so that scores differ from step to step."""
    net, rng = AST(ASTConfig(**{**vars(CONFIG), **changes}), rngs=nnx.Rngs(seed)), np.random.default_rng(seed)
    set_variables(net, {k: rng.normal(0, 2, v.shape).astype("f4") for k, v in host_variables(net).items()})
    return LoadedModel(net, ["dog", "rain", "bell"], net.front_end.with_statistics(-4.0, 4.0), "sigmoid")


def tagger(*models: LoadedModel) -> Tagger:
    """Of models in memory."""
    made = Tagger.__new__(Tagger)
    made.models, made.label_names, made.thresholds = list(models), models[0].label_names, None
    made.num_frames = models[0].model.config.num_frames
    return made


def noise(seconds: float, seed: int = 0) -> np.ndarray:
    """That comes and goes."""
    rng, size = np.random.default_rng(seed), round(16_000 * seconds)
    loud = np.repeat(rng.random(size // 4000 + 1) ** 3, 4000)[:size]
    return (0.3 * loud * rng.normal(size=size)).astype(np.float32)


@pytest.mark.parametrize("hop_steps", [1, 5, 10])
def test_windows_that_say_the_truth_give_it_back_whatever_their_hop(hop_steps):
    rng, each, num, total = np.random.default_rng(0), 640, 10, 60
    truth, thresholds = rng.random((total, 2)) ** 2, np.array([0.5, 0.3])
    grid = Grid(num * each, hop_steps * each, 40, REFERENCE)
    steps = Steps(grid, num, each, each / 2, lambda *_: None, lambda frames: num)
    heard, wanted = Heard("a.wav"), Decoder(RULES, thresholds, steps.step_s)
    track = Track(heard, steps, Decoder(RULES, thresholds, steps.step_s), ["x", "y"])
    for start in range(0, total - num + 1, hop_steps):
        heard.starts_s.append(start * each / 16_000)
        heard.ends_s.append((start + num) * each / 16_000)
        track.append(truth[start : start + num])
    stretches = sorted([*wanted.push(truth), *wanted.end()], key=lambda s: (s.start, s.label))
    found = [(e.label, round(e.onset_s / steps.step_s), e.score) for e in track.end()]
    assert found == [("xy"[s.label], s.start, pytest.approx(s.score)) for s in stretches]


def test_a_models_steps_are_where_its_patches_are():
    steps = steps_of(tagger(model()))
    # patches of 4 frames: 12 a window, 40 ms apart; the first one's middle is that of 4 frames of 25 ms
    assert (steps.num, steps.step_s, steps.note) == (12, 0.04, "")
    assert steps.first / 16_000 == pytest.approx((0.030 + 0.025) / 2)
    assert steps.grid.hop % steps.each == 0
    assert steps.heard(48) == 12
    assert steps.heard(7) == 2


def test_a_burst_is_found_where_it_is():
    """By a model whose head measures loudness: the head reads the bias that loud patches leave."""
    loaded = model()
    arrays = {k: np.zeros_like(v) for k, v in host_variables(loaded.model).items()}
    arrays["patch_embed/kernel"][..., 0] = 1 / 512
    arrays["norm/scale"] += 1
    arrays["head_norm/scale"] += 1
    arrays["pos_embed"][..., 1] = 1.0
    arrays["head/kernel"][0] = 5.0
    set_variables(loaded.model, arrays)
    sound = 1e-4 * np.random.default_rng(0).normal(size=16_000 * 6)
    for start, end in ((1.0, 1.5), (3.2, 4.4)):
        sound[round(16_000 * start) : round(16_000 * end)] *= 3000
    events = tagger(loaded).events((sound, 16_000), threshold=0.9)
    assert {e.label for e in events} == {"dog", "rain", "bell"}
    times = sorted({(round(e.onset_s, 2), round(e.offset_s, 2)) for e in events})
    assert len(times) == 2
    for (onset, offset), (start, end) in zip(times, ((1.0, 1.5), (3.2, 4.4)), strict=True):
        assert abs(onset - start) <= 0.04
        assert abs(offset - end) <= 0.04


def test_a_model_of_clips_is_heard_in_short_windows_and_says_so():
    steps = steps_of(tagger(model(head="clip")), window_s=0.2, hop_s=0.05)
    assert (steps.num, steps.step_s) == (1, 0.05)
    assert "judges clips, not steps of time: heard in windows of 0.2 s, 0.05 s apart" in steps.note
    events = tagger(model(head="clip")).events((noise(2.0), 16_000), window_s=0.2, hop_s=0.05)
    assert events
    assert all(0 <= e.onset_s < e.offset_s <= 2.0 for e in events)
    with pytest.raises(InputError, match="between two windows would go unheard"):
        steps_of(tagger(model(head="clip")), window_s=0.1, hop_s=0.3)


@pytest.mark.parametrize(("name", "num"), [("cnn14_decision_att", 4), ("cnn6", 1)])
def test_other_families_are_heard_by_their_own_steps_or_in_windows(name, num):
    kind = family(name).Config
    channels = (4,) * len(kind(num_classes=3).channels)
    net = build(name, kind(num_classes=3, num_frames=130, channels=channels))
    made = tagger(LoadedModel(net, ["dog", "rain", "bell"], net.front_end, "sigmoid"))
    steps = steps_of(made)
    clip = np.zeros((1, 130, steps.grid.front_end.num_mel_bins), np.float32)
    assert np.asarray(steps.forward(clip, np.array([130]))).shape == (1, num, 3)
    # 32 frames of 10 ms a step; windows of clips are .2 s apart
    assert (steps.num, steps.step_s) == (num, pytest.approx(0.32 if num > 1 else 0.2))
    assert bool(steps.note) == (num == 1)
    events = made.events((noise(4.0), 16_000), threshold=0.0)
    assert {(e.label, e.onset_s, round(e.offset_s, 2)) for e in events} == {
        (label, 0.0, 4.0) for label in ("dog", "rain", "bell")
    }


def test_an_ensemble_hears_the_mean_of_its_models_steps():
    models = [model(0), model(1)]
    fbank = np.random.default_rng(0).normal(-4, 4, (2, 48, 128)).astype(np.float32)
    alone = [np.asarray(steps_of(tagger(m)).forward(fbank, np.array([48, 48]))) for m in models]
    both = steps_of(tagger(*models)).forward(fbank, np.array([48, 48]))
    np.testing.assert_allclose(both, np.mean(alone, axis=0), atol=1e-6)
    frames = models[0].model(models[0].front_end.normalise(jnp.asarray(fbank)))[1]["frames"]
    np.testing.assert_allclose(alone[0], 1 / (1 + np.exp(-np.asarray(frames))), atol=1e-5)


def test_a_live_sound_gives_the_same_events_as_its_file():
    sound, made = noise(7.3), tagger(model())
    steps, thresholds = steps_of(made), [0.5] * 3
    blocks = np.split(sound, np.sort(np.random.default_rng(0).integers(0, len(sound), 20)))
    live = sorted(live_events(iter(blocks), made, steps, RULES, thresholds))
    whole = sorted(made.events((sound, 16_000), rules=RULES))
    assert len(live) > 5
    for ours, theirs in zip(live, whole, strict=True):
        assert ours.label == theirs.label
        assert ours[1:3] == pytest.approx(theirs[1:3], abs=1e-6)


def test_a_live_sounds_events_are_printed_as_they_end(saved, tmp_path, monkeypatch, capsys):
    sound, piece = tmp_path / "live.wav", 1600
    soundfile.write(sound, noise(7.3), 16_000)
    flags = ["--model", str(saved), "--events", "--low=1", "--min_gap_s=0.1"]
    invoke("predict", [*flags, str(sound)])
    wanted = capsys.readouterr().out.replace(str(sound), "<stdin>").splitlines()
    # buffered as a pipe is: what is not flushed is not seen
    written, seen = io.BytesIO(), {}

    class Pipe(io.BytesIO):
        def read1(self, size=-1):
            heard_s = max(0, self.tell() - 44) / 32_000
            for row in written.getvalue().decode().splitlines():
                seen.setdefault(row, heard_s)
            return super().read1(2 * piece)

    monkeypatch.setattr("sys.stdin", type("Stdin", (), {"buffer": Pipe(sound.read_bytes())}))
    monkeypatch.setattr("sys.stdout", out := io.TextIOWrapper(written, "utf-8"))
    invoke("predict", [*flags, "--stdin"])
    out.flush()
    late_s = float(re.search(r"an event is told up to (\S+) s after its end", capsys.readouterr().err)[1])
    assert sorted(written.getvalue().decode().splitlines()) == sorted(wanted)
    ends_s = {row: float(row.split("\t")[2]) for row in wanted[1:]}
    in_time = [row for row, end_s in ends_s.items() if end_s + late_s < 7]
    assert len(in_time) >= 4
    assert all(seen[row] - ends_s[row] <= late_s + 2 * piece / 16_000 for row in in_time)


def test_memory_does_not_grow_with_a_file(tmp_path):
    """Of NumPy and Python, beside the events themselves: of eight minutes as of two."""
    made = tagger(model())
    steps, peaks = steps_of(made), []
    for minutes in (2, 8):
        soundfile.write(tmp_path / "long.wav", noise(60 * minutes), 16_000, subtype="PCM_16")
        tracemalloc.start()
        ((heard, events),) = events_of([tmp_path / "long.wav"], made, steps, RULES, [2.0] * 3)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert heard.error is None
        assert not events
        assert len(heard.answers) > 100 * minutes
    # two times and two lists' places a window
    assert peaks[1] < peaks[0] + 1e6


def test_events_are_from_the_thresholds_of_steps_and_a_line_says_whose_they_are():
    one, other, bare = model(0), model(1), model(2)
    one.frame_thresholds, other.frame_thresholds = [0.2, None, 0.4], [0.6, 0.5, 0.5]
    # those of clips are of another scale
    one.thresholds = bare.thresholds = [0.1] * 3
    thresholds, line = tagger(one).events_from()
    assert thresholds == [0.2, 0.5, 0.4]
    assert line == "thresholds of events: each label's own of steps, 0.2 to 0.5; 0.5 for 1 labels without one"
    thresholds, line = tagger(one, other).events_from()
    assert thresholds == pytest.approx([0.4, 0.5, 0.45])
    assert "own of steps, the mean of the models', 0.4 to 0.5" in line
    for made, lacking in ((tagger(bare), "the model has"), (tagger(one, bare), "not every model has")):
        line = f"thresholds of events: 0.5, {lacking} none of its own for steps"
        assert made.events_from() == ([0.5] * 3, line)
    assert tagger(one).events_from(0.7) == ([0.7] * 3, "thresholds of events: 0.7, as asked for")
    clips = tagger(model(head="clip"))
    assert clips.events_from()[1] == "thresholds of events: 0.5, the model has none of its own for clips"
    clips.thresholds = [0.1, 0.2, 0.3]
    assert clips.events_from() == (
        [0.1, 0.2, 0.3],
        "thresholds of events: each label's own of clips, 0.1 to 0.3",
    )


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("model") / "frames"
    save(dataclasses.replace(model(), frame_thresholds=STEPS), path, facts={"source": "here"})
    return path


def test_thresholds_of_steps_go_with_a_model_and_its_own_head_alone(saved, many, capsys):
    assert json.loads((saved / "model_card.json").read_text())["frame_thresholds"] == STEPS
    assert load_model(saved).frame_thresholds == STEPS
    assert load_model(saved, label_names=["a", "b"]).frame_thresholds is None
    invoke("predict", ["--model", str(saved), str(many / "003.wav"), "--events", "--form=json"])
    told = capsys.readouterr()
    assert "each label's own of steps, 0.5 to 0.9; 0.5 for 1 labels without one" in told.err
    scores = {event["label"]: event["score"] for event in json.loads(told.out)}
    assert scores.get("bell", 0.9) >= 0.9


@pytest.fixture(scope="module")
def many(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("many")
    for number in range(150):
        soundfile.write(root / f"{number:03d}.wav", noise(0.4, number), 16_000)
    (root / "000b.wav").write_bytes(b"RIFF, and no more")
    return root


def test_the_command_writes_each_form(saved, many, tmp_path, capsys):
    invoke("predict", ["--model", str(saved), str(many / "003.wav"), "--events", "--form=json"])
    rows = json.loads(capsys.readouterr().out)
    assert {"file", "onset_s", "offset_s", "label", "score"} == set(rows[0])
    for form in ("tsv", "csv", "raven", "audacity"):
        out = tmp_path / f"out_{form}"
        files = [str(many / f"{n:03d}.wav") for n in range(5)]
        invoke("predict", ["--model", str(saved), *files, "--events", f"--form={form}", f"--out={out}"])
        tables = sorted(out.iterdir()) if out.is_dir() else [out]
        found = [event for table in tables for event in read_events(table)]
        assert [e.label for e in found if "003" in e.file or form == "audacity"]
        assert len(tables) == (5 if form in ("raven", "audacity") else 1)
        assert not out.with_name(out.name + ".part").exists()
        capsys.readouterr()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--events", "--json"], "without --json and --csv"),
        (["--low=0.5"], "are of events: give --events too"),
        (["--events", "--form=raven"], "of one file: give --out=DIRECTORY for 151"),
        (["--events", "--low=0"], "--low: got '0', wanted a number, above 0"),
        (["--events", "--form=xml"], "invalid choice: 'xml'"),
    ],
)
def test_flags_that_do_not_fit_are_refused(saved, many, flags, message):
    with pytest.raises(InputError, match=message):
        invoke("predict", ["--model", str(saved), str(many), *flags])


def test_work_that_is_killed_goes_on_and_has_every_file_once(saved, many, tmp_path):
    def command(out: Path) -> list[str]:
        flags = ["--model", str(saved), str(many), "--events", f"--out={out}"]
        return [sys.executable, "-m", "ast_jax", "predict", *flags]

    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    whole, out = tmp_path / "whole.tsv", tmp_path / "out.tsv"
    # status 1: one of the files is no sound
    first = subprocess.run(command(whole), env=environment, capture_output=True, text=True, check=False)
    assert first.returncode == 1, first.stderr
    process = subprocess.Popen(command(out), env=environment, stderr=subprocess.DEVNULL)
    part = tmp_path / "out.tsv.part"
    while process.poll() is None and not (part.exists() and part.read_bytes().count(b"\n") > 40):
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.wait()
    if process.returncode == -signal.SIGKILL:
        # as if in the middle of a line
        part.write_bytes(part.read_bytes()[:-3])
        done = part.read_bytes().count(b"\n") - 1
        second = subprocess.run(command(out), env=environment, capture_output=True, text=True, check=False)
        assert second.returncode == 1
        assert f"{done} files were heard before; {151 - done} are left" in second.stderr
    assert out.read_text() == whole.read_text()
    assert not part.exists()
    part.write_text(json.dumps({"other": "settings"}) + "\n")
    third = subprocess.run(command(out), env=environment, capture_output=True, text=True, check=False)
    assert third.returncode == 2
    assert "is of another model or other settings: give another --out, or delete it" in third.stderr
    assert out.read_text() == whole.read_text()


def stopped(monkeypatch, argv: list[str], after: int) -> None:
    """`predict` on so many files and no more."""
    add = Progress.add

    def adding(self, file, events):
        add(self, file, events)
        if len(self.done) == after:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Progress, "add", adding)
        with pytest.raises(KeyboardInterrupt):
            invoke("predict", argv)


def test_a_file_that_changed_is_heard_again_and_pictures_keep_their_numbers(
    saved, many, tmp_path, monkeypatch, capsys
):
    files = [tmp_path / f"{name}.wav" for name in "abc"]
    for number, file in enumerate(files):
        shutil.copy(many / f"{number:03d}.wav", file)
    argv = ["--model", str(saved), *map(str, files), "--events", f"--out={tmp_path / 'out.tsv'}"]
    argv += [f"--plot={tmp_path / 'p.png'}"]
    # twice
    stopped(monkeypatch, argv, after=1)
    stopped(monkeypatch, argv, after=2)
    with pytest.raises(InputError, match="is of another model or other settings"):
        invoke("predict", [*argv, "--channels=first"])
    shutil.copy(many / "007.wav", files[0])
    capsys.readouterr()
    invoke("predict", argv)
    told = capsys.readouterr().err.splitlines()
    assert told[0].startswith("thresholds of events: ")
    assert told[1:3] == [
        "1 files have changed since: they are heard again",
        "1 files were heard before; 2 are left",
    ]
    assert sorted(path.name for path in tmp_path.glob("p*")) == ["p-1-a.png", "p-2-b.png", "p-3-c.png"]
    again = tmp_path / "again.tsv"
    invoke("predict", [*argv[:-2], f"--out={again}"])
    assert (tmp_path / "out.tsv").read_text() == again.read_text()
    # the same bytes at another time, and others at the same time
    stopped(monkeypatch, argv, after=3)
    os.utime(files[0])
    at = files[1].stat().st_mtime_ns
    soundfile.write(files[1], noise(0.5), 16_000)
    os.utime(files[1], ns=(at, at))
    invoke("predict", argv)
    assert "2 files have changed" in capsys.readouterr().err


def test_the_output_is_of_the_files_that_are_named(saved, many, tmp_path, monkeypatch, capsys):
    first, second = (str(many / f"{number:03d}.wav") for number in (3, 4))
    argv = ["--model", str(saved), "--events", f"--out={tmp_path / 'out.tsv'}"]
    stopped(monkeypatch, [*argv, first], after=1)
    stopped(monkeypatch, [*argv, second], after=1)
    # a stop in between loses neither
    invoke("predict", [*argv, first])
    assert capsys.readouterr().err.splitlines()[-3:] == [
        "1 files that were heard before are not named now: left out",
        "1 files were heard before; 0 are left",
        "1 files, 0 of them without events",
    ]
    assert [*read_files(tmp_path / "out.tsv")] == [first]


@pytest.mark.parametrize("form", FORMS)
def test_every_file_is_in_the_output_once_without_events_too(saved, many, tmp_path, capsys, form):
    sounds = tmp_path / "sounds"
    for name in ("S1/x", "S2/x", "S2/quiet"):
        (sounds / name).parent.mkdir(parents=True, exist_ok=True)
        sound = np.zeros(6400) if name == "S2/quiet" else noise(0.4, 3)
        soundfile.write(sounds / f"{name}.wav", sound, 16_000)
    argv = ["--model", str(saved), str(sounds), "--events", f"--form={form}"]
    # the random model calls silence something: what is above all of its scores is left
    one = Tagger(saved).events(str(sounds / "S2/quiet.wav"), threshold=0.0)
    argv += [f"--threshold={max(event.score for event in one) + 1e-4}"]
    invoke("predict", [*argv, f"--out={tmp_path / 'out'}"])
    told = capsys.readouterr()
    found = read_files(tmp_path / "out" if form in ("audacity", "raven") else out_of(tmp_path, form))
    assert sorted(Path(file).with_suffix("").name for file in found) == ["quiet", "x", "x"]
    assert {Path(file).with_suffix("").name for file, events in found.items() if not events} == {"quiet"}
    assert "3 files, 1 of them without events" in told.err
    if form in ("audacity", "raven"):
        assert (tmp_path / f"out/S1/x{FORMS[form]}").is_file()
        return
    invoke("predict", argv)
    assert capsys.readouterr().out == (tmp_path / "out").read_text()


def out_of(folder: Path, form: str) -> Path:
    """The output under a name that says its form."""
    return Path(shutil.copy(folder / "out", folder / f"out{FORMS[form]}"))


def test_files_that_differ_in_their_endings_have_a_table_each():
    assert _table_names(["/a/x.wav", "/a/y.wav"]) == {"/a/x.wav": "x", "/a/y.wav": "y"}
    assert [*_table_names(["/a/1/x.wav", "/a/x.wav"]).values()] == ["1/x", "x"]
    assert [*_table_names(["/a/x.wav", "/a/x.mp3"]).values()] == ["x.wav", "x.mp3"]
    long = [f"/a/{'x' * 100}{end}.wav" for end in "ab"]
    assert [name[:8] for name in _table_names(long).values()] == ["000000-x", "000001-x"]


def test_events_are_drawn_under_their_spectrograms(saved, many, tmp_path, capsys):
    files = [str(many / f"{n:03d}.wav") for n in range(2)]
    invoke("predict", ["--model", str(saved), *files, "--events", f"--plot={tmp_path / 'e.png'}"])
    assert capsys.readouterr().out.startswith("file\tonset")
    drawn = sorted(path.name for path in tmp_path.iterdir())
    assert drawn == ["e-1-000.png", "e-2-001.png"]
    assert all((tmp_path / name).read_bytes().startswith(b"\x89PNG") for name in drawn)
    # nothing heard at all is a picture too
    invoke(
        "predict",
        ["--model", str(saved), files[0], "--events", "--threshold=1.5", f"--plot={tmp_path / 'n.png'}"],
    )
    assert (tmp_path / "n.png").exists()
