"""What several commands ask of a model: which weights, what a checkpoint may not say, how sounds are cut."""

import sys
from typing import Annotated, Any, Literal

from ast_jax.commands.cli import Flag

Which = Annotated[Literal["best", "last", "average"], Flag("of a run: best, last or average weights")]
Mean = Annotated[float | None, Flag("normalisation, where the checkpoint does not say")]
Std = Annotated[float | None, Flag("as --mean; the model sees (x - mean) / (2 std)", above=0)]
NumFrames = Annotated[int | None, Flag("another length than the checkpoint's, 10 ms a frame", least=1)]
Strides = Annotated[
    tuple[int, int] | None,
    Flag("other strides than the checkpoint's", metavar="MEL_BINS,FRAMES", least=1),
]
Layer = Annotated[int | None, Flag("after how many blocks (default: all, and the final norm)", least=0)]
WindowS = Annotated[float | None, Flag("seconds heard at once (default: the model's length)", above=0)]


def load_with_grid(
    model: str,
    *,
    which: str,
    num_frames: int | None,
    strides: tuple[int, int] | None,
    mean: float | None,
    std: float | None,
    window_s: float | None = None,
    hop_s: float | None = None,
) -> tuple[Any, Any]:
    """The model and how sounds are cut for it: windows side by side unless `hop_s` says otherwise."""
    from ast_jax.inference.windows import Grid
    from ast_jax.weights import load_model

    given = {"num_frames": num_frames, "strides": strides, "mean": mean, "std": std}
    loaded = load_model(
        model, which=which, **{name: value for name, value in given.items() if value is not None}
    )
    front_end, length = loaded.front_end, loaded.model.config.num_frames
    print(f"{model}: mean {front_end.mean:.5g}, std {front_end.std:.5g}", file=sys.stderr)
    hop_s = hop_s or window_s or front_end.span(length) / front_end.sample_rate_hz
    return loaded, Grid.of(front_end, length, window_s=window_s, hop_s=hop_s, channels=loaded.channels)
