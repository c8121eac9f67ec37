import pickle

import pytest

from tokengym.envs import DatasetError, printable
from tokengym.envs.render import render_ansi, render_html, reward_colours

BLUE, RED, WHITE = (67, 147, 195), (214, 96, 77), (255, 255, 255)


def test_colours_diverge_from_white_by_the_largest_absolute_reward():
    assert reward_colours([2.0, -2.0, 0.0]) == [BLUE, RED, WHITE]
    # Half strength: halfway between white and the end, (255+67)/2, (255+147)/2, (255+195)/2.
    assert reward_colours([1.0, -2.0])[0] == (161, 201, 225)
    assert reward_colours([1.0], scale=2.0) == [(161, 201, 225)]
    assert reward_colours([5.0, -5.0], scale=1.0) == [BLUE, RED]
    assert reward_colours([0.0, 0.0]) == [WHITE] * 2
    assert reward_colours([]) == []


def test_ansi_by_hand():
    assert render_ansi("p", ["a", " b"]) == "\x1b[1mp\x1b[0ma b"
    assert render_ansi("", ["a"], [1.0]) == "\x1b[48;2;67;147;195m\x1b[38;2;0;0;0ma\x1b[0m"


def test_html_escapes_text_and_carries_the_number():
    page = render_html("<script>", ['"a"&', "b"], [-0.5, 0.25])
    assert "<b>&lt;script&gt;</b>" in page
    assert 'background:rgb(214,96,77);color:#000" title="-0.5">&quot;a&quot;&amp;</span>' in page
    assert 'title="+0.25"' in page
    assert "<script>" not in page
    assert render_html("p", ["<i>"]).count("<span>&lt;i&gt;</span>") == 1


@pytest.mark.parametrize("render", [render_ansi, render_html])
def test_one_reward_per_token(render):
    with pytest.raises(ValueError, match=r"\(2,\).*got \(1,\)"):
        render("p", ["a", "b"], [1.0])
    with pytest.raises(ValueError, match="finite"):
        render("p", ["a"], [float("nan")])


HIDDEN = ["\x00", "\x1b", "\r", "\x7f", "\x9b", "\u061c", "\u200e", "\u200f", "\u2028", "\u2029"]
HIDDEN += ["\ud800", *map(chr, range(0x202A, 0x202F)), *map(chr, range(0x2066, 0x206A))]


def test_printable_keeps_text_of_any_script():
    for text in ("", "naïve 中文 עברית 🎬\tb\n", "\u200b", "👩\u200d💻"):
        assert printable(text) == text


def test_printable_leaves_nothing_that_a_terminal_or_page_obeys():
    assert printable("\x1b]0;title\x07") == "\u241b]0;title\u2407"
    assert printable("a\u202eb\u2066c\x85\ud800") == "a\ufffdb\ufffdc\ufffd\ufffd"
    for hidden in HIDDEN:
        assert hidden not in printable(f"a{hidden}b")
        printable(hidden).encode()  # no lone surrogates: any stream takes it


@pytest.mark.parametrize("render", [render_ansi, render_html])
def test_no_hidden_character_is_rendered(render):
    plain = render("p", ["t"], [1.0])
    for hidden in HIDDEN:
        shown = render(f"p{hidden}", [f"t{hidden}"], [1.0])
        assert shown.count(hidden) == plain.count(hidden)


def test_messages_do_not_pass_on_escape_sequences(tmp_path):
    hostile = tmp_path / "a\x1b[2Jb\u202e.csv"
    with pytest.raises(DatasetError) as raised:
        raise DatasetError(f"{hostile} cannot be read")
    assert "a\u241b[2Jb\ufffd.csv cannot be read" in str(raised.value)
    assert "\x1b" not in str(pickle.loads(pickle.dumps(raised.value)))
