"""The sounds behind prepared examples, for the few that people want to hear again. S samples."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float32

from ast_jax.datasets.extract import from_int16, pieces
from ast_jax.datasets.prepared import PreparedSet
from ast_jax.datasets.registry import clip_lister
from ast_jax.features import AudioError, load_audio, stream_audio


def waveforms(
    prepared: PreparedSet, splits: Sequence[str], ids: Sequence[str], source_dir: str | None = None
) -> dict[str, Float32[np.ndarray, " S"]]:
    """The waveform of each example, by id: as shards hold it, or from the sound files; else nothing, as where
    the set is made of features.

    A file that cannot be read any more is left out.
    """
    if prepared.kind == "waveform":
        source, places = prepared.source(splits), {id: i for i, id in enumerate(prepared.ids(splits))}
        return {id: from_int16(source[places[id]]["waveform"]) for id in ids}
    if source_dir is None or not prepared.front_end.of_sound:
        return {}
    dataset = prepared.metadata.get("dataset", prepared.name)
    listing = clip_lister(dataset)(source_dir, **prepared.metadata["options"])
    paths = {clip.id: clip.path for clip in listing.clips}
    found = {id: _from_file(id, paths, prepared) for id in ids}
    return {id: sound for id, sound in found.items() if sound is not None}


def _from_file(id: str, paths: dict[str, str], prepared: PreparedSet) -> Float32[np.ndarray, " S"] | None:
    """A whole file, or that piece of a long one that the id names: `clip@20` begins 20 s into `clip`."""
    about, rate_hz = prepared.metadata, prepared.front_end.sample_rate_hz
    clip = id if id in paths else id.rpartition("@")[0]
    if clip not in paths:
        return None
    form: dict[str, Any] = {"channels": about["channels"], "sample_rate_hz": rate_hz}
    try:
        if about["cut_s"] is None:
            return load_audio(paths[clip], **form)
        parts = pieces(stream_audio(paths[clip], **form), about["cut_s"], rate_hz)
        return next((part for mark, part in parts if clip + mark == id), None)
    except AudioError:
        return None  # it was there when the shards were made
