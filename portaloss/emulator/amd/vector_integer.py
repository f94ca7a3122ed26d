"""Vector instructions of integers and bits. Names are those of the ISA manuals without the encoding."""

from __future__ import annotations

from typing import Any

import numpy as np

from portaloss.emulator.amd.assembly import Instruction
from portaloss.emulator.amd.operands import Context, vector_sink
from portaloss.emulator.amd.vector import Entry, Run, sources
from portaloss.emulator.amd.waves import Waves


def _high(a: Any, b: Any) -> Any:
    """The upper 32 bits of a product."""
    wide = np.int64 if a.dtype == np.int32 else np.uint64
    return ((a.astype(wide) * b.astype(wide)) >> 32).astype(a.dtype)


def _signed24(x: Any) -> Any:
    """The lower 24 bits with their sign."""
    return (x << 8) >> 8


def _field(value: Any, offset: Any, width: Any) -> Any:
    """A field of bits, zero- or sign-extended as the type of the value is."""
    offset, width = offset & 31, width & 31
    unsigned = np.uint32
    bits = (value >> offset.astype(value.dtype)).view(unsigned) & (
        (unsigned(1) << width.astype(unsigned)) - unsigned(1)
    )
    if value.dtype == np.int32:
        sign = np.where(width == 0, unsigned(0), unsigned(1) << ((width - 1).astype(unsigned) & 31))
        bits = (bits ^ sign) - sign
    return bits.view(value.dtype)


def reverse_bits(x: Any) -> Any:
    """The 32 bits in the opposite order."""
    for shift, mask in ((1, 0x55555555), (2, 0x33333333), (4, 0x0F0F0F0F), (8, 0x00FF00FF)):
        x = ((x >> shift) & np.uint32(mask)) | ((x & np.uint32(mask)) << shift)
    return (x >> 16) | (x << 16)


def _permute_bytes(a: Any, b: Any, selector: Any) -> Any:
    """Each byte of the selector names a byte of the eight of b (0 to 3) and a (4 to 7), a sign, 0 or 255."""
    both = (a.astype(np.uint64) << 32) | b
    result: Any = np.uint32(0)
    for k in range(4):
        choice = (selector >> (8 * k)) & 0xFF
        byte = (both >> ((choice & 7).astype(np.uint64) * 8)).astype(np.uint32) & 0xFF
        # 8 to 11: the sign of byte 1, 3, 5, 7
        place = ((choice & 3).astype(np.uint64) * 2 + 1) * 8 + 7
        sign = ((both >> place) & 1).astype(np.uint32) * 0xFF
        byte = np.where(choice < 8, byte, np.where(choice < 12, sign, np.where(choice == 12, 0, 0xFF)))
        result = result | (byte.astype(np.uint32) << (8 * k))
    return result


def _median(a: Any, b: Any, c: Any) -> Any:
    return np.maximum(np.minimum(a, b), np.minimum(np.maximum(a, b), c))


def _leading_zeros(x: Any) -> Any:
    """The number of zeros above the first one, or -1."""
    exponent = np.frexp(x.astype(np.float64))[1]
    return np.where(x == 0, np.uint32(0xFFFFFFFF), (32 - exponent).astype(np.uint32))


def _trailing_zeros(x: Any) -> Any:
    lowest = x & (~x + np.uint32(1))
    return np.where(x == 0, np.uint32(0xFFFFFFFF), (np.frexp(lowest.astype(np.float64))[1] - 1).astype(np.uint32))


def _ones(x: Any) -> Any:
    """How many bits are set."""
    x = x - ((x >> 1) & np.uint32(0x55555555))
    x = (x & np.uint32(0x33333333)) + ((x >> 2) & np.uint32(0x33333333))
    return (((x + (x >> 4)) & np.uint32(0x0F0F0F0F)) * np.uint32(0x01010101)) >> 24


_UU, _UUU, _II, _SS = ("u32",) * 2, ("u32",) * 3, ("i32",) * 2, ("u16",) * 2

