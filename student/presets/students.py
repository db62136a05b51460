"""Complete student runs, as functions: one per size, each for every variant.

Each function states the run of ``depth_contracted_virtual``; other variants take parts away or add feature heads.
Nothing here imports torch, so that a run can be planned without it.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import get_args

from student.config import (
    SHIPPED,
    DataConfig,
    FeatureHeadFitConfig,
    FitConfig,
    FitRuntime,
    LossConfig,
    OccupancyFitConfig,
    OptimizerConfig,
    StudentConfig,
    Variant,
    ViewsConfig,
)
from student.model.config import (
    ContractionConfig,
    DepthBinsConfig,
    FeatureHeadConfig,
    ModelConfig,
    OccupancyHeadConfig,
)
from student.presets.models import paper_linear_model, paper_model, tiny_model

VARIANTS: tuple[Variant, ...] = get_args(Variant)

_LINEAR_FAR = 50.0
_RATE_FROM_NOTHING = 3e-3
_NUM_WORKERS = 4
"""Number of reading processes. A sample takes tenths of a second to read; an accelerator would wait for one process."""
_FEATURE_SOURCES: dict[Variant, tuple[str, ...]] = {
    "clip": ("clip",),
    "dinov2": ("dinov2",),
    "clip_dinov2": ("clip", "dinov2"),
    "clip_without_field": ("clip",),
}


def student_preset(name: str, variant: Variant) -> StudentConfig:
    """Return a run by the name of its size.

    Raises:
        ValueError: If there is no such size or variant.
    """
    if name not in PRESETS:
        raise ValueError(f"student preset {name!r}, want one of {', '.join(PRESETS)}")
    return PRESETS[name](variant)


def demo_student(variant: Variant) -> StudentConfig:
    """Return the run of the demo, for a few procedural scenes: about three minutes on two CPU cores.

    It starts from the shipped student, unless it ends at 50 m: bins of depth then mean other distances. The budget is a
    number of steps, so that a busy machine takes longer and learns as much.
    """
    # With hidden layers of 32 channels the head, and not the field, bounds what words find.
    heads = _heads(variant, channels=32, hidden_width=128, voxel_width=128)
    run = StudentConfig(
        model=replace(
            tiny_model(depth_feature_channels=32, encoder="efficientnet-lite0"),
            occupancy_head=OccupancyHeadConfig(),
            feature_heads=heads,
        ),
        data=DataConfig(
            image_height=72,
            image_width=128,
            render_height=36,
            render_width=64,
            depth_height=36,
            depth_width=64,
            views=ViewsConfig(same_frame=4, neighbour=1, virtual=2),
            feature_sources=_sources(variant),
        ),
        # Far from the published 10 for the teacher's depth: what lies beyond 50 m would outweigh all the rest.
        losses=LossConfig(
            teacher_depth=2.0,
            log_depth=1.0,
            depth_likelihood=0.3,
            fine_depth=1.0,
            perceptual=0.3,
            feature=2.0,
            surface_feature=10.0,
            sky=0.1,
            opacity=0.1,
        ),
        fit=FitConfig(
            initial=SHIPPED,
            max_steps=150,
            validate_every=75,
            max_validation_samples=4,
            heads=FeatureHeadFitConfig(steps=1500),
            # Twice as many learn the drives at hand by heart: a quarter of the IoU above the ground is lost elsewhere.
            occupancy=OccupancyFitConfig(steps=30, max_frames=64),
            optimizer=OptimizerConfig(
                learning_rate=1e-3,
                betas=(0.9, 0.99),
                weight_decay=0.01,
                schedule="cosine",
                warmup_steps=10,
                max_gradient_norm=5.0,
            ),
        ),
    )
    return _with_variant(run, variant, linear_model=_in_linear_space(run.model))


def tiny_student(variant: Variant) -> StudentConfig:
    """Return a run for one real scene on two CPU cores, a little larger and longer than the demo's."""
    run = demo_student(variant)
    return replace(
        run,
        data=replace(
            run.data,
            image_height=112,
            image_width=200,
            render_height=56,
            render_width=100,
            depth_height=56,
            depth_width=100,
        ),
        fit=replace(
            run.fit,
            max_steps=400,
            validate_every=110,
            # Photographs are new to the shipped student, procedural drives are not.
            optimizer=replace(run.fit.optimizer, learning_rate=_RATE_FROM_NOTHING),
            occupancy=replace(run.fit.occupancy, steps=100),
        ),
    )


