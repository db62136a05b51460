"""Configuration of a recording's own references."""

from dataclasses import dataclass, field

from storage.geometry.voxel_grid import OCC3D_GRID, VoxelGrid

_MAX_VOXELS = 4_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class VoteRules:
    """When votes decide.

    Attributes:
        min_returns: Returns that make a voxel occupied.
        min_passes: Beams that must cross a part of a voxel to call it empty.
        free_parts: Share of a voxel's parts that must be empty to call it free.
        clearance_m: A beam testifies no nearer than this to its return, metres.
        reach_m: A beam testifies no farther than this from the sensor, metres.
        uncertain_m: Distance from moving returns without a box within which other frames' beams do not testify, metres.
    """

    min_returns: int = 1
    min_passes: int = 2
    free_parts: float = 0.75
    clearance_m: float = 0.2
    reach_m: float = 60.0
    uncertain_m: float = 0.8


@dataclass(frozen=True, slots=True, kw_only=True)
class LidarOccupancyConfig:
    """How beams become voxels.

    Attributes:
        grid: Grid in the ego frame of every frame. Evaluation reads Occ3D's alone.
        window_s: Sweeps up to this long before or after a frame testify, seconds.
        sweep_interval_s: Shortest time between two sweeps that testify, seconds.
        max_beams: Beams of a sweep that testify, evenly chosen.
        own_vehicle_m: Returns nearer than this to the LiDAR are taken for the vehicle itself, metres.
        rules: When votes decide.
    """

    grid: VoxelGrid = OCC3D_GRID
    window_s: float = 10.0
    sweep_interval_s: float = 0.25
    max_beams: int = 40_000
    own_vehicle_m: float = 2.5
    rules: VoteRules = field(default_factory=VoteRules)

    def __post_init__(self) -> None:
        """Reject what no vote can be taken with."""
        if self.grid.num_voxels > _MAX_VOXELS:
            raise ValueError(f"lidar_occupancy.grid has {self.grid.num_voxels} voxels, want at most {_MAX_VOXELS}")
        for name, low in (("window_s", 0.0), ("sweep_interval_s", 0.0), ("max_beams", 1), ("own_vehicle_m", 0.0)):
            if not getattr(self, name) >= low:
                raise ValueError(f"lidar_occupancy.{name} is {getattr(self, name)}, want at least {low}")
