"""A home driven through writing, crashing, overwriting, reading and reusing, against a model of what must be there."""

import shutil
import tempfile

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from storage.errors import IntegrityError
from storage.kinds import StoreForm
from storage.stores import catalog
from storage.stores.provenance import Provenance
from storage.stores.versioned import Home, materialize_arrays, materialize_files, rebuild_catalog

# Few places and configurations: what goes wrong goes wrong when the same one comes round again.
PLACES = st.tuples(st.just("features"), st.sampled_from(["tiny.a", "tiny.b"]))
FILE_PLACES = st.tuples(st.just("checkpoint"), st.just("small"))
CONFIGS = st.integers(0, 2)


class Crash(Exception):
    """A failure on purpose."""


class HomeMachine(RuleBasedStateMachine):
    """The model: for each place, the configurations that exist, and the one that was asked for last."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.mkdtemp()
        self.home = Home(self.folder)
        self.made: dict[tuple[str, str], set[int]] = {}
        self.current: dict[tuple[str, str], int] = {}

    def teardown(self) -> None:
        shutil.rmtree(self.folder)

    @rule(place=PLACES, config=CONFIGS)
    def materialize_array_store(self, place, config):
        def write(group):
            group.create_array("numbers", data=content(place, config), chunks=(2,))
            return {"config": config}

        self._expect(place, config, materialize_arrays(self.home, provenance(place, config), write))

    @rule(place=FILE_PLACES, config=CONFIGS)
    def materialize_file_store(self, place, config):
        def write(folder):
            np.save(folder / "numbers.npy", content(place, config))
            return {"config": config}

        self._expect(place, config, materialize_files(self.home, provenance(place, config), write))

    @rule(place=PLACES, config=CONFIGS, leave_out_a_chunk=st.booleans())
    def crash_in_an_array_store(self, place, config, leave_out_a_chunk):
        if config in self.made.get(place, ()):
            return

        def write(group):
            array = group.create_array("numbers", shape=(4,), dtype="f8", chunks=(2,))
            array[:2] = -1.0
            if leave_out_a_chunk:
                return {}
            raise Crash

        with pytest.raises((Crash, IntegrityError)):
            materialize_arrays(self.home, provenance(place, config), write)

    @rule(place=FILE_PLACES, config=CONFIGS)
    def crash_in_a_file_store(self, place, config):
        if config in self.made.get(place, ()):
            return

        def write(folder):
            np.save(folder / "numbers.npy", content(place, -1))
            raise Crash

        with pytest.raises(Crash):
            materialize_files(self.home, provenance(place, config), write)

    @rule(place=FILE_PLACES | PLACES, config=CONFIGS)
    def die_between_publishing_and_listing(self, place, config):
        if config in self.made.get(place, ()):
            return
        materialize = self.materialize_file_store if place[0] == "checkpoint" else self.materialize_array_store
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(catalog, "record", fail)
            with pytest.raises(Crash):
                materialize(place, config)
        self.made.setdefault(place, set()).add(config)
        materialize(place, config)  # found, and listed after all

    @rule()
    def go_on_in_another_process(self):
        self.home = Home(self.folder)

    @rule()
    def rebuild_the_catalogue(self):
        before = _rows(self.home)
        assert rebuild_catalog(self.home) == sum(len(configs) for configs in self.made.values())
        assert _rows(self.home) == before

    @invariant()
    def every_version_reads_back(self):
        for place, configs in self.made.items():
            for config in configs:
                version = self.home.require(*place, provenance(place, config).digest)
                if version.form is StoreForm.ARRAYS:
                    seen = np.asarray(self.home.open_arrays(version)["numbers"][...])
                else:
                    seen = np.load(self.home.open_files(version, verify=True) / "numbers.npy")
                np.testing.assert_array_equal(seen, content(place, config))
                assert self.home.metrics(version) == {"config": config}

    @invariant()
    def nothing_else_is_there(self):
        seen = {(v.kind, v.partition, v.digest) for v in self.home.versions()}
        assert seen == {(*place, provenance(place, c).digest) for place, configs in self.made.items() for c in configs}
        assert {
            (r["kind"], r["partition"], r["digest"]) for r in catalog.versions(self.home.objects).to_pylist()
        } == seen

    @invariant()
    def current_is_what_was_asked_for_last(self):
        for place, config in self.current.items():
            assert self.home.require(*place).digest == provenance(place, config).digest

    def _expect(self, place, config, made):
        assert made.reused == (config in self.made.get(place, ()))
        assert made.metrics == {"config": config}
        self.made.setdefault(place, set()).add(config)
        self.current[place] = config


def fail(*_, **__):
    raise Crash


def provenance(place: tuple[str, str], config: int) -> Provenance:
    return Provenance(kind=place[0], partition=place[1], config_digest=str(config), sources={"raw": str(config)})


def content(place: tuple[str, str], config: int) -> np.ndarray:
    return np.random.default_rng([len(place[0]), ord(place[1][-1]), config + 1]).normal(size=4)


def _rows(home: Home) -> list:
    tables = (catalog.versions(home.objects), catalog.edges(home.objects))
    return [sorted(map(repr, table.to_pylist())) for table in tables]


TestHome = HomeMachine.TestCase
TestHome.settings = settings(
    max_examples=10, stateful_step_count=15, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
