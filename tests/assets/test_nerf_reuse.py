"""A field and its renders that exist are found without starting nerfstudio."""

import dataclasses
from pathlib import Path

import pytest

from storage.errors import ProvenanceMismatchError
from storage.stores.provenance import Provenance
from storage.stores.versioned import Home, materialize_files
from teachers.nerf.config import FeatureFieldConfig, NerfConfig, TeacherDepthConfig, TeacherFeaturesConfig
from teachers.nerf.provenance import find_existing, fit_provenance, render_provenance
from teachers.nerf.task import NerfStep

SCENE = "test.scene-1"


def _home(folder: Path) -> Home:
    home = Home(folder)
    materialize_files(home, Provenance(kind="scene", partition=SCENE, licence="test"), lambda folder: {"frames": 1})
    return home


def test_what_exists_is_found_and_what_does_not_is_not(tmp_path: Path) -> None:
    home = _home(tmp_path)
    nerf = NerfConfig(use_sky_mask=False)
    fit = NerfStep(action="fit", config=nerf)
    assert find_existing(home, SCENE, (fit,)) is None
    built = materialize_files(home, fit_provenance(home, SCENE, nerf), lambda folder: {"psnr": 20.0})
    found = find_existing(home, SCENE, (fit,))
    assert found is not None
    assert found["fit"].version == built.version
    assert found["fit"].reused
    assert found["fit"].metrics == {"psnr": 20.0}
    render = NerfStep(action="render_depth", config=TeacherDepthConfig())
    assert find_existing(home, SCENE, (fit, render)) is None  # half is not enough: the worker has to run


def test_another_seed_is_another_field(tmp_path: Path) -> None:
    home = _home(tmp_path)
    nerf = NerfConfig(use_sky_mask=False)
    materialize_files(home, fit_provenance(home, SCENE, nerf), lambda folder: {})
    other = NerfStep(action="fit", config=dataclasses.replace(nerf, seed=nerf.seed + 1))
    assert find_existing(home, SCENE, (other,)) is None


def test_a_render_is_made_from_its_field_and_all_that_it_was_fitted_to(tmp_path: Path) -> None:
    home = _home(tmp_path)
    field = materialize_files(home, fit_provenance(home, SCENE, NerfConfig(use_sky_mask=False)), lambda folder: {})
    provenance = render_provenance(home, field.version, TeacherDepthConfig())
    assert {i.kind for i in provenance.inputs} == {"scene", "nerf_teacher"}
    assert provenance.licence == "test"


def test_what_is_rendered_carries_the_terms_of_all_that_it_is_made_from(tmp_path: Path) -> None:
    home = _home(tmp_path)
    for kind, licence in (("sky_mask", "of-the-mask AND test"), ("dinov2_features", "of-the-features AND test")):
        materialize_files(home, Provenance(kind=kind, partition=SCENE, licence=licence), lambda folder: {})
    field = materialize_files(home, fit_provenance(home, SCENE, NerfConfig()), lambda folder: {})
    assert home.provenance(field.version).licence == "of-the-mask AND test"
    assert render_provenance(home, field.version, TeacherDepthConfig()).licence == "of-the-mask AND test"
    lifted = render_provenance(home, field.version, FeatureFieldConfig(feature_sources=("dinov2",)))
    assert lifted.licence == "of-the-features AND of-the-mask AND test"
    materialize_files(home, lifted, lambda folder: {})
    assert render_provenance(home, field.version, TeacherFeaturesConfig()).licence == lifted.licence


def test_features_that_were_distilled_into_another_field_are_not_rendered(tmp_path: Path) -> None:
    home = _home(tmp_path)
    materialize_files(home, Provenance(kind="clip_features", partition=SCENE), lambda folder: {})
    nerf = NerfConfig(use_sky_mask=False)
    first = materialize_files(home, fit_provenance(home, SCENE, nerf), lambda folder: {}).version
    distilled = render_provenance(home, first, FeatureFieldConfig(feature_sources=("clip",)))
    materialize_files(home, distilled, lambda folder: {})
    made_from = {i.kind for i in render_provenance(home, first, TeacherFeaturesConfig()).inputs}
    assert made_from == {"scene", "nerf_teacher", "clip_features", "feature_field"}
    other = dataclasses.replace(nerf, seed=nerf.seed + 1)
    second = materialize_files(home, fit_provenance(home, SCENE, other), lambda folder: {}).version
    with pytest.raises(ProvenanceMismatchError, match="another field"):
        render_provenance(home, second, TeacherFeaturesConfig())
    step = NerfStep(action="render_features", config=TeacherFeaturesConfig())
    assert find_existing(home, SCENE, (step,)) is None  # the worker says what is wrong


def test_of_a_missing_scene_nothing_exists(tmp_path: Path) -> None:
    steps = (NerfStep(action="fit", config=NerfConfig()), NerfStep(action="render_depth", config=TeacherDepthConfig()))
    assert find_existing(Home(tmp_path), SCENE, steps) is None
    assert find_existing(Home(tmp_path), SCENE, steps[1:]) is None
