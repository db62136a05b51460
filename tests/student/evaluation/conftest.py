"""A home with two scenes of a closed-form world (road, building, car, sky), its truth, its CLIP and a small student.

Because the world is known in closed form, an oracle can stand in for the student: every figure has then a known value.
"""

import io
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from storage.digests import config_digest, config_json, file_digest
from storage.geometry.rays import camera_rays
from storage.geometry.voxel_grid import OCC3D_GRID
from storage.keys import SceneKey
from storage.scenes.schema import SceneBoxes, SceneData
from storage.scenes.store import SceneReader, write_scene
from storage.stores.arrays import read_target, write_target
from storage.stores.provenance import InputVersion, Provenance
from storage.stores.versioned import Home, materialize_arrays, materialize_files
from storage.targets.images import InputImagesConfig, resize_scene_images
from storage.taxonomy import (
    CLASSES,
    NO_SURFACE,
    OCC3D_FREE,
    OCC3D_UNKNOWN,
    SKY,
    SurfaceKind,
    class_named,
)
from student.config import DataConfig, FitConfig, LossConfig, StudentConfig, TrainingSetConfig, ViewsConfig
from student.data.training_set import freeze_training_set
from student.evaluation.config import EvaluationConfig
from student.inference.checkpoint import save_pretrained
from student.inference.open_vocabulary import TextEncoder
from student.inference.predictor import Predictor, RenderedViews
from student.model.config import FeatureHeadConfig
from student.model.distillnerf import DistillNeRF
from student.presets.models import tiny_model

HEIGHT, WIDTH = 64, 112
GRID = (16, 28)
NUM_FRAMES, NUM_CAMERAS = 3, 2
INTRINSICS = np.array([[60.0, 0, WIDTH / 2], [0, 60.0, HEIGHT / 2], [0, 0, 1]])
ROAD, BUILDING, CAR, SKY_CLASS = 11, 15, 4, 255
BOXES = (  # minimum, maximum, class, colour
    ((12.0, -10.0, 0.0), (16.0, 12.0, 5.0), BUILDING, (0.8, 0.4, 0.3)),
    ((6.0, -3.2, 0.0), (9.2, -1.2, 1.6), CAR, (0.1, 0.2, 0.9)),
    ((-30.0, -4.0, 0.0), (-26.0, 6.0, 4.0), BUILDING, (0.5, 0.5, 0.6)),
)
SURFACES = np.full(256, SurfaceKind.OTHER, np.uint8)  # of each class
SURFACES[BUILDING], SURFACES[SKY_CLASS] = SurfaceKind.GLASS, NO_SURFACE
CHANNELS = 3
SMALL_EVALUATION = EvaluationConfig(max_lateral_frames=0, num_training_frames=1, panel_frames=0, max_frames_per_scene=1)


def cast(origins, directions, shift):
    """Return distance (inf = sky), class and colour of rays in the ego frame of a car that drove ``shift`` metres."""
    with np.errstate(divide="ignore", invalid="ignore"):
        distance = np.where(directions[..., 2] < 0, -origins[..., 2] / directions[..., 2], np.inf)
    hit = np.where(np.isfinite(distance), ROAD, SKY_CLASS).astype(np.uint8)
    points = origins + directions * np.where(np.isfinite(distance), distance, 0.0)[..., None] + [shift, 0, 0]
    tile = (np.floor(points[..., 0] / 3) + np.floor(points[..., 1] / 3)) % 2
    colour = np.where((hit == ROAD)[..., None], np.stack([0.3 + 0.2 * tile] * 3, -1), [0.6, 0.8, 1.0])
    for low, high, label, tint in BOXES:
        with np.errstate(divide="ignore", invalid="ignore"):
            first = (np.array(low) - [shift, 0, 0] - origins) / directions
            second = (np.array(high) - [shift, 0, 0] - origins) / directions
        near = np.nanmax(np.minimum(first, second), axis=-1)
        far = np.nanmin(np.maximum(first, second), axis=-1)
        meets = (near <= far) & (near > 0) & (near < distance)
        distance = np.where(meets, near, distance)
        hit = np.where(meets, np.uint8(label), hit)
        colour = np.where(meets[..., None], tint, colour)
    return distance, hit, colour


