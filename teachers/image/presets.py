"""Complete configurations of the image teachers, as one function per preset."""

from dataclasses import replace

from teachers.config import (
    DepthAnythingConfig,
    FeatureBasisConfig,
    ImageTeachersConfig,
    InferenceConfig,
    PatchFeatureConfig,
    SkyConfig,
    WeightsConfig,
)


def demo_image_teachers() -> ImageTeachersConfig:
    """Return the demo's teachers: the shipped checkpoints at the size they were trained for."""
    return ImageTeachersConfig(
        sky=SkyConfig(),
        depth_anything=DepthAnythingConfig(),
        dinov2_basis=FeatureBasisConfig(),
        # What the shipped student speaks. Its image tower tells places four pixels apart.
        clip_basis=FeatureBasisConfig(extractor=PatchFeatureConfig(grid_height=32, grid_width=56), source="weights"),
    )


def tiny_image_teachers() -> ImageTeachersConfig:
    """Return teachers for a real scene on a CPU: the shipped checkpoints, whose decoders learned from renders only.

    Gates of accuracy are wider than the demo's; gates of numerical soundness are the same.
    """
    demo = demo_image_teachers()
    return replace(
        demo,
        sky=replace(demo.sky, max_lidar_on_sky=0.10),
        depth_anything=replace(demo.depth_anything, min_lidar_rank_correlation=0.2),
    )


def small_image_teachers() -> ImageTeachersConfig:
    """Return the smallest published checkpoints, from the model hub, for one accelerator."""
    return _published(
        sky="nvidia/segformer-b0-finetuned-cityscapes-1024-1024",
        depth_anything="depth-anything/Depth-Anything-V2-Small-hf",
        dinov2="facebook/dinov2-small",
        clip="openai/clip-vit-base-patch16",
        sky_short_side=512,
        depth_short_side=364,
        patch_short_side=448,
    )


def paper_image_teachers() -> ImageTeachersConfig:
    """Return the published method's teachers: ViT-B Depth Anything (v1), DINOv2 ViT-B, CLIP ViT-L at 336 pixels.

    The sky comes from Segformer B5 instead of PointRend, which needs detectron2 (see ``teachers.image.pointrend``).
    """
    return _published(
        sky="nvidia/segformer-b5-finetuned-cityscapes-1024-1024",
        depth_anything="LiheYoung/depth-anything-base-hf",
        dinov2="facebook/dinov2-base",
        clip="openai/clip-vit-large-patch14-336",
        sky_short_side=900,
        depth_short_side=518,
        patch_short_side=448,
    )


def _published(
    *,
    sky: str,
    depth_anything: str,
    dinov2: str,
    clip: str,
    sky_short_side: int,
    depth_short_side: int,
    patch_short_side: int,
) -> ImageTeachersConfig:
    inference = InferenceConfig(batch_size=6)

    def basis(source: str) -> FeatureBasisConfig:
        extractor = PatchFeatureConfig(
            weights=WeightsConfig(source=source),
            input_short_side=patch_short_side,
            grid_height=32,
            grid_width=56,
            inference=inference,
        )
        return FeatureBasisConfig(extractor=extractor, num_components=64)

    return ImageTeachersConfig(
        sky=SkyConfig(
            weights=WeightsConfig(source=sky),
            input_short_side=sky_short_side,
            inference=inference,
        ),
        depth_anything=DepthAnythingConfig(
            weights=WeightsConfig(source=depth_anything),
            input_short_side=depth_short_side,
            grid_height=128,
            grid_width=228,
            min_lidar_rank_correlation=0.7,
            inference=inference,
        ),
        dinov2_basis=basis(dinov2),
        clip_basis=basis(clip),
    )
