r"""Attention alone, forward and with its backward pass: ours for this device, the other forms in JAX, and
PyTorch's.

  python -m benchmarks.attention [--tokens=1214] [--heads=12,3] [--batch=1] [--repeats=7] [--json=FILE]

Heads of 64, float32 on a CPU, bfloat16 elsewhere. A row is a form, its time against ours in turn (above 1:
ours is faster).
"""

import argparse
import functools

from benchmarks import timing
from benchmarks.peers import use_all_cores

HEAD_SIZE = 64
FORMS = ("ours", "plain", "einsum", "jax.nn.dot_product_attention")


def main() -> None:
    parser = argparse.ArgumentParser("python -m benchmarks.attention", description=__doc__)
    parser.add_argument("--tokens", type=int, default=1214)
    parser.add_argument("--heads", default="12,3")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--json", help="also write the figures here")
    args = parser.parse_args()
    timing.cpu_only()
    rows = []
    for heads in map(int, args.heads.split(",")):
        shape = (args.batch, args.tokens, heads, HEAD_SIZE)
        for passes, make in (("forward", forward), ("forward, backward", backward)):
            made = {name: functools.partial(make, name, shape) for name in FORMS}
            made["PyTorch's SDPA"] = functools.partial(peer, shape, passes)
            seconds = timing.in_processes(made, repeats=args.repeats)
            rows += [
                {
                    "heads": heads,
                    "passes": passes,
                    "form": name,
                    "ms": 1e3 * value,
                    "x ours": value / seconds["ours"],
                }
                for name, value in seconds.items()
            ]
    timing.table(f"attention, {timing.machine()}", rows)
    timing.write(args.json, {"rows": rows})


def form_of(name: str):
    """A function of query, key and value [B, N, H, K]."""
    import jax
    import jax.numpy as jnp

    from ast_jax.models import kernels_on
    from ast_jax.models.attention import attend

    def einsum(q, k, v):
        scores = jnp.einsum("bqhk,bnhk->bhqn", q * q.shape[-1] ** -0.5, k, preferred_element_type=jnp.float32)
        return jnp.einsum("bhqn,bnhk->bqhk", jax.nn.softmax(scores).astype(v.dtype), v)

    return {
        "ours": kernels_on(jax.devices()[0]).attend,
        "plain": attend,
        "einsum": einsum,
        "jax.nn.dot_product_attention": jax.nn.dot_product_attention,
    }[name]


def inputs(shape: tuple[int, ...]) -> list:
    import jax
    import jax.numpy as jnp

    return [jax.random.normal(key, shape, jnp.float32) for key in jax.random.split(jax.random.key(0), 3)]


def forward(name, shape):
    import jax

    function, arrays = jax.jit(form_of(name)), inputs(shape)
    return lambda: function(*arrays).block_until_ready()


def backward(name, shape):
    """The output and the gradients of all three for a gradient of the output that is the query."""
    import jax

    def both(q, k, v):
        out, pull = jax.vjp(form_of(name), q, k, v)
        return out, pull(q)

    function, arrays = jax.jit(both), inputs(shape)
    return lambda: jax.block_until_ready(function(*arrays))


def peer(shape: tuple[int, ...], passes: str):
    """PyTorch's, from arrays laid out as ours."""
    import torch

    use_all_cores()
    q, k, v = (torch.randn(shape, requires_grad=True) for _ in range(3))
    sdpa = torch.nn.functional.scaled_dot_product_attention
    by_head = lambda x: x.transpose(1, 2)

    def call():
        with torch.set_grad_enabled(passes != "forward"):
            out = by_head(sdpa(by_head(q), by_head(k), by_head(v)))
        if passes != "forward":
            torch.autograd.grad(out, (q, k, v), q)

    return call


if __name__ == "__main__":
    main()
