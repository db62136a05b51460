"""Products are the same by whichever library they are made."""

import pytest
import torch

from student.model import products
from student.model.products import apply_linear, multiply_rows, rows_multiple


@pytest.mark.parametrize("channels", [24, 64])  # too few for oneDNN to gain, and enough
@pytest.mark.parametrize("mkl_is_slow", [False, True])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 0.02)])
def test_products_equal_those_in_double_precision(
    mkl_is_slow: bool, channels: int, dtype: torch.dtype, tolerance: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(products, "_mkl_is_slow", lambda: mkl_is_slow)
    torch.manual_seed(0)
    rows, matrix = torch.randn(130, channels).to(dtype), torch.randn(channels, 10).to(dtype)
    bias = torch.randn(10).to(dtype)
    wanted = rows.double() @ matrix.double()
    for layout in (matrix, matrix.T.contiguous().T):
        torch.testing.assert_close(multiply_rows(rows, layout).double(), wanted, atol=tolerance * 10, rtol=tolerance)
        shifted = multiply_rows(rows, layout, bias).double()
        torch.testing.assert_close(shifted, wanted + bias.double(), atol=tolerance * 10, rtol=tolerance)


@pytest.mark.parametrize("mkl_is_slow", [False, True])
@pytest.mark.parametrize("has_bias", [False, True])
def test_a_linear_layer_is_the_same_with_and_without_gradients(
    mkl_is_slow: bool, has_bias: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(products, "_mkl_is_slow", lambda: mkl_is_slow)
    torch.manual_seed(1)
    linear, rows = torch.nn.Linear(64, 10, bias=has_bias), torch.randn(130, 64)
    wanted = apply_linear(linear, rows)
    assert wanted.requires_grad
    with torch.no_grad():
        torch.testing.assert_close(apply_linear(linear, rows), wanted.detach())
        with torch.autocast("cpu", torch.bfloat16):
            assert apply_linear(linear, rows).dtype == torch.bfloat16


def test_only_compiled_kernels_want_round_numbers_of_rows() -> None:
    assert rows_multiple(torch.device("cpu")) > 1
    assert rows_multiple(torch.device("cuda")) == 1
