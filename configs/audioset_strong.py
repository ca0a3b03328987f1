r"""AudioSet's temporally strong labels: 10 s clips whose every sound has its times, 456 labels (Hershey et
al., "The Benefit of Temporally-Strong Labels in Audio Event Classification", ICASSP 2021).

  python -m ast_jax.main --config=configs/audioset_strong.py --config.dataset.source_dir=AUDIOSET \
      --config.init_from=ast_audioset_10_10_0.4593 --workdir=runs/strong

AUDIOSET holds the published audioset_train_strong.tsv and audioset_eval_strong.tsv (segment_id,
start_time_seconds, end_time_seconds, label) and audio/SEGMENT_ID.wav. Labels stay identifiers (/m/0bt9lr), in
alphabetical order. Steps are 40 ms apart (patches of 16 x 16 at strides 16 and 4: 2,026 tokens). There is no
figure of AST to compare with: the recipe is `audioset`'s but for length of steps and loss.
"""

from ast_jax.config import base, suffix_options


def get_config(suffix: str = ""):
    suffix_options(suffix)
    config = base()
    config.dataset.name = "events"
    config.dataset.options = {
        "tables": {"train": "audioset_train_strong.tsv", "test": "audioset_eval_strong.tsv"},
        "sounds_dir": "audio",
        "suffix": ".wav",
    }
    config.dataset.mean, config.dataset.std = -4.2677393, 4.5689974
    config.num_frames = 1024
    config.model.head, config.model.strides = "frames", (16, 4)
    config.epochs, config.batch_size, config.lr = 10, 12, 1e-5
    config.lr_decay, config.lr_decay_epochs = 0.5, tuple(range(2, 11))
    config.freq_mask, config.mixup = 48, 0.5
    config.loss, config.metric = "frames_bce", "mAP"
    return config
