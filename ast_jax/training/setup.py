"""From a recipe to the plain arguments that the rooms below take: the last place, going down, that knows ConfigDict keys."""

from pathlib import Path

from ml_collections import ConfigDict

from ast_jax.datasets.prepare import find, prepare
from ast_jax.datasets.records import PreparedSet
from ast_jax.errors import InputError
from ast_jax.models import ASTConfig
from ast_jax.training.step import Recipe


def open_data(config: ConfigDict) -> PreparedSet:
    """The prepared set a recipe names, preparing it first where its sounds are at hand.

    Raises InputError if there are neither shards nor sounds.
    """
    data = config.dataset
    if not data.name:
        raise InputError("the recipe names no data set: set config.dataset.name")
    where = {"data_dir": data.data_dir, "kind": data.kind, "channels": data.channels, "options": dict(data.options)}
    source_dir = data.source_dir or None
    if data.name == "synthetic":
        from ast_jax.datasets import synthetic

        source_dir = source_dir or str(Path(data.data_dir, "synthetic", "sounds"))
        synthetic.ensure(source_dir, **where["options"])
    found = find(data.name, source_dir=source_dir, **where)
    if found is not None:
        return found
    if source_dir is None:
        raise InputError(
            f"no prepared {data.kind} shards of {data.name!r} in {data.data_dir!r} and no sounds to make them from: "
            "set --config.dataset.source_dir to the directory of sounds"
        )
    return prepare(data.name, source_dir=source_dir, max_skipped=data.max_skipped, **where)


def model_config(config: ConfigDict, num_classes: int) -> ASTConfig:
    """The model's shape: the variant's, where the recipe does not say another width, depth or number of heads."""
    own = {key: config.model[key] for key in ("width", "depth", "num_heads") if config.model[key] is not None}
    same = {key: config.model[key] for key in ("patch_shape", "strides", "distilled", "dtype", "remat")}
    return ASTConfig.variant(
        config.model.variant, num_classes=num_classes, num_frames=config.num_frames, **{**same, **own}
    )


def statistics(config: ConfigDict, prepared: PreparedSet) -> tuple[float, float]:
    """The recipe's mean and standard deviation, or those measured on the clean training clips."""
    mean, std = prepared.statistics(config.dataset.train)
    given = config.dataset.mean, config.dataset.std
    return mean if given[0] is None else given[0], std if given[1] is None else given[1]


def step_recipe(config: ConfigDict, mean: float, std: float) -> Recipe:
    return Recipe(
        mean=mean,
        std=std,
        loss=config.loss,
        freq_mask=config.freq_mask,
        time_mask=config.time_mask,
        seed=config.seed,
    )


def check(config: ConfigDict, prepared: PreparedSet) -> None:
    """Raises InputError for settings that contradict each other or the data."""
    if config.loss not in ("bce", "ce"):
        raise InputError(f"config.loss is {config.loss!r}: choose bce (several labels a clip) or ce (one)")
    if config.loss == "ce" and prepared.multi_label:
        raise InputError(f"{prepared.name} has clips with several labels, and loss ce wants one: set config.loss=bce")
    if config.metric not in ("accuracy", "mAP", "auc", "d_prime"):
        raise InputError(f"config.metric is {config.metric!r}: choose accuracy, mAP, auc or d_prime")
    for key in ("epochs", "batch_size", "log_every", "num_threads"):
        if config[key] < 1:
            raise InputError(f"config.{key} is {config[key]}: it must be at least 1")
    for splits in (config.dataset.train, config.dataset.eval, config.dataset.test):
        if splits:
            prepared.num_examples(splits)  # raises for a split that is not there
