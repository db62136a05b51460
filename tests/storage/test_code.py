"""Which code a result is made by: every module that a producer runs, no other, and nothing that does not run."""

import ast
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage import code
from storage.code import INFRASTRUCTURE, PACKAGES, PROJECT, code_digest, import_closure
from storage.kinds import KINDS, ArraySpec
from teachers.nerf.provenance import MODULE_OF

READERS = ("nuscenes.recording", "manifest.recording", "waymo.v1", "waymo.v2")
PRODUCERS: dict[str, tuple[str, ...]] = {
    "recordings": ("storage.procedural.run",),
    "waymo recordings": ("storage.testing.waymo.writer",),
    **{f"scene, {name}": ("storage.ingest.scene_writer", f"storage.ingest.{name}") for name in READERS},
    "audit of a scene": ("storage.audits.scene_audit",),
    "images": ("storage.targets.images",),
    "occupancy_labels": ("storage.ingest.occupancy_labels",),
    "lidar_occupancy": ("storage.references.lidar_occupancy",),
    "sky": ("teachers.image.extract_sky", "teachers.image.sky"),
    "sky, pointrend": ("teachers.image.extract_sky", "teachers.image.pointrend"),
    "depth": ("teachers.image.extract_depth",),
    "dinov2": ("teachers.image.extract_patches", "teachers.image.dinov2"),
    "clip": ("teachers.image.extract_patches", "teachers.image.clip"),
    **{action: (module,) for action, module in MODULE_OF.items()},
    "exact depth and views": ("teachers.exact",),
    "training set": ("student.data.training_set",),
    "student": ("student.training.fit",),
    "evaluation": ("student.evaluation.evaluate",),
    "evaluation on other scenes": ("student.evaluation.transfer",),
    "report": ("student.reporting.report",),
    "weak labels": ("student.applications.weak_labels",),
    "sheets and verdicts": ("student.applications.label_sheet",),
    "head": ("student.applications.finetune",),
    "region index": ("student.applications.region_index",),
    "renders to learn from": ("teachers.demo_training.renders",),
}
"""What is asked for the digest of each result."""

Write = Callable[..., None]


def modules_of(folder: Path) -> dict[str, Path]:
    """Return every module of the project by its dotted name."""
    files = {path: path.relative_to(folder) for name in PACKAGES for path in sorted((folder / name).rglob("*.py"))}
    return {".".join(place.with_suffix("").parts).removesuffix(".__init__"): path for path, place in files.items()}


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write modules, given as path and text, into a project of packages that hold nothing else."""

    def write(files: dict[str, str]) -> None:
        for name, text in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    write({f"{name}/__init__.py": "" for name in PACKAGES})
    return write


@pytest.fixture(scope="module")
def copied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project's own sources, to be changed at will."""
    folder = tmp_path_factory.mktemp("project")
    for name in PACKAGES:
        shutil.copytree(PROJECT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "demo_weights"))
    return folder


@pytest.fixture(scope="module")
def switches(copied: Path) -> "dict[str, Switch]":
    return {name: Switch(path) for name, path in modules_of(copied).items()}


# --- what belongs to a closure -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "statement",
    [
        "import storage.other",
        "import storage.other as name",
        "from storage import other",
        "from storage.other import value",
        "def work():\n    from storage.other import value",
        "def work():\n    if True:\n        import storage.other",
        "class Worker:\n    import storage.other",
        "try:\n    import storage.other\nexcept ImportError:\n    pass",
        "if TYPE_CHECKING:\n    pass\nelse:\n    import storage.other",
        "if not TYPE_CHECKING:\n    import storage.other",
    ],
)
def test_an_import_that_runs_counts(write: Write, tmp_path: Path, statement: str) -> None:
    write({"storage/root.py": statement + "\n", "storage/other.py": "value = 1\n"})
    assert list(import_closure("storage.root", project=tmp_path)) == ["storage", "storage.other", "storage.root"]


@pytest.mark.parametrize(
    "statement",
    [
        "if TYPE_CHECKING:\n    from storage.other import value",
        "if typing.TYPE_CHECKING:\n    import storage.other",
        "import json.decoder",
        "from assets import other",
        "import pipeline.other",
        "text = 'import storage.other'",
        "from storage import no_module_but_a_value",
    ],
)
def test_what_is_no_import_of_project_code_does_not_count(write: Write, tmp_path: Path, statement: str) -> None:
    write({"storage/root.py": "import storage\n" + statement + "\n", "storage/other.py": "value = 1\n"})
    assert list(import_closure("storage.root", project=tmp_path)) == ["storage", "storage.root"]