def look(intrinsics, camera_to_ego, shift, height, width):
    origins, directions = camera_rays(intrinsics, camera_to_ego, height=height, width=width)
    return cast(origins, directions, shift)


def voxel_labels(shift):
    """Label voxels whose centre lies in a box or within one voxel under the road."""
    index = np.stack(np.unravel_index(np.arange(int(np.prod(OCC3D_GRID.shape))), OCC3D_GRID.shape), axis=1)
    centres = OCC3D_GRID.centres(index)
    labels = np.where((centres[:, 2] < 0) & (centres[:, 2] > -0.4), ROAD, OCC3D_FREE).astype(np.uint8)
    for low, high, label, _ in BOXES:
        moved = centres + np.array([shift, 0, 0])
        inside = np.all((moved > low) & (moved < high), axis=1)
        labels[inside] = label
    return labels


def camera_to_ego(yaw):
    cos, sin = np.cos(yaw), np.sin(yaw)
    pose = np.eye(4)
    pose[:3, :3] = np.array([[sin, 0, cos], [-cos, 0, sin], [0, -1, 0]])
    pose[:3, 3] = [0.5 * cos, 0.5 * sin, 1.5]
    return pose


RIG = np.stack([camera_to_ego(np.pi * c) for c in range(NUM_CAMERAS)])


LIDAR_TO_EGO = np.eye(4)
LIDAR_TO_EGO[2, 3] = 1.5  # between the cameras


def shift_of(scene, frame):
    return 0.7 * frame + 1.3 * scene


def boxes_of(first_shift):
    """Return the cars' boxes at every frame; the building has none, as in a recording."""
    cars = [(low, high) for low, high, label, _ in BOXES if label == CAR]
    low, high = (np.array([car[i] for car in cars] * NUM_FRAMES, float) for i in range(2))
    frame = np.repeat(np.arange(NUM_FRAMES), len(cars))
    return SceneBoxes(
        frame_index=frame,
        centre=0.5 * (low + high) - [first_shift, 0, 0],
        size=high - low,
        quat_wxyz=np.tile([1.0, 0, 0, 0], (len(frame), 1)),
        category=("vehicle.car",) * len(frame),
        instance=tuple(f"car {i}" for i in range(len(cars))) * NUM_FRAMES,
        num_lidar_points=np.full(len(frame), -1),
    )


def scene_data(scene):
    shifts = [shift_of(scene, frame) for frame in range(NUM_FRAMES)]
    poses = np.tile(np.eye(4), (NUM_FRAMES, 1, 1))
    poses[:, 0, 3] = np.array(shifts) - shifts[0]
    jpegs, lidar = [], []
    for shift in shifts:
        encoded, returns = [], []
        for pose in RIG:
            distance, _, colour = look(INTRINSICS, pose, shift, HEIGHT, WIDTH)
            buffer = io.BytesIO()
            Image.fromarray((colour * 255).round().astype(np.uint8)).save(buffer, "png")
            encoded.append(buffer.getvalue())
            origins, directions = camera_rays(INTRINSICS, pose, height=HEIGHT, width=WIDTH)
            chosen = np.isfinite(distance) & (distance < 70) & (np.arange(HEIGHT)[:, None] % 3 == 0)
            returns.append((origins + directions * np.where(chosen, distance, 0)[..., None])[chosen])
        jpegs.append(tuple(encoded))
        xyz = np.concatenate(returns)
        lidar.append(np.concatenate([xyz, np.ones((len(xyz), 1))], 1).astype(np.float32))
    times = (np.arange(NUM_FRAMES) * 500_000).astype(np.int64)
    return SceneData(
        camera_names=tuple(f"CAM_{c}" for c in range(NUM_CAMERAS)),
        image_sizes=((HEIGHT, WIDTH),) * NUM_CAMERAS,
        intrinsics=np.stack([INTRINSICS] * NUM_CAMERAS),
        camera_to_ego=RIG,
        timestamp_us=times,
        ego_to_world=poses,
        camera_timestamp_us=np.stack([times] * NUM_CAMERAS, axis=1),
        camera_ego_to_world=np.stack([poses] * NUM_CAMERAS, axis=1),
        jpegs=tuple(jpegs),
        lidar_points=tuple(lidar),
        lidar_to_ego=LIDAR_TO_EGO,
        boxes=boxes_of(shifts[0]),
    )


