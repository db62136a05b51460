"""``distillnerf find``: a text, or what looks like an example, in every scene of a home."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pipeline.commands.options import ConfiguredCommand
from pipeline.display import Display
from pipeline.file_names import slug
from storage.counted import counted
from storage.digests import digest_of
from storage.kinds import FeatureSource
from storage.stores.versioned import Home
from student.inference.class_list import load_class_list

_NUM_SHOWN = 5


@dataclass(frozen=True, kw_only=True)
class Find(ConfiguredCommand):
    """Find a text, or what looks like an example, in every image of every scene of a home; no student is needed.

    The answer is a page with a thumbnail for each answer, its region outlined, and the same as CSV and JSON. The index
    behind it is made when it is first needed, and brought up to date where scenes came, went or changed.

    Attributes:
        text: Text to look for, such as "tow bar".
        like: Pixels to look for the like of, as SCENE:FRAME:CAMERA:U,V in pixels of the recorded image.
        number: Answers wanted.
        per_scene: Most of them in one scene.
        scenes: Keys of the scenes to look in; by default all.
        features: Foundation model whose features are compared; a text needs clip.
        negatives: Texts that the text is compared with; by default the whole vocabulary.
        classes: Your own classes, a YAML file or the name of a shipped list, which compete with the text in place of
            Occ3D's; a text that names one stands for all of its prompts.
        out: New folder for the answer; by default one of its own below the home.
        overwrite: Write into that folder even if it holds another answer.
    """

    text: Annotated[str, tyro.conf.Positional] = ""
    like: tuple[str, ...] = ()
    number: int = 24
    per_scene: int = 6
    scenes: tuple[str, ...] = ()
    features: FeatureSource = "clip"
    negatives: tuple[str, ...] = ()
    classes: str | None = None
    out: Path | None = None
    overwrite: bool = False

    def run(self, console: Console) -> int:
        """Search, and print the best answers and the page."""
        if bool(self.text) == bool(self.like):
            raise ValueError("want a text, or --like SCENE:FRAME:CAMERA:U,V, and not both")
        if self.text and self.features != "clip":
            raise ValueError(
                f"a text is compared with features of clip, not of {self.features}: want --like with those"
            )
        if self.like and (self.negatives or self.classes):
            raise ValueError("--negatives and --classes compete with a text: want one, not --like")
        if self.number < 1 or self.per_scene < 1:
            raise ValueError(f"--number {self.number}, --per-scene {self.per_scene}: want at least 1")
        home = self.open_home(must_exist=True)
        settings = self.selection(home).resolve().evaluation
        from pipeline.finding import ask, search

        request = ask(
            text=self.text,
            like=self.like,
            negatives=self.negatives,
            template=settings.prompt_template,
            number=self.number,
            per_scene=self.per_scene,
            scenes=self.scenes,
            classes=None if self.classes is None else load_class_list(self.classes),
        )
        index = self._index(home, console)
        folder = (
            self.out
            or home.root
            / "finds"
            / f"{slug(self.text or 'like')}-{digest_of([str(request), index.version.digest])[:10]}"
        )
        if self.out is not None and folder.exists() and any(folder.iterdir()) and not self.overwrite:
            raise ValueError(f"{folder} is not empty: want another --out, or --overwrite")
        answer = search(home, index, request, folder, text_encoder=settings.text_encoder)
        table = Table("", "score", "scene:frame:camera:u,v")
        for rank, hit in enumerate(answer.hits[:_NUM_SHOWN], start=1):
            table.add_row(str(rank), f"{hit.score:.3f}", escape(str(hit.spot)))
        console.print(table)
        for note in answer.notes:
            console.print(f"[yellow]note[/yellow]  {escape(note)}", soft_wrap=True)
        console.print(
            f"{len(answer.hits)} answers of {index.num_rows} regions in {counted(len(index.scenes), 'scene')}, "
            f"compared in {answer.seconds:.2f} s",
            soft_wrap=True,
        )
        console.print(f"page  {escape(str(answer.page))}", soft_wrap=True)
        return 0

    def _index(self, home: Home, console: Console) -> Any:  # noqa: ANN401 - the class is heavy to import
        from student.applications.region_index import RegionIndex, build_region_index, is_current

        index = RegionIndex.latest(home, self.features)
        if index is not None and is_current(home, index):
            return index
        with Display(console, total=1) as display:
            task = f"index of {self.features}"
            display.begin(task)

            def tell(stage: str, fraction: float, figures: Mapping[str, Any]) -> None:
                display.advance(task, {"asset": stage, "fraction": fraction, "figures": figures})

            made = build_region_index(home, self.features, on_progress=tell)
            new = made.metrics["num_scenes"] - made.metrics["reused_scenes"]
            display.finish(task, succeeded=True, note="was there already" if made.reused else f"{new} new scenes")
        return RegionIndex(home, made.version)
