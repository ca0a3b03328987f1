"""`python -m ast_jax COMMAND ...`: one line a command; `python -m ast_jax COMMAND --help` says more."""

import sys
from importlib import import_module

from ast_jax.main import keep_compiled_programs, run

COMMANDS = {  # where its main(argv) is, and what it does
    "quickstart": (
        "ast_jax.quickstart",
        "train on the built-in sounds, evaluate, tag one file, show what came of it",
    ),
    "prepare": ("ast_jax.commands", "sound files -> shards of features"),
    "evaluate": (
        "ast_jax.commands",
        "metrics of a run or checkpoint, or of several as an ensemble, without training",
    ),
    "convert": (
        "ast_jax.commands",
        "weights -> Flax, the reference's .pth, Hugging Face, .npz, StableHLO or ONNX",
    ),
    "crossval": ("ast_jax.crossval", "every fold of a recipe, mean and spread"),
    "ablate": ("ast_jax.ablate", "a table of runs that differ in one choice, beside the paper's"),
    "group": (
        "ast_jax.group",
        "training as several processes or on several hosts, started again when one of them dies",
    ),
    "plan": (
        "ast_jax.plan",
        "tokens, operations, memory and the largest batch, for devices that need not be there",
    ),
    "predict": ("ast_jax.inference.predict", "tag sound files of any length, or a live sound"),
    "embed": ("ast_jax.inference.embed", "embeddings of sound files -> .npz or .parquet"),
    "probe": ("ast_jax.inference.probe", "a classifier on embeddings of your classes, cross-validated"),
    "explain": (
        "ast_jax.inference.explain",
        "what an answer rests on: attention and gradients over the spectrogram",
    ),
    "serve": ("ast_jax.inference.serve.command", "a local page: drop a sound, see its tags"),
}


def main() -> None:
    command, rest = (sys.argv[1] if len(sys.argv) > 1 else ""), sys.argv[2:]
    if command not in COMMANDS:
        print(
            "python -m ast_jax COMMAND ...      (training: python -m ast_jax.main --config=configs/NAME.py)\n"
        )
        print("\n".join(f"  {name:<11} {what}" for name, (_, what) in COMMANDS.items()))
        sys.exit(0 if command in ("", "-h", "--help", "help") else 2)
    keep_compiled_programs()
    module = import_module(COMMANDS[command][0])
    run(getattr(module, "main", None) or getattr(module, command), rest)


if __name__ == "__main__":
    main()
