"""Which rows of each batch a host reads, where several hosts train together."""

from typing import Any

from ast_jax.datasets.pipeline import EvalStream, TrainStream


class HostRows:
    """The rows of every batch that host p of P reads, one batch after the other, as a sequence of their own.

    Batch s holds positions s B to s B + B - 1 of the stream, filled up to `rows` with empty rows where the devices take more;
    host p reads the p-th of P equal pieces of it. So together the hosts read each example once, and each of them as many
    batches as the others.
    """

    def __init__(
        self, stream: TrainStream | EvalStream, *, batch_size: int, rows: int, host: int = 0, hosts: int = 1
    ):
        self.stream, self.batch_size, self.host, self.own = stream, batch_size, host, rows // hosts

    def __len__(self) -> int:
        return len(self.stream) // self.batch_size * self.own

    def __getitem__(self, number: int) -> dict[str, Any]:
        step, row = divmod(number, self.own)
        row += self.host * self.own
        if row >= self.batch_size:
            return self.stream.empty(0)
        return self.stream[step * self.batch_size + row]
