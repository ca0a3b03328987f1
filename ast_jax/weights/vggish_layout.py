"""VGGish's files, read: torchvggish's `.pth`, and arrays of the TensorFlow checkpoint under its own names
(docs/weights.md has the command that makes an `.npz` of it, with the PCA beside).

They hold VGGish alone: a baseline starts from them with a new perceptron.
"""

from typing import Any

from ast_jax.errors import InputError
from ast_jax.models.vggish import VGGishConfig
from ast_jax.weights.layouts import Arrays, Row, same, torch_convolution, torch_linear
from ast_jax.weights.source import Source, fitted

_DENSE = ("fc1", "fc2", "embed")
_TORCH_CONVOLUTIONS, _TORCH_DENSE = (0, 3, 6, 8, 11, 13), (0, 2, 4)
_TENSORFLOW_CONVOLUTIONS = (
    "conv1",
    "conv2",
    "conv3/conv3_1",
    "conv3/conv3_2",
    "conv4/conv4_1",
    "conv4/conv4_2",
)
_TENSORFLOW_DENSE = ("fc1/fc1_1", "fc1/fc1_2", "fc2")
_PCA = ("pca_eigen_vectors", "pca_means")


def read_torch(where: str, arrays: dict, card: dict | None, facts: dict) -> Source:
    """torchvggish's state dict, alone or with its `pproc`."""
    rows = []
    for i, theirs in enumerate(_TORCH_CONVOLUTIONS):
        rows += torch_convolution(f"net/convs/{i}", f"features.{theirs}")
    for ours, theirs in zip(_DENSE, _TORCH_DENSE, strict=True):
        rows += torch_linear(f"net/{ours}", f"embeddings.{theirs}")
    return _read(where, arrays, rows, "pproc.", "torchvggish")


def read_tensorflow(where: str, arrays: dict, card: dict | None, facts: dict) -> Source:
    """The published checkpoint's arrays, which lie as ours do."""
    rows = []
    for i, theirs in enumerate(_TENSORFLOW_CONVOLUTIONS):
        rows += _tensorflow(f"net/convs/{i}", theirs)
    for ours, theirs in zip(_DENSE, _TENSORFLOW_DENSE, strict=True):
        rows += _tensorflow(f"net/{ours}", theirs)
    return _read(where, arrays, rows, "", "VGGish")


def _tensorflow(ours: str, theirs: str) -> list[Row]:
    names = (("kernel", "weights"), ("bias", "biases"))
    return [same(f"{ours}/{own}", f"vggish/{theirs}/{other}") for own, other in names]


def _read(where: str, arrays: Arrays, rows: list[Row], before_pca: str, layout: str) -> Source:
    matrix, mean = (before_pca + name for name in _PCA)
    released = matrix in arrays
    if released:
        flat = Row("net/pca/mean", (mean,), lambda x: x.reshape(-1), lambda x: (x.reshape(-1, 1),))
        rows = [*rows, same("net/pca/matrix", matrix), flat]
    biases = {row.ours: row.theirs[0] for row in rows if row.ours.endswith("/bias")}
    if missing := [key for key in biases.values() if key not in arrays]:
        raise InputError(f"{where} looks like VGGish and lacks {', '.join(missing)}: is it whole?")
    sizes = {ours: len(arrays[key]) for ours, key in biases.items()}
    channels = tuple(sizes[f"net/convs/{i}/bias"] for i in (0, 1, 2, 4))
    fields: dict[str, Any] = {"channels": channels, "width": sizes["net/fc1/bias"], "released": released}
    config = VGGishConfig(num_classes=1, **fields)
    found = fitted(where, "vggish_mlp", config, rows, arrays, part="net/")
    how = "as AudioSet released them" if released else "as they are: the file holds no PCA"
    notes = [f"VGGish without a classifier; embeddings {how}"]
    return Source(where, layout, False, found, fields, family="vggish_mlp", has_head=False, notes=notes)
