"""``distillnerf judge-features``: hold a field's features against those of its images."""

import json
import sys
from dataclasses import dataclass
from typing import Annotated

import tyro
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pipeline.commands.options import ConfiguredCommand


@dataclass(frozen=True, kw_only=True)
class JudgeFeatures(ConfiguredCommand):
    """Hold the features of scenes' fields against those of their images: agreement between views, and words.

    Words are scored where a scene is procedural and has exact truth.

    Attributes:
        scenes: Keys of the scenes; by default all of the home's last run.
        json: Print JSON.
    """

    scenes: Annotated[tuple[str, ...], tyro.conf.Positional] = ()
    json: bool = False

    def run(self, console: Console) -> int:
        """Measure every scene."""
        from pipeline.feature_judgement import judge_features

        home = self.open_home(must_exist=True)
        selection = self.selection(home)
        scenes = self.scenes or selection.scenes
        if not scenes:
            raise ValueError("no scene to judge: name one")
        config = selection.resolve()
        judged = [judge_features(home, scene, config) for scene in scenes]
        if self.json:
            sys.stdout.write(json.dumps(judged) + "\n")
            return 0
        table = Table("scene", "source", "of", "cosine", "centred", "other point", "own is nearer", "words: mean AP")
        for of_scene in judged:
            for source, figures in of_scene["sources"].items():
                for name, agreed in figures["agreement"].items():
                    precision = figures.get("words", {}).get(name, {}).get("mean_average_precision")
                    keys = ("cosine", "centred_cosine", "other_cosine", "own_is_nearer")
                    row = [f"{agreed[key]:.3f}" for key in keys]
                    table.add_row(
                        escape(of_scene["scene"]), source, name, *row, "" if precision is None else f"{precision:.3f}"
                    )
        console.print(table)
        return 0
