"""A recipe of the user's own parts: python -m ast_jax train --config=my_recipe.py"""

from ast_jax.config import base


def get_config(suffix: str = ""):
    config = base(clips_per_class=12)
    config.dataset.name, config.dataset.source_dir = "my_parts:list_clips", "tones"
    config.model.family = "my_parts:Toy"
    config.model.options = {"width": 8}
    config.loss, config.metric, config.augment = "my_parts:squared", "my_parts:brier", ("my_parts:deaf",)
    config.num_frames, config.batch_size, config.epochs, config.lr = 96, 5, 2, 1e-2
    config.average_epochs = (1, 2)
    return config
