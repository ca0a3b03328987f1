"""Worker processes: a decoder that crashes or hangs costs one clip; nothing outlives the caller."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import soundfile
from sound_trees import RATE, noise, write_wav

from ast_jax.datasets import extract, workers
from ast_jax.datasets.extract import Extraction
from ast_jax.datasets.listing import Clip

ROOT = Path(__file__).resolve().parents[1]


class OnArrival:
    """Calls a function in the process that unpickles it."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def kill_once(flag: str) -> str:
    """Kills the worker that unpickles it, as a machine out of memory does; the second time it is a path."""
    if not os.path.exists(flag):
        open(flag, "w").close()
        os.kill(os.getpid(), signal.SIGKILL)
    return flag.removesuffix(".flag")


def three_clips(tmp_path: Path, second: object) -> list[Clip]:
    """Three clips, `second` in place of the path of the second."""
    clips = [Clip(str(i), str(write_wav(tmp_path / f"{i}.wav", seed=i)), (0,)) for i in range(3)]
    object.__setattr__(clips[1], "path", second)
    return clips


def run(clips: list[Clip]) -> list:
    return [outcome for _, outcome in workers.outcomes(clips, Extraction(), 2)]


def test_a_decoder_that_crashes_costs_one_clip(tmp_path):
    first, second, third = run(three_clips(tmp_path, OnArrival(os.abort)))
    assert second == ("crashed", "the decoder ended with signal 6")
    assert [len(first), len(third)] == [1, 1]


def test_a_decoder_that_hangs_costs_one_clip(tmp_path, monkeypatch):
    monkeypatch.setattr(workers, "PATIENCE_S", 6.0)
    first, second, third = run(three_clips(tmp_path, OnArrival(time.sleep, 600)))
    assert second == ("timed out", "nothing came of it for 6 s")
    assert [len(first), len(third)] == [1, 1]


def test_a_worker_that_is_killed_from_outside_costs_none(tmp_path):
    flag = str(tmp_path / "1.wav.flag")
    assert [len(outcome) for outcome in run(three_clips(tmp_path, OnArrival(kill_once, flag)))] == [1, 1, 1]


def test_closing_does_not_wait_for_a_clip(tmp_path):
    """Ctrl-C: whatever the children are doing, they end."""
    clips = three_clips(tmp_path, OnArrival(time.sleep, 600))
    results = workers.outcomes(clips * 2, Extraction(), 2)
    next(results)
    time.sleep(0.5)
    began = time.monotonic()
    results.close()
    assert time.monotonic() - began < 5


def test_a_long_recording_is_cut_as_it_is_decoded(tmp_path, monkeypatch):
    """No more than a block and a piece of it is in memory before the pieces are made."""
    path = tmp_path / "long.flac"
    soundfile.write(path, noise(300 * RATE), RATE)
    monkeypatch.setattr(extract, "load_audio", None)
    blocks = []
    stream = extract.stream_audio

    def counted(*arguments, **form):
        for block in stream(*arguments, **form):
            blocks.append(len(block))
            yield block

    monkeypatch.setattr(extract, "stream_audio", counted)
    records = extract.extract(Clip("long", str(path), (0,)), Extraction("waveform", cut_s=10.0))
    assert next(records).id == "long@0"
    assert sum(blocks) <= 60 * RATE
    assert len(list(records)) == 29


@pytest.mark.parametrize(("cut_s", "limit"), [(None, "LONGEST_WHOLE_S"), (1.0, "LONGEST_CUT_S")])
def test_a_recording_that_would_fill_the_memory_is_told_from_its_header(tmp_path, monkeypatch, cut_s, limit):
    monkeypatch.setattr(extract, limit, 0.1)
    clip = Clip("1", str(write_wav(tmp_path / "1.wav")), (0,))
    outcome = workers.attempt(clip, Extraction(cut_s=cut_s))
    assert outcome.reason == "too long"
    assert "split the file, or cut it" in outcome.detail


HANGING = """
import sys, time
from ast_jax.datasets import Clip, workers
from ast_jax.datasets.extract import Extraction
class Hang:
    def __reduce__(self):
        return time.sleep, (600,)
clip = Clip("1", sys.argv[1], (0,))
stream = workers.outcomes([clip] * 3 + [Clip("2", Hang(), (0,))] * 9, Extraction(), 2)
next(stream)
print("started", flush=True)
next(stream), next(stream), next(stream)
"""


def test_a_child_that_hangs_ends_with_its_parent(tmp_path):
    command = [sys.executable, "-c", HANGING, str(write_wav(tmp_path / "1.wav"))]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"started\n"
        time.sleep(1)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        process.kill()
    assert len(children) == 2
    deadline = time.monotonic() + 10
    while any(
        Path(f"/proc/{pid}/cmdline").exists() and Path(f"/proc/{pid}/cmdline").read_text() for pid in children
    ):
        assert time.monotonic() < deadline, "a child outlives its parent"
        time.sleep(0.1)


CALLER = """
import sys
print("main", flush=True)
from ast_jax.datasets import Clip, workers
from ast_jax.datasets.extract import Extraction
clips = [Clip(path, path, (0,)) for path in sys.argv[1:]]
print(*(len(outcome) for _, outcome in workers.outcomes(clips, Extraction(), 2)))
"""


@pytest.mark.parametrize("closed", ["", "2>&-", "<&- 2>&-"])
def test_the_callers_main_module_is_its_own_and_it_needs_no_stderr(tmp_path, closed):
    """The script has no `if __name__ == "__main__"`: a pool that spawns would run it again in every child."""
    paths = [str(write_wav(tmp_path / f"{i}.wav", seed=i)) for i in range(3)]
    script = tmp_path / "caller.py"
    script.write_text(CALLER)
    command = ["sh", "-c", f'exec "$@" {closed}', "sh", sys.executable, str(script), *paths]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, timeout=60)
    assert done.stdout.decode() == "main\n1 1 1\n"
