"""The command line: what it says, what it refuses, and with which exit code."""

import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from pipeline import cli, workflow
from pipeline.commands import runs
from pipeline.commands.options import ConfiguredCommand
from pipeline.commands.runs import Run
from pipeline.run import run_tasks
from pipeline.run_config import HomeSelection
from storage.ingest.run import ingest_scene
from storage.ingest.source import load_source
from storage.keys import SceneKey
from storage.kinds import KINDS
from storage.stores import catalog
from storage.stores.provenance import InputVersion, Provenance
from storage.stores.versioned import Home, materialize_files
from storage.targets.images import InputImagesConfig, resize_scene_images

COMMANDS = (
    *("demo", "run", "ingest", "audit", "train", "evaluate", "query", "lineage", "catalog", "bench", "plan"),
    *("ui", "view", "render", "find", "doctor", "gc", "home", "status", "backfill", "scenes", "diff"),
)
SCENE = "tiny.scene-0001"


@pytest.fixture
def filled_home(make_home: Callable[..., Home]) -> Home:
    """A home with a scene, its images, and a checkpoint that was made from them."""
    home = make_home()
    scene = ingest_scene(home, SceneKey.parse(SCENE)).version
    images = resize_scene_images(home, SceneKey.parse(SCENE), InputImagesConfig(height=8, width=16)).version
    provenance = Provenance(
        kind="student_checkpoint",
        partition="clip",
        inputs=tuple(InputVersion(v.kind, v.partition, v.digest) for v in (scene, images)),
        weights_digests={"clip/model.safetensors": "ab" * 32},
    )

    def write(folder: Path) -> dict[str, float]:
        (folder / "model.safetensors").write_bytes(b"weights")
        return {"loss": 0.5}

    materialize_files(home, provenance, write)
    return home


