"""Softmax attention, the plain form and the fused ones: one function of (query, key, value), chosen by
`kernels.py`.

B batch, H heads, Q query tokens, N tokens, K head size. The plain form is the only one that every backend can
lower.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Bool, Float

Attend = Callable[[Array, Array, Array], Array]

_LANES = 128  # a TPU kernel's tokens come in multiples of this
_LARGEST_TILE = 640  # tokens a side of a tile of scores: 1.6 MB in float32, of a TPU core's 16 MB and more


def attend(
    q: Float[Array, "B Q H K"],
    k: Float[Array, "B N H K"],
    v: Float[Array, "B N H K"],
    heard: Bool[Array, "B N"] | None = None,
) -> Float[Array, "B Q H K"]:
    """softmax(q k^T / sqrt(K)) v, with the softmax in float32 whatever the compute type; over the keys that
    are `heard`, where it is given.

    Heads are moved to the front first, so that both products are batched matrix products without another
    layout inside: on CPUs and jax 0.12 that ran more than twice as fast as `jnp.einsum` over [B, N, H, K]
    (docs/benchmarks_tried.md).
    """
    by_head = lambda x: x.swapaxes(1, 2)
    q, k, v = by_head(q * q.shape[-1] ** -0.5), by_head(k), by_head(v)
    scores = jnp.matmul(q, k.swapaxes(2, 3), preferred_element_type=jnp.float32)
    weights = jax.nn.softmax(masked(scores, heard), axis=-1).astype(v.dtype)
    return by_head(weights @ v)


def masked(scores: Float[Array, "B H Q N"], heard: Bool[Array, "B N"] | None) -> Float[Array, "B H Q N"]:
    """The scores, of keys that are not heard so low that their weight is 0 beside any other's."""
    # finite: where no key is heard the weights are equal, and no gradient is NaN
    return scores if heard is None else jnp.where(heard[:, None, None], scores, -1e30)


def flash_attention(
    q: Float[Array, "B Q H K"], k: Float[Array, "B N H K"], v: Float[Array, "B N H K"]
) -> Float[Array, "B Q H K"]:
    """cuDNN's kernel, which never writes the scores to memory; splits over a mesh by itself. The plain form
    where it cannot run.

    It takes 16-bit floats and heads of 8 to 128 in steps of 8, and trains on even numbers of tokens only: an
    odd one gets a row of padding, named as such. For a few query rows (the last block's) the plain form moves
    less.
    """
    (tokens, head_size), batch = (q.shape[1], q.shape[3]), q.shape[0]
    if q.dtype == jnp.float32 or q.shape != k.shape or head_size % 8 or head_size > 128:
        return attend(q, k, v)
    if tokens % 2 == 0:
        return jax.nn.dot_product_attention(q, k, v, implementation="cudnn")
    q, k, v = (jnp.pad(x, [(0, 0), (0, 1), (0, 0), (0, 0)]) for x in (q, k, v))
    lengths = jnp.full(batch, tokens, jnp.int32)
    out = jax.nn.dot_product_attention(
        q, k, v, query_seq_lengths=lengths, key_value_seq_lengths=lengths, implementation="cudnn"
    )
    return out[:, :tokens]


def splash_attention(
    q: Float[Array, "B Q H K"],
    k: Float[Array, "B N H K"],
    v: Float[Array, "B N H K"],
    *,
    interpret: bool = False,
) -> Float[Array, "B Q H K"]:
    """The Pallas kernel for TPUs, which never writes the scores to memory; the plain form for a few query
    rows.

    Tokens are padded to a multiple of 128 that large tiles divide, and kept apart from the padding by segment
    numbers. `interpret` runs it anywhere, slowly, for tests.
    """
    if q.shape != k.shape:
        return attend(q, k, v)
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as splash
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

    tokens, heads, head_size = q.shape[1:]
    padded, tile = tiled(tokens)
    kernel = splash.make_splash_mha_single_device(
        masks.MultiHeadMask([masks.FullMask((padded, padded))] * heads),
        block_sizes=splash.BlockSizes(
            tile, tile, block_q_dkv=tile, block_kv_dkv=tile, block_q_dq=tile, block_kv_dq=tile
        ),
        interpret=interpret,
    )
    is_padding = (jnp.arange(padded) >= tokens).astype(jnp.int32)
    segments = splash.SegmentIds(is_padding, is_padding)
    by_head = lambda x: jnp.pad(x, [(0, 0), (0, padded - tokens), (0, 0), (0, 0)]).swapaxes(1, 2)
    out = jax.vmap(lambda *qkv: kernel(*qkv, segment_ids=segments))(
        by_head(q * head_size**-0.5), by_head(k), by_head(v)
    )
    return out.swapaxes(1, 2)[:, :tokens]


def tiled(tokens: int) -> tuple[int, int]:
    """How many tokens a sequence is padded to, and the side of its tiles.

    Up to 256 more than it needs where larger tiles are worth it: 1,281 as 1,408 would be worked on in tiles
    of 128, as 1,536 in tiles of 512. What a tile costs beside its scores is taken for 256 columns of them; no
    TPU was there to measure it.
    """
    least = -(-tokens // _LANES) * _LANES

    def tile(size: int) -> int:
        return max(t for t in range(_LANES, min(size, _LARGEST_TILE) + 1, _LANES) if size % t == 0)

    padded = min(range(least, least + 3 * _LANES, _LANES), key=lambda size: size**2 * (1 + 256 / tile(size)))
    return padded, tile(padded)


def on_each_device(attention: Attend, mesh: Mesh) -> Attend:
    """Each device runs the kernel on its own rows of the batch: XLA cannot split a Pallas kernel by
    itself.
    """
    rows = PartitionSpec(mesh.axis_names)
    return jax.shard_map(attention, mesh=mesh, in_specs=(rows,) * 3, out_specs=rows, check_vma=False)