def test_imports_are_followed_and_packages_on_the_way_run(write: Write, tmp_path: Path) -> None:
    write(
        {
            "student/root.py": "import storage.inner.deep.leaf\n",
            "storage/inner/__init__.py": "",
            "storage/inner/deep/__init__.py": "from teachers import helper\n",
            "storage/inner/deep/leaf.py": "",
            "storage/inner/beside.py": "",
            "teachers/helper.py": "import student.root\n",  # a circle
        }
    )
    assert set(import_closure("student.root", project=tmp_path)) == {
        *("student", "student.root", "teachers", "teachers.helper"),
        *("storage", "storage.inner", "storage.inner.deep", "storage.inner.deep.leaf"),
    }


def test_infrastructure_is_left_out_and_not_followed(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(code, "INFRASTRUCTURE", ("storage.lock",))
    write(
        {
            "storage/lock.py": "import storage.hidden\nimport storage.shared\n",
            "storage/root.py": "import storage.lock\nimport storage.shared\n",
            "storage/hidden.py": "",
            "storage/shared.py": "",
        }
    )
    assert list(import_closure("storage.root", project=tmp_path)) == ["storage", "storage.root", "storage.shared"]
    assert "storage.lock" in import_closure("storage.lock", project=tmp_path)  # asked for by name


@pytest.mark.parametrize("missing", ["storage.nothing", "nothing.at.all"])
def test_a_root_that_is_not_there_is_refused(write: Write, tmp_path: Path, missing: str) -> None:
    with pytest.raises(ValueError, match=f"no module '{missing}' under"):
        code_digest(missing, project=tmp_path)


def test_an_import_of_nothing_is_refused_and_says_whose_it_is(write: Write, tmp_path: Path) -> None:
    write({"storage/root.py": "def work():\n    from storage.gone import value\n"})
    with pytest.raises(ValueError, match=r"no module 'storage\.gone' under .*, wanted by storage\.root"):
        code_digest("storage.root", project=tmp_path)


def test_nothing_is_imported(write: Write, tmp_path: Path) -> None:
    write({"storage/root.py": "raise RuntimeError('imported')\n"})
    code_digest("storage.root", project=tmp_path)
    asked = "code_digest('student.training.fit'); print('torch' in sys.modules)"
    question = f"import sys; from storage.code import code_digest; {asked}"
    seen = subprocess.run([sys.executable, "-c", question], capture_output=True, text=True, check=True, cwd=PROJECT)
    assert seen.stdout.strip() == "False"


# --- what a digest sees ---------------------------------------------------------------------------------------------

BEFORE = '''"""What it is."""

from storage.other import value

LIMIT = 3
"""What it limits."""


class Box:
    """A box."""

    def twice(self, x: int = 1) -> int:
        """Return twice as much."""
        return [x * 2, value("a", b"b"), {"one": 1.0, **{}}][0]
'''


@pytest.fixture
def digest(write: Write, tmp_path: Path) -> Callable[[str], str]:
    def digest(text: str) -> str:
        write({"storage/root.py": text, "storage/other.py": "def value(*_): ...\n"})
        return code_digest("storage.root", project=tmp_path)

    return digest


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("What it is.", "What else it is."),
        ('"""What it is."""\n', ""),
        ("A box.", "A larger box, of many words."),
        ('    """A box."""\n', ""),
        ("Return twice", "Return just twice"),
        ("What it limits", "What else it limits"),
        ("LIMIT = 3\n", "LIMIT = 3  # metres\n\n\n"),
        ('b"b"), {"one": 1.0, **{}}]', "b'b'),\n        # here\n        {'one': 1.0, **{}},\n    ]"),
        ("x * 2", "(x * 2)"),
        ("\n", "\r\n"),
        ("\n", "\n\n"),
    ],
)
def test_what_does_not_run_changes_nothing(digest: Callable[[str], str], old: str, new: str) -> None:
    assert old in BEFORE
    assert digest(BEFORE.replace(old, new)) == digest(BEFORE)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("LIMIT = 3", "LIMIT = 4"),
        ("LIMIT = 3", "LIMIT = 3.0"),
        ("LIMIT = 3", "LIMIT = '3'"),
        ("LIMIT = 3", "LIMIT = True"),
        ("LIMIT = 3", "LIMIT = LIMIT"),
        ("LIMIT = 3", "LIMIT = -3"),
        ("x * 2", "x + 2"),
        ("x * 2", "2 * x"),
        ("x: int = 1", "x: int = 2"),
        ("x: int = 1", "*, x: int = 1"),
        ("x: int = 1", "x: float = 1"),
        ("self, x: int = 1", "self, x: int"),
        ('b"b"', '"b"'),
        ('("a", b"b")', '("ab")'),
        ("**{}", '"": {}'),
        ("[0]", "[1]"),
        ("[0]", "[:0]"),
        ("[0]", "[0:]"),
        ("    def twice", "    @property\n    def twice"),
        ("    def twice", "    async def twice"),
        ("class Box:", "class Box(object):"),
        ("import value", "import value as value2"),
    ],
)
def test_what_runs_otherwise_changes_it(digest: Callable[[str], str], old: str, new: str) -> None:
    assert old in BEFORE
    assert digest(BEFORE.replace(old, new)) != digest(BEFORE)


