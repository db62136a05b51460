"""What the installed project gives to nerfstudio, and other methods in the place of the field."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

_REGISTRATION = """
import json
from importlib.metadata import packages_distributions
from nerfstudio.plugins.registry import discover_methods
from nerfstudio.plugins.registry_dataparser import discover_dataparsers
found = {"methods": list(discover_methods()[0]), "dataparsers": list(discover_dataparsers()[0])}
print(json.dumps({**found, "cv2": packages_distributions()["cv2"]}))
"""
"""Nothing of the project is imported by name, and torchvision by nerfstudio, as in nerfstudio's own commands."""


@pytest.fixture(scope="module")
def registered(installed_python, user_environment) -> dict:
    done = subprocess.run(
        [str(installed_python), "-c", _REGISTRATION],
        capture_output=True,
        text=True,
        check=False,
        env=user_environment,
        cwd="/",
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def found(installed_python, user_environment, wall_home, tmp_path_factory) -> dict:
    folder = tmp_path_factory.mktemp("plugins")
    shutil.copytree(wall_home.root, folder / "home")
    done = subprocess.run(
        [str(installed_python), str(Path(__file__).with_name("plugin_checks.py")), str(folder / "home")],
        capture_output=True,
        text=True,
        check=False,
        env=user_environment,
        cwd=folder,
        timeout=590,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_nerfstudio_finds_the_method_and_the_dataparser(registered):
    assert registered["methods"] == ["distill-teacher"]
    assert registered["dataparsers"] == ["distillnerf-scene"]


def test_one_distribution_provides_cv2(registered):
    assert registered["cv2"] == ["opencv-python-headless"]


@pytest.mark.slow
def test_a_method_is_swapped_by_one_value(found):
    fits = found["fits"]
    assert {fit["model"] for fit in fits.values()} == {"NerfactoTeacher"}
    for name in ("digest", "depth_digest", "view_digest"):
        assert fits["nerfacto"][name] != fits["depth-nerfacto"][name], name
    for fit in fits.values():
        assert "field.safetensors" in fit["files"]
        assert {Path(name).suffix for name in fit["files"]} <= {".json", ".safetensors"}, "nothing to unpickle"
        assert {"static_psnr", "static_lidar_abs_rel", "lidar_coverage"} <= set(fit["checks"])
        assert fit["psnr"] > 14.0, "better than any single colour"


@pytest.mark.slow
def test_lidar_teaches_depth_nerfacto_where_surfaces_are(found):
    taught, untaught = found["fits"]["depth-nerfacto"], found["fits"]["nerfacto"]
    assert taught["beam_coverage"] > 0.9
    assert taught["beam_abs_rel"] < 0.3
    assert untaught["beam_abs_rel"] is None or taught["beam_abs_rel"] < untaught["beam_abs_rel"], "None is undefined"


@pytest.mark.slow
def test_gaussians_are_fitted_judged_and_rendered_like_a_field(found):
    splats = found["splats"]
    assert splats["model"] == "SplatTeacher"
    assert splats["psnr"] > 14.0
    assert splats["beam_abs_rel"] < 0.3
    assert splats["beam_coverage"] > 0.5


@pytest.mark.slow
def test_what_needs_cuda_is_refused_by_name(found):
    assert "gsplat" in found["refused"]
    assert "CUDA" in found["refused"]


@pytest.mark.slow
def test_every_direction_meets_one_face_of_a_cube(found):
    cube = found["cube"]
    assert cube["direction"] < 1e-5
    assert cube["outside"] < 1e-5
    assert cube["nearest_axis"] > 0.577, "no face is looked at from more than a corner's angle"
    assert cube["handedness"] < 1e-5


@pytest.mark.slow
def test_the_dataparser_keeps_metres(found):
    given = found["dataparser"]
    assert given["pose_m"] < 1e-4
    assert given["wall_m"] == pytest.approx(5.7, abs=0.05), "camera depth of what LEFT looks straight at"
    assert given["returns"] > 50
    assert given["images_differ"] == 0, "images are given out as recorded"
    assert given["last_time"] == pytest.approx(0.5), "frame 2 of 0 to 4 is held out"
