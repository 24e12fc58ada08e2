"""Attention: the batch is the first axis of queries, keys and values."""

from __future__ import annotations

from collections.abc import Sequence

from .nodes import MICROSOFT, Node, rule
from .values import Refused, Rows, Value, batched, free, matched, only_free, same_everywhere


def _rows(values: Sequence[Value | None]) -> Rows | None:
    """Where the batch of several tensors with the batch in front is; None where they hold none."""
    there = [value for value in values if value is not None]
    rows = next((value.rows for value in there if value.rows is not None), None)
    if rows is None:
        return None
    if rows.axis != 0:
        raise Refused("does not have the batch in front")
    for value in there:
        matched(value, rows)
    return rows


def _mask(mask: Value | None, rows: Rows | None, scores: tuple[int, ...]) -> None:
    """Refused unless a mask that is added to `scores` [B, heads, queries, keys] is of the same row, or equal for all."""
    if mask is None:
        return
    if mask.rank > 4 or any(size not in (1, want) for size, want in zip(mask.shape[::-1], scores[::-1], strict=False)):
        raise Refused("has a mask that does not fit")
    if mask.rows is not None and (mask.rank != 4 or mask.rows != rows):
        raise Refused("combines rows with other rows of the batch")
    if mask.rank == 4 and rows is not None:
        same_everywhere(mask, 0, rows.count)


@rule("Attention")
def attention(node: Node) -> Sequence[Value]:
    """Operator set 23: four axes, or three with the heads in the last one; no cache."""
    node.one_output()
    if any(node.get(place) is not None for place in (4, 5, 6)):
        raise Refused("keeps keys and values, which is not followed")
    q, k, v = node[0], node[1], node[2]
    if not q.rank == k.rank == v.rank or q.rank not in (3, 4) or not q.shape[0] == k.shape[0] == v.shape[0]:
        raise Refused("has queries, keys and values that do not fit")
    heads, inner = q.shape[1], v.shape[-1]
    if q.rank == 3:
        heads, of_keys = node.integer("q_num_heads", 0), node.integer("kv_num_heads", 0)
        if heads < 1 or of_keys < 1 or q.shape[-1] % heads or v.shape[-1] % of_keys:
            raise Refused("has a number of heads that does not fit")
        inner = v.shape[-1] // of_keys * heads
    rows = _rows([q, k, v])
    _mask(node.get(3), rows, (q.shape[0], heads, q.shape[-2], k.shape[-2]))
    shape = (*q.shape[:-1], inner)
    return [free(shape) if rows is None else batched(shape, rows)]


@rule("MultiHeadAttention", domain=MICROSOFT)
def multi_head(node: Node) -> Sequence[Value]:
    """[B, places, hidden] each; no cache, no padding mask."""
    node.one_output()
    q, k, v = node[0], node[1], node[2]
    if any(node.get(place) is not None for place in (4, 6, 7, 8, 9)) or {q.rank, k.rank, v.rank} != {3}:
        raise Refused("is in a form that is not followed")
    if not q.shape[0] == k.shape[0] == v.shape[0] or node.integer("num_heads", 0) < 1:
        raise Refused("has queries, keys and values that do not fit")
    only_free(node.get(3), "bias")
    rows = _rows([q, k, v])
    _mask(node.get(5), rows, (q.shape[0], node.integer("num_heads", 0), q.shape[1], k.shape[1]))
    shape = (*q.shape[:-1], v.shape[-1])
    return [free(shape) if rows is None else batched(shape, rows)]


@rule("Attention", domain=MICROSOFT)
def packed(node: Node) -> Sequence[Value]:
    """[B, places, hidden] times the weights of queries, keys and values; no cache, no mask."""
    node.one_output()
    x, w = node[0], node[1]
    if (
        len(node.present()) > 3
        or any(node.get(place) is not None for place in (3, 4, 5, 6))
        or x.rank != 3
        or w.rank != 2
    ):
        raise Refused("is in a form that is not followed")
    only_free(w, "weights")
    only_free(node.get(2), "bias")
    sizes = node.integers("qkv_hidden_sizes") or [w.shape[1] // 3] * 3
    if len(sizes) != 3 or sum(sizes) != w.shape[1] or w.shape[0] != x.shape[2]:
        raise Refused("has weights that do not fit")
    rows = _rows([x])
    shape = (*x.shape[:2], sizes[2])
    return [free(shape) if rows is None else batched(shape, rows)]


@rule("RotaryEmbedding")
def rotary(node: Node) -> Sequence[Value]:
    """Tables [B, places, half], or [entries, half] with the entry of every place."""
    x, places = node[0], node.get(3)
    tables = [node[1], node[2]]
    if x.rank not in (3, 4):
        raise Refused("is in a form that is not followed")
    if places is not None:
        for table in tables:
            only_free(table, "tables")
        tables = [places]
    rows = _rows([x, *tables])
    return [free(x.shape) if rows is None else batched(x.shape, rows)]
