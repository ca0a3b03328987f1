"""Checkpoints with a name: where they are, whose they are, and what their files do not say.

An entry is data; `fetch` brings its files here once and checks them ever after. Facts are those of the publishers' pages;
checksums are the beginnings of SHA-256 that Facebook puts in file names. Where none is published, the first download counts.
"""

import dataclasses
import difflib
import os
from pathlib import Path
from typing import Any

from ast_jax.errors import InputError
from ast_jax.weights import download, published


@dataclasses.dataclass(frozen=True)
class Entry:
    """One published checkpoint. Strides are (mel bins, frames); `figure` is the publisher's, on the set it names."""

    name: str
    source: str  # an address, or a repository of the Hugging Face hub
    licence: str
    figure: str
    sha256: str = ""  # its beginning, as far as published
    num_frames: int | None = None
    strides: tuple[int, int] | None = None
    mean: float | None = None
    std: float | None = None
    labels: str | None = None  # 'audioset' or 'speech_commands': the order of `published`
    multi_label: bool | None = None
    channels: str | None = None

    @property
    def facts(self) -> dict[str, Any]:
        """What `read_source` takes as known of a reference file."""
        stated = {"num_frames": self.num_frames, "strides": self.strides}
        return {key: value for key, value in stated.items() if value is not None}

    @property
    def on_hub(self) -> bool:
        return "://" not in self.source

    def label_names(self) -> list[str] | None:
        """The classes by index; None for ImageNet models, whose heads are left aside."""
        if self.labels is None:
            return None
        return (
            published.audioset_labels() if self.labels == "audioset" else published.speech_commands_labels()
        )


_DEIT = "https://dl.fbaipublicfiles.com/deit/"
_TIMM = "https://github.com/rwightman/pytorch-image-models/releases/download/v0.1-vitjx/"
_VIT = "ImageNet-21k, then ImageNet-1k"
_DROPBOX = "https://www.dropbox.com/s/"
_GOOGLE = "https://storage.googleapis.com/vit_models/"
_AUDIOSET: dict[str, Any] = {
    "licence": "BSD-3-Clause",
    "num_frames": 1024,
    "mean": published.AUDIOSET[0],
    "std": published.AUDIOSET[1],
    "labels": "audioset",
    "multi_label": True,
    "channels": "first",
}
_COMMANDS: dict[str, Any] = {
    "licence": "BSD-3-Clause",
    "num_frames": 128,
    "strides": (10, 10),
    "mean": published.SPEECH_COMMANDS[0],
    "std": published.SPEECH_COMMANDS[1],
    "labels": "speech_commands",
    "multi_label": False,
    "channels": "first",
}


def _deit(name: str, sha256: str, accuracy: str) -> Entry:
    return Entry(
        name, f"{_DEIT}{name}-{sha256}.pth", "Apache-2.0", f"{accuracy} % top-1, ImageNet-1k", sha256
    )


def _timm(name: str, file: str, sha256: str) -> Entry:
    """Google's first ViT checkpoints as timm released them, which the paper compares DeiT with."""
    return Entry(name, f"{_TIMM}{file}-{sha256}.pth", "Apache-2.0", _VIT, sha256)


def _reference(stride: int, figure: str, address: str) -> Entry:
    name = f"ast_audioset_{stride}_{stride}_{figure}"
    source = f"{_DROPBOX}{address}/audioset_{stride}_{stride}_{figure}.pth?dl=1"
    return Entry(name, source, figure=f"{figure} mAP, AudioSet eval", strides=(stride, stride), **_AUDIOSET)


def _hub_ast(stride: int, figure: str, version: str = "") -> Entry:
    name = f"MIT/ast-finetuned-audioset-{stride}-{stride}-{figure}{version}"
    return Entry(name, name, figure=f"{figure} mAP, AudioSet eval", strides=(stride, stride), **_AUDIOSET)


def _hub_image(name: str, figure: str) -> Entry:
    return Entry(f"timm/{name}", f"timm/{name}", "Apache-2.0", figure)


def _google(name: str, path: str) -> Entry:
    return Entry(f"google/{name}", _GOOGLE + path, "Apache-2.0", "ImageNet-21k, then ImageNet-1k")


_DISTILLED = "ImageNet-1k, distilled"
_AUGREG = "ImageNet-21k, then ImageNet-1k, AugReg"
_DINOV2 = "LVD-142M, self-supervised"
_DEIT3 = "ImageNet-22k, then ImageNet-1k"
_AUG = "i21k-300ep-lr_0.001-aug_{}-do_0.0-sd_0.0--imagenet2012-steps_20k-lr_{}-res_{}.npz"

