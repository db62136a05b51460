"""Benchmark of rendering with shading against Embree casting the same rays without it."""

import time
from statistics import median
from typing import Any

import numpy as np

from storage.procedural.sensing.posed_camera import PosedCamera
from storage.procedural.sensing.render import render_view
from storage.procedural.sensing.sensors import CAMERAS
from storage.procedural.world.world import build_world

_RUNS = 7
_CHUNK = 16384


def bench_raycast(*, runs: int = _RUNS, height: int = 225, width: int = 400) -> dict[str, Any]:
    """Render the six cameras of a street, one ray a pixel, in turns with casting the same rays in one thread.

    Args:
        runs: Number of measured turns, after one for warm-up.
        height: Rows of each image.
        width: Columns of each image.

    Returns:
        Primary rays a second of both (medians), their ratio, and rays for each second of processor time, which a shared
        machine distorts less.
    """
    world = build_world("street", 1)
    snapshot = world.snapshot(0)
    cameras = [
        PosedCamera(
            time_us=0,
            camera_to_world=camera.camera_to_ego(),
            intrinsics=camera.intrinsics(height, width),
            height=height,
            width=width,
        )
        for camera in CAMERAS
    ]
    rays = []
    for camera in cameras:
        directions = camera.rays(camera.pixel_centres())
        origins = np.broadcast_to(camera.origin.astype(np.float32), directions.shape).copy()
        starts = range(0, len(directions), _CHUNK)
        rays += [(origins[s : s + _CHUNK], directions[s : s + _CHUNK]) for s in starts]
    num_rays = len(cameras) * height * width
    ours, ours_cpu, reference = [], [], []
    for run in range(runs + 1):
        begin, begin_cpu = time.perf_counter(), time.process_time()
        for camera in cameras:
            render_view(world, camera, antialias=False)
        middle, middle_cpu = time.perf_counter(), time.process_time()
        for origins, directions in rays:
            snapshot.static.first_hits(origins, directions)
        end = time.perf_counter()
        if run > 0:
            ours.append(num_rays / (middle - begin))
            ours_cpu.append(num_rays / (middle_cpu - begin_cpu))
            reference.append(num_rays / (end - middle))
    return {
        "name": "raycast",
        "ratio": median(ours) / median(reference),
        "ours": median(ours),
        "reference": median(reference),
        "unit": "rays/s",
        "runs": runs,
        "details": {
            "rays": num_rays,
            "faces": len(snapshot.table.material),
            "rays_per_processor_second": median(ours_cpu),
            "fastest_run": max(ours),
            "reference": "embree first hits of the still faces, one thread",
        },
    }
