"""Nothing in a text of other people is taken for more than itself."""

import html

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.plain_markdown import plain_markdown


@given(st.text(alphabet=st.characters(codec="utf-8", exclude_categories=["Cc", "Cn", "Zs", "Zl", "Zp"])))
def test_a_text_is_shown_as_it_is_and_holds_no_syntax(text: str) -> None:
    plain = plain_markdown(text)
    assert html.unescape(plain) == text
    assert not set("<>|`*[]{}!~\\$@") & set(plain.replace("&#", ""))


@pytest.mark.parametrize(
    "text",
    [
        "<img src=x onerror=alert(1)>",
        "[here](javascript:alert(1))",
        "![x](http://elsewhere.example/x.png)",
        "a | b",
        "{process.exit()}",
        "**bold** `code`",
        "&lt;b&gt;",
        "CAM_FRONT/0007.jpg",
    ],
)
def test_markup_is_shown(text: str) -> None:
    plain = plain_markdown(text)
    assert html.unescape(plain) == text
    assert not set("<>|`*[]{}!~") & set(plain)
    assert "://" not in plain


def test_an_underscore_inside_a_word_is_left() -> None:
    assert plain_markdown("lidar_seen_by_cameras _a_") == "lidar_seen_by_cameras &#95;a&#95;"


def test_a_text_of_several_lines_stays_in_its_cell() -> None:
    assert plain_markdown("a\n\n# b\r\n| c") == "a &#35; b &#124; c"
