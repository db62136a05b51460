"""The commands of the guide to nerfstudio, read from the page and run small, as a user of nerfstudio types them."""

import gzip
import json
import re
import shutil
import signal
import socket
import subprocess
import time
import urllib.request
from pathlib import Path

import numpy as np
import pytest

SCENE_KEY = "test.wall"
WALL_DISTANCE_M = 5.7
_BLOCK = re.compile(r"^```bash\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_SMALL = {
    "--max-num-iterations 500": "--max-num-iterations 40",
    "--max-num-iterations 2000": "--max-num-iterations 2",
    "ns-train distill-teacher": "ns-train distill-teacher --pipeline.datamanager.nerf.pixel-rays 512"
    " --pipeline.datamanager.nerf.lidar-pixel-rays 128 --pipeline.datamanager.nerf.lidar-rays 128"
    " --pipeline.datamanager.nerf.sampling.far-m 150",
    "ns-train nerfacto": "ns-train nerfacto --pipeline.datamanager.train-num-rays-per-batch 64"
    " --pipeline.model.num-proposal-samples-per-ray 16 8 --pipeline.model.num-nerf-samples-per-ray 4"
    " --pipeline.model.num-levels 4 --pipeline.model.log2-hashmap-size 10",
    "--scene-key procedural.scene-0001": f"--scene-key {SCENE_KEY}",
    " --image-height 112 --image-width 200": "",
}
"""What makes a command of the page small enough for a test. The wall's images are 36x64."""


def commands(page: str, home: Path, port: int) -> list[str]:
    """Return nerfstudio's commands of the page, each on one line, made small."""
    text = "\n".join(_BLOCK.findall(page)).replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line.startswith("ns-")]
    for written, small in {**_SMALL, "--home demo": f"--home {home}", "7007": str(port)}.items():
        assert any(written in line for line in lines), written
        lines = [line.replace(written, small) for line in lines]
    return lines


def offline_torch_home(folder: Path, python: Path, environment: dict[str, str]) -> Path:
    """A cache of torch with the network that nerfacto's LPIPS downloads: zeros, since its score is not looked at."""
    script = (
        "import sys, torch; from pathlib import Path; from torchvision.models import AlexNet_Weights, alexnet;"
        "name = AlexNet_Weights.IMAGENET1K_V1.url.rsplit('/', 1)[1];"
        "torch.save({k: torch.zeros(1).expand(v.shape) for k, v in alexnet().state_dict().items()},"
        " Path(sys.argv[1]) / name)"
    )
    checkpoints = folder / "hub" / "checkpoints"
    checkpoints.mkdir(parents=True)
    subprocess.run([str(python), "-c", script, str(checkpoints)], check=True, env=environment, timeout=300)
    return folder


@pytest.fixture(scope="module")
def outputs(
    installed_python, repository_root, user_environment, wall_home, tmp_path_factory
) -> tuple[Path, list[str], int]:
    """The folder that all commands of the page but the viewer were run in, and the viewer's command and port."""
    folder = tmp_path_factory.mktemp("commands")
    shutil.copytree(wall_home.root, folder / "home")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    page = (repository_root / "docs" / "guides" / "nerfstudio.md").read_text()
    lines = commands(page, folder / "home", port)
    (viewer,) = [line for line in lines if line.startswith("ns-viewer")]
    lines.remove(viewer)
    # nerfacto reads its images in forked processes, which a process that has computed before would leave hanging.
    lines.sort(key=lambda line: "nerfacto" not in line)
    (folder / "commands.json").write_text(json.dumps(lines))
    cache = offline_torch_home(folder / "torch", installed_python, user_environment)
    script = Path(__file__).with_name("run_commands.py")
    done = subprocess.run(
        [str(installed_python), str(script), "commands.json"],
        cwd=folder,
        env={**user_environment, "TORCH_HOME": str(cache)},
        capture_output=True,
        text=True,
        check=False,
        timeout=590,
    )
    assert done.returncode == 0, done.stdout[-1500:] + done.stderr[-3000:]
    return folder, viewer.split(), port


@pytest.mark.nightly
def test_training_leaves_nerfstudios_own_files(outputs):
    run = outputs[0] / "outputs" / "scene" / "distill-teacher" / "first"
    assert (run / "config.yml").is_file()
    assert [p.name for p in (run / "nerfstudio_models").iterdir()] == ["step-000000039.ckpt"]
    transforms = json.loads((run / "dataparser_transforms.json").read_text())
    assert np.array_equal(np.array(transforms["transform"])[:, :3], np.eye(3))
    assert 0 < transforms["scale"] < 1, "a unit is many metres"


@pytest.mark.nightly
@pytest.mark.parametrize(("name", "method"), [("eval", "distill-teacher"), ("nerfacto", "nerfacto")])
def test_evaluation_scores_the_held_out_images(outputs, name, method):
    evaluated = json.loads((outputs[0] / "outputs" / "scene" / f"{name}.json").read_text())
    assert evaluated["method_name"] == method
    assert np.isfinite(evaluated["results"]["psnr"])
    if method == "distill-teacher":
        assert evaluated["results"]["psnr"] > 15.0, evaluated


@pytest.mark.nightly
def test_renders_are_metric(outputs):
    renders = outputs[0] / "outputs" / "scene" / "renders" / "test"
    assert {p.name for p in renders.iterdir()} == {"rgb", "depth", "raw-depth", "gt-rgb"}
    assert {p.relative_to(renders / "rgb").as_posix() for p in (renders / "rgb").rglob("*.jpg")} == {
        "FRONT/000002.jpg",
        "LEFT/000002.jpg",
    }
    with gzip.open(renders / "raw-depth" / "LEFT" / "000002.npy.gz") as file:
        depth = np.load(file)
    height, width, _ = depth.shape
    centre = depth[height // 2 - 4 : height // 2 + 4, width // 2 - 4 : width // 2 + 4]
    assert np.median(centre) == pytest.approx(WALL_DISTANCE_M, rel=0.1), "LEFT looks straight at the wall"


@pytest.mark.nightly
def test_the_viewer_serves_until_it_is_interrupted(outputs, installed_python, user_environment):
    folder, viewer, port = outputs
    process = subprocess.Popen(
        [str(installed_python.parent / viewer[0]), *viewer[1:]],
        cwd=folder,
        env=user_environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        page = _wait_for(f"http://127.0.0.1:{port}/", process)
        assert "<html" in page
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.communicate(timeout=60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            raise
    assert process.returncode != 0, "interrupted"


def _wait_for(url: str, process: subprocess.Popen, timeout_s: float = 300.0) -> str:
    started = time.monotonic()
    while time.monotonic() - started < timeout_s:
        assert process.poll() is None, process.communicate()[0][-3000:]
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                return answer.read().decode()
        except OSError:
            time.sleep(0.5)
    raise AssertionError(f"nothing at {url} after {timeout_s} s")
