r"""Speech Commands V2, 35 words of 1 s: trained on 84,843 clips, chosen on 9,981, reported on 11,005.

  python -m ast_jax.main --config=configs/speech_commands.py --config.dataset.source_dir=speech_commands_v0.02

Published, AST-base: 98.11 +- 0.05 % test accuracy from ImageNet, 97.88 +- 0.03 % from AudioSet.
The rate decays at every epoch from 6 to 26 and then stays, as in the published run. 30 epochs took 6.2 h on four GTX TITAN.
"""

from ast_jax.config import base, suffix_options


def get_config(suffix: str = ""):
    suffix_options(suffix)
    config = base()
    config.dataset.name = "speech_commands"
    config.dataset.train, config.dataset.eval, config.dataset.test = ("train",), ("validation",), ("test",)
    config.dataset.mean, config.dataset.std = -6.845978, 5.5654526
    config.num_frames = 128
    config.loss, config.metric = "bce", "accuracy"
    config.epochs, config.batch_size, config.lr = 30, 128, 2.5e-4
    config.lr_decay, config.lr_decay_epochs = 0.85, tuple(range(6, 27))
    config.freq_mask, config.time_mask = 48, 48
    return config
