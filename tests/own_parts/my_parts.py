"""A user's own file, outside the package: a model family, a loss, a metric, an augmentation and a data set.

docs/contributing.md shows it; test_own_parts.py trains with it.
"""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import soundfile
from flax import nnx

from ast_jax.datasets.listing import Clip, Listing
from ast_jax.evaluation.metrics import Metric
from ast_jax.features import Kaldi
from ast_jax.models.layers import BatchNorm
from ast_jax.objectives import Row
from ast_jax.training.augment import Augmentation


@dataclasses.dataclass(frozen=True)
class ToyConfig:
    """The shape of a Toy."""

    num_classes: int = 2
    num_frames: int = 96
    num_mel_bins: int = 64
    width: int = 16
    dropout: float = 0.1


class Toy(nnx.Module):
    """Mean spectrum, batch normalisation, one hidden layer: it has statistics, and its own front end."""

    Config = ToyConfig
    levels = (("norm", "hidden"), ("head",))

    def __init__(self, config: ToyConfig, *, rngs: nnx.Rngs):
        self.config = config
        self.norm = BatchNorm(config.num_mel_bins)
        self.hidden = nnx.Linear(config.num_mel_bins, config.width, rngs=rngs)
        self.head = nnx.Linear(config.width, config.num_classes, rngs=rngs)

    @property
    def front_end(self) -> Kaldi:
        return Kaldi(num_mel_bins=self.config.num_mel_bins)

    def __call__(self, x, *, key=None, mask=None):
        spectrum = self.norm(x.mean(axis=1), training=key is not None, mask=mask)
        embedding = jax.nn.relu(self.hidden(spectrum))
        if key is not None:
            keep = jax.vmap(lambda k: jax.random.bernoulli(k, 1 - self.config.dropout, (self.config.width,)))(
                key
            )
            embedding = jnp.where(keep, embedding / (1 - self.config.dropout), 0.0)
        return self.head(embedding), {"embedding": embedding}


squared = Row(lambda out, batch, settings: jnp.square(jax.nn.sigmoid(out["logits"]) - batch["labels"]))

brier = Metric(
    "Brier score",
    "Brier",
    lambda scored: float(np.square(scored.scores - scored.targets).mean()),
    higher_is_better=False,
)

deaf = Augmentation(
    "deaf",
    stage="sound",
    stream=0,
    wanted=lambda settings: True,
    # half of all clips lose their lower half of bins
    apply=lambda key, x, settings, front_end: jnp.where(
        (jnp.arange(x.shape[1])[None] < x.shape[1] // 2) & jax.random.bernoulli(key), front_end.silence, x
    ),
)


def list_clips(source_dir, clips_per_class: int = 12) -> Listing:
    """Tones of two pitches, made on the first call."""
    names, splits = ("low", "high"), {"train": [], "test": []}
    for label, name in enumerate(names):
        for number in range(clips_per_class):
            path = Path(source_dir, f"{name}_{number:02d}.wav")
            if not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                time = np.arange(16_000) / 16_000
                tone = 0.1 * np.sin(2 * np.pi * (300 + 2000 * label + 10 * number) * time)
                soundfile.write(path, tone, 16_000)
            split = "test" if number % 3 == 0 else "train"
            splits[split].append(Clip(path.stem, str(path), (label,)))
    return Listing("tones", names, False, splits)
