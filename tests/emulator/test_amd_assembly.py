"""The parser of AMD's assembly."""

from __future__ import annotations

import numpy as np
import pytest

from portaloss.emulator.amd.assembly import constant_bits, parse
from portaloss.emulator.amd.waits import NOTHING, Operation, Tracker
from portaloss.emulator.errors import UnknownInstructionError

from .amd_machine import text


def instruction(line: str, arch: str = "gfx942") -> object:
    return parse(text(line, arch)).instructions[0]


def test_operands_have_signs_and_modifiers() -> None:
    found = instruction("v_fma_f32 v4, -v1, |s[2:3]|, -|v[6:7]| clamp mul:2 ; a comment")
    target, a, b, c = found.operands
    assert (target.file, target.index, a.negative, a.absolute) == ("v", 4, True, False)
    assert (b.file, b.index, b.count, b.absolute) == ("s", 2, 2, True)
    assert (c.negative, c.absolute) == (True, True)
    assert found.modifiers == {"clamp": "", "mul": "2"}
    assert (found.name, found.encoding) == ("v_fma_f32", "")


def test_lists_and_words_are_modifiers() -> None:
    found = instruction("v_mov_b32_dpp v1, v2 quad_perm:[1, 0,3,2] row_mask:0xf bank_mask:0xa bound_ctrl:1")
    assert found.numbers("quad_perm") == [1, 0, 3, 2]
    assert found.modifiers["bank_mask"] == "0xa"
    assert found.encoding == "dpp"
    found = instruction("buffer_load_dword v4, v0, s[12:15], 0 offen offset:16")
    assert found.modifiers == {"offen": "", "offset": "16"}
    assert len(found.operands) == 4
    found = instruction("ds_swizzle_b32 v1, v2 offset:swizzle(SWAP,16)")
    assert found.modifiers == {"offset": "swizzle(SWAP,16)"}


def test_pairs_are_two_instructions() -> None:
    found = instruction("v_dual_add_f32 v1, v2, v3 :: v_dual_mov_b32 v4, 0x3f800000", "gfx1100")
    assert (found.name, found.pair.name) == ("v_add_f32", "v_mov_b32")


@pytest.mark.parametrize(
    ("constant", "kind", "bits"),
    [
        ("1.0", "f32", 0x3F800000),
        ("1.0", "f64", 0x3FF0000000000000),
        ("1.0", "f16", 0x3C00),
        ("-4.0", "u32", 0xC0800000),
        ("0x3ff80000", "f64", 0x3FF8000000000000),
        ("0x80000000", "i64", 0xFFFFFFFF80000000),
        ("0x80000000", "u64", 0x80000000),
        ("-1", "u64", 2**64 - 1),
        ("64", "f64", 64),
        ("0.15915494", "f32", int(np.float32(1 / (2 * np.pi)).view(np.uint32))),
    ],
)
def test_constants_depend_on_what_reads_them(constant: str, kind: str, bits: int) -> None:
    operand = instruction(f"v_mov_b32_e32 v1, {constant}").operands[1]
    assert constant_bits(operand, kind) == bits


def test_source_lines_come_from_the_debug_information() -> None:
    program = parse(text('.file 1 "/some/where" "kernels.py"\n.loc 1 12 3\nLABEL:\ns_nop 0\n.loc 1 0 0\ns_nop 1'))
    assert [found.source for found in program.instructions] == ["kernels.py:12"] * 2 + ["kernels.py:12"]
    assert program.labels == {"LABEL": 0}


def test_arguments_come_from_the_metadata() -> None:
    program = parse(text("s_nop 0", pointers=2))
    assert [(argument.offset, argument.size, argument.pointer) for argument in program.arguments] == [
        (0, 8, True),
        (8, 8, True),
    ]
    assert (program.lanes, program.generation) == (64, 9)
    assert (parse(text("s_nop 0", "gfx1201")).lanes, parse(text("s_nop 0", "gfx1201")).generation) == (32, 12)


def test_text_without_a_kernel_is_refused() -> None:
    with pytest.raises(UnknownInstructionError, match="amdgcn_target"):
        parse("mov.b32 %r1, %r2;")


def test_scalar_loads_end_in_any_order() -> None:
    tracker = Tracker()
    shared = Operation("lgkmcnt", frozenset({1}))
    tracker.issue(shared)
    tracker.issue(Operation("lgkmcnt", frozenset({1004}), ordered=False))
    tracker.wait((("lgkmcnt", 1),))  # the one that ended may be either
    assert tracker.pending == {1, 1004}
    tracker.wait((("lgkmcnt", 0),))
    assert (tracker.pending, tracker.state) == (frozenset(), NOTHING)


def test_waves_that_meet_have_the_loads_of_both() -> None:
    one, two = Tracker(), Tracker()
    one.issue(Operation("vmcnt", frozenset({1})))
    two.issue(Operation("vmcnt", frozenset({2})))
    one.join([one.state, two.state])
    assert one.pending == {1, 2}
    one.issue(Operation("vmcnt", frozenset({3})))
    one.wait((("vmcnt", 1),))
    assert one.pending == {3}