ENTRIES: dict[str, Entry] = {
    entry.name: entry
    for entry in [
        _deit("deit_tiny_distilled_patch16_224", "b40b3cf7", "74.5"),
        _deit("deit_small_distilled_patch16_224", "649709d9", "81.2"),
        _deit("deit_base_distilled_patch16_224", "df68dfff", "83.4"),
        _deit("deit_base_distilled_patch16_384", "d0272ac0", "85.2"),
        _deit("deit_base_patch16_384", "8de9b5d1", "82.9"),
        _timm("vit_base_patch16_384", "jx_vit_base_p16_384", "83fb41ba"),
        _timm("vit_large_patch16_384", "jx_vit_large_p16_384", "b3be5167"),
        _reference(10, "0.4593", "ca0b1v2nlxzyeb4"),
        _reference(10, "0.4495", "1tv0hovue1bxupk"),
        _reference(10, "0.4483", "6u5sikl4b9wo4u5"),
        _reference(10, "0.4475", "kt6i0v9fvfm1mbq"),
        _reference(12, "0.4467", "snfhx3tizr4nuc8"),
        _reference(14, "0.4431", "z18s6pemtnxm4k7"),
        _reference(16, "0.4422", "mdsa4t1xmcimia6"),
        Entry(
            "ast_speechcommands_10_10_0.9812",
            f"{_DROPBOX}q0tbqpwv44pquwy/speechcommands_10_10_0.9812.pth?dl=1",
            figure="98.12 % accuracy, Speech Commands V2-35 test",
            **_COMMANDS,
        ),
        _hub_ast(10, "0.4593"),
        _hub_ast(10, "0.450"),
        _hub_ast(10, "0.448"),
        _hub_ast(10, "0.448", "-v2"),
        _hub_ast(12, "0.447"),
        _hub_ast(14, "0.443"),
        _hub_ast(16, "0.442"),
        Entry(
            "MIT/ast-finetuned-speech-commands-v2",
            "MIT/ast-finetuned-speech-commands-v2",
            figure="98.12 % accuracy, Speech Commands V2-35 test",
            **_COMMANDS,
        ),
        _hub_image("deit_tiny_distilled_patch16_224.fb_in1k", _DISTILLED),
        _hub_image("deit_small_distilled_patch16_224.fb_in1k", _DISTILLED),
        _hub_image("deit_base_distilled_patch16_224.fb_in1k", _DISTILLED),
        _hub_image("deit_base_distilled_patch16_384.fb_in1k", _DISTILLED),
        *[
            _hub_image(f"vit_{size}_patch16_{side}.augreg_in21k_ft_in1k", _AUGREG)
            for size in ("tiny", "small", "base")
            for side in (224, 384)
        ],
        _hub_image("vit_small_patch14_dinov2.lvd142m", _DINOV2),
        _hub_image("vit_base_patch14_dinov2.lvd142m", _DINOV2),
        *[
            _hub_image(f"deit3_{size}_patch16_{side}.fb_in22k_ft_in1k", _DEIT3)
            for size in ("small", "base")
            for side in (224, 384)
        ],
        _google("ViT-B_16-224", "imagenet21k+imagenet2012/ViT-B_16-224.npz"),
        _google("augreg-Ti_16-224", "augreg/Ti_16-" + _AUG.format("none-wd_0.03", "0.03", 224)),
        _google("augreg-Ti_16-384", "augreg/Ti_16-" + _AUG.format("none-wd_0.03", "0.03", 384)),
        _google("augreg-S_16-224", "augreg/S_16-" + _AUG.format("light1-wd_0.03", "0.03", 224)),
        _google("augreg-S_16-384", "augreg/S_16-" + _AUG.format("light1-wd_0.03", "0.03", 384)),
        _google("augreg-B_16-224", "augreg/B_16-" + _AUG.format("medium1-wd_0.1", "0.01", 224)),
        _google("augreg-B_16-384", "augreg/B_16-" + _AUG.format("medium1-wd_0.1", "0.01", 384)),
    ]
}


def find(name: str) -> Entry:
    """The entry of that name.

    Raises:
        InputError: there is none; the nearest names are told.
    """
    if name in ENTRIES:
        return ENTRIES[name]
    near = difflib.get_close_matches(name, ENTRIES, n=3, cutoff=0.5)
    known = f"did you mean {' or '.join(near)}?" if near else f"names look like {next(iter(ENTRIES))}"
    raise InputError(f"{name!r} is no file or directory here, and the catalogue has no such name: {known}")


def fetch(name: str, *, cache: Path | None = None, hub_cache: Path | None = None) -> Path:
    """The local file or directory of an entry, downloaded at the first call and verified at every one.

    Args:
        name: a name of `ENTRIES`.
        cache: for files from an address; default $AST_JAX_CACHE, else ~/.cache/ast_jax.
        hub_cache: for repositories of the Hugging Face hub; default the hub client's own.

    Raises:
        InputError: no such name, no network, a wrong checksum; with the address, to fetch it by hand.
    """
    entry = find(name)
    if entry.on_hub:
        extra = ("preprocessor_config.json",) if entry.labels else ()
        return download.hub_directory(entry.source, extra=extra, cache=hub_cache)
    cache = cache or Path(os.environ.get("AST_JAX_CACHE", Path.home() / ".cache" / "ast_jax"))
    return download.file(entry.source, cache, sha256=entry.sha256)
