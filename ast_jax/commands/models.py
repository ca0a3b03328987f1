"""What several commands ask of a model: what its checkpoint may not say, and how sounds are cut."""

import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from ast_jax.commands.cli import Flag
from ast_jax.errors import InputError

Layer = Annotated[int | None, Flag("after how many blocks (default: all, and the final norm)", least=0)]
WindowS = Annotated[float | None, Flag("seconds heard at once (default: the model's length)", above=0)]


@dataclass(frozen=True)
class Stated:
    """What a checkpoint does not say, or is to be otherwise: the flags of every command that takes one."""

    which: Annotated[Literal["best", "last", "average"], Flag("of a run: which of its weights")] = "best"
    mean: Annotated[float | None, Flag("mean of the features, instead of the checkpoint's")] = None
    std: Annotated[
        float | None, Flag("their standard deviation; an AST sees (x - mean) / (2 std)", above=0)
    ] = None
    labels: Annotated[
        str | None, Flag("its classes: a text file, one a line, or audioset or speech_commands")
    ] = None
    activation: Annotated[
        Literal["sigmoid", "softmax"] | None, Flag("several labels a clip, or one of them")
    ] = None
    num_frames: Annotated[
        int | None, Flag("frames of a window, if not the checkpoint's (an AST's are 10 ms apart)", least=1)
    ] = None
    strides: Annotated[
        tuple[int, int] | None,
        Flag("an AST's, if not the checkpoint's", metavar="MEL_BINS,FRAMES", least=1),
    ] = None
    dtype: Annotated[
        Literal["float32", "bfloat16"] | None, Flag("of its products (default: what this device does best)")
    ] = None
    inside: Annotated[
        str | None, Flag("which of several state dicts in a PyTorch file, such as state_dict_ema")
    ] = None
    prefix: Annotated[
        str | None, Flag("what stands before the names of its arrays in a file, such as encoder.")
    ] = None

    def options(self) -> dict[str, Any]:
        """As `load_model` takes them. Raises InputError for a file of labels that is none."""
        same = ("mean", "std", "activation", "num_frames", "strides", "dtype")
        given = {name: getattr(self, name) for name in same}
        facts = {name: getattr(self, name) for name in ("inside", "prefix")}
        given["label_names"] = None if self.labels is None else label_names(self.labels)
        said = lambda values: {name: value for name, value in values.items() if value is not None}
        return {"which": self.which, "facts": said(facts), **said(given)}


AS_IT_IS = Stated()


def label_names(source: str) -> list[str]:
    """Class names of a task with published ones, or of a text file, one a line.

    Raises InputError: no such file, or an empty line in it.
    """
    from ast_jax.weights import published

    if source in published.NAMED:
        return published.labels(source)
    try:
        names = Path(source).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeError) as error:
        raise InputError(
            f"--labels={source}: no text file in UTF-8, nor {' or '.join(published.NAMED)}"
        ) from error
    if not names or not all(name.strip() for name in names):
        empty = next((i for i, name in enumerate(names, 1) if not name.strip()), 1)
        raise InputError(f"--labels={source}: line {empty} is empty: wanted a name in each line")
    return names


def tell(source: Any, assumed: Iterable[str]) -> None:
    """What was assumed of a checkpoint, a line each."""
    for line in assumed:
        print(f"{source}: {line}", file=sys.stderr)


def load_with_grid(
    model: str, stated: Stated, *, window_s: float | None = None, hop_s: float | None = None
) -> tuple[Any, Any]:
    """The model and how sounds are cut for it: windows side by side unless `hop_s` says otherwise."""
    from ast_jax.inference.windows import Grid
    from ast_jax.weights import load_model

    loaded = load_model(model, **stated.options())
    front_end, length = loaded.front_end, loaded.model.config.num_frames
    tell(model, [f"mean {front_end.mean:.5g}, std {front_end.std:.5g}", *loaded.assumed])
    hop_s = hop_s or window_s or front_end.span(length) / front_end.sample_rate_hz
    return loaded, Grid.of(front_end, length, window_s=window_s, hop_s=hop_s, channels=loaded.channels)


def tagger(models: list[str], stated: Stated) -> Any:
    """A Tagger of these models, what was assumed of them told. Raises InputError for one without a head."""
    from ast_jax.inference.predict import Tagger

    made = Tagger(models, **stated.options())
    for source, loaded in zip(models, made.models, strict=True):
        tell(source, loaded.assumed)
    made.check_heads()
    return made
