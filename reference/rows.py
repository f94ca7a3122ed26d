"""What the rowwise chapters share: rows as NumPy is fast on them, and sums along rows that stay exact."""

from __future__ import annotations

from portaloss.reference.notation import Array, np

# Rows in memory. NumPy is fast along long contiguous runs, and slow where it starts anew for every few elements: the
# maximum of ten classes, 3.9 ns an element along the rows, takes 0.06 across them. So rows that are short are stored
# class by class, which is worth a copy each way.

_LONG = 64
_RUN = 128  #: elements of a row that are added in their own dtype, in four lanes or more


def rows(*arrays: Array) -> list[Array]:
    """Arrays (N, C, d1, ...) as (R, C), R = N d1 ..., all stored row by row or all class by class. Maybe views."""
    first = arrays[0]
    classes = first.shape[1]
    count = first.size // max(classes, 1)
    if classes >= _LONG and (count < _LONG or first.strides[1] == first.itemsize):
        if first.ndim == 2:
            return [np.ascontiguousarray(array) for array in arrays]
        return [np.ascontiguousarray(np.moveaxis(array, 1, -1)).reshape(count, classes) for array in arrays]
    if first.ndim == 2:  # np.moveaxis would take as long as ten such products
        return [np.ascontiguousarray(array.T).T for array in arrays]
    return [np.ascontiguousarray(np.moveaxis(array, 1, 0)).reshape(classes, count).T for array in arrays]


def unrows(array: Array, like: Array) -> Array:
    """(R, C) as (N, C, d1, ...), stored in the order of ``like``."""
    shaped = array
    if like.ndim > 2:
        shaped = np.moveaxis(array.reshape(like.shape[0], *like.shape[2:], like.shape[1]), -1, 1)
    result = np.empty_like(like)
    if result.strides != shaped.strides:
        np.copyto(result, shaped)
        return result
    return shaped


def sum_rows(array: Array) -> Array:
    """The sums of the rows, (R, 1): along contiguous rows of runs, whose sums are added in float64; else in pairs."""
    if array.flags.c_contiguous:
        # np.einsum adds in half the time of np.add.reduce, and on short rows in a quarter; the runs' sums are few
        count, classes = array.shape
        whole = classes // _RUN * _RUN
        if not whole:
            few: Array = np.einsum("ij->i", array)
            return few[:, None]
        runs = np.einsum("ijk->ij", array[:, :whole].reshape(count, whole // _RUN, _RUN))
        sums: Array = np.add.reduce(runs, axis=1, keepdims=True, dtype=np.float64)
        if whole < classes:
            sums += np.einsum("ij->i", array[:, whole:])[:, None]
        return sums.astype(array.dtype, copy=False)
    while array.shape[1] > 1:
        half = array.shape[1] // 2
        pairs = array[:, :half] + array[:, half : 2 * half]
        if array.shape[1] % 2:
            pairs[:, :1] += array[:, -1:]
        array = pairs
    return array


def places(array: Array, t: Array) -> Array:
    """Where element t of each row of (R, C) is in the array's memory, which is ``array.reshape(-1, order="A")``."""
    count, classes = array.shape
    class_by_class = array.flags.f_contiguous and not array.flags.c_contiguous
    place: Array = t * count if class_by_class else t.copy()
    place += (np.arange(count) if class_by_class else np.arange(0, count * classes, classes))[:, None]
    return place


# Adding along rows. np.einsum multiplies and adds in one pass, in 0.1 ns an element; .sum(axis=1) alone takes 0.2, and
# on rows of three 3.5 to einsum's 0.9. But einsum adds one term after another, in four lanes where a row is contiguous,
# so that its rounding error grows with the row: 8 units in the last place at 4096 features, and 1 in blocks. Sums of
# few terms cost so much more a row than an element that they may as well be in float64.

_CHAIN = 32  #: additions one after another


def sum_products(*factors: Array) -> Array:
    """Σ over axis 1 of the product of one or two arrays that broadcast together: (N, 1, ...), float64.

    There is one sum a row, so that what is computed from it costs little in float64, and is rounded once.
    """
    length = max(f.shape[1] for f in factors)
    block = 4 * _CHAIN if all(f.strides[1] == f.itemsize for f in factors) else _CHAIN
    if length <= block:
        if length <= _CHAIN:
            factors = tuple(f.astype(np.float64, copy=False) for f in factors)
        sums: Array = np.einsum("nc...->n..." if len(factors) == 1 else "nc...,nc...->n...", *factors)
        return sums[:, None].astype(np.float64, copy=False)

    full = [f if f.shape[1] == length else np.broadcast_to(f, (f.shape[0], length, *f.shape[2:])) for f in factors]
    count = length // block
    blocks = [f[:, : count * block].reshape(f.shape[0], count, block, *f.shape[2:]) for f in full]
    sums = sum_products(np.einsum("nbc...->nb..." if len(factors) == 1 else "nbc...,nbc...->nb...", *blocks))
    if count * block < length:
        sums += sum_products(*[f[:, count * block :] for f in full])
    return sums


__all__ = ["places", "rows", "sum_products", "sum_rows", "unrows"]
