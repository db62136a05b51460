"""Procedural drives to pretrain on: streets and aprons, many rigs, all weather, each from its own seed."""

from storage.procedural.config import ProceduralConfig, RigName, WeatherConfig

SCENES_PER_DRIVE = 2
HELD_OUT_SCENES = 4
FRAMES_PER_SCENE = 5
_FIRST_SEED = 20_000
_HELD_OUT_SEED = 40_000
_UNSEEN_RIGS_SEED = 50_000
"""Seeds of the demo, of the image teachers and of all tests are below 10,000."""
_RIGS: tuple[RigName, ...] = ("nuscenes", "drawn", "drawn", "airside", "drawn")
"""Rigs of drives, in turn."""


def drive(index: int) -> ProceduralConfig:
    """Return the drive number ``index`` to learn from: a street and an apron of one rig."""
    weather = WeatherConfig(wet_share=0.25, thin_structures=index % 2 == 1)
    return _drive(f"pretrain-{index:04d}", _FIRST_SEED + index, _RIGS[index % len(_RIGS)], weather=weather)


def held_out_drive() -> ProceduralConfig:
    """Return the drive that the student is judged on while it learns: two streets and two aprons of the usual rig."""
    return _drive("pretrain-held-out", _HELD_OUT_SEED, "nuscenes", num_scenes=HELD_OUT_SCENES)


def unseen_rig(index: int) -> ProceduralConfig:
    """Return drive number ``index`` of those that tell how a student does by rigs that it never saw."""
    return _drive(f"unseen-rig-{index:04d}", _UNSEEN_RIGS_SEED + index, "drawn")


def _drive(
    dataset: str, seed: int, rig: RigName, *, num_scenes: int = SCENES_PER_DRIVE, weather: WeatherConfig | None = None
) -> ProceduralConfig:
    return ProceduralConfig(
        dataset=dataset,
        num_scenes=num_scenes,
        airside_share=0.5,
        frames_per_scene=FRAMES_PER_SCENE,
        seed=seed,
        rig=rig,
        source_format="nuscenes" if rig == "nuscenes" else "manifest",
        weather=weather or WeatherConfig(),
    )
