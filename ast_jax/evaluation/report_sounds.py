"""Puts the sounds of the clips that a report shows into the work directory, where the report finds them."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ast_jax.datasets.prepared import PreparedSet
from ast_jax.datasets.waveforms import waveforms
from ast_jax.evaluation.report_scores import clips_shown, sound_file
from ast_jax.evaluation.run_files import read_run


def write_sounds(
    workdir: str | Path,
    prepared: PreparedSet,
    splits: Sequence[str],
    *,
    source_dir: str | None,
    num_samples: int,
) -> list[Path]:
    """Writes audio/ID.flac for the best and worst clips of predictions.npz, and returns the paths.

    At most `num_samples` of each, the model's own length. FLAC keeps every sample, so that the spectrogram
    drawn from it is the model's, and every browser plays it. Where only log-mel shards are left and no sound
    files, there is nothing to write.
    """
    import soundfile

    run, written, rate_hz = read_run(workdir), [], prepared.front_end.sample_rate_hz
    if run.predictions is None:
        return []
    ids = [run.predictions.ids[i] for clips in clips_shown(run.predictions) for i in clips]
    for id, sound in waveforms(prepared, splits, ids, source_dir).items():
        path = sound_file(run.directory, id, ".flac")
        if path is None:
            continue  # an id such as ../x, which no file may have
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, np.clip(sound[:num_samples], -1, 1), rate_hz, subtype="PCM_16")
        written.append(path)
    return written
