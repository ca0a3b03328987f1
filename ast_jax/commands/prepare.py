"""`prepare`: sound files to shards of features, before any training asks for them."""

from typing import Annotated

from ast_jax.commands.cli import Flag
from ast_jax.commands.starting import started
from ast_jax.errors import InputError
from ast_jax.recipes import Recipe
from ast_jax.settings import Settings


def prepare(
    recipe: Recipe,
    *beam_flags: str,
    beam_runner: Annotated[
        str | None, Flag("DirectRunner, FlinkRunner, SparkRunner, DataflowRunner ...")
    ] = None,
    beam_place: Annotated[
        list[str] | None,
        Flag(
            "a directory's name here and on Beam's workers, /mnt/sounds=gs://bucket/sounds; may be repeated",
            metavar="HERE=THERE",
        ),
    ] = None,
) -> None:
    """Sound files to shards of features.

      python -m ast_jax prepare --config=FILE --config.dataset.source_dir=DIR

    On all cores of this machine, or with --beam_runner on a cluster's; flags not listed here are then
    Beam's own, as --flink_master=HOST:8081, or --project=P --region=R --temp_location=gs://...
    """
    recipe, places = started(recipe), beam_place or []
    if not beam_runner and (beam_flags or places):
        flag = beam_flags[0] if beam_flags else "--beam_place"
        raise InputError(f"{flag} is for Apache Beam: give --beam_runner too, or leave it out")
    if wrong := [place for place in places if "=" not in place]:
        raise InputError(f"--beam_place={wrong[0]}: write it as HERE=THERE")

    from ast_jax.datasets.prepare import BeamRun
    from ast_jax.training.data import opened

    here_and_there = dict(place.split("=", 1) for place in places)
    beam = BeamRun(beam_runner, list(beam_flags), here_and_there) if beam_runner else None
    print(opened(Settings.of(recipe.config()), beam).directory)
