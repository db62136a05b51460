"""Products are the same by whichever library they are made."""

import pytest
import torch

from student.model import products
from student.model.products import multiply_rows


@pytest.mark.parametrize("mkl_is_slow", [False, True])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 0.02)])
def test_products_equal_those_in_double_precision(
    mkl_is_slow: bool, dtype: torch.dtype, tolerance: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(products, "_mkl_is_slow", lambda: mkl_is_slow)
    torch.manual_seed(0)
    rows, matrix = torch.randn(130, 64).to(dtype), torch.randn(64, 10).to(dtype)
    wanted = rows.double() @ matrix.double()
    for layout in (matrix, matrix.T.contiguous().T):
        torch.testing.assert_close(multiply_rows(rows, layout).double(), wanted, atol=tolerance * 10, rtol=tolerance)
