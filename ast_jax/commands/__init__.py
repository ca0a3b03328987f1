"""The commands: `python -m ast_jax NAME`, or `ast_jax NAME` once installed; each a function of that name."""

from collections.abc import Sequence
from importlib import import_module

from ast_jax.commands.cli import call

# A command's home, and what it does in a line.
COMMANDS = {
    "quickstart": (
        "ast_jax.commands.quickstart",
        "train on the built-in sounds, evaluate, tag one file, show what came of it",
    ),
    "train": (
        "ast_jax.commands.train",
        "a recipe: train it, or go on where it stopped; with several seeds too",
    ),
    "prepare": ("ast_jax.commands.prepare", "sound files -> shards of features"),
    "unpack": ("ast_jax.commands.unpack", "Parquet and WebDataset shards -> sound files and a table of them"),
    "evaluate": (
        "ast_jax.commands.evaluate",
        "metrics of a run or checkpoint, or of several as an ensemble, without training",
    ),
    "enhance": ("ast_jax.commands.enhance", "PSLA's enhanced labels, from a run's scores and an ontology"),
    "convert": (
        "ast_jax.commands.convert",
        "weights -> Flax, the reference's .pth, Hugging Face, .npz, StableHLO or ONNX",
    ),
    "push": ("ast_jax.commands.push", "a model and its card -> a repository of the Hugging Face hub"),
    "crossval": ("ast_jax.commands.crossval", "every fold of a recipe, mean and spread"),
    "ablate": ("ast_jax.commands.ablate", "a table of runs that differ in one choice, beside the paper's"),
    "group": (
        "ast_jax.commands.group",
        "training as several processes or on several hosts, started again when one of them dies",
    ),
    "plan": (
        "ast_jax.commands.plan",
        "tokens, operations, memory and the largest batch, for devices that need not be there",
    ),
    "predict": ("ast_jax.commands.predict", "tag sound files of any length, or a live sound"),
    "count_events": (
        "ast_jax.commands.event_tables",
        "a table of events: how often, how long, by day and hour",
    ),
    "score_events": (
        "ast_jax.commands.event_tables",
        "a table of events against another: F1 by events and segments",
    ),
    "embed": ("ast_jax.commands.embed", "embeddings of sound files -> .npz or .parquet"),
    "index": ("ast_jax.commands.search", "an index of sounds, to search in; grows by new files"),
    "search": ("ast_jax.commands.search", "the windows of an index that sound most like a file"),
    "label": ("ast_jax.commands.label", "a local page: name your clips, those that teach most first"),
    "probe": ("ast_jax.commands.probe", "a classifier on embeddings of your classes, cross-validated"),
    "explain": (
        "ast_jax.commands.explain",
        "what an answer rests on: attention and gradients over the spectrogram",
    ),
    "serve": ("ast_jax.commands.serve", "a local page: drop a sound, see its tags"),
    "doctor": (
        "ast_jax.commands.doctor",
        "what this machine has: versions, devices and their kernels, decoders, caches, network",
    ),
}


def invoke(name: str, argv: Sequence[str], *, prog: str = "python -m ast_jax") -> None:
    """Runs a command with its flags. Raises what it raises, and InputError for a flag that is wrong."""
    call(getattr(import_module(COMMANDS[name][0]), name), argv, prog=f"{prog} {name}")
