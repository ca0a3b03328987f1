"""Cutting, batching and telling: windows against their definition, files in one batch, damage, live sound,
tables and pictures.
"""

import contextlib
import csv
import dataclasses
import io
import itertools
import json
import re
import shlex
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import soundfile
from flax import nnx

from ast_jax.commands import invoke
from ast_jax.errors import InputError
from ast_jax.features import AudioError, Kaldi, log_mel
from ast_jax.inference import answers, files, predict, timeline
from ast_jax.inference.ahead import OPEN, readers
from ast_jax.inference.answers import Tags
from ast_jax.inference.windows import BATCH, Grid, cut, hear
from ast_jax.models import AST, ASTConfig
from ast_jax.weights import LoadedModel

ROOT = Path(__file__).resolve().parents[1]
RATE = 16_000
CONFIG = ASTConfig(num_classes=3, num_frames=16, width=8, depth=1, num_heads=1, strides=(16, 16))
GRID = Grid.of(Kaldi(), 16)  # windows of 2800 samples, 1400 apart


def loudness(fbank, lengths):
    """A model for these tests: what it says depends on the window alone.

    [B, 2]: mean feature, frames of sound.
    """
    return np.stack([fbank.mean(axis=(1, 2)), lengths], axis=1)


@pytest.fixture(scope="module")
def sounds(tmp_path_factory):
    """Five files of very different lengths, one of them no sound, one cut short."""
    root, rng = tmp_path_factory.mktemp("sounds"), np.random.default_rng(0)
    for name, samples in (
        ("short", 900),
        ("one", 2800),
        ("long", 70_000),
        ("tail", 2801),
        ("broken", 30_000),
    ):
        soundfile.write(root / f"{name}.wav", rng.normal(0, 0.1, samples), RATE)
    data = (root / "broken.wav").read_bytes()
    (root / "broken.wav").write_bytes(data[: len(data) // 2])
    (root / "text.wav").write_text("no sound")
    return root


@pytest.fixture(scope="module")
def loaded():
    model = AST(CONFIG, rngs=nnx.Rngs(0))
    return LoadedModel(model, ["dog", "rain", "bell"], model.front_end.with_statistics(-4.0, 4.0), "softmax")


@pytest.fixture
def tagger(loaded, monkeypatch):
    monkeypatch.setattr(predict, "load_model", lambda source, **_: loaded)
    return predict.Tagger(["m"])


@pytest.mark.parametrize("samples", [1, 399, 2799, 2800, 2801, 4200, 4201, 9999])
@pytest.mark.parametrize("pieces", [1, 7])
@pytest.mark.parametrize("hop", [700, 1400, 2800])
def test_windows_cover_a_sound_and_no_more(samples, pieces, hop):
    sound = np.random.default_rng(1).normal(0, 0.1, samples).astype(np.float32)
    grid = Grid(2800, hop, 16, Kaldi())
    found = list(cut(np.array_split(sound, pieces), grid))
    starts = [round(window.start_s * RATE) for window in found]
    whole, rest = divmod(max(0, samples - 2800), hop)
    new = rest >= 400  # a frame: less is no window of its own
    assert starts == [hop * i for i in range(1 + whole + new)]
    assert len(found) == grid.count(samples / RATE)
    assert found[-1].end_s == min(samples, starts[-1] + 2800) / RATE
    for start, window in zip(starts, found, strict=True):
        np.testing.assert_array_equal(window.fbank, log_mel(sound[start : start + 2800]))


@pytest.mark.parametrize(
    ("options", "said"),
    [({"window_s": 1.0}, "0.175"), ({"hop_s": 0.2}, "unheard"), ({"hop_s": 0.0}, "hop_s is 0")],
)
def test_windows_that_cannot_be_are_refused(options, said):
    with pytest.raises(InputError, match=said):
        Grid.of(Kaldi(), 16, **options)


def test_files_share_batches_of_one_shape_and_come_out_in_order(sounds):
    shapes = []

    def forward(fbank, lengths):
        shapes.append((fbank.shape, lengths.shape))
        return loudness(fbank, lengths)

    names = ["short.wav", "broken.wav", "long.wav", "text.wav", "one.wav", "tail.wav"]
    found = list(hear([sounds / name for name in names], GRID, forward))
    assert [heard.file.name for heard in found] == names
    assert [heard.error and heard.error.reason for heard in found] == [
        None,
        "truncated",
        None,
        "not audio",
        None,
        None,
    ]
    assert set(shapes) == {((BATCH, 16, 128), (BATCH,))}
    whole = [heard for heard in found if heard.error is None]
    assert [len(heard.answers) for heard in whole] == [1, 49, 1, 1]
    for heard in whole:  # each window's answer is what it gives alone, with zero rows past its end
        sound, _ = soundfile.read(heard.file, dtype="float32")
        for start, answer in zip(heard.starts_s, heard.answers, strict=True):
            fbank = log_mel(sound[round(start * RATE) :][:2800])
            padded = np.pad(fbank, ((0, 16 - len(fbank)), (0, 0)))
            np.testing.assert_allclose(answer, [padded.mean(), len(fbank)], rtol=1e-5)


def test_a_finished_file_does_not_wait_for_the_next_ones(sounds):
    """Two batches are in flight at most and a few files open: the first is out before the last is opened."""
    opened = []

    def named():
        for name in ["long.wav"] * 20:
            opened.append(name)
            yield sounds / name

    first = next(hear(named(), GRID, loudness))
    assert len(first.answers) == 49
    assert len(opened) <= OPEN + 2


def test_files_are_decoded_side_by_side_and_come_in_order(monkeypatch):
    """The first of each pair ends only when the second has begun: one at a time would wait for ever."""
    monkeypatch.setattr("ast_jax.inference.ahead.OPEN", 2)
    begun = [threading.Event() for _ in range(7)]

    def read(number, tell):
        begun[number].set()
        if number < 6:
            assert begun[number + 1].wait(timeout=20)
        tell(f"note {number}")
        yield from range(10)
        if number == 3:
            raise AudioError("3.wav: is odd", "damaged")

    found: list[list] = []
    for reader in readers(range(7), read):
        found.append([])
        try:
            found[-1].extend(reader)
        except AudioError as error:
            found[-1].append(str(error))
        assert reader.notes == [f"note {reader.file}"]
    assert found == [[*range(10), *["3.wav: is odd"] * (number == 3)] for number in range(7)]


def test_threads_end_with_who_listens():
    def endless(file, tell):
        yield from itertools.count()

    listened = readers(range(9), endless)
    next(iter(next(listened)))
    threads = [thread for thread in threading.enumerate() if thread.name == "decoder"]
    assert len(threads) >= 2
    listened.close()
    for thread in threads:
        thread.join(timeout=20)
        assert not thread.is_alive()


def test_one_short_clip_is_not_computed_eight_times():
    assert files.batch_size_for([0.1], GRID) == 1
    assert files.batch_size_for([0.1, 0.2, 0.0], GRID) == 4  # a file that cannot be opened counts as one
    assert files.batch_size_for([10.0], GRID) == BATCH


def test_directories_are_searched_and_empty_ones_refused(sounds, tmp_path):
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(InputError, match="holds no sound files"):
        files.sound_files([tmp_path])
    found = files.sound_files([sounds, tmp_path / "x.bin"])
    assert [path.name for path in found] == [
        "broken.wav",
        "long.wav",
        "one.wav",
        "short.wav",
        "tail.wav",
        "text.wav",
        "x.bin",
    ]


def test_the_command_in_all_its_forms(tagger, sounds, tmp_path, capsys):
    """Broken files are reported, the others done; text, JSON and CSV tell the same."""
    plot = tmp_path / "plots" / "out.png"
    with pytest.raises(SystemExit) as status:
        invoke("predict", ["--model=m", "--json", "--top=2", f"--plot={plot}", str(sounds)])
    out, err = capsys.readouterr()
    assert status.value.code == 1
    assert "broken.wav: truncated" in err
    assert "2 of 6 files could not be tagged" in err
    rows = {row["file"].rpartition("/")[2]: row for row in map(json.loads, out.splitlines())}
    assert list(rows) == ["long.wav", "one.wav", "short.wav", "tail.wav"]
    long = rows["long.wav"]
    assert (long["end_s"], len(long["windows"]), len(long["tags"])) == (4.375, 49, 2)
    best = long["tags"][0]
    assert best["score"] == pytest.approx(np.mean(best["timeline"]), abs=1e-4)
    assert long["windows"][-1]["end_s"] == 4.375
    assert sorted(path.name for path in plot.parent.iterdir()) == [
        f"out-{n}-{name}.png" for n, name in ((2, "long"), (3, "one"), (4, "short"), (5, "tail"))
    ]

    invoke("predict", ["--model=m", "--csv", str(sounds / "long.wav"), str(sounds / "one.wav")])
    table = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert len(table) == 50
    column = [float(row[best["label"]]) for row in table if row["file"].endswith("long.wav")]
    np.testing.assert_allclose(column, best["timeline"], atol=1.01e-4)

    invoke("predict", ["--model=m", "--threshold=0", str(sounds / "long.wav")])
    assert f"{best['label']}" in (text := capsys.readouterr().out)
    assert "0.0-4.4 s" in text
    invoke("predict", ["--model=m", "--threshold=0", str(sounds / "one.wav")])
    assert not re.search(r"\d-\d", capsys.readouterr().out), "of one window it need not be said when"


def test_a_live_stream_gives_the_windows_of_the_file(tagger, sounds, monkeypatch, capsys):
    samples, _ = soundfile.read(sounds / "long.wav", dtype="int16")

    class Pipe(io.BytesIO):
        """Gives an odd number of bytes at a time: samples are cut in two."""

        def read1(self, size=-1):
            return super().read1(min(size, 1001))

    pipe = Pipe(samples.astype("<i2").tobytes())
    monkeypatch.setattr("sys.stdin", type("Stdin", (), {"buffer": pipe}))
    invoke("predict", ["--model=m", "--stdin", "--csv"])
    streamed = capsys.readouterr().out.splitlines()
    invoke("predict", ["--model=m", "--csv", str(sounds / "long.wav")])
    from_file = capsys.readouterr().out.splitlines()
    numbers = lambda lines: np.array([line.split(",")[1:] for line in lines[1:]], float)
    np.testing.assert_allclose(numbers(streamed), numbers(from_file), atol=1e-3)


def test_a_live_window_is_told_before_the_next_sample_is_asked_for(tagger):
    def blocks():
        yield np.zeros(2800, np.float32)
        pytest.fail("waited for more sound than the window needs")

    assert next(tagger.listen(blocks(), tagger.grid())).ends_s[0] == pytest.approx(0.175)


def test_spans_are_runs_of_windows_above_the_threshold():
    scores = np.array([[0.9], [0.5], [0.2], [0.7]])
    tags = Tags(np.arange(4.0), np.array([2.0, 3.0, 4.0, 4.5]), 2.0, scores)
    assert answers.spans(tags, 0, 0.5) == [[0.0, 3.0], [3.0, 4.5]]
    assert answers.spans(tags, 0, 0.95) == []


def test_members_of_an_ensemble_must_go_together(loaded, monkeypatch):
    """In labels, length, front end and channels; the statistics of its features are each member's own."""
    longer = AST(dataclasses.replace(CONFIG, num_frames=32), rngs=nnx.Rngs(0))
    wrong = {
        "b has other labels": {"label_names": ["dog", "rain", "car"]},
        "b hears another length": {"model": longer},
        "b has another front end": {"front_end": Kaldi(num_mel_bins=64)},
        "b mixes channels otherwise": {"channels": "first"},
    }
    for said, change in wrong.items():
        members = {"a": loaded, "b": dataclasses.replace(loaded, **change)}
        monkeypatch.setattr(predict, "load_model", members.get)
        with pytest.raises(InputError, match=f"{said} than a: an ensemble needs the same"):
            predict.Tagger(["a", "b"])
    members["b"] = dataclasses.replace(loaded, front_end=loaded.front_end.with_statistics(0.0, 1.0))
    predict.Tagger(["a", "b"])


def test_the_strip_of_a_file_is_its_spectrogram_averaged_over_time(sounds):
    columns, column_s = timeline.strip(sounds / "long.wav", GRID, columns=60)
    sound, _ = soundfile.read(sounds / "long.wav", dtype="float32")
    fbank = log_mel(sound)
    each = round(column_s * 100)
    assert each == 8
    whole = len(fbank) // each
    np.testing.assert_allclose(
        columns[:whole], fbank[: whole * each].reshape(whole, each, 128).mean(axis=1), atol=1e-3
    )
    assert len(columns) - whole in (0, 1)


def test_the_heat_map_spans_the_sound():
    tags = Tags(np.array([0.0, 1.0, 2.0]), np.array([2.0, 3.0, 3.2]), 2.0, np.ones((3, 1)))
    np.testing.assert_allclose(timeline.cell_edges(tags), [0, 1.5, 2.5, 3.2])


def test_a_reader_that_has_enough_ends_the_command_quietly():
    code = "from ast_jax.main import run\nrun(lambda argv: [print(i) for i in range(100_000)], [])"
    done = subprocess.run(
        f"{shlex.quote(sys.executable)} -c {shlex.quote(code)} | head -1; exit ${{PIPESTATUS[0]}}",
        shell=True,
        executable="/bin/bash",
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert (done.stdout, done.stderr, done.returncode) == ("0\n", "", 141)


@pytest.fixture
def recorders(tmp_path):
    """Three files: two microphones that hear different things, one microphone, and one whose sound is cut."""
    rng, directory = np.random.default_rng(3), tmp_path / "recorders"
    directory.mkdir()
    stereo = rng.normal(0, 0.1, (7000, 2))
    stereo[:, 1] *= 0.01
    soundfile.write(directory / "a.wav", stereo, RATE)
    soundfile.write(directory / "b.wav", stereo[:3000, 0], RATE)
    soundfile.write(directory / "cut.wav", stereo, RATE)
    (directory / "cut.wav").write_bytes((directory / "cut.wav").read_bytes()[:9000])
    return directory


def told_by(capsys, *arguments: str) -> tuple[str, str]:
    with contextlib.suppress(SystemExit):
        invoke("predict", ["--model=m", *arguments])
    return capsys.readouterr()


@pytest.mark.usefixtures("tagger")
def test_each_channel_is_told_as_a_file_of_its_own_would_be(recorders, tmp_path, capsys):
    """Against files of one channel, tagged by themselves."""
    stereo, _ = soundfile.read(recorders / "a.wav", always_2d=True)
    singles = [tmp_path / f"{number}.wav" for number in (1, 2)]
    for number, single in enumerate(singles):
        soundfile.write(single, stereo[:, number], RATE)
    alone, _ = told_by(capsys, "--json", *map(str, singles), str(recorders / "b.wav"))
    out, err = told_by(capsys, "--json", "--channels=each", str(recorders))
    rows, wanted = [json.loads(line) for line in out.splitlines()], [*map(json.loads, alone.splitlines())]
    assert [list(row)[:3] for row in rows] == [["file", "channel", "start_s"]] * 3
    whose = [(Path(row.pop("file")).name, row.pop("channel")) for row in rows]
    assert whose == [("a.wav", 1), ("a.wav", 2), ("b.wav", 1)]
    for row in wanted:
        del row["file"]
    assert rows == wanted
    assert rows[0]["tags"] != rows[1]["tags"]
    assert "cut.wav: truncated" in err
    assert err.endswith("1 of 4 channels could not be tagged\n")


@pytest.mark.usefixtures("tagger")
def test_forms_name_the_channel_only_where_each_is_asked_for(recorders, capsys):
    file = str(recorders / "a.wav")
    out, _ = told_by(capsys, "--csv", "--channels=each", file)
    rows = list(csv.DictReader(io.StringIO(out)))
    assert list(rows[0]) == ["file", "channel", "start_s", "end_s", "dog", "rain", "bell"]
    assert [row["channel"] for row in rows] == ["1"] * 4 + ["2"] * 4
    out, _ = told_by(capsys, "--channels=each", file)
    assert re.findall(r"^\S.*$", out, re.M) == [f"{file}  channel 1", f"{file}  channel 2"]
    plain, _ = told_by(capsys, "--csv", file)
    assert plain.splitlines()[0] == "file,start_s,end_s,dog,rain,bell"
    assert '"channel"' not in told_by(capsys, "--json", file)[0]
    assert "channel 1" not in told_by(capsys, file)[0]


@pytest.mark.usefixtures("tagger")
def test_another_way_to_hear_channels_than_the_models(recorders, capsys):
    file = str(recorders / "a.wav")
    heard = lambda way: [
        json.loads(line)["tags"]
        for line in told_by(capsys, "--json", f"--channels={way}", file)[0].splitlines()
    ]
    each = heard("each")
    assert heard("first") == heard("loudest") == each[:1]
    assert heard("mean")[0] not in each
    for flags in (["--stdin"], [file, "--plot=x.png"], [file, "--events"]):
        with pytest.raises(InputError, match="--channels=each is of tags of files"):
            invoke("predict", ["--model=m", "--channels=each", *flags])
