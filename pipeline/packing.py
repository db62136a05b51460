"""Pack a student so that it travels: one folder, laid out for the model hub, that needs no home."""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from storage.kinds import Kind
from storage.stores.versioned import Home, StoreVersion
from student.applications.finetuned_head import HEADS_FOLDER, heads_of, pack_heads
from student.config import FinetuneTask
from student.evaluation.companions import Companions, companions_of
from student.evaluation.evidence import EVIDENCE_FILE
from student.evaluation.history import CHIEF_FIGURES
from student.evaluation.results import EvaluationResult
from student.inference.checkpoint import BILL_OF_MATERIALS_FILE, from_pretrained, save_pretrained
from student.inference.feature_bases import load_feature_bases, save_feature_bases
from student.training.model_card import HISTORY_FILE


def pack_student(
    home: Home,
    variant: str,
    folder: Path,
    digest: str | None = None,
    *,
    precision: Literal["float32", "float16"] = "float16",
) -> Companions:
    """Write a student and everything that belongs to it into a folder, which must be new or empty.

    Heads that were fine-tuned on its fields come along. The foundation models that it was trained beside do not: they
    are named, with the digests of their files.

    Args:
        home: Home of the student.
        variant: Partition of the checkpoint.
        folder: Where to write.
        digest: Digest of an exact version; None for the current one.
        precision: Number format of the weights.

    Raises:
        MissingTargetError: If there is no such checkpoint, or a store that it descends from is gone.
        ValueError: If the folder holds something.
    """
    if folder.exists() and any(folder.iterdir()):
        raise ValueError(f"{folder} is not empty: want a new folder")
    version = home.require(Kind.STUDENT_CHECKPOINT, variant, digest)
    source = home.open_files(version, verify=True)
    companions = companions_of(home, version)
    model, config = from_pretrained(source)
    aside = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(aside, ignore_errors=True)
    save_pretrained(aside, model, config, variant=variant, precision=precision)
    save_feature_bases(aside, load_feature_bases(source))
    companions.save(aside)
    for name in (BILL_OF_MATERIALS_FILE, HISTORY_FILE):
        shutil.copyfile(source / name, aside / name)
    _copy_evidence(home, variant, companions, aside)
    heads = heads_of(home, version)
    pack_heads(heads, aside)
    (aside / "README.md").write_text(_card(home, version, source, companions, tuple(heads)))
    if folder.exists():
        folder.rmdir()
    aside.rename(folder)
    return companions


def _copy_evidence(home: Home, variant: str, companions: Companions, folder: Path) -> None:
    """Let what the student's own training frames say travel with it, if it was evaluated on its own split."""
    found = companions.operating_point["evaluation_digest"]
    if found is not None:
        evidence = home.open_files(home.require(Kind.STUDENT_EVALUATION, variant, found)) / EVIDENCE_FILE
        if evidence.is_file():  # evaluations from before evidence was kept lack it
            shutil.copyfile(evidence, folder / EVIDENCE_FILE)


def _card(
    home: Home, version: StoreVersion, source: Path, companions: Companions, heads: Sequence[FinetuneTask]
) -> str:
    """Return the checkpoint's own card, with what the hub reads above it and an evaluation's figures below."""
    found = companions.operating_point["evaluation_digest"]
    lines = ["---", f"license: {_hub_licence(companions.licence)}", "pipeline_tag: depth-estimation", "---", ""]
    lines.append((source / "README.md").read_text().replace(_OWN_USE, _TRAVELLING_USE))
    if found is not None:
        evaluation = home.require(Kind.STUDENT_EVALUATION, version.partition, found)
        headline = EvaluationResult.from_json(home.metrics(evaluation)).headline()
        rows = [f"| {name} | {headline[name]:.4g} |" for name in CHIEF_FIGURES if headline.get(name) is not None]
        lines += ["## Evaluation", "", f"Version `{found}`, held-out scenes.", ""]
        lines += ["| figure | value |", "|---|---|", *rows, ""]
    if heads:
        lines += ["## Heads", "", "Fine-tuned on the fields of this student, each with its card:", ""]
        lines += [f"- `{HEADS_FOLDER}/{task}`: {_USE_OF_HEAD[task]}" for task in heads]
    return "\n".join(lines) + "\n"


_OWN_USE = """from student.inference.checkpoint import from_pretrained

model, config = from_pretrained("<this folder>")
"""
_TRAVELLING_USE = """from pipeline.live import CalibratedCamera, Student

student = Student.from_pretrained("<this folder>")
frame = student(images, [CalibratedCamera(intrinsics=k, camera_to_ego=pose) for k, pose in rig])
frame.views.termination_depth, frame.find("a car"), frame.occupancy()
"""


_USE_OF_HEAD: Mapping[FinetuneTask, str] = {
    "occupancy": '`frame.occupancy(head="occupancy")`',
    "segmentation": '`frame.label()`, `frame.occupancy(head="segmentation")`',
}


def _hub_licence(licence: str) -> str:
    """Return the hub's name of a licence; several, or one that it has no name for, are "other"."""
    return {"Apache-2.0": "apache-2.0", "CC-BY-NC-SA-4.0": "cc-by-nc-sa-4.0", "MIT": "mit"}.get(licence, "other")
