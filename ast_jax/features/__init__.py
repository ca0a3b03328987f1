"""Sound files to waveforms (`load_audio`) and waveforms to log-mel spectrograms (`log_mel`).

`log_mel` is imported at once: it is light (no jax, no scipy until called), and its module has its name, which
a lazy import would leave here in its place. The decoders come on first use (PEP 562).
"""

from ast_jax.features.front_end import REFERENCE, FrontEnd, Kaldi
from ast_jax.features.log_mel import log_mel
from ast_jax.features.spec import SAMPLE_RATE, num_frames

_DECODING = ("AudioError", "duration_s", "load_audio", "stream_audio")
__all__ = ["REFERENCE", "SAMPLE_RATE", "FrontEnd", "Kaldi", "log_mel", "num_frames", *_DECODING]


def __getattr__(name: str):
    if name not in _DECODING:
        raise AttributeError(f"module 'ast_jax.features' has no attribute {name!r}; it offers {__all__}")
    from ast_jax.features import audio

    return getattr(audio, name)
