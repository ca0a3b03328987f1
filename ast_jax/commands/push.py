"""`push`: a model to a repository of the Hugging Face hub, its card with it."""

import tempfile
from pathlib import Path
from typing import Annotated, Literal

from ast_jax.commands.cli import Flag
from ast_jax.commands.models import AS_IT_IS, Stated


def push(
    src: Annotated[str, Flag("a run, a checkpoint file or directory, or a catalogue name")],
    repository: Annotated[str, Flag("OWNER/NAME on the hub; made where it is not there")],
    *,
    to: Annotated[
        Literal["flax", "huggingface", "stablehlo", "onnx", "litert"], Flag("the layout, as `convert` has it")
    ] = "flax",
    private: Annotated[bool, Flag("a new repository is for its owner alone")] = False,
    dry_run: Annotated[bool, Flag("say what would be sent, and send nothing")] = False,
    stated: Stated = AS_IT_IS,
) -> None:
    """Weights, labels and a card for people, as one commit; what a repository holds else stays there.

      python -m ast_jax push runs/mine me/frogs --dry_run
      python -m ast_jax push runs/mine me/frogs
      python -m ast_jax predict --model=DIRECTORY sound.wav      # whoever fetched it

    The token is that of `hf auth login`, or HF_TOKEN.
    """
    from ast_jax.weights import hub
    from ast_jax.weights.convert import convert

    # before anything is made of anything
    hub.check(repository, needs_token=not dry_run)
    with tempfile.TemporaryDirectory() as directory:
        made = Path(directory) / repository.rpartition("/")[2]
        for line in convert(src, made, to=to, **stated.options()):
            if not line.startswith("wrote "):
                print(line)
        for file in sorted(made.iterdir()):
            print(f"  {file.stat().st_size / 1e6:9.3f} MB  {file.name}")
        if dry_run:
            print(f"nothing was sent: these files would be a commit to {hub.address(repository)}")
            return
        print(f"sent: {hub.push(made, repository, private=private)}")
