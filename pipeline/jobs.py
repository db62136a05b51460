"""Named selections of assets that are launched together."""

import dagster as dg

RECORDINGS = dg.AssetSelection.assets("procedural_recordings")
INGEST = dg.AssetSelection.assets("scene", "input_images")
IMAGE_TEACHERS = dg.AssetSelection.assets("sky_mask", "depth_anything_features", "dinov2_features", "clip_features")
SCENE_TEACHER = dg.AssetSelection.assets("nerf_teacher", "teacher_depth", "virtual_views", "teacher_features")
STUDENT = dg.AssetSelection.assets("training_set", "student_checkpoint")
RESULTS = dg.AssetSelection.assets("student_evaluation", "report")

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

ALL_JOBS = [ingest, image_teachers, teach, distil, evaluate, everything, everything_of_a_student]
