"""Named selections of assets that are launched together."""

import dagster as dg

from storage.kinds import KINDS, Partitioning


def _of_group(group: str, partitioned_by: Partitioning) -> dg.AssetSelection:
    """Select the assets of a group with one partitioning, which one run can make together."""
    alike = [spec.name for spec in KINDS.values() if spec.partitioned_by == partitioned_by]
    return dg.AssetSelection.groups(group) & dg.AssetSelection.assets(*alike)


INGEST = _of_group("scenes", "scene")
IMAGE_TEACHERS = _of_group("image_teachers", "scene")
SCENE_TEACHER = _of_group("scene_teacher", "scene")
STUDENT = _of_group("student", "variant")
NEW_SCENES = dg.AssetSelection.assets("transfer_evaluation")
RESULTS = _of_group("results", "variant") - NEW_SCENES

ingest = dg.define_asset_job("ingest", selection=INGEST, description="Recordings to scene stores and resized images.")
image_teachers = dg.define_asset_job(
    "image_teachers", selection=IMAGE_TEACHERS, description="Everything that frozen foundation models see in images."
)
teach = dg.define_asset_job(
    "teach",
    selection=SCENE_TEACHER,
    description="Fit the field of each scene and render what the student learns from.",
    tags={"dagster/max_runtime": str(6 * 3600)},  # a hung accelerator must not hold its pool slot for ever
)
distil = dg.define_asset_job("distil", selection=STUDENT, description="Freeze a training set and fit a student on it.")
evaluate = dg.define_asset_job("evaluate", selection=RESULTS, description="Score a student and write its report.")
evaluate_new_scenes = dg.define_asset_job(
    "evaluate_new_scenes", selection=NEW_SCENES, description="Score a student on scenes outside its training set."
)
everything = dg.define_asset_job(
    "everything",
    selection=INGEST | IMAGE_TEACHERS | SCENE_TEACHER,
    description="All targets of scenes, from raw frames on; needs both feature bases. One scene a run.",
)
everything_of_a_student = dg.define_asset_job(
    "everything_of_a_student",
    selection=STUDENT | RESULTS,
    description="A student from its training set to its report; needs all targets of its scenes.",
)

ALL_JOBS = [ingest, image_teachers, teach, distil, evaluate, evaluate_new_scenes, everything, everything_of_a_student]
