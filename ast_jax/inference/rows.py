"""A table of embeddings: a row each window or step of time, with the file's name and when it was; to .npz or
.parquet.

R rows, D width.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Float

from ast_jax.errors import InputError, printable

Kind = Literal["token", "mean", "frames"]
KINDS = {
    "token": "the mean of the class and distillation tokens, which the head reads",
    "mean": "the mean of the patches that hold sound",
    "frames": "a row for each step of time, the mean over frequency",
}


@dataclass(frozen=True)
class Rows:
    files: list[str]
    starts_s: Float[np.ndarray, " R"]
    ends_s: Float[np.ndarray, " R"]
    vectors: Float[np.ndarray, "R D"]

    @classmethod
    def join(cls, parts: Sequence["Rows"]) -> "Rows":
        return cls(
            [printable(name) for part in parts for name in part.files],
            np.concatenate([part.starts_s for part in parts]),
            np.concatenate([part.ends_s for part in parts]),
            np.concatenate([part.vectors for part in parts]),
        )

    def save(self, path: Path, facts: Mapping[str, str]) -> None:
        """Writes files, start_s, end_s and embeddings; `facts` go along as arrays of one string, or as the
        table's metadata.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".npz":
            about = {name: np.array(value) for name, value in facts.items()}
            np.savez(
                path,
                allow_pickle=False,
                files=np.array(self.files),
                start_s=self.starts_s,
                end_s=self.ends_s,
                embeddings=self.vectors,
                **about,
            )
            return
        import pyarrow as pa
        import pyarrow.parquet as pq

        width = self.vectors.shape[1]
        vectors = pa.FixedSizeListArray.from_arrays(self.vectors.astype(np.float32).ravel(), width)
        columns = {"file": self.files, "start_s": self.starts_s, "end_s": self.ends_s, "embedding": vectors}
        pq.write_table(pa.table(columns).replace_schema_metadata(dict(facts)), path)


def check_path(path: Path) -> None:
    """Raises InputError for an output that cannot be written, before hours of work for it."""
    if path.suffix not in (".npz", ".parquet"):
        raise InputError(f"--out={path}: wanted a name that ends in .npz or .parquet")
    if path.suffix == ".parquet":
        try:
            import pyarrow.parquet  # noqa: F401
        except ImportError as error:
            raise InputError("a .parquet file needs pyarrow: `pip install pyarrow`, or write .npz") from error
