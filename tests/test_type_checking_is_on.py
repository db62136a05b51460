"""A canary: were jaxtyping's checks off, every shape annotation in the suite would prove nothing.

Other tests may have called the function so often that only a share of its calls is checked.
"""

import numpy as np
import pytest
from beartype.roar import BeartypeCallHintViolation
from jaxtyping import TypeCheckError

from storage.geometry.transforms import invert_se3
from tests.typechecker import FIRST_CALLS, SHARE_OF_THE_REST, first_calls


def invert_often(pose: np.ndarray) -> None:
    for _ in range(SHARE_OF_THE_REST):
        invert_se3(pose)


def test_a_wrong_shape_is_refused() -> None:
    with pytest.raises(TypeCheckError):
        invert_often(np.zeros((3, 4)))


def test_a_wrong_dtype_is_refused() -> None:
    with pytest.raises(TypeCheckError):
        invert_often(np.eye(4, dtype=np.int64))


def test_a_function_is_checked_in_its_first_calls_and_in_a_share_of_the_rest() -> None:
    @first_calls
    def double(number: int) -> int:
        return 2 * number

    refused = []
    for call in range(1, FIRST_CALLS + 2 * SHARE_OF_THE_REST + 1):
        try:
            assert double(1.5) == 3.0
        except BeartypeCallHintViolation:
            refused.append(call)
    rest = [FIRST_CALLS + SHARE_OF_THE_REST, FIRST_CALLS + 2 * SHARE_OF_THE_REST]
    assert refused == [*range(1, FIRST_CALLS + 1), *rest]
