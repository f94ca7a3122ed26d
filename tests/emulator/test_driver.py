"""Ordinary launches on CPU tensors run emulated, and what a kernel must not do is an error."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
triton = pytest.importorskip("triton")

import triton.language as tl  # noqa: E402
from triton.runtime.driver import driver as triton_driver  # noqa: E402

from portaloss import emulator  # noqa: E402
from portaloss.emulator.errors import OutOfBoundsError, UnwrittenError  # noqa: E402

CHIPS = ("sm_90", "gfx942", "gfx1100")


@triton.jit
def double_kernel(x_ptr, y_ptr, n, MORE: tl.constexpr, BLOCK: tl.constexpr):
    index = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + index, mask=index < n + MORE)
    tl.store(y_ptr + index, x + x, mask=index < n)


def double(x, *, more=0):
    y = torch.empty_like(x)
    double_kernel[(triton.cdiv(len(x), 128),)](x, y, len(x), MORE=more, BLOCK=128)
    return y


@pytest.mark.parametrize("chip", CHIPS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int64])
def test_a_kernel_gives_what_pytorch_gives(chip, dtype):
    x = torch.arange(-150, 151).to(dtype)
    with emulator.emulating(chip):
        assert torch.equal(double(x), 2 * x)


@pytest.mark.parametrize("chip", CHIPS)
def test_one_element_too_many(chip):
    with emulator.emulating(chip), pytest.raises(OutOfBoundsError, match=r"double_kernel.*x_ptr, which has 1200 bytes"):
        double(torch.zeros(300), more=1)


@pytest.mark.parametrize("chip", CHIPS)
def test_a_result_that_nobody_wrote(chip):
    with emulator.emulating(chip) as driver:
        x = driver.unwritten(torch.empty(300))
        with pytest.raises(UnwrittenError, match="double_kernel"):
            double(x)
        x.zero_()  # also by what is no kernel
        assert not double(x).any()


def test_the_driver_before_is_put_back():
    before = getattr(triton_driver, "_active", None)
    with emulator.emulating("sm_80") as outer:
        with emulator.emulating("gfx90a", races=True) as inner:
            assert emulator.active() is inner
            assert str(inner) == "emulated gfx90a"
        assert emulator.active() is outer
    assert getattr(triton_driver, "_active", None) is before


def test_a_model_is_part_of_the_name():
    with emulator.emulating("sm_90", model=emulator.Model("high")) as driver:
        assert str(driver) == "emulated sm_90, high errors"


def test_a_chip_that_does_not_exist():
    with pytest.raises(ValueError, match=r"chip must be one of sm_80, .*got 'sm_1'"), emulator.emulating("sm_1"):
        pass
