"""NSynth in its own layout: nsynth-{train,valid,test}/audio/ and examples.json in each.

305,979 notes of 4 s at 16 kHz: 289,205 to train, 12,678 to validate, 4,096 to test, instruments of training
apart from the others' (Engel et al., ICML 2017). The classes are 11 families of instruments, of which
synth_lead occurs in training alone, or 128 MIDI pitches.
"""

import json
import os
from pathlib import Path

from ast_jax.datasets.listing import Clip, Listing
from ast_jax.errors import InputError
from ast_jax.text_tables import read_text

FAMILIES = (
    "bass",
    "brass",
    "flute",
    "guitar",
    "keyboard",
    "mallet",
    "organ",
    "reed",
    "string",
    "synth_lead",
    "vocal",
)
_FIELDS = {"family": "instrument_family", "pitch": "pitch"}


def list_clips(source_dir: str | os.PathLike, *, label: str = "family") -> Listing:
    """Splits train, valid, test, as far as they are there; `label` is family or pitch.

    Raises InputError where there is none of them, or a note does not say what it is.
    """
    if label not in _FIELDS:
        raise InputError(f"label {label!r} of nsynth: choose {' or '.join(_FIELDS)}")
    names = FAMILIES if label == "family" else tuple(f"pitch_{number}" for number in range(128))
    splits = {}
    for split in ("train", "valid", "test"):
        table = Path(source_dir, f"nsynth-{split}", "examples.json")
        if table.is_file():
            splits[split] = _clips(table, _FIELDS[label], len(names))
    if not splits:
        raise InputError(
            f"no nsynth-train, nsynth-valid or nsynth-test with an examples.json in {source_dir}: give the "
            "directory that holds them"
        )
    return Listing("nsynth", names, False, splits)


def _clips(table: Path, field: str, classes: int) -> list[Clip]:
    try:
        notes = json.loads(read_text(table))
    except json.JSONDecodeError as error:
        raise InputError(f"{table} is no JSON ({error}): fetch it again") from None
    clips = []
    for name, note in notes.items():
        label = note.get(field)
        if type(label) is not int or not 0 <= label < classes:
            raise InputError(f"{table}: {field} of {name} is {label!r}: wanted 0 to {classes - 1}")
        clips.append(Clip(name, str(table.parent / "audio" / f"{name}.wav"), (label,)))
    return clips