def small_student(variant: Variant) -> StudentConfig:
    """Return a run for one accelerator and public weights, at the published image size and a quarter of the widths."""
    model = paper_model()
    narrow = replace(
        model,
        coarse_depth=replace(
            model.coarse_depth,
            pyramid=replace(
                model.coarse_depth.pyramid,
                stem_width=32,
                stem_stride=2,
                stage_widths=(48, 64, 96, 128),
                stage_blocks=(1, 2, 3, 3),
                stage_strides=(1, 2, 2, 2),
                lateral_width=64,
                output_width=48,
            ),
            combiner_width=64,
            mono_width=48,
            ray_width=32,
            depth_feature_channels=64,  # of Depth Anything's small models
        ),
        fine_depth=replace(
            model.fine_depth,
            pyramid=replace(model.fine_depth.pyramid, stem_stride=2),
            embedding_width=32,
            num_candidates=11,
            max_step=0.6,
            lift_colour=True,
            lift_detail=True,
        ),
        voxels=replace(model.voxels, convolution_width=64, down_width=32),
        # With the published 32 groups, of three channels each here, single spots of a map grow without bound.
        decoder=None if model.decoder is None else replace(model.decoder, width=96, norm_groups=8),
        occupancy_head=OccupancyHeadConfig(),
        feature_heads=_heads(variant, channels=64, hidden_width=128, voxel_width=128),
    )
    run = replace(
        paper_student(variant),
        model=narrow,
        data=replace(paper_student(variant).data, depth_height=64, depth_width=114, batch_size=4),
        losses=LossConfig(log_depth=0.5, depth_likelihood=0.1, fine_depth=1.0, surface_feature=10.0),
        fit=FitConfig(
            max_steps=20_000,
            heads=FeatureHeadFitConfig(steps=3000, max_frames=256),
            occupancy=OccupancyFitConfig(steps=3000, max_frames=1024),
            runtime=FitRuntime(num_workers=_NUM_WORKERS),
            optimizer=OptimizerConfig(
                learning_rate=1e-3, betas=(0.9, 0.99), weight_decay=0.01, schedule="cosine", warmup_steps=200
            ),
        ),
    )
    return _with_variant(run, variant, linear_model=_in_linear_space(narrow))


def paper_student(variant: Variant) -> StudentConfig:
    """Return the published run: 128x228 images, batch 8, Adam at 2e-4, with neighbour and virtual views.

    The published training ended by time. 100,000 steps are 28 passes over nuScenes' train split.
    """
    heads = _heads(variant, channels=64, hidden_width=64)
    run = StudentConfig(
        model=replace(paper_model(), feature_heads=heads),
        data=DataConfig(
            views=ViewsConfig(same_frame=6, neighbour=6, virtual=6),
            feature_sources=_sources(variant),
            batch_size=8,
        ),
        losses=LossConfig(),
        fit=FitConfig(
            max_steps=100_000, optimizer=OptimizerConfig(schedule="step"), runtime=FitRuntime(num_workers=_NUM_WORKERS)
        ),
    )
    return _with_variant(run, variant, linear_model=replace(paper_linear_model(), feature_heads=heads))


PRESETS: dict[str, Callable[[Variant], StudentConfig]] = {
    "demo": demo_student,
    "tiny": tiny_student,
    "small": small_student,
    "paper": paper_student,
}


def _sources(variant: Variant) -> tuple[str, ...]:
    return _FEATURE_SOURCES.get(variant, ())


def _heads(
    variant: Variant, *, channels: int, hidden_width: int, voxel_width: int = 0
) -> tuple[FeatureHeadConfig, ...]:
    """Return the heads of a variant; voxels are named by CLIP alone, so only its head has a ``voxel_width``."""
    return tuple(
        FeatureHeadConfig(
            source=source,
            channels=channels,
            hidden_width=hidden_width,
            voxel_width=voxel_width if source == "clip" else 0,
        )
        for source in _sources(variant)
    )


def _in_linear_space(model: ModelConfig) -> ModelConfig:
    def near(bins: DepthBinsConfig) -> DepthBinsConfig:
        spacing = "linear" if bins.spacing == "contracted" else bins.spacing
        return replace(bins, spacing=spacing, far=_LINEAR_FAR)

    return replace(
        model,
        contraction=ContractionConfig(inner_range_z=15.0, inner_ratio=0.999),
        coarse_depth=replace(model.coarse_depth, bins=near(model.coarse_depth.bins)),
        renderer=replace(model.renderer, bins=near(model.renderer.bins)),
    )


def _from_nothing(fit: FitConfig) -> FitConfig:
    """Return the fit of a student that starts at random: it takes larger steps, and its occupancy head more of them."""
    larger = fit.optimizer if fit.initial is None else replace(fit.optimizer, learning_rate=_RATE_FROM_NOTHING)
    occupancy = replace(fit.occupancy, steps=max(fit.occupancy.steps, 300))
    return replace(fit, initial=None, optimizer=larger, occupancy=occupancy)


def _with_variant(run: StudentConfig, variant: Variant, *, linear_model: ModelConfig) -> StudentConfig:
    """Take away from ``depth_contracted_virtual`` what a variant does without."""
    if variant not in VARIANTS:
        raise ValueError(f"variant {variant!r}, want one of {', '.join(VARIANTS)}")
    if variant in {"no_distillation", "depth", "depth_contracted", "clip_without_field"}:
        run = replace(run, data=replace(run.data, views=replace(run.data.views, virtual=0)))
    if variant in {"no_distillation", "depth"}:
        run = replace(
            run,
            model=linear_model,
            data=replace(run.data, max_lidar_range=_LINEAR_FAR),
            losses=replace(run.losses, max_depth=_LINEAR_FAR, max_lidar_range=_LINEAR_FAR),
            fit=_from_nothing(run.fit),
        )
    if variant in {"no_distillation", "clip_without_field"}:
        run = replace(run, data=replace(run.data, teacher_depth=False), losses=replace(run.losses, teacher_depth=0.0))
    return run