TABLE: dict[str, Entry] = {
    "v_mov_b32": ("u32", ("u32",), lambda a: a),
    "v_mov_b64": ("u64", ("u64",), lambda a: a),
    "v_not_b32": ("u32", ("u32",), np.invert),
    "v_bfrev_b32": ("u32", ("u32",), reverse_bits),
    "v_ffbh_u32": ("u32", ("u32",), _leading_zeros),
    "v_ffbl_b32": ("u32", ("u32",), _trailing_zeros),
    "v_and_b32": ("u32", _UU, np.bitwise_and),
    "v_or_b32": ("u32", _UU, np.bitwise_or),
    "v_xor_b32": ("u32", _UU, np.bitwise_xor),
    "v_xnor_b32": ("u32", _UU, lambda a, b: ~(a ^ b)),
    "v_add_u32": ("u32", _UU, np.add),
    "v_sub_u32": ("u32", _UU, np.subtract),
    "v_subrev_u32": ("u32", _UU, lambda a, b: b - a),
    "v_lshlrev_b32": ("u32", _UU, lambda a, b: b << (a & 31)),
    "v_lshrrev_b32": ("u32", _UU, lambda a, b: b >> (a & 31)),
    "v_ashrrev_i32": ("i32", _II, lambda a, b: b >> (a & 31)),
    "v_lshlrev_b64": ("u64", ("u32", "u64"), lambda a, b: b << (a & 63).astype(np.uint64)),
    "v_lshrrev_b64": ("u64", ("u32", "u64"), lambda a, b: b >> (a & 63).astype(np.uint64)),
    "v_ashrrev_i64": ("i64", ("u32", "i64"), lambda a, b: b >> (a & 63).astype(np.int64)),
    "v_add3_u32": ("u32", _UUU, lambda a, b, c: a + b + c),
    "v_add_lshl_u32": ("u32", _UUU, lambda a, b, c: (a + b) << (c & 31)),
    "v_lshl_add_u32": ("u32", _UUU, lambda a, b, c: (a << (b & 31)) + c),
    "v_lshl_or_b32": ("u32", _UUU, lambda a, b, c: (a << (b & 31)) | c),
    "v_lshl_add_u64": ("u64", ("u64", "u32", "u64"), lambda a, b, c: (a << (b & 7).astype(np.uint64)) + c),
    "v_and_or_b32": ("u32", _UUU, lambda a, b, c: (a & b) | c),
    "v_or3_b32": ("u32", _UUU, lambda a, b, c: a | b | c),
    "v_xor3_b32": ("u32", _UUU, lambda a, b, c: a ^ b ^ c),
    "v_xad_u32": ("u32", _UUU, lambda a, b, c: (a ^ b) + c),
    "v_bfe_u32": ("u32", _UUU, _field),
    "v_bfe_i32": ("i32", ("i32", "u32", "u32"), _field),
    "v_bfi_b32": ("u32", _UUU, lambda a, b, c: (a & b) | (~a & c)),
    "v_bfm_b32": ("u32", _UU, lambda a, b: ((np.uint32(1) << (a & 31)) - np.uint32(1)) << (b & 31)),
    "v_alignbit_b32": ("u32", _UUU, lambda a, b, c: (
        ((a.astype(np.uint64) << 32) | b) >> (c & 31).astype(np.uint64)).astype(np.uint32)),
    "v_alignbyte_b32": ("u32", _UUU, lambda a, b, c: (
        ((a.astype(np.uint64) << 32) | b) >> ((c & 3) * 8).astype(np.uint64)).astype(np.uint32)),
    "v_perm_b32": ("u32", _UUU, _permute_bytes),
    "v_mul_lo_u32": ("u32", _UU, np.multiply),
    "v_mul_hi_u32": ("u32", _UU, _high),
    "v_mul_hi_i32": ("i32", _II, _high),
    "v_mul_u32_u24": ("u32", _UU, lambda a, b: (a & 0xFFFFFF) * (b & 0xFFFFFF)),
    "v_mul_i32_i24": ("i32", _II, lambda a, b: _signed24(a) * _signed24(b)),
    "v_mad_u32_u24": ("u32", _UUU, lambda a, b, c: (a & 0xFFFFFF) * (b & 0xFFFFFF) + c),
    "v_mad_i32_i24": ("i32", ("i32",) * 3, lambda a, b, c: _signed24(a) * _signed24(b) + c),
    "v_min_u32": ("u32", _UU, np.minimum),
    "v_max_u32": ("u32", _UU, np.maximum),
    "v_min_i32": ("i32", _II, np.minimum),
    "v_max_i32": ("i32", _II, np.maximum),
    "v_min3_u32": ("u32", _UUU, lambda a, b, c: np.minimum(np.minimum(a, b), c)),
    "v_max3_u32": ("u32", _UUU, lambda a, b, c: np.maximum(np.maximum(a, b), c)),
    "v_min3_i32": ("i32", ("i32",) * 3, lambda a, b, c: np.minimum(np.minimum(a, b), c)),
    "v_max3_i32": ("i32", ("i32",) * 3, lambda a, b, c: np.maximum(np.maximum(a, b), c)),
    "v_med3_u32": ("u32", _UUU, _median),
    "v_med3_i32": ("i32", ("i32",) * 3, _median),
    "v_bcnt_u32_b32": ("u32", _UU, lambda a, b: _ones(a) + b),
    "v_add_u16": ("u16", _SS, np.add),
    "v_sub_u16": ("u16", _SS, np.subtract),
    "v_mul_lo_u16": ("u16", _SS, np.multiply),
    "v_min_u16": ("u16", _SS, np.minimum),
    "v_max_u16": ("u16", _SS, np.maximum),
    "v_lshlrev_b16": ("u16", _SS, lambda a, b: b << (a & 15)),
    "v_lshrrev_b16": ("u16", _SS, lambda a, b: b >> (a & 15)),
    "v_ashrrev_i16": ("i16", ("i16",) * 2, lambda a, b: b >> (a & 15)),
    "v_and_b16": ("u16", _SS, np.bitwise_and),
    "v_or_b16": ("u16", _SS, np.bitwise_or),
    "v_xor_b16": ("u16", _SS, np.bitwise_xor),
}  # fmt: skip