def test_moving_a_statement_into_a_block_changes_it(digest: Callable[[str], str]) -> None:
    assert digest("if a:\n    b()\nc()\n") != digest("if a:\n    b()\n    c()\n")
    assert digest("f([a], b)\n") != digest("f([a, b])\n")
    assert digest("x[y[a:] : b]\n") != digest("x[y[a:b] :]\n")


def test_the_name_of_a_module_counts(write: Write, tmp_path: Path) -> None:
    write({"storage/one.py": "value = 1\n", "storage/two.py": "value = 1\n"})
    assert code_digest("storage.one", project=tmp_path) != code_digest("storage.two", project=tmp_path)


def test_order_and_repetition_of_roots_do_not_count(write: Write, tmp_path: Path) -> None:
    write({"storage/one.py": "value = 1\n", "storage/two.py": "value = 2\n"})
    once = code_digest("storage.one", "storage.two", project=tmp_path)
    assert code_digest("storage.two", "storage.one", "storage.two", project=tmp_path) == once


def test_a_data_file_that_a_module_declares_counts(write: Write, tmp_path: Path) -> None:
    write({"storage/root.py": 'DATA_FILES = ("page.j2",)\n', "storage/page.j2": "one", "storage/other.j2": "one"})
    before = code_digest("storage.root", project=tmp_path)
    write({"storage/other.j2": "two"})
    assert code_digest("storage.root", project=tmp_path) == before
    write({"storage/page.j2": "two"})
    assert code_digest("storage.root", project=tmp_path) != before


def without_docstrings(text: str) -> str:
    """Return the tree of a text by the standard library, less strings that stand alone."""

    class Strip(ast.NodeTransformer):
        def visit_Expr(self, node: ast.Expr) -> ast.Expr | None:
            return None if isinstance(node.value, ast.Constant) and isinstance(node.value.value, str) else node

    return ast.dump(Strip().visit(ast.parse(text)))


SCRAPS = ("a", "b = 1", "b = 1.0", "'x'", "f(a)", "f(*a)", "f(**a)", "f(a=a)", "return a", "return", "x[1:]", "x[:1]")
LINES = st.lists(st.tuples(st.integers(0, 3), st.sampled_from(SCRAPS)), min_size=1, max_size=6)


@given(first=LINES, second=LINES)
def test_texts_agree_exactly_where_their_trees_do(first: list, second: list, tmp_path_factory) -> None:
    project = tmp_path_factory.mktemp("trees")
    (project / "storage").mkdir()
    (project / "storage" / "__init__.py").touch()
    texts = []
    for name, lines in (("one", first), ("two", second)):
        text = "def f():\n    pass\n" + "".join(
            "".join(f"{'    ' * level}    if c:\n" for level in range(depth)) + f"{'    ' * depth}    {scrap}\n"
            for depth, scrap in lines
        )
        (project / "storage" / f"{name}.py").write_text(text)
        texts.append(text)
    one, two = (import_closure(f"storage.{name}", project=project)[f"storage.{name}"] for name in ("one", "two"))
    assert (one.digest == two.digest) == (without_docstrings(texts[0]) == without_docstrings(texts[1]))


# --- the project itself ---------------------------------------------------------------------------------------------


def test_every_caller_is_among_the_producers_tested_here() -> None:
    callers = {
        name for name, path in modules_of(PROJECT).items() if " code_digest(" in path.read_text().replace("=", " ")
    }
    callers -= {"storage.code", "teachers.nerf.provenance"}  # the latter asks for the modules of MODULE_OF
    assert callers == {roots[0] for roots in PRODUCERS.values()} - set(MODULE_OF.values())


class Switch:
    """A file with two contents, each with a time of its own, so that neither is parsed more than once."""

    def __init__(self, path: Path) -> None:
        self.path, self.text = path, path.read_text()
        self.set(changed=False)

    def set(self, *, changed: bool) -> None:
        self.path.write_text(self.text + "\n\ndef _added():\n    return 1\n" if changed else self.text)
        os.utime(self.path, (changed, changed))


@pytest.mark.parametrize("producer", PRODUCERS)
def test_a_producer_sees_a_change_of_every_module_that_it_runs_and_of_no_other(
    switches: dict[str, Switch], copied: Path, producer: str
) -> None:
    roots = PRODUCERS[producer]
    closure, before = import_closure(*roots, project=copied), code_digest(*roots, project=copied)
    seen = {before}
    for name in closure:
        switches[name].set(changed=True)
        seen.add(code_digest(*roots, project=copied))
        switches[name].set(changed=False)
    assert len(seen) == 1 + len(closure)
    others = [switch for name, switch in switches.items() if name not in closure]
    for switch in others:
        switch.set(changed=True)
    unseen = code_digest(*roots, project=copied)
    for switch in others:
        switch.set(changed=False)
    assert others
    assert unseen == before


