"""The command that shows the inputs or the dependents of a version."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.tree import Tree

from pipeline.commands.options import HomeCommand
from pipeline.commands.references import find_version
from pipeline.lineage_summary import KindGroup, lineage_page, summarise
from storage.errors import ErrorKind, MissingTargetError
from storage.stores import catalog
from storage.stores.catalog import FILE_KINDS
from storage.stores.lineage import LineageNode
from storage.stores.provenance import InputVersion
from storage.stores.versioned import Home

_WIDTH = 1000
_MAX_NAMED = 3


@dataclass(frozen=True, kw_only=True)
class Lineage(HomeCommand):
    """Show what a version was made from, directly and indirectly, down to raw files; or all that was made from it.

    By default, one line for each kind: its versions, and those that failed their gate.

    Attributes:
        version: A student's variant, kind/partition[@digest], or the folder of an artifact. With --dependents also
            raw_file/PATH and weights_file/NAME.
        dependents: Show everything made from the version instead.
        tree: Print every version as a tree.
        files: Print the tree with every raw and weights file and its SHA-256.
        html: Write one self-contained page with a graph and all versions and files.
        json: Print JSON.
    """

    version: Annotated[str, tyro.conf.Positional]
    dependents: bool = False
    tree: bool = False
    files: bool = False
    html: Path | None = None
    json: bool = False

    def run(self, console: Console) -> int:
        """Print the tree, or the list of dependents."""
        home = self.open_home(must_exist=True)
        if self.dependents:
            self._tell_dependents(home, console)
            return 0
        found = find_version(home, self.version)
        root = catalog.lineage(home.objects, found.as_input)
        if self.json:
            console.print_json(json.dumps(lineage_json(root)))
            return 0
        groups = summarise(home, root)
        if self.html is not None:
            self.html.parent.mkdir(parents=True, exist_ok=True)
            self.html.write_text(lineage_page(root, groups), encoding="utf-8")
            console.print(f"page  {escape(str(self.html))}", soft_wrap=True)
        elif self.tree or self.files:
            self._tell_tree(root, console)
        else:
            console.print(_label(root.version), soft_wrap=True)
            console.print(_summary(groups))
            console.print("--tree shows every version, --files every file too, --html writes a page", style="dim")
        return 0

    def _tell_tree(self, root: LineageNode, console: Console) -> None:
        tree = Tree(_label(root.version))
        _grow(tree, root, set(), with_files=self.files)
        # As wide as it gets: a digest that is cut at the edge of the terminal is of no use.
        wide = Console(file=console.file, width=_WIDTH, force_terminal=console.is_terminal, highlight=False)
        wide.print(tree)
        console.print(f"{len(_files(root))} raw and weights files in all", soft_wrap=True)

    def _tell_dependents(self, home: Home, console: Console) -> None:
        kind, partition, digest = _source(home, self.version)
        found = catalog.dependents(home.objects, kind=kind, partition=partition, digest=digest)
        if not found and not _is_known(home, kind, partition):
            raise MissingTargetError(ErrorKind.STORE_MISSING, self.version, "the catalogue knows nothing of this name")
        if self.json:
            console.print_json(json.dumps([_version_json(version) for version in found]))
            return
        for version in found:
            console.print(_label(version), soft_wrap=True)
        console.print(f"{len(found)} versions were made from it", soft_wrap=True)


def lineage_json(root: LineageNode) -> dict[str, Any]:
    """Return the lineage as JSON values: each version once, with its inputs; each file with its SHA-256."""
    versions: dict[InputVersion, list[InputVersion]] = {}
    pending = [root]
    while pending:
        node = pending.pop()
        if node.version not in versions and not _is_file(node.version):
            versions[node.version] = [child.version for child in node.inputs]
            pending += node.inputs
    return {
        "root": _version_json(root.version),
        "versions": [
            {
                **_version_json(version),
                "inputs": [_version_json(item) for item in inputs if not _is_file(item)],
                "files": [
                    {"kind": item.kind, "path": item.partition, "sha256": item.digest}
                    for item in inputs
                    if _is_file(item)
                ],
            }
            for version, inputs in versions.items()
        ],
    }


def _source(home: Home, text: str) -> tuple[str, str, str | None]:
    for kind in FILE_KINDS:
        if text.startswith(f"{kind}/"):
            return kind, text.removeprefix(f"{kind}/"), None
    if "@" in text or "/" not in text:
        found = find_version(home, text)
        return found.kind, found.partition, found.digest
    kind, _, partition = text.partition("/")
    return kind, partition, None


def _is_known(home: Home, kind: str, partition: str) -> bool:
    if kind in FILE_KINDS:
        return False
    rows = catalog.versions(home.objects).select(["kind", "partition"]).to_pylist()
    return {"kind": kind, "partition": partition} in rows


def _summary(groups: Sequence[KindGroup]) -> Table:
    table = Table("kind", "number", "gate", box=box.SIMPLE, padding=(0, 1, 0, 0))
    for group in groups:
        failed = group.failed
        names = ", ".join(failed[:_MAX_NAMED]) + (" ..." if len(failed) > _MAX_NAMED else "")
        gate = f"[red]✗ {len(failed)} failed[/red]: {escape(names)}" if failed else "✓" if group.gates["passed"] else ""
        table.add_row(group.kind, str(len(group.ancestors)), gate)
    return table


def _grow(tree: Tree, node: LineageNode, seen: set[InputVersion], *, with_files: bool) -> None:
    """Add inputs below a node; an input that was shown before is only named."""
    for child in node.inputs:
        if _is_file(child.version) and not with_files:
            continue
        known = child.version in seen
        branch = tree.add(_label(child.version) + (" [dim](above)[/dim]" if known and child.inputs else ""))
        if not known:
            seen.add(child.version)
            _grow(branch, child, seen, with_files=with_files)


def _files(root: LineageNode) -> set[InputVersion]:
    found, pending, seen = set(), [root], set()
    while pending:
        node = pending.pop()
        if node.version in seen:
            continue
        seen.add(node.version)
        if _is_file(node.version):
            found.add(node.version)
        pending += node.inputs
    return found


def _is_file(version: InputVersion) -> bool:
    return version.kind in FILE_KINDS


def _label(version: InputVersion) -> str:
    if _is_file(version):
        return f"[dim]{version.kind}[/dim] {escape(version.partition)} [dim]sha256:{version.digest}[/dim]"
    return f"[bold]{version.kind}[/bold]/{escape(version.partition)}[dim]@{version.digest[:12]}[/dim]"


def _version_json(version: InputVersion) -> dict[str, str]:
    return {"kind": version.kind, "partition": version.partition, "digest": version.digest}
