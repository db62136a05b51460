"""The overfitting command asks for nothing but images and LiDAR, and says honestly whether it got there."""

import json
import logging
from pathlib import Path

import pytest
import torch

from student.overfit import Overfit, depth_above_returns


@pytest.mark.parametrize("preset", ["tiny", "small"])
def test_it_needs_no_teacher(preset: str) -> None:
    run = Overfit(data=Path("anywhere"), preset=preset, steps=7).student()  # type: ignore[arg-type]
    assert run.data.kinds == ("scene", "input_images")
    assert run.data.views.same_frame >= 1
    assert run.data.views.neighbour == run.data.views.virtual == 0
    assert run.fit.max_steps == 7


def test_depth_above_lidar_is_above_the_highest_return_of_a_column() -> None:
    nan = torch.nan
    lidar = torch.tensor([[nan, nan, 5.0], [nan, 7.0, nan], [nan, nan, 4.0], [nan, 3.0, nan]])
    wanted = torch.tensor([[nan, 30.0, nan], [nan, nan, nan], [nan, nan, nan], [nan, nan, nan]])
    torch.testing.assert_close(depth_above_returns(lidar[None], 30.0)[0], wanted, equal_nan=True)


@pytest.mark.slow
def test_a_real_frame_is_looked_at_and_not_reached_in_two_steps(
    external_data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="student.overfit")
    command = Overfit(data=external_data / "nuscenes", preset="tiny", home=tmp_path, steps=2, look_every=1)
    assert command.run() is False
    record = json.loads(caplog.messages[-1])
    assert record["step"] == 2
    assert 5 < record["psnr"] < 30
    assert record["depth_abs_rel"] > 0.1
    # Easier wishes are fulfilled at the first look.
    easy = Overfit(
        data=external_data / "nuscenes",
        preset="tiny",
        home=tmp_path,
        steps=2,
        look_every=1,
        min_psnr=1.0,
        max_abs_rel=99.0,
    )
    assert easy.run() is True
    assert json.loads(caplog.messages[-1])["step"] == 1
