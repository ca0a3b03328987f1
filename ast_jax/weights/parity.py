"""How far the logits of a written file, computed by PyTorch, lie from ours: measured, in one line.

B batch, T frames, F mel bins, C classes.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from ast_jax.features.audio import AudioError, load_audio
from ast_jax.models import ASTConfig, merge, split
from ast_jax.weights import program
from ast_jax.weights.pretrained import LoadedModel, with_config
from ast_jax.weights.program import Takes

# sounds whose inputs are kept, for timing
_TIMED = 50


def with_reference(loaded: LoadedModel, path: Path) -> str:
    """The written `.pth`, opened by torch, under the reference's arithmetic (LayerNorm eps 1e-6, in the head
    1e-5).
    """
    try:
        import torch
    except ImportError:
        return "parity: not measured, torch is not installed"
    x = _features(loaded.model.config)
    state = torch.load(path, map_location="cpu", weights_only=True)
    state = {key.removeprefix("module."): value for key, value in state.items()}
    with torch.no_grad():
        theirs = _reference_forward(torch, state, torch.from_numpy(x), loaded.model.config).numpy()
    return _line("PyTorch", _logits(loaded, x), theirs)


def with_transformers(loaded: LoadedModel, path: Path) -> str:
    """The written directory, opened by transformers as anyone would."""
    try:
        import torch
        from transformers import ASTForAudioClassification
    except ImportError:
        return "parity: not measured, transformers with torch is not installed"
    x = _features(loaded.model.config)
    model = ASTForAudioClassification.from_pretrained(path).eval()
    with torch.no_grad():
        theirs = model(torch.from_numpy(x)).logits.numpy()
    return _line("transformers", _logits(loaded, x), theirs)


def with_other_head_eps(loaded: LoadedModel, eps: float) -> float:
    """The largest change of our logits if the head's LayerNorm had this eps."""
    x = _features(loaded.model.config)
    return float(np.abs(_logits(loaded, x, head_norm_eps=eps) - _logits(loaded, x)).max())


def with_program(loaded: LoadedModel, whose: str, run: Callable[..., Any], takes: Takes) -> str:
    """A written program, from its inputs to logits and scores, at two batch sizes."""
    inputs = program.examples(loaded, takes, 3)
    with jax.default_matmul_precision("float32"):
        ours = loaded.logits(program.features(loaded, inputs))
        theirs = [
            np.asarray(run(*(array[:batch] for array in inputs.values()))[0]) for batch in (1, len(ours))
        ]
    on = "features" if takes == "log_mel" else "waveforms"
    return _line(whose, np.concatenate([ours[:1], ours]), np.concatenate(theirs), on=on)


def on_sounds(
    loaded: LoadedModel, run: Callable[..., Any], takes: Takes, files: Sequence[Path]
) -> tuple[str, list[dict[str, np.ndarray]]]:
    """How far a program's scores lie from ours on the beginning of each of these sounds, in one line; and the
    inputs that the first of them are. A file that cannot be heard is counted and left out.

    Raises AudioError where none can be heard.
    """
    rate_hz, whole = loaded.front_end.sample_rate_hz, program.samples(loaded)
    channels: Any = loaded.channels
    given: list[dict[str, np.ndarray]] = []
    most, total, heard, agree, fault = 0.0, 0.0, 0, 0, None
    for file in files:
        try:
            sound = load_audio(file, channels=channels, sample_rate_hz=rate_hz, tell=lambda text: None)
        except AudioError as error:
            fault = error
            continue
        sound, heard = sound[:whole], heard + 1
        waveform = np.pad(sound, (0, whole - len(sound)))[None]
        inputs = {"waveform": waveform, "num_samples": np.array([len(sound)], np.int32)}
        fbank = program.features(loaded, inputs)
        inputs = {"fbank": fbank} if takes == "log_mel" else inputs
        ours, theirs = np.asarray(loaded.scores(fbank)), np.asarray(run(*inputs.values())[1])
        far = np.abs(ours - theirs)
        most, total = max(most, float(far.max())), total + float(far.mean())
        agree += int(ours.argmax() == theirs.argmax())
        given += [inputs] * (heard <= _TIMED)
    if not heard:
        raise fault or AudioError("no sounds to check on")
    left = f", {len(files) - heard} could not be heard" if heard < len(files) else ""
    return (
        f"checked on {heard} sounds{left}: scores differ from ours by at most {most:.1e}, "
        f"{total / heard:.1e} on average; the same label is first in {agree} of {heard}"
    ), given


def _line(whose: str, ours: np.ndarray, theirs: np.ndarray, *, on: str = "features") -> str:
    return (
        f"parity: logits of {whose} and ours differ by at most {np.abs(ours - theirs).max():.1e} on random "
        f"{on} (largest logit {np.abs(ours).max():.2g})"
    )


def _features(config: ASTConfig) -> Float[np.ndarray, "2 T F"]:
    """Random features as the model takes them: normalised, standard deviation 1/2."""
    shape = (2, config.num_frames, config.num_mel_bins)
    return np.random.default_rng(0).normal(0, 0.5, shape).astype(np.float32)


def _logits(loaded: LoadedModel, x: Float[np.ndarray, "B T F"], **changes: Any) -> Float[np.ndarray, "B C"]:
    """Ours, in float32 whatever the model's compute type and the chip's default."""
    graphdef, params, statistics = split(with_config(loaded, dtype="float32", **changes).model)
    with jax.default_matmul_precision("float32"):
        return np.asarray(jax.jit(lambda p, x: merge(graphdef, p)(x)[0])(params | statistics, x))


def _reference_forward(torch: Any, p: Mapping[str, Any], x: Any, config: ASTConfig) -> Any:
    """The published model on [B, T, F], from its state dict: timm's DeiT blocks, both tokens averaged, then
    the head.
    """
    f = torch.nn.functional

    def linear(y, name):
        return f.linear(y, p[f"{name}.weight"], p[f"{name}.bias"])

    def norm(y, name, eps=1e-6):
        return f.layer_norm(y, y.shape[-1:], p[f"{name}.weight"], p[f"{name}.bias"], eps)

    image = x.unsqueeze(1).transpose(2, 3)
    x = f.conv2d(
        image, p["v.patch_embed.proj.weight"], p["v.patch_embed.proj.bias"], stride=tuple(config.strides)
    )
    x = x.flatten(2).transpose(1, 2)
    prefix = [p[f"v.{name}"].expand(len(x), -1, -1) for name in ("cls_token", "dist_token")]
    x = torch.cat([*prefix, x], dim=1) + p["v.pos_embed"]
    for i in range(config.depth):
        block = f"v.blocks.{i}"
        qkv = linear(norm(x, f"{block}.norm1"), f"{block}.attn.qkv")
        q, k, v = qkv.reshape(*x.shape[:2], 3, config.num_heads, -1).permute(2, 0, 3, 1, 4)
        heads = f.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        x = x + linear(heads, f"{block}.attn.proj")
        x = x + linear(f.gelu(linear(norm(x, f"{block}.norm2"), f"{block}.mlp.fc1")), f"{block}.mlp.fc2")
    x = norm(x, "v.norm")
    return linear(norm((x[:, 0] + x[:, 1]) / 2, "mlp_head.0", 1e-5), "mlp_head.1")
