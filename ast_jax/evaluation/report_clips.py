"""The report's best and worst clips, to look at and to listen to."""

from html import escape
from pathlib import Path

import numpy as np

from ast_jax.evaluation.plots import spectrogram
from ast_jax.evaluation.report_pieces import data_uri, not_yet
from ast_jax.evaluation.run_files import RunFiles, StoredScores
from ast_jax.features.spec import FRAME_SHIFT, SAMPLE_RATE

CLIPS_SHOWN = 6  # most confident wrong ones, and as many right ones
LARGEST_SOUND = (
    2_000_000  # bytes; a longer recording would make the page slow to open: it is named, not embedded
)


def clips_section(run: RunFiles) -> str:
    """HTML of the section: the most confident wrong and right clips, with spectrogram and player where there is a sound."""
    if run.predictions is None or not len(run.predictions.scores):
        return not_yet("No clips yet", "predictions.npz comes with the evaluation")
    stored = run.predictions
    wrong, right = clips_shown(stored)
    kinds = [
        ("Most confident and wrong", wrong, "The highest-scored class was true on every clip."),
        ("Most confident and right", right, "The highest-scored class was true on no clip."),
    ]
    parts = []
    for heading, clips, none in kinds:
        cards = "".join(_clip(run, stored, i) for i in clips)
        parts.append(
            f"<h3>{heading}</h3>" + (f'<div class="grid">{cards}</div>' if cards else f"<p>{none}</p>")
        )
    if not (run.directory / "audio").is_dir():
        parts.append(
            '<p class="faint">With the sounds in the work directory (audio/ID.flac or .wav) this page plays them.</p>'
        )
    return "\n".join(parts)


def clips_shown(stored: StoredScores) -> tuple[list[int], list[int]]:
    """Places of the most confident wrong clips and of the most confident right ones, the surest first."""
    top, surest = stored.scores.argmax(axis=1), np.argsort(-stored.scores.max(axis=1), kind="stable")
    right = stored.targets[np.arange(len(top)), top] > 0
    wrong_ones, right_ones = ([int(i) for i in surest if right[i] == kind] for kind in (False, True))
    return wrong_ones[:CLIPS_SHOWN], right_ones[:CLIPS_SHOWN]


def _clip(run: RunFiles, stored: StoredScores, index: int) -> str:
    scores = stored.scores[index]
    first, *others = (int(c) for c in np.argsort(-scores, kind="stable")[:3])
    # Semicolons, since AudioSet's names hold commas.
    shown = [first, *(c for c in others if scores[c] >= 0.0005)]  # below that three decimals show nothing
    heard = "; ".join(f"{run.label(c)} {scores[c]:.3f}" for c in shown)
    true = "; ".join(run.labels_of(stored.targets[index])) or "no label"
    name = stored.ids[index]
    return (
        f'<article class="card clip"><h4>{escape(true)}</h4><p>heard: {escape(heard)}</p>'
        f"<p><code>{escape(name)}</code></p>{_picture_of_clip(run, name)}{_player(run, name)}</article>\n"
    )


def _picture_of_clip(run: RunFiles, name: str) -> str:
    fbank = _fbank_of(run, name)
    if fbank is None:
        return ""
    seconds = len(fbank) * FRAME_SHIFT / SAMPLE_RATE
    return (
        f'<img src="{data_uri(spectrogram(fbank), "image/png")}" alt="Spectrogram of {escape(name)}">'
        f'<div class="seconds"><span>0 s</span><span>{seconds / 2:.1f} s</span><span>{seconds:.1f} s</span></div>'
    )


def _fbank_of(run: RunFiles, name: str) -> np.ndarray | None:
    """From examples.npz, else from the sound itself, else None."""
    if run.examples is not None and name in run.examples.ids:
        return run.examples.fbank[run.examples.ids.index(name)]
    sound = _sound_of(run, name)
    if sound is None:
        return None
    from ast_jax.features import load_audio, log_mel

    return log_mel(load_audio(sound))


def _player(run: RunFiles, name: str) -> str:
    sound = _sound_of(run, name)
    if sound is None:
        return ""
    if sound.stat().st_size > LARGEST_SOUND:
        return f'<p class="faint">{sound.stat().st_size / 1e6:.0f} MB of sound: too long to embed.</p>'
    uri = data_uri(sound.read_bytes(), f"audio/{sound.suffix[1:]}")
    return f'<audio controls preload="none" src="{uri}" aria-label="{escape(name)}"></audio>'


def _sound_of(run: RunFiles, name: str) -> Path | None:
    paths = [sound_file(run.directory, name, suffix) for suffix in (".flac", ".wav")]
    return next((path for path in paths if path is not None and path.is_file()), None)


def sound_file(directory: Path, name: str, suffix: str) -> Path | None:
    """audio/{name}{suffix} of a work directory; None where the name would lead out of that folder."""
    folder = (directory / "audio").resolve()
    path = (folder / f"{name}{suffix}").resolve()
    return path if path.is_relative_to(folder) else None
