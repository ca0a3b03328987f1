"""CREMA-D in its own layout: AudioWAV/1001_DFA_ANG_XX.wav, actor, sentence, emotion and its level.

7,442 clips of about 2.5 s, 91 actors, 6 emotions (Cao et al., IEEE Transactions on Affective Computing
2014). Its authors split nothing: here are five folds that keep an actor's clips together, spread evenly over
emotions, the same on any machine; figures of other splits are of other tasks.
"""

import os
import re
from pathlib import Path

from ast_jax.datasets.folds import folded
from ast_jax.datasets.listing import Clip, Listing
from ast_jax.datasets.scanning import scan
from ast_jax.errors import InputError

EMOTIONS = {
    "ANG": "anger",
    "DIS": "disgust",
    "FEA": "fear",
    "HAP": "happy",
    "NEU": "neutral",
    "SAD": "sad",
}
FOLDS = 5
_NAME = re.compile(rf"(\d{{4}})_[A-Z]{{3}}_({'|'.join(EMOTIONS)})_[A-Z]+")


def list_clips(source_dir: str | os.PathLike) -> Listing:
    """Splits fold1..fold5; the emotion is the one that was asked of the actor, as the file's name has it.

    Raises InputError where no name is CREMA-D's; sounds with other names are told and left out.
    """
    sounds, _, unopened = scan(source_dir)
    named = {path: _NAME.fullmatch(Path(path).stem) for path in sounds}
    clips = [(path, found) for path, found in named.items() if found]
    if not clips:
        raise InputError(
            f"no sound below {source_dir} is called as CREMA-D's are (1001_DFA_ANG_XX.wav): give the "
            "directory that holds AudioWAV/"
        )
    labels = [found[2] for _, found in clips]
    folds = folded([found[1] for _, found in clips], [(label,) for label in labels], FOLDS)
    splits: dict[str, list[Clip]] = {f"fold{number + 1}": [] for number in range(FOLDS)}
    for (path, _), label, fold in zip(clips, labels, folds, strict=True):
        splits[f"fold{fold}"].append(Clip(Path(path).stem, path, (list(EMOTIONS).index(label),)))
    strangers = [(path, "name", "not called as CREMA-D's clips are") for path in named if not named[path]]
    return Listing("crema_d", list(EMOTIONS.values()), False, splits, left_out=[*unopened, *strangers])