def test_no_module_changes_by_being_formatted_otherwise(copied: Path) -> None:
    modules = modules_of(copied)
    before = import_closure(*modules, project=copied)
    texts = {path: path.read_text() for path in modules.values()}
    for path, text in texts.items():
        path.write_text(ast.unparse(ast.parse(text)) + "\n# another end\n")
    after = import_closure(*modules, project=copied)
    for path, text in texts.items():
        path.write_text(text)
    assert {name: source.digest for name, source in after.items()} == {n: s.digest for n, s in before.items()}


@pytest.mark.parametrize(
    ("producer", "needed"),
    [
        ("weak labels", "student.data."),
        ("weak labels", "storage.scenes."),
        ("evaluation", "storage.procedural.sensing.render"),
        ("evaluation", "storage.procedural.writers.truth"),
        ("fit", "storage.scenes.moving"),
        ("student", "storage.scenes.moving"),
        ("student", "student.training.processes"),
        ("recordings", "storage.ingest.manifest.writer"),
        ("scene, waymo.v1", "storage.ingest.waymo.labels"),
        ("render_depth", "teachers.nerf.contradictions"),
    ],
)
def test_what_a_hand_kept_list_once_left_out_counts(producer: str, needed: str) -> None:
    assert any(name.startswith(needed) for name in import_closure(*PRODUCERS[producer]))


@pytest.mark.parametrize(
    ("producer", "others"),
    [
        ("scene, nuscenes.recording", ("storage.ingest.waymo", "storage.ingest.manifest")),
        ("scene, manifest.recording", ("storage.ingest.waymo", "storage.ingest.nuscenes")),
        ("scene, waymo.v1", ("storage.ingest.waymo.v2", "storage.ingest.nuscenes", "storage.ingest.manifest")),
        ("scene, waymo.v2", ("storage.ingest.waymo.v1", "storage.ingest.nuscenes", "storage.ingest.manifest")),
        ("dinov2", ("teachers.image.clip",)),
        ("clip", ("teachers.image.dinov2",)),
        ("sky", ("teachers.image.pointrend",)),
        ("recordings", ("storage.testing",)),
    ],
)
def test_a_choice_that_was_not_taken_does_not_count(producer: str, others: tuple[str, ...]) -> None:
    assert not {name for name in import_closure(*PRODUCERS[producer]) if name.startswith(others)}


def test_infrastructure_is_there_and_would_otherwise_be_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    assert set(INFRASTRUCTURE) <= set(modules_of(PROJECT))
    monkeypatch.setattr(code, "INFRASTRUCTURE", ())
    reached = {name for roots in PRODUCERS.values() for name in import_closure(*roots)}
    assert set(INFRASTRUCTURE) <= reached


def test_every_data_file_is_declared_by_the_module_that_reads_it() -> None:
    files = {path for name in PACKAGES for path in (PROJECT / name).rglob("*") if path.is_file()}
    checkpoints = {"demo_weights", "pretrained"}
    shipped = {path for path in files if path.suffix not in (".py", ".pyc") and not checkpoints & set(path.parts)}
    declared = {path for source in import_closure(*modules_of(PROJECT)).values() for path in source.data_files}
    assert declared == shipped  # checkpoints count by the digests of weights


def test_another_process_comes_to_the_same() -> None:
    question = "from storage.code import code_digest; print(code_digest('student.evaluation.evaluate'))"
    seen = {
        subprocess.run(
            [sys.executable, "-c", question],
            capture_output=True,
            text=True,
            check=True,
            cwd=PROJECT,
            env={**os.environ, "PYTHONHASHSEED": seed},
        ).stdout.strip()
        for seed in ("1", "2")
    }
    assert seen == {code_digest("student.evaluation.evaluate")}


def test_only_the_arrays_of_its_own_kind_count_for_a_producer(monkeypatch: pytest.MonkeyPatch) -> None:
    producer = ("teachers.image.extract_sky",)
    before = code_digest(*producer, kind="sky_mask")
    assert before != code_digest(*producer, kind="teacher_depth")
    changed = ArraySpec(dtype="float32", axes=("frames",))
    for kind, is_seen in (("clip_features", False), ("sky_mask", True)):
        spec = replace(KINDS[kind], arrays={**KINDS[kind].arrays, "new": changed})
        monkeypatch.setattr(code, "KINDS", {**KINDS, kind: spec})
        assert (code_digest(*producer, kind="sky_mask") != before) is is_seen
