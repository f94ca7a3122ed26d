"""Integers and bits of PTX against Python's integers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from .ptx_machine import compute

TYPES = {"s16": np.int16, "u16": np.uint16, "s32": np.int32, "u32": np.uint32, "s64": np.int64, "u64": np.uint64}


def numbers(dtype: Any, seed: int, count: int = 512) -> Any:
    generator = np.random.default_rng(seed)
    info = np.iinfo(dtype)
    special = [0, 1, 2, 7, 31, 32, 63, info.max, info.min, info.max - 1]
    if info.min:
        special += [-1, -2, -7]
    values = generator.integers(info.min, info.max, count, dtype=dtype, endpoint=True)
    return np.where(generator.random(count) < 0.4, generator.choice(np.array(special, dtype), count), values)


def wrapped(values: list[int], dtype: Any) -> Any:
    info = np.iinfo(dtype)
    size = 1 << info.bits
    return np.array([(value - info.min) % size + info.min for value in values], dtype)


def truncated(x: int, y: int) -> int:
    return abs(x) // abs(y) * (1 if (x < 0) == (y < 0) else -1)


BINARY: dict[str, Callable[[int, int], int]] = {
    "add": lambda x, y: x + y,
    "sub": lambda x, y: x - y,
    "mul.lo": lambda x, y: x * y,
    "min": min,
    "max": max,
    "div": lambda x, y: truncated(x, y) if y else -1,
    "rem": lambda x, y: x - y * truncated(x, y) if y else x,
}


@pytest.mark.parametrize("kind", TYPES)
def test_arithmetic(kind: str) -> None:
    dtype = TYPES[kind]
    x, y = numbers(dtype, 1), numbers(dtype, 2)
    for name, function in BINARY.items():
        got = compute(f"{name}.{kind} %out, %a, %b;", x, y, out=dtype)
        expected = wrapped([function(int(a), int(b)) for a, b in zip(x, y, strict=True)], dtype)
        assert (got == expected).all(), name
    high = compute(f"mul.hi.{kind} %out, %a, %b;", x, y, out=dtype)
    bits = np.iinfo(dtype).bits
    assert high.tolist() == [int(a) * int(b) >> bits for a, b in zip(x, y, strict=True)]
    if bits < 64:
        wide = np.dtype(f"{np.dtype(dtype).kind}{bits // 4}")
        z = numbers(wide, 3)
        got = compute(f"mad.wide.{kind} %out, %a, %b, %c;", x, y, z, out=wide)
        exact = [int(a) * int(b) + int(c) for a, b, c in zip(x, y, z, strict=True)]
        assert (got == wrapped(exact, wide)).all()
    got = compute(f"mad.lo.{kind} %out, %a, %b, %a;", x, y, out=dtype)
    assert (got == wrapped([int(a) * int(b) + int(a) for a, b in zip(x, y, strict=True)], dtype)).all()
    if kind[0] == "s":
        assert (compute(f"neg.{kind} %out, %a;", x, out=dtype) == wrapped([-int(a) for a in x], dtype)).all()
        assert (compute(f"abs.{kind} %out, %a;", x, out=dtype) == wrapped([abs(int(a)) for a in x], dtype)).all()


@pytest.mark.parametrize("kind", TYPES)
def test_shifts_and_comparisons(kind: str) -> None:
    dtype = TYPES[kind]
    x, y = numbers(dtype, 4), numbers(dtype, 5)
    bits = np.iinfo(dtype).bits
    by = np.random.default_rng(0).integers(0, bits + 8, len(x)).astype(np.uint32)
    right = compute(f"shr.{kind} %out, %a, %b;", x, by, out=dtype)
    assert right.tolist() == [int(a) >> int(b) for a, b in zip(x, by, strict=True)]
    left = compute(f"shl.b{bits} %out, %a, %b;", x, by, out=dtype)
    assert (left == wrapped([int(a) << int(b) for a, b in zip(x, by, strict=True)], dtype)).all()
    assert compute(f"shr.{kind} %out, %a, 5;", x, out=dtype).tolist() == [int(a) >> 5 for a in x]
    for name in ("eq", "ne", "lt", "le", "gt", "ge"):
        got = compute(f"setp.{name}.{kind} %p1, %a, %b; selp.b32 %out, 3, 4, %p1;", x, y, out=np.uint32)
        expected = [3 if getattr(int(a), f"__{name}__")(int(b)) else 4 for a, b in zip(x, y, strict=True)]
        assert got.tolist() == expected, name


@pytest.mark.parametrize("kind", ["s32", "u32", "s64", "u64"])
def test_fields(kind: str) -> None:
    dtype = TYPES[kind]
    bits = np.iinfo(dtype).bits
    x, y = numbers(dtype, 6), numbers(dtype, 7)
    generator = np.random.default_rng(1)
    at = generator.integers(0, bits + 4, len(x)).astype(np.uint32)
    length = generator.integers(0, bits + 4, len(x)).astype(np.uint32)

    def extracted(a: int, p: int, n: int) -> int:
        """As the manual of PTX has it: bits beyond the number are its sign, which lies at its last bit at most."""
        u = a % (1 << bits)
        sign = 0 if kind[0] == "u" or n == 0 else u >> min(p + n - 1, bits - 1) & 1
        value = sum(((u >> (k + p) & 1) if k < n and p + k < bits else sign) << k for k in range(bits))
        return value - (1 << bits) if kind[0] == "s" and value >> (bits - 1) else value

    got = compute(f"bfe.{kind} %out, %a, %b, %c;", x, at, length, out=dtype)
    assert got.tolist() == [extracted(int(a), int(p), int(n)) for a, p, n in zip(x, at, length, strict=True)]
    unsigned = x.view(f"u{bits // 8}")
    into = y.view(f"u{bits // 8}")
    got = compute(f"bfi.b{bits} %out, %a, %b, %c, %d;", unsigned, into, at, length, out=unsigned.dtype)
    whole = (1 << bits) - 1

    def inserted(a: int, b: int, p: int, n: int) -> int:
        mask = ((1 << n) - 1) << p & whole
        return b & ~mask | a << p & mask

    expected = [inserted(int(a), int(b), int(p), int(n)) for a, b, p, n in zip(unsigned, into, at, length, strict=True)]
    assert got.tolist() == expected
    assert compute(f"popc.b{bits} %out, %a;", unsigned, out=np.uint32).tolist() == [
        int(a).bit_count() for a in unsigned
    ]
    expected = [bits - int(a).bit_length() for a in unsigned]
    assert compute(f"clz.b{bits} %out, %a;", unsigned, out=np.uint32).tolist() == expected


def test_logic() -> None:
    x, y, z = (numbers(np.uint32, seed) for seed in (8, 9, 10))
    assert (compute("and.b32 %out, %a, %b;", x, y, out=np.uint32) == x & y).all()
    assert (compute("or.b32 %out, %a, %b;", x, y, out=np.uint32) == x | y).all()
    assert (compute("xor.b32 %out, %a, %b;", x, y, out=np.uint32) == x ^ y).all()
    assert (compute("not.b32 %out, %a;", x, out=np.uint32) == ~x).all()
    # the tables of lop3 are the function of 0xF0, 0xCC and 0xAA
    tables: dict[int, Any] = {
        0x96: x ^ y ^ z,
        0xE8: (x & y) | (x & z) | (y & z),
        0x2A: z & ~(x & y),
        0x01: ~(x | y | z),
    }
    for table, expected in tables.items():
        assert (compute(f"lop3.b32 %out, %a, %b, %c, {table:#x};", x, y, z, out=np.uint32) == expected).all()
    code = "setp.lt.u32 %p1, %a, %b; setp.lt.u32 %p2, %b, %c; {}.pred %p3, %p1, %p2; selp.b32 %out, 1, 0, %p3;"
    for name, function in (("and", np.logical_and), ("or", np.logical_or), ("xor", np.logical_xor)):
        got = compute(code.format(name), x, y, z, out=np.uint32)
        assert (got == function(x < y, y < z)).all(), name


def test_bytes_and_vectors() -> None:
    x, y, selector = (numbers(np.uint32, seed) for seed in (11, 12, 13))

    def permuted(a: int, b: int, chosen: int) -> int:
        both = (a | b << 32).to_bytes(8, "little")
        parts = []
        for k in range(4):
            nibble = chosen >> 4 * k & 15
            byte = both[nibble & 7]
            parts.append((255 if byte >> 7 else 0) if nibble >> 3 else byte)
        return int.from_bytes(bytes(parts), "little")

    got = compute("prmt.b32 %out, %a, %b, %c;", x, y, selector, out=np.uint32)
    assert got.tolist() == [permuted(int(a), int(b), int(c)) for a, b, c in zip(x, y, selector, strict=True)]
    both = compute("mov.b64 %out, {%a, %b};", x, y, out=np.uint64)
    assert (both == x.astype(np.uint64) | y.astype(np.uint64) << np.uint64(32)).all()
    assert (compute("mov.b64 {%r1, %out}, %a;", both, out=np.uint32) == y).all()
    assert (compute("mov.b64 {%out, _}, %a;", both, out=np.uint32) == x).all()
    assert (compute("mov.b32 {%h1, %h2}, %a; mov.b32 %out, {%h2, %h1};", x, out=np.uint32) == x << 16 | x >> 16).all()


def test_a_guard_chooses_threads() -> None:
    x = np.arange(256, dtype=np.uint32)
    code = "mov.b32 %out, 7; setp.lt.u32 %p1, %a, 100; @%p1 mov.b32 %out, 8; @!%p1 add.s32 %out, %out, %a;"
    assert (compute(code, x, out=np.uint32) == np.where(x < 100, 8, 7 + x)).all()


def test_threads_of_a_warp_take_different_branches() -> None:
    """The number of steps from a number to 1 in Collatz's sequence: each lane leaves the loop when it is ready."""
    x = np.arange(1, 257, dtype=np.uint32)
    code = """
    mov.b32 %out, 0;
LOOP:
    setp.eq.u32 %p1, %a, 1;
    @%p1 bra DONE;
    add.s32 %out, %out, 1;
    and.b32 %r1, %a, 1;
    setp.eq.u32 %p2, %r1, 0;
    @%p2 bra EVEN;
    mad.lo.s32 %a, %a, 3, 1;
    bra LOOP;
EVEN:
    shr.u32 %a, %a, 1;
    bra LOOP;
DONE:
    """

    def steps(number: int) -> int:
        count = 0
        while number != 1:
            number, count = number // 2 if number % 2 == 0 else 3 * number + 1, count + 1
        return count

    assert compute(code, x, out=np.uint32).tolist() == [steps(int(each)) for each in x]
