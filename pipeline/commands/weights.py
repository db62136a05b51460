"""Commands about weights of teachers: convert."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.console import Console
from rich.markup import escape

from pipeline.commands.options import Command


@dataclass(frozen=True, kw_only=True)
class Weights(Command):
    """Turn a checkpoint as its authors publish it into a folder that a teacher reads, without running what is in it.

    Attributes:
        action: What to do.
        family: Model family.
        source: Published file: model_final_<id>.pkl of PointRend, a .pth of Depth Anything.
        target: Folder to write.
        config: PointRend: its YAML configuration; by default config.yaml beside the source.
        config_root: PointRend: folder of all files that the configuration inherits from, such as detectron2's source.
        release: Depth Anything: v1 or v2. They read other blocks, which no tensor tells.
    """

    action: Annotated[Literal["convert"], tyro.conf.Positional]
    family: Annotated[Literal["pointrend", "depth-anything"], tyro.conf.Positional]
    source: Annotated[Path, tyro.conf.Positional]
    target: Annotated[Path, tyro.conf.Positional]
    config: Path | None = None
    config_root: Path | None = None
    release: Literal["v1", "v2"] | None = None

    def run(self, console: Console) -> int:
        """Convert."""
        from teachers.image.convert_weights import convert_depth_anything, convert_pointrend

        if self.family == "pointrend":
            if self.release is not None:
                raise ValueError("--release is of depth-anything alone")
            config = self.config or self.source.with_name("config.yaml")
            done = convert_pointrend(self.source, self.target, config=config, config_root=self.config_root)
            use = "image_teachers.sky.segmenter=pointrend --set image_teachers.sky.weights.source"
        else:
            if self.release is None or self.config is not None or self.config_root is not None:
                raise ValueError("depth-anything wants --release v1 or v2, and no configuration")
            done = convert_depth_anything(self.source, self.target, release=self.release)
            use = "image_teachers.depth_anything.weights.source"
        left_out = f", without {', '.join(done.dropped)}" if done.dropped else ""
        console.print(escape(f"{done.folder}: {done.num_tensors} tensors{left_out}"), soft_wrap=True)
        console.print(escape(f"from {self.source}, SHA-256 {done.source_sha256}"), soft_wrap=True)
        console.print(escape(f"use it: --set {use}={done.folder.absolute()}"), soft_wrap=True)
        return 0
