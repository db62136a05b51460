import json

import pytest

from storage.errors import ErrorKind, SourceDataError
from storage.ingest.source import load_source, register_source
from storage.ingest.source_config import SourceConfig


@pytest.mark.parametrize(
    ("change", "field", "message"),
    [
        (lambda source: source.pop("licence"), ".licence", "is missing"),
        (lambda source: source.update(colour="red"), ".colour", "is unknown"),
        (lambda source: source.update(version=1), ".version", "is 1, want a valid string"),
        (lambda source: source.update(format="kitti"), ".format", "is 'kitti', want"),
        (lambda source: source.update(dataset="other"), "", "describes 'other', want 'tiny'"),
    ],
)
def test_a_registered_source_is_read_strictly(home, tmp_path, change, field, message):
    source = SourceConfig(dataset="tiny", root=tmp_path, version="v1", licence="CC0-1.0")
    path = register_source(home, source)
    assert load_source(home, "tiny") == source
    written = json.loads(path.read_text())
    change(written)
    path.write_text(json.dumps(written))
    with pytest.raises(SourceDataError) as caught:
        load_source(home, "tiny")
    assert (caught.value.kind, caught.value.key) == (ErrorKind.TABLE_INVALID, f"{path}{field}")
    assert message in caught.value.message
