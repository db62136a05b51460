"""The overfitting command asks for nothing but images and LiDAR, and says honestly whether it got there."""

import json
import logging
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from storage.stores.places import STORE_URL_VARIABLE
from storage.stores.versioned import Home
from student.experiments import overfit
from student.experiments.overfit import Overfit, depth_above_returns


@pytest.mark.parametrize("preset", ["tiny", "small"])
def test_it_needs_no_teacher(preset: str) -> None:
    run = Overfit(data=Path("anywhere"), preset=preset, steps=7).student()  # type: ignore[arg-type]
    assert run.data.kinds == ("scene", "input_images")
    assert run.data.views.same_frame >= 1
    assert run.data.views.neighbour == run.data.views.virtual == 0
    assert run.fit.max_steps == 7


def test_depth_above_lidar_is_above_the_highest_return_of_a_column_and_its_neighbours() -> None:
    lidar = torch.full((1, 4, 7), torch.nan)
    lidar[0, 2:, 0] = 5.0
    above = torch.isfinite(depth_above_returns(lidar, 30.0))[0].int()
    assert above.tolist() == [[1, 1, 1, 0, 0, 0, 0]] * 2 + [[0] * 7] * 2
    lidar[0, 1, 3] = 7.0  # a beam that came back beside some that did not
    depth = depth_above_returns(lidar, 30.0)[0]
    assert torch.isfinite(depth).int().tolist() == [[1, 1, 1, 1, 1, 1, 0], [1] + [0] * 6, [0] * 7, [0] * 7]
    assert depth[0, 3] == 30.0


def test_stores_go_where_the_store_url_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    opened = []

    def stop(home: Home, _: object) -> None:
        opened.append(home.store_url)
        raise InterruptedError

    monkeypatch.setattr(overfit, "register_source", stop)
    monkeypatch.setenv(STORE_URL_VARIABLE, "s3://stores/all")
    command = Overfit(data=tmp_path, home=tmp_path, preset="tiny", coarse_level=None)
    for asked in (command, replace(command, store_url="s3://stores/mine")):
        with pytest.raises(InterruptedError):
            asked.run()
    assert opened == ["s3://stores/all", "s3://stores/mine"]


@pytest.mark.nightly
def test_a_real_frame_is_looked_at_and_not_reached_in_two_steps(
    external_data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="student.experiments.overfit")
    data = external_data / "nuscenes"
    command = Overfit(data=data, preset="tiny", coarse_level=None, home=tmp_path, steps=2, look_every=1)
    assert command.run() is False
    record = json.loads(caplog.messages[-1])
    assert record["step"] == 2
    assert 5 < record["psnr"] < 30
    assert record["depth_abs_rel"] > 0.1
    # Easier wishes are fulfilled at the first look.
    easy = replace(command, min_psnr=1.0, max_abs_rel=99.0)
    assert easy.run() is True
    assert json.loads(caplog.messages[-1])["step"] == 1
