"""What other people write is shown, never obeyed, by a terminal."""

import pytest

from chatmesh.cli.plain import local_time, shown


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("hello", "hello"),
        ("a\tb", "a\tb"),
        ("two\nlines\r", "two\\nlines\\r"),
        ("\x1b[31mred\x1b[0m", "\\x1b[31mred\\x1b[0m"),
        ("\x1b]0;title\x07", "\\x1b]0;title\\x07"),
        ("\x9b2J", "\\x9b2J"),
        ("abc\u202edcba", "abc\\u202edcba"),
        ("a\u2066b\u2069", "a\\u2066b\\u2069"),
        ("line\u2028sep", "line\\u2028sep"),
        ("\u200f", "\\u200f"),
        ("\ufeff", "\\ufeff"),
        ("żółw 🐢 שלום 你好", "żółw 🐢 שלום 你好"),
        ("👩\u200d🚀", "👩\u200d🚀"),
        ("می\u200cخواهم", "می\u200cخواهم"),
    ],
)
def test_shown(text: str, line: str) -> None:
    assert shown(text) == line
    assert "\x1b" not in shown(text)
    assert "\n" not in shown(text)


def test_local_time_is_to_the_second() -> None:
    assert len(local_time(1_795_567_558_132)) == len("2026-11-25 00:45:58")
