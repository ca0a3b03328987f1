"""`convert`: weights of one layout written in another."""

from pathlib import Path
from typing import Annotated, Literal

from ast_jax.commands.cli import Flag
from ast_jax.commands.models import AS_IT_IS, Stated

Format = Literal[
    "flax", "reference", "huggingface", "panns", "psla", "npz", "safetensors", "stablehlo", "onnx"
]


def convert(
    src: Annotated[str, Flag("a run, a checkpoint file or directory, or a catalogue name")],
    dst: Annotated[Path, Flag("the file or directory to write; must not exist")],
    *,
    to: Format,
    stated: Stated = AS_IT_IS,
) -> None:
    """Weights of any known kind to another.

    python -m ast_jax convert SRC DST --to=huggingface
    """
    from ast_jax.weights.convert import convert as write

    for line in write(src, dst, to=to, **stated.options()):
        print(line)
