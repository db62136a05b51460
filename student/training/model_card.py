"""Files published beside the weights: the bill of materials, the history of the fit, and a model card."""

import json
from collections.abc import Collection, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from storage.keys import sample_key
from storage.stores.provenance import Provenance
from storage.stores.versioned import Home
from student.data.training_set import TrainingSet
from student.inference.checkpoint import BILL_OF_MATERIALS_FILE
from student.training.state import FitProgress

HISTORY_FILE = "history.json"


def bill_of_materials(home: Home, frozen: TrainingSet, kinds: Collection[str]) -> dict[str, Any]:
    """Return, for each sample learned from, the exact version of every store it came from.

    A sample names its stores by ``<kind>/<scene>``; the versions are listed once.

    Args:
        home: Home of the stores.
        frozen: The training set.
        kinds: Kinds that the run reads; a training set may hold more.
    """
    read = {scene.key: [v for kind, v in scene.stores.items() if kind in kinds] for scene in frozen.scenes}
    stores = {
        f"{version.kind}/{version.partition}": {
            "digest": version.digest,
            "snapshot_id": version.snapshot_id,
            "licence": home.provenance(version).licence,
            "passed_gate": None if (gate := home.gate(version)) is None else gate.passed,
        }
        for versions in read.values()
        for version in versions
    }
    samples = {
        sample_key(scene.key, frame): [f"{version.kind}/{version.partition}" for version in read[scene.key]]
        for scene in frozen.scenes
        for frame in scene.train_frames
    }
    return {
        "format": "distillnerf.bill_of_materials/1",
        "training_set": {key: value for key, value in asdict(frozen.version).items() if key != "form"},
        "stores": stores,
        "samples": samples,
        "held_out_samples": [sample_key(s.key, frame) for s in frozen.scenes for frame in s.validation_frames],
    }


def write_records(
    folder: Path,
    home: Home,
    frozen: TrainingSet,
    *,
    kinds: Collection[str],
    variant: str,
    provenance: Provenance,
    progress: FitProgress,
    metrics: Mapping[str, Any],
) -> None:
    """Write everything that is published beside the weights; ``kinds`` are the kinds that were read."""
    bill = bill_of_materials(home, frozen, kinds)
    _write_json(folder / BILL_OF_MATERIALS_FILE, bill)
    _write_json(folder / HISTORY_FILE, {"history": progress.history, "validations": progress.validations})
    (folder / "README.md").write_text(_card(bill, frozen, variant, provenance, metrics))


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n")


def _card(
    bill: Mapping[str, Any], frozen: TrainingSet, variant: str, provenance: Provenance, metrics: Mapping[str, Any]
) -> str:
    licences = sorted({store["licence"] or "not stated" for store in bill["stores"].values()})
    kinds = sorted({name.partition("/")[0] for name in bill["stores"]})
    kept = metrics["keeps_depth"]
    failed = sorted(name for name, store in bill["stores"].items() if store["passed_gate"] is False)
    figures = [
        f"| {name} | {value:.3f} |" if isinstance(value, float) else f"| {name} | {value} |"
        for name, value in metrics["validation"].items()
        if name != "step"
    ]
    lines = [
        f"# DistillNeRF student, variant `{variant}`",
        "",
        f"{metrics['parameters']:,} parameters; {metrics['steps']} steps in {metrics['fit_seconds']:.0f} s "
        f"on {provenance.device}; seed {provenance.seed}.",
        "",
        "```python",
        "from student.inference.checkpoint import from_pretrained",
        "",
        'model, config = from_pretrained("<this folder>")',
        "```",
        "",
        "## Learned from",
        "",
        f"{frozen.num_train_samples} frames of {sum(bool(s.train_frames) for s in frozen.scenes)} scenes; "
        f"{frozen.num_validation_samples} frames held out. Kinds: {', '.join(kinds)}.",
        f"The exact version of every store is in `{BILL_OF_MATERIALS_FILE}`; the training set is "
        f"`{frozen.version.partition}`, digest `{frozen.version.digest}`.",
        "",
        *(["Nothing told depth: its network has the weights that the fit started from.", ""] if kept else []),
        *([f"Taken though they did not pass their quality gate: {', '.join(failed)}.", ""] if failed else []),
        "## Held-out frames",
        "",
        "| figure | value |",
        "|---|---|",
        *figures,
        "",
        "Depth is scored against LiDAR up to 80 m. `psnr_mean_colour` and `depth_abs_rel_median` are what knowing only "
        "the mean colour and the median depth of each scored frame would give.",
        "",
        "## Licences of what it learned from",
        "",
        *[f"- {licence}" for licence in licences],
        "",
        "A model inherits the conditions of its data; the strictest of these governs its use.",
        "",
    ]
    return "\n".join(lines)
