"""Procedural drives to pretrain on: streets and aprons, both rigs, all weather, each from its own seed."""

from storage.procedural.config import ProceduralConfig, WeatherConfig

SCENES_PER_DRIVE = 4
FRAMES_PER_SCENE = 5
_FIRST_SEED = 20_000
_HELD_OUT_SEED = 40_000
"""Seeds of the demo, of the image teachers and of all tests are below 10,000."""
_FISHEYE_STRIDE = 5
"""Every so many-th drive is recorded by the rig with fisheyes."""


def drive(index: int) -> ProceduralConfig:
    """Return the drive number ``index`` to learn from: four scenes of one rig, every other one an apron."""
    has_fisheyes = index % _FISHEYE_STRIDE == _FISHEYE_STRIDE - 1
    return ProceduralConfig(
        dataset=f"pretrain-{index:04d}",
        num_scenes=SCENES_PER_DRIVE,
        airside_share=0.5,
        frames_per_scene=FRAMES_PER_SCENE,
        seed=_FIRST_SEED + index,
        rig="airside" if has_fisheyes else "nuscenes",
        source_format="manifest" if has_fisheyes else "nuscenes",
        weather=WeatherConfig(wet_share=0.25, thin_structures=index % 2 == 1),
    )


def held_out_drive() -> ProceduralConfig:
    """Return the drive that the student is judged on while it learns: two streets and two aprons of the usual rig."""
    return ProceduralConfig(
        dataset="pretrain-held-out",
        num_scenes=SCENES_PER_DRIVE,
        airside_share=0.5,
        frames_per_scene=FRAMES_PER_SCENE,
        seed=_HELD_OUT_SEED,
    )
