"""PANNs' `.pth` files, read and written: the names of audioset_tagging_cnn.

The front end is in them too, as frozen convolutions and a mel matrix: it says at which rate the model hears,
and is held against ours. K FFT bins, F mel bins.
"""

import json
from pathlib import Path

import numpy as np

from ast_jax.errors import InputError
from ast_jax.features.centred import hann
from ast_jax.models import family, family_name, host_variables
from ast_jax.models.panns import PANNsConfig, front_end_at
from ast_jax.weights import layouts, torch_file
from ast_jax.weights.layouts import (
    Arrays,
    Row,
    batch_norm,
    convolution_kernel,
    time_kernel,
    torch_linear,
    torch_pointwise,
    without_counts,
)
from ast_jax.weights.model_card import CARD
from ast_jax.weights.pretrained import LoadedModel
from ast_jax.weights.source import Source, fitted, known, our_source

_STFT, _MEL = "spectrogram_extractor.stft.conv_", "logmel_extractor.melW"
# a norm that the attention's block makes and never uses
_IDLE = "att_block.bn_att."
WAVEGRAM = "wavegram_logmel_cnn14"


def rows_of(name: str, config: PANNsConfig) -> list[Row]:
    """The key table of a family."""
    convolutions, rows = family(name).convolutions, batch_norm("bn0", "bn0")
    for i in range(len(config.channels)):
        ours, theirs = f"blocks/{i}", f"conv_block{i + 1}"
        for j in range(convolutions):
            rows.append(convolution_kernel(f"{ours}/convs/{j}", f"{theirs}.conv{j + 1}.weight"))
            rows += batch_norm(f"{ours}/norms/{j}", f"{theirs}.bn{j + 1}")
    rows += torch_linear("fc1", "fc1")
    if name == WAVEGRAM:
        rows += _wavegram_rows()
    if name != "cnn14_decision_att":
        return rows + torch_linear("head", "fc_audioset")
    rows += torch_pointwise("attend", "att_block.att", spatial=1)
    return rows + torch_pointwise("classify", "att_block.cla", spatial=1)


def _wavegram_rows() -> list[Row]:
    first, blocks = "pre_conv0.weight", ("pre_block1", "pre_block2", "pre_block3")
    rows = [time_kernel("pre_conv", first), *batch_norm("pre_norm", "pre_bn0")]
    for i, theirs in enumerate(blocks):
        for j in range(2):
            rows.append(time_kernel(f"pre_blocks/{i}/convs/{j}", f"{theirs}.conv{j + 1}.weight"))
            rows += batch_norm(f"pre_blocks/{i}/norms/{j}", f"{theirs}.bn{j + 1}")
    for j in range(2):
        rows.append(convolution_kernel(f"wavegram/convs/{j}", f"pre_block4.conv{j + 1}.weight"))
        rows += batch_norm(f"wavegram/norms/{j}", f"pre_block4.bn{j + 1}")
    return rows


def read(where: str, arrays: dict, card: dict | None, facts: dict) -> Source:
    """A state dict of PANNs. Its names tell which of them it is; of CNN14's two forms with the same ones,
    `facts` may say that it is `cnn14_decision_max`.
    """
    arrays = without_counts(arrays)
    name = _family(arrays, facts)
    head = "att_block.cla.bias" if name == "cnn14_decision_att" else "fc_audioset.bias"
    kernels = [f"conv_block{i + 1}.conv1.weight" for i in range(_blocks(arrays))]
    if missing := [key for key in (head, *kernels) if key not in arrays]:
        raise InputError(f"{where} looks like a PANN and lacks {', '.join(missing)}: is it whole?")
    rate_hz, notes = _sample_rate(where, arrays)
    default = family(name).Config.num_frames
    frames = known(facts, "num_frames", default)
    fields = {
        "num_classes": len(arrays[head]),
        "num_frames": frames,
        "channels": tuple(len(arrays[key]) for key in kernels),
        "sample_rate_hz": rate_hz,
    }
    config = family(name).Config(**fields)
    unused = (_STFT, _MEL, _IDLE)
    found = fitted(where, name, config, rows_of(name, config), arrays, unused=unused)
    if card:
        return our_source(where, found, card, layout="PANNs")
    source = Source(where, "PANNs", False, found, fields, mean=0.0, std=1.0, family=name, notes=notes)
    return source.as_audioset()


def write(loaded: LoadedModel, path: Path) -> list[str]:
    """As published: the state dict under `model`, the frozen front end in it, and our card beside it."""
    config, name = loaded.model.config, family_name(loaded.model)
    state = layouts.write(rows_of(name, config), host_variables(loaded.model))
    if name == "cnn14_decision_att":
        ones, zeros = np.ones(config.num_classes, np.float32), np.zeros(config.num_classes, np.float32)
        idle = {"weight": ones, "bias": zeros, "running_mean": zeros, "running_var": ones}
        state |= {f"{_IDLE}{key}": value for key, value in idle.items()}
    state |= front_end_arrays(config.sample_rate_hz)
    torch_file.write(path, state, inside="model", extra={CARD: json.dumps(loaded.card()).encode()})
    return ["batches are not counted in the file (num_batches_tracked): PyTorch sets 0"]


def front_end_arrays(rate_hz: int) -> dict[str, np.ndarray]:
    """The front end as PANNs' files hold it: [K, 1, length] cosines and sines under the window, [K, F]."""
    front_end = front_end_at(rate_hz)
    length = front_end.frame_length
    turn = -2j * np.pi / length * np.outer(np.arange(length // 2 + 1), np.arange(length))
    waves = (np.exp(turn) * hann(length))[:, None]
    return {
        f"{_STFT}real.weight": waves.real.astype(np.float32),
        f"{_STFT}imag.weight": waves.imag.astype(np.float32),
        _MEL: front_end.filters().astype(np.float32),
    }


def _blocks(arrays: Arrays) -> int:
    return len({key.split(".")[0] for key in arrays if key.startswith("conv_block")})


def _family(arrays: Arrays, facts: dict) -> str:
    if "att_block.att.weight" in arrays:
        return "cnn14_decision_att"
    if "pre_conv0.weight" in arrays:
        return WAVEGRAM
    if _blocks(arrays) == 4:
        return "cnn10" if "conv_block1.conv2.weight" in arrays else "cnn6"
    return "cnn14_decision_max" if facts.get("family") == "cnn14_decision_max" else "cnn14"


def _sample_rate(where: str, arrays: Arrays) -> tuple[int, list[str]]:
    """By the length of its frames. Raises InputError where its filters are not ours."""
    if f"{_STFT}real.weight" not in arrays:
        return 32_000, ["it does not say its front end: taken as PANNs' at 32 kHz"]
    rates = {front_end_at(rate).frame_length: rate for rate in (32_000, 16_000, 8_000)}
    length = arrays[f"{_STFT}real.weight"].shape[-1]
    if length not in rates:
        raise InputError(
            f"{where} has frames of {length} samples, wanted one of {', '.join(map(str, rates))}"
        )
    for key, ours in front_end_arrays(rates[length]).items():
        theirs = arrays.get(key, ours)
        # float32's rounding, of other libraries' sines
        if theirs.shape != ours.shape or np.abs(theirs - ours).max() > 1e-4 * np.abs(ours).max():
            raise InputError(f"{where}: its {key} is of another front end than PANNs' at {rates[length]} Hz")
    return rates[length], []
