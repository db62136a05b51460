"""A guide is tested by following it: its Python and shell blocks run in order, in an empty folder."""

import re
import shlex
from pathlib import Path

import pytest

from pipeline import cli

_BLOCK = re.compile(r"^```(python|bash)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("guide", ["bring-your-own-rig.md"])
def test_following_a_guide(
    guide: str,
    repository_root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    text = (repository_root / "docs" / "guides" / guide).read_text()
    blocks = _BLOCK.findall(text)
    assert {language for language, _ in blocks} == {"python", "bash"}
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for language, code in blocks:
        if language == "python":
            exec(compile(code, guide, "exec"), names)
            continue
        for line in code.splitlines():
            program, *arguments = shlex.split(line)
            assert program == "distillnerf"
            assert cli.main(arguments) == 0, capsys.readouterr().out
