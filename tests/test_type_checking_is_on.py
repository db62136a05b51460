"""A canary: were jaxtyping's checks off, every shape annotation in the suite would prove nothing."""

import numpy as np
import pytest
from jaxtyping import TypeCheckError

from storage.geometry.transforms import invert_se3


def test_a_wrong_shape_is_refused() -> None:
    with pytest.raises(TypeCheckError):
        invert_se3(np.zeros((3, 4)))


def test_a_wrong_dtype_is_refused() -> None:
    with pytest.raises(TypeCheckError):
        invert_se3(np.eye(4, dtype=np.int64))