@pytest.fixture
def one_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let ingest start one worker process in place of two, each of which costs seconds to start."""
    monkeypatch.setattr(runs, "run_tasks", partial(run_tasks, num_workers=1))


def call(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = cli.main(arguments)
    said = capsys.readouterr()
    return code, said.out, said.err


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_every_command_reads_well(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = call(capsys, command, "--help")
    assert code == 0
    assert f"usage: distillnerf {command}" in out
    first = out.split("\n\n")[1].strip()
    assert first.endswith("."), first


def test_a_home_is_told_where_its_recording_lies_now(filled_home, tmp_path, capsys):
    old, new = load_source(filled_home, "tiny").root, tmp_path / "disk"
    old.rename(new)
    asked = ["home", "reroot", str(old), str(new), "--home", str(filled_home.root)]
    code, out, _ = call(capsys, "home", "sources", "--home", str(filled_home.root))
    assert code == 1
    assert f"tiny: {old}: the folder" in out
    assert call(capsys, *asked) == (0, f"tiny is read from {new}\n", "")
    assert load_source(filled_home, "tiny").root == new
    assert call(capsys, *asked)[0] == 1


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = call(capsys, "--help")
    assert code == 0
    for command in COMMANDS:
        assert f"• {command} " in out
    assert "Settings are not compared" not in out  # of status, whose own help has more than its first sentence
    assert "Settings are not compared" in call(capsys, "status", "--help")[1]


@pytest.mark.parametrize(
    ("arguments", "code", "complaint"),
    [
        ((), 2, ""),
        (("fly",), 2, ""),
        (("run", "kitti", "/tmp"), 2, ""),
        (("catalog", "list", "--nothing"), 2, "--nothing"),
        (("bench", "speed"), 2, ""),
        (("run", "nuscenes", "{root}", "--home", "{tmp}/h", "--preset", "enormous"), 2, ""),
        (("run", "nuscenes", "{root}", "--home", "{tmp}/h", "--set", "nerf.steps=3"), 2, "no field 'steps'"),
        (("run", "nuscenes", "{root}", "--home", "{tmp}/h", "--set", "nerf.num_steps=x"), 2, "is no int"),
        (("run", "nuscenes", "{root}", "--home", "{tmp}/h", "--nerf.num-steps", "many"), 2, ""),
        (("run", "nuscenes", "{root}", "--home", "{tmp}/h", "--nerf.nothing", "1"), 2, ""),
        (("run", "nuscenes", "{root}", "--home", "{tmp}/h", "--scenes", "scene-0916"), 1, "scene-0916"),
        (("run", "nuscenes", "{root}", "--home", "{tmp}/h", "--version", "v9"), 1, "v9"),
        (("run", "nuscenes", "{tmp}/nowhere", "--home", "{tmp}/h"), 1, "nowhere"),
        (("ingest", "nuscenes", "{root}", "--home", "{tmp}/h", "--dataset", "a.b"), 1, "a.b"),
        (("train", "--home", "{tmp}/nowhere"), 2, "no home at"),
        (("catalog", "show", "scene/tiny.x", "--home", "{home}"), 1, "scene/tiny.x"),
        (("catalog", "show", "what", "--home", "{home}"), 2, "want kind/partition"),
        (("lineage", "depth", "--home", "{home}"), 1, "student_checkpoint/depth"),
        (("evaluate", "--variant", "depth", "--home", "{home}"), 1, "student_checkpoint/depth"),
        (("query", "a car", "--scene", SCENE, "--frame", "9", "--home", "{home}"), 2, "frame 9"),
        (("query", "a car", "--home", "{home}"), 1, "scene/tiny.scene-0002"),
        (("render", "clip", "tiny.nowhere", "--home", "{home}"), 1, "scene/tiny.nowhere"),
        (("render", "depth", SCENE, "--home", "{home}"), 1, "student_checkpoint/depth"),
        (("render", "clip@beef", SCENE, "--home", "{home}"), 2, "clip@beef names 0 versions"),
        (("render", "clip", SCENE, "--cameras", "CAM_TOP", "--home", "{home}"), 2, "CAM_TOP"),
        (("render", "clip", SCENE, "--frames", "2", "1", "--home", "{home}"), 2, "frames 2 to 1"),
        (("render", "clip", SCENE, "--path", "orbit", "--turn", "3", "--home", "{home}"), 2, "--path recorded"),
        (("find", "--home", "{home}"), 2, "want a text"),
        (("find", "a car", "--like", "a.b:1:C:1,2", "--home", "{home}"), 2, "not both"),
        (("find", " ", "--home", "{home}"), 2, "at least one word"),
        (("find", "--like", "here", "--home", "{home}"), 2, "SCENE:FRAME:CAMERA:U,V"),
        (("find", "a car", "--features", "dinov2", "--home", "{home}"), 2, "want --like"),
        (("find", "a car", "--number", "0", "--home", "{home}"), 2, "want at least 1"),
        (("find", "a car", "--home", "{home}"), 1, "feature_basis/clip"),
        (("plan", "--scenes", "0"), 2, "want at least 1"),
    ],
)
def test_bad_input_is_one_line_and_an_exit_code(
    arguments: tuple[str, ...],
    code: int,
    complaint: str,
    filled_home: Home,
    recording,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    places = {"root": str(recording.root), "tmp": str(tmp_path), "home": str(filled_home.root)}
    seen, out, err = call(capsys, *(argument.format(**places) for argument in arguments))
    assert seen == code
    assert "Traceback" not in out + err
    if complaint:
        (line,) = [line for line in err.splitlines() if line.strip()]
        assert line.startswith("error: ")
        assert complaint in line
    assert not (tmp_path / "h" / "stores").exists()


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no home at"):
        cli.main(["catalog", "list", "--home", str(tmp_path / "nowhere"), "--debug"])


def test_configuration_fields_are_flags(recording, tmp_path: Path) -> None:
    arguments = ["run", "nuscenes", str(recording.root), "--home", str(tmp_path), "--seed", "5"]
    command = cli.parse([*arguments, "--nerf.num-steps", "7", "--student.fit.optimizer.learning-rate", "0.5"])
    assert isinstance(command, Run)
    assert set(command.set) == {"nerf.num_steps=7", "student.fit.optimizer.learning_rate=0.5"}
    config = command.selection(Home(tmp_path)).resolve()
    assert (config.nerf.num_steps, config.nerf.seed) == (7, 5)
    assert config.student.fit.optimizer.learning_rate == 0.5


def test_a_home_is_asked_what_it_keeps(filled_home: Home) -> None:
    command = cli.parse(["train", "--home", str(filled_home.root), "--set", "nerf.num_steps=3"])
    assert isinstance(command, ConfiguredCommand)
    selection = command.selection(filled_home)
    assert selection.preset == "demo"
    assert selection.overrides == ("input_images.height=8", "input_images.width=16", "nerf.num_steps=3")
    assert selection.train_scenes == (SCENE,)


def test_lineage_goes_down_to_raw_files(filled_home: Home, capsys: pytest.CaptureFixture[str], recording) -> None:
    from storage.digests import file_digest

    code, out, _ = call(capsys, "lineage", "clip", "--files", "--home", str(filled_home.root))
    assert code == 0
    image = recording.file("scene-0001", "CAM_FRONT", 0)
    assert f"raw_file {image} sha256:{file_digest(recording.root / image)}" in out
    assert "weights_file clip/model.safetensors" in out
    assert f"scene/{SCENE}" in out

    code, out, _ = call(capsys, "lineage", "clip", "--json", "--home", str(filled_home.root))
    told = json.loads(out)
    assert code == 0
    assert told["root"]["kind"] == "student_checkpoint"
    files = {f["path"]: f["sha256"] for version in told["versions"] for f in version["files"]}
    assert files[image] == file_digest(recording.root / image)


def test_lineage_takes_the_folder_of_a_checkpoint(filled_home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    folder = filled_home.open_files(filled_home.require("student_checkpoint", "clip"))
    for path in (folder, folder / "model.safetensors"):
        code, out, _ = call(capsys, "lineage", str(path), "--home", str(filled_home.root))
        assert code == 0
        assert out.startswith("student_checkpoint/clip@")


def test_lineage_goes_the_other_way(filled_home: Home, capsys: pytest.CaptureFixture[str], recording) -> None:
    home = str(filled_home.root)
    digest = filled_home.require("scene", SCENE).digest
    for name in (f"scene/{SCENE}", f"scene/{SCENE}@{digest[:10]}"):
        code, out, _ = call(capsys, "lineage", name, "--dependents", "--home", home)
        assert code == 0
        assert f"input_images/{SCENE}@" in out
        assert "student_checkpoint/clip@" in out
    code, out, _ = call(
        capsys,
        "lineage",
        f"raw_file/{recording.file('scene-0001', 'CAM_BACK', 1)}",
        "--dependents",
        "--json",
        "--home",
        home,
    )
    assert {v["kind"] for v in json.loads(out)} == {"scene", "input_images", "student_checkpoint"}
    code, _, err = call(capsys, "lineage", "scene/tiny.nothing", "--dependents", "--home", home)
    assert code == 1
    assert "knows nothing" in err


def test_catalog_lists_shows_and_rebuilds(filled_home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    home = str(filled_home.root)
    code, out, _ = call(capsys, "catalog", "list", "--json", "--home", home)
    assert code == 0
    assert {row["kind"] for row in json.loads(out)} == {"scene", "input_images", "student_checkpoint"}
    _, out, _ = call(capsys, "catalog", "list", "--kind", "scene", "--home", home)
    assert "CC0-1.0" in out
    _, out, _ = call(capsys, "catalog", "show", f"scene/{SCENE}", "--home", home)
    assert json.loads(out)["provenance"]["licence"] == "CC0-1.0"
    before = catalog.versions(filled_home.objects).to_pylist()
    code, out, _ = call(capsys, "catalog", "rebuild", "--home", home)
    assert (code, out.strip()) == (0, "3 versions")
    after = catalog.versions(filled_home.objects).to_pylist()
    assert sorted(map(str, before)) == sorted(map(str, after))


def test_catalog_verify_finds_damage(filled_home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    home = str(filled_home.root)
    code, out, _ = call(capsys, "catalog", "verify", "--home", home)
    assert (code, out.strip()) == (0, "3 versions, 0 damaged")
    chunks = [p for p in (filled_home.root / "stores" / "input_images").rglob("chunks/*") if p.is_file()]
    max(chunks, key=lambda path: path.stat().st_size).write_bytes(b"")
    (filled_home.open_files(filled_home.require("student_checkpoint", "clip")) / "model.safetensors").write_bytes(
        b"WEIGHTS"
    )
    code, out, _ = call(capsys, "catalog", "verify", "--home", home)
    assert code == 1
    assert "3 versions, 2 damaged" in out
    assert f"input_images/{SCENE}" in out
    assert "SHA-256" in out


def test_catalog_verify_sets_damage_aside_to_be_built_again(
    filled_home: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    at = ("--home", str(filled_home.root))
    chunks = filled_home.root / "stores" / "input_images" / SCENE / "chunks"
    chunk = next(chunks.iterdir())
    chunk.write_bytes(bytes([chunk.read_bytes()[0] ^ 1]) + chunk.read_bytes()[1:])
    code, out, _ = call(capsys, "catalog", "verify", "--set-aside", *at)
    assert code == 1
    assert f"damaged input_images/{SCENE}@" in out
    assert "is set aside; asking for it builds it again" in out
    assert call(capsys, "catalog", "verify", *at)[1].endswith("2 versions, 0 damaged, 1 lost\n")
    made = resize_scene_images(filled_home, SceneKey.parse(SCENE), InputImagesConfig(height=8, width=16))
    assert not made.reused
    assert call(capsys, "catalog", "verify", *at) == (0, "3 versions, 0 damaged\n", "")


def test_a_full_disk_is_one_line(
    filled_home: Home, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/home/run.json")

    monkeypatch.setattr(catalog, "versions", fail)
    code, _, err = call(capsys, "catalog", "list", "--home", str(filled_home.root))
    assert (code, err) == (1, "error: distillnerf: No space left on device: /home/run.json [out_of_capacity]\n")


def test_a_reader_that_has_seen_enough_ends_a_command_without_a_word(
    filled_home: Home, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> None:
        raise BrokenPipeError

    monkeypatch.setattr(catalog, "versions", fail)
    assert cli.main(["catalog", "list", "--home", str(filled_home.root)]) == 128 + signal.SIGPIPE
    assert capfd.readouterr().err == ""


def test_plan_prices_a_run(filled_home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = call(capsys, "plan", "--scenes", "2", "--frames", "10", "--json")
    assert code == 0
    prices = {price["kind"]: price for price in json.loads(out)["prices"]}
    height, width = HomeSelection(preset="tiny").resolve().teacher_depth.size
    assert prices["teacher_depth"]["stored_bytes"] == 20 * 6 * height * width * 5
    assert prices["teacher_depth"]["hours"] is None
    assert prices["nerf_teacher"]["stored_bytes"] is None  # nothing says how large: shown, not left out
    of_scenes = {s.name for s in KINDS.values() if s.partitioned_by == "scene"}
    once = {"feature_basis", "training_set", "student_checkpoint", "student_evaluation", "report"}
    assert set(prices) == (of_scenes - {"scene_truth", "occupancy_labels", "weak_labels"}) | once
    given = ("--workers", "4", "--machines", "2", "--price-per-hour", "3")
    _, out, _ = call(capsys, "plan", "--home", str(filled_home.root), "--json", *given)
    told = json.loads(out)
    measured = {price["kind"]: price["hours"] for price in told["prices"]}
    assert measured["scene"] > 0
    assert measured["teacher_depth"] is None
    shared = sum(price["hours"] for price in told["prices"] if price["hours"] and price["is_shared"])
    alone = sum(price["hours"] for price in told["prices"] if price["hours"] and not price["is_shared"])
    assert told["wall_hours"] == pytest.approx(shared / 8 + alone)
    assert told["cost"] == pytest.approx(told["wall_hours"] * 2 * 3)
    _, out, _ = call(capsys, "plan", "--home", str(filled_home.root), *given)
    assert "never built in this home: scene_audit, lidar_occupancy, " in " ".join(out.split())
    assert "at 3 a machine and hour" in out


def test_view_names_what_it_has_not(filled_home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = call(capsys, "view", "--scene", "tiny.scene-0009", "--home", str(filled_home.root))
    assert code == 1
    assert "scene/tiny.scene-0009" in err


def test_ingest_registers_and_stores_scenes(
    recording, one_worker, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from pipeline.instance import open_instance
    from pipeline.partitions import SCENES

    home = Home(tmp_path / "new")
    ingest = ("ingest", "nuscenes", str(recording.root), "--dataset", "tiny", "--home", str(home.root))
    code, out, _ = call(capsys, *ingest, "--input-images.height", "8", "--input-images.width", "16")
    assert code == 0, out
    assert {v.partition for v in home.versions("input_images")} == {SCENE, "tiny.scene-0002"}
    with open_instance(home.root) as instance:
        assert set(instance.get_dynamic_partitions(SCENES)) == {SCENE, "tiny.scene-0002"}

    # Flags count on a home that keeps a configuration too, and what it keeps besides stays.
    code, out, _ = call(capsys, *ingest, "--scenes", "scene-0001", "--input-images.width", "24")
    assert code == 0, out
    images = home.open_arrays(home.require("input_images", SCENE))["image"]
    assert images.shape[2:4] == (8, 24)


def test_the_environment_names_a_home_as_the_flag_does(
    filled_home: Home, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    HomeSelection(preset="demo", overrides=("student.fit.max_steps=7",)).save(filled_home.root)
    monkeypatch.setenv("DISTILLNERF_HOME", str(filled_home.root))
    parsed = cli.parse(["evaluate", "--student.fit.seed", "5"])
    assert isinstance(parsed, ConfiguredCommand)
    assert parsed.base_config().student.fit.max_steps == 7
    assert parsed.set == ("student.fit.seed=5",)
    _, out, _ = call(capsys, "plan", "--json")
    assert {price["kind"]: price["hours"] for price in json.loads(out)["prices"]}["scene"] > 0


def test_ingest_of_a_broken_scene_says_which_file_and_takes_the_others(
    recording, one_worker, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = recording.root / recording.file("scene-0002", "CAM_FRONT", 1)
    image.write_bytes(image.read_bytes()[:200])
    home = Home(tmp_path / "new")
    ingest = ("ingest", "nuscenes", str(recording.root), "--dataset", "tiny", "--home", str(home.root))
    code, out, err = call(capsys, *ingest, "--input-images.height", "8", "--input-images.width", "16")
    assert code == 1
    assert image.name in out
    assert "Traceback" not in out + err
    assert home.latest("scene", SCENE) is not None
    assert home.latest("scene", "tiny.scene-0002") is None
    code, out, _ = call(capsys, "catalog", "list", "--quarantined", "--json", "--home", str(home.root))
    assert [row["partition"] for row in json.loads(out)] == ["tiny.scene-0002"]


def test_a_run_ends_well_where_nerfstudio_is_not_installed(
    recording, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A student that learns from no field needs none."""
    monkeypatch.setenv("DISTILLNERF_NERFSTUDIO_PYTHON", str(tmp_path / "python"))
    monkeypatch.setattr(workflow, "plan_everything", lambda _: [])
    home = tmp_path / "new"
    run = ("run", "nuscenes", str(recording.root), "--dataset", "tiny", "--scenes", "scene-0001", "--home", str(home))
    code, out, err = call(capsys, *run, "--preset", "tiny", "--variant", "clip_without_field")
    assert code == 0, out + err
    assert json.loads((home / "summary.json").read_text())["versions"]["nerfstudio"] is None