def scaled_intrinsics(height, width):
    intrinsics = INTRINSICS.copy()
    intrinsics[0] *= width / WIDTH
    intrinsics[1] *= height / HEIGHT
    return intrinsics


def write_clip(folder: Path) -> None:
    """Write a CLIP checkpoint of a few thousand weights that knows every word of the vocabulary."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import CLIPConfig, CLIPModel, PreTrainedTokenizerFast

    known = {w for entry in (*CLASSES, SKY) for phrase in entry.words for w in phrase.split()}
    words = ["<pad>", "<start>", *sorted({"a", "photo", "of", *known}), "<end>"]
    first, last = 1, len(words) - 1
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<start> $A <end>", special_tokens=[("<start>", first), ("<end>", last)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<start>", eos_token="<end>", model_max_length=12
    ).save_pretrained(folder)
    torch.manual_seed(0)
    tower = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    ends = {"bos_token_id": first, "eos_token_id": last}
    config = CLIPConfig(
        text_config={**tower, **ends, "vocab_size": len(words), "max_position_embeddings": 12},
        vision_config={**tower, "image_size": 8, "patch_size": 4},
        projection_dim=12,
    )
    model = CLIPModel(config)
    with torch.no_grad():  # spread the words: a random text tower maps everything close together
        tower = model.text_model
        frame = [words.index(word) for word in ("<pad>", "<start>", "a", "photo", "of", "<end>")]
        tower.embeddings.token_embedding.weight.normal_(std=3.0)
        tower.embeddings.token_embedding.weight[frame] *= 0.01
        for name in ("driveable_surface", "manmade", "car", "sky"):  # synonyms that really mean the same
            rows = [words.index(word) for word in class_named(name).words]
            tower.embeddings.token_embedding.weight[rows] = tower.embeddings.token_embedding.weight[rows[0]].clone()
        for projection in (tower.encoder.layers[0].self_attn.v_proj, tower.encoder.layers[0].self_attn.out_proj):
            projection.weight.normal_()
    model.save_pretrained(folder)


@dataclass(frozen=True)
class ClipTarget:
    """CLIP features that say exactly what is where, and the basis they are reduced by."""

    folder: Path
    basis: dict[str, np.ndarray]
    by_class: dict[int, np.ndarray]

    @classmethod
    def make(cls, folder: Path) -> "ClipTarget":
        write_clip(folder)
        classes = {ROAD: "road", BUILDING: "building", CAR: "car", SKY_CLASS: "sky"}
        embeddings = TextEncoder(str(folder)).embed([f"a photo of a {word}" for word in classes.values()])
        mean = embeddings.mean(axis=0)
        components = np.linalg.svd(embeddings - mean, full_matrices=False)[2][:CHANNELS].T
        projected = (embeddings - mean) @ components
        low, high = projected.min(axis=0), projected.max(axis=0)
        reduced = (projected - low) / (high - low)
        basis = {"mean": mean, "components": components, "minimum": low, "maximum": high}
        basis["explained_variance_ratio"] = np.full(CHANNELS, 1 / CHANNELS)
        return cls(
            folder=folder,
            basis={name: value.astype(np.float32) for name, value in basis.items()},
            by_class=dict(zip(classes, reduced.astype(np.float32), strict=True)),
        )

    def of(self, labels: np.ndarray) -> np.ndarray:
        """Return the reduced feature of every class id; NaN where it is none of the four."""
        table = np.full((256, CHANNELS), np.nan, np.float32)
        for label, feature in self.by_class.items():
            table[label] = feature
        return table[labels]


class World:
    """Publishes scenes, teachers, truth and checkpoints into a home."""

    def __init__(self, root: Path) -> None:
        self.home = Home(root / "home")
        self.clip = ClipTarget.make(root / "clip")
        basis = Provenance(kind="feature_basis", partition="clip", licence="CC0-1.0")
        self.basis = materialize_arrays(
            self.home,
            basis,
            lambda g: [write_target(g, "feature_basis", n, v) for n, v in self.clip.basis.items()] and {},
        )
        for index, name in enumerate("ab"):
            self._add_scene(f"yard.{name}", index)

    def publish(self, kind, key, arrays, *, attributes=None, weights=None, inputs=True):
        scene = InputVersion("scene", key, self.home.require("scene", key).digest)
        provenance = Provenance(
            kind=kind,
            partition=key,
            inputs=(scene,) if inputs else (),
            licence="CC0-1.0",
            weights_digests=weights or {},
        )

        def write(group):
            for name, data in arrays.items():
                write_target(group, kind, name, data)
            group.attrs.update(attributes or {})
            return {"quality": {"passed": True, "checks": {"psnr": {"value": 20.0, "threshold": 15.0, "passed": True}}}}

        return materialize_arrays(self.home, provenance, write)

    def _add_scene(self, key, index):
        provenance = Provenance(
            kind="scene", partition=key, code_digest=str(index), licence="CC0-1.0", sources={"a.jpg": str(index) * 64}
        )
        materialize_arrays(self.home, provenance, lambda group: write_scene(group, scene_data(index)) or {})
        resize_scene_images(self.home, SceneKey.parse(key), InputImagesConfig(height=2 * GRID[0], width=2 * GRID[1]))
        intrinsics = scaled_intrinsics(*GRID)
        views = [[look(intrinsics, pose, shift_of(index, frame), *GRID) for pose in RIG] for frame in range(NUM_FRAMES)]
        distance = np.array([[view[0] for view in row] for row in views])
        labels = np.array([[view[1] for view in row] for row in views])
        depth = np.where(np.isfinite(distance), distance, np.nan)
        stacked = np.stack([intrinsics] * NUM_CAMERAS)
        self.publish(
            "teacher_depth",
            key,
            {
                "termination_depth": depth.astype(np.float16),
                "opacity": np.isfinite(depth).astype(np.float16),
                "intrinsics": stacked,
            },
        )
        self.publish(
            "sky_mask",
            key,
            {"is_sky": labels == SKY_CLASS, "sky_probability": (labels == SKY_CLASS).astype(np.float16)},
        )
        self.publish(
            "clip_features",
            key,
            {"features": self.clip.of(labels).astype(np.float16)},
            attributes={
                "feature_basis_digest": self.basis.version.digest,
                "weights_folder": str(self.clip.folder),
                "weights_source": "demo",
            },
            weights={f"clip/{n}": file_digest(self.clip.folder / n) for n in ("model.safetensors", "tokenizer.json")},
        )
        visible = np.zeros((NUM_FRAMES, *OCC3D_GRID.shape), bool)
        visible[:, 60:, 40:160, 1:] = True
        self.publish(
            "scene_truth",
            key,
            {
                "termination_depth": depth.astype(np.float32)[:, ::-1],
                "semantics": labels[:, ::-1],
                "instance": np.zeros(labels.shape, np.uint16),
                "surface": SURFACES[labels][:, ::-1],
                "occupancy": np.stack(
                    [voxel_labels(shift_of(index, f)).reshape(OCC3D_GRID.shape) for f in range(NUM_FRAMES)]
                ),
                "occupancy_is_visible": visible,
            },
            # The other way round than the recording's, on purpose.
            attributes={"camera_names": [f"CAM_{c}" for c in range(NUM_CAMERAS)][::-1]},
            inputs=False,
        )

    def publish_labels(self, home, unlabelled=(), everything=None, scene_digest=None):
        """Publish the true voxels as labels that came with the recordings, into a copy of this home.

        Args:
            home: The copy.
            unlabelled: (scene key, frame) of frames without labels.
            everything: Label of all voxels in place of the true ones.
            scene_digest: Digest of the scenes that they say they are of, in place of the true one.
        """
        names = {"voxel_label": "occupancy", "is_visible": "occupancy_is_visible", "is_scanned": "occupancy_is_visible"}
        for key in ("yard.a", "yard.b"):
            truth = home.open_arrays(home.require("scene_truth", key))
            arrays = {name: read_target(truth, "scene_truth", of) for name, of in names.items()}
            if everything is not None:
                arrays["voxel_label"][:] = everything
            for _, frame in (one for one in unlabelled if one[0] == key):
                arrays["voxel_label"][frame], arrays["is_visible"][frame] = OCC3D_UNKNOWN, False

            def write(group, arrays=arrays):
                for name, array in arrays.items():
                    write_target(group, "occupancy_labels", name, array)
                return {"labelled_frames": int(arrays["is_visible"].any(axis=(1, 2, 3)).sum())}

            scene = InputVersion("scene", key, scene_digest or home.require("scene", key).digest)
            provenance = Provenance(kind="occupancy_labels", partition=key, inputs=(scene,), licence="CC0-1.0")
            materialize_arrays(home, provenance, write)

    def publish_student(self, variant, config, *, training=("yard.a",), validation=("yard.b",), stride=0):
        """Publish an untrained checkpoint of a variant, made from a frozen training set."""
        frozen = freeze_training_set(
            self.home,
            variant,
            TrainingSetConfig(
                train_scenes=training,
                validation_scenes=validation,
                kinds=config.data.kinds,
                allow_ungated=("scene_audit",),  # a scene so small shows an audit too little
                held_out_stride=stride,
            ),
        ).version
        torch.manual_seed(0)
        model = DistillNeRF(config.model)
        history = {"history": [{"step": float(s), "total": 1 / s, "loss/rgb": 0.5 / s} for s in range(1, 9)]}
        history["validations"] = [{"step": 8.0, "psnr": 12.0, "depth_abs_rel": None}]

        def write(folder):
            import json

            save_pretrained(folder, model, config, variant=variant)
            (folder / "history.json").write_text(json.dumps(history))
            return {}

        provenance = Provenance(
            kind="student_checkpoint",
            partition=variant,
            inputs=(InputVersion(frozen.kind, frozen.partition, frozen.digest),),
            config_digest=config_digest(config),
            config=config_json(config),
            seed=0,
            licence="CC0-1.0",
        )
        return materialize_files(self.home, provenance, write).version


def student_config(sources=("clip",)):
    model = tiny_model(
        feature_heads=tuple(FeatureHeadConfig(source=s, channels=CHANNELS, hidden_width=8) for s in sources)
    )
    model = replace(
        model,
        fine_depth=replace(model.fine_depth, lift_detail=False),
        voxels=replace(model.voxels, coarse_level=5, feature_width=8, convolution_width=8, down_width=8),
        renderer=replace(model.renderer, bins=replace(model.renderer.bins, num_bins=32), num_fine_samples=4),
    )
    data = DataConfig(
        image_height=2 * GRID[0],
        image_width=2 * GRID[1],
        render_height=GRID[0],
        render_width=GRID[1],
        depth_height=GRID[0],
        depth_width=GRID[1],
        views=ViewsConfig(same_frame=2),
        depth_anything=False,
        feature_sources=tuple(sources),
    )
    return StudentConfig(model=model, data=data, losses=LossConfig(), fit=FitConfig(max_steps=1))


class Oracle(Predictor):
    """Answers with the truth instead of a student's guess; only the interface is the student's."""

    world: World

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self._fields = []  # a student's field is real, but only tells which moment it was lifted from

    def encode(self, inputs):
        field = super().encode(inputs)
        self._fields.append((field, self._shift(inputs)))
        return field

    def _shift_of(self, field):
        return next(shift for known, shift in self._fields if known is field)

    def _shift(self, inputs):
        key = inputs.images[0].numpy().tobytes()
        for index, name in enumerate("ab"):
            group = self.world.home.open_arrays(self.world.home.require("input_images", f"yard.{name}"))
            for frame in range(NUM_FRAMES):
                images = np.asarray(group["image"][frame]).transpose(0, 3, 1, 2)
                if (torch.from_numpy(images.copy()).float() / 255).numpy().tobytes() == key:
                    return shift_of(index, frame)
        raise AssertionError("not a frame of this world")

    def render(self, field, cameras):
        images, depths, opacities, features = [], [], [], []
        size = (cameras.render_height, cameras.render_width)
        poses, matrices = cameras.camera_to_reference_ego[0].double().numpy(), cameras.intrinsics[0].double().numpy()
        for pose, intrinsics in zip(poses, matrices, strict=True):
            distance, labels, _ = look(intrinsics, pose, self._shift_of(field), *size)
            doubled = intrinsics.copy()
            doubled[:2] *= 2
            images.append(look(doubled, pose, self._shift_of(field), 2 * size[0], 2 * size[1])[2])
            depths.append(np.where(np.isfinite(distance), distance, np.nan))
            opacities.append(np.isfinite(distance))
            features.append(self.world.clip.of(labels))
        return RenderedViews(
            image=np.stack(images).astype(np.float32),
            termination_depth=np.stack(depths).astype(np.float32),
            opacity=np.stack(opacities).astype(np.float32),
            is_seen=np.ones((len(poses), *size), bool),
            features={"clip": np.stack(features)} if self.feature_sources else {},
        )

    def voxel_density(self, field, grid, flat_index, *, samples_per_axis=2):
        occupied = voxel_labels(self._shift_of(field))[flat_index] != OCC3D_FREE
        index = np.stack(np.unravel_index(flat_index, grid.shape), axis=1)
        return np.where(occupied, np.float32(50.0), np.float32(0.0)), grid.centres(index).astype(np.float32)

    def point_features(self, field, source, points_ego):
        index, _ = OCC3D_GRID.index_of(points_ego)
        flat = np.ravel_multi_index(tuple(index.T), OCC3D_GRID.shape)
        return self.world.clip.of(voxel_labels(self._shift_of(field))[flat])


@pytest.fixture(scope="session")
def world(tmp_path_factory):
    torch.set_num_threads(1)
    made = World(tmp_path_factory.mktemp("evaluation"))
    made.publish_student("clip", student_config())
    made.publish_student("depth", student_config(sources=()))
    made.publish_student("oracle", student_config())
    made.publish_student("never_evaluated", student_config())
    return made


@pytest.fixture
def oracle(world, monkeypatch):
    """Let every student that is opened tell the truth."""
    monkeypatch.setattr(Oracle, "world", world, raising=False)
    monkeypatch.setattr(Predictor, "open", classmethod(_open_oracle))
    return world


def _open_oracle(cls, home, variant, digest=None, *, device="auto"):
    from student.inference.checkpoint import from_pretrained

    version = home.require("student_checkpoint", variant, digest)
    return Oracle(*from_pretrained(home.open_files(version)), version)


@pytest.fixture(scope="session")
def scene_reader(world):
    return SceneReader.open(world.home, "yard.b")
