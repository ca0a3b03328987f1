"""`convert`: weights of one layout written in another."""

from pathlib import Path
from typing import Annotated, Literal

from ast_jax.commands.cli import Flag
from ast_jax.commands.models import AS_IT_IS, Stated
from ast_jax.errors import InputError

Format = Literal[
    "flax", "reference", "huggingface", "panns", "psla", "npz", "safetensors", "stablehlo", "onnx", "litert"
]


def convert(
    src: Annotated[str, Flag("a run, a checkpoint file or directory, or a catalogue name")],
    dst: Annotated[Path, Flag("the file or directory to write; must not exist")],
    *,
    to: Format,
    input: Annotated[
        Literal["log_mel", "waveform"],
        Flag("of a program (stablehlo, onnx, litert): features, or sounds with the front end inside"),
    ] = "log_mel",
    weights: Annotated[
        Literal["float32", "float16", "int8"], Flag("of onnx: as they are, half the file, a quarter")
    ] = "float32",
    check: Annotated[
        Path | None, Flag("a file or directory of sounds: a program's scores are compared with ours on them")
    ] = None,
    stated: Stated = AS_IT_IS,
) -> None:
    """Weights of any known kind to another.

    python -m ast_jax convert SRC DST --to=huggingface
    python -m ast_jax convert SRC DST --to=onnx --input=waveform --weights=int8 --check=SOUNDS
    """
    from ast_jax.inference.files import sound_files
    from ast_jax.weights.convert import Deployed
    from ast_jax.weights.convert import convert as write

    # before an export that takes its time
    if check and not check.exists():
        raise InputError(f"--check={check}: there is no such file or directory")
    sounds = tuple(sound_files([check])) if check else ()
    deployed = Deployed(takes=input, weights=weights, sounds=sounds)
    for line in write(src, dst, to=to, deployed=deployed, **stated.options()):
        print(line)
