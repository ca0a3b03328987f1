"""Tags a sound file of any length with an exported model: onnxruntime, no ast_jax.

python -m ast_jax convert RUN tagger --to=onnx --input=waveform
pip install onnxruntime soundfile soxr
python tag.py tagger sound.wav
"""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import soundfile
import soxr

directory, file = map(Path, sys.argv[1:3])
card = json.loads((directory / "model_card.json").read_text(encoding="utf-8"))
session = onnxruntime.InferenceSession(directory / "model.onnx", providers=["CPUExecutionProvider"])
window = session.get_inputs()[0].shape[1]

sound, rate = soundfile.read(file, dtype="float32", always_2d=True)
if card["channels"] == "mean":
    sound = sound.mean(axis=1)
else:
    sound = sound[:, 0 if card["channels"] == "first" else np.square(sound).sum(axis=0).argmax()]
sound = soxr.resample(sound, rate, card["sample_rate_hz"])

# windows that overlap by half; the last one is what is left
for start in range(0, max(len(sound) - window // 2, 1), window // 2):
    piece = sound[start : start + window]
    inputs = {
        "waveform": np.pad(piece, (0, window - len(piece)))[None],
        "num_samples": np.array([len(piece)], np.int32),
    }
    _, scores = session.run(["logits", "scores"], inputs)
    best = np.argsort(-scores[0])[:5]
    tags = ", ".join(f"{card['label_names'][i]} {scores[0, i]:.4f}" for i in best)
    print(f"{start / card['sample_rate_hz']:.2f} s: {tags}")