def test_doctor_names_what_is_missing_and_its_cure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DISTILLNERF_NERFSTUDIO_PYTHON", str(tmp_path / "python"))
    code, out, _ = call(capsys, "doctor", "--json")
    found = {finding["name"]: finding for finding in json.loads(out)}
    assert code == 1
    assert found["nerfstudio"]["state"] == "bad"
    assert found["nerfstudio"]["fix"] == "make environments"
    assert found["torch"]["state"] == "good"
    assert found["demo weights"]["state"] == "good"
    assert found["disk"]["found"].endswith(f"GiB free at {Path.cwd()}")


_IMPORTS = """
import os, sys
from pipeline import cli, workflow
assert "torch" not in sys.modules
cli.main(["--help"])
print(os.environ.get("GOMP_SPINCOUNT"))
"""


@pytest.mark.parametrize(
    ("given", "found"), [({}, "1000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "None")]
)
def test_threads_sleep_while_they_wait_unless_the_user_says_otherwise(given, found):
    """The variable is read when PyTorch is imported: so nothing may import it before."""
    environment = {n: v for n, v in os.environ.items() if n not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")} | given
    said = subprocess.run([sys.executable, "-c", _IMPORTS], env=environment, capture_output=True, text=True, check=True)
    assert said.stdout.splitlines()[-1] == found