def carry(instruction: Instruction, context: Context) -> Run:
    """Additions and subtractions with a mask of carries: destination, carries, two sources, and carries in."""
    target, out, *rest = instruction.operands
    write = vector_sink(instruction, target, "u32", context)
    first, second = sources(instruction, rest[:2], ("u32", "u32"), context)
    taken = rest[2].index if len(rest) > 2 else None
    add, swapped = "_add" in instruction.name, "rev" in instruction.name
    register = out.index

    def run(waves: Waves) -> None:
        a, b = first(waves).astype(np.int64), second(waves).astype(np.int64)
        if swapped:
            a, b = b, a
        if taken is not None:
            b = b + waves.mask(taken)
        wide = a + b if add else a - b
        write(waves, wide.astype(np.uint32))
        waves.set_mask(register, (wide < 0) | (wide > 0xFFFFFFFF))

    return run


def multiply_add_64(instruction: Instruction, context: Context) -> Run:
    """A product of 64 bits plus 64 bits: destination, carries, three sources."""
    target, out, *rest = instruction.operands
    kind = "i" if "i64" in instruction.name else "u"
    write = vector_sink(instruction, target, f"{kind}64", context)
    one, two, three = sources(instruction, rest, (f"{kind}32", f"{kind}32", f"{kind}64"), context)
    wide: Any = np.int64 if kind == "i" else np.uint64

    def run(waves: Waves) -> None:
        product, added = one(waves).astype(wide) * two(waves).astype(wide), three(waves)
        total = product + added
        write(waves, total)
        over = total < added
        waves.set_mask(out.index, over != (product < 0) if kind == "i" else over)

    return run


def swap(instruction: Instruction, context: Context) -> Run:
    """v_swap: two registers change their values."""
    first, second = (operand.index for operand in instruction.operands)

    def run(waves: Waves) -> None:
        one, two = (np.array(waves.vector["u32"][index, waves.group]) for index in (first, second))
        waves.write("u32", first, two)
        waves.write("u32", second, one)

    return run


CARRIES = ("v_add_co_u32", "v_addc_co_u32", "v_sub_co_u32", "v_subb_co_u32", "v_subrev_co_u32", "v_subbrev_co_u32")
SPECIAL: dict[str, Any] = {
    **dict.fromkeys(CARRIES, carry),
    "v_swap_b32": swap,
    "v_mad_u64_u32": multiply_add_64,
    "v_mad_i64_i32": multiply_add_64,
}
