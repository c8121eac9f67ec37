import base64
import hashlib
import re
from html.parser import HTMLParser

import numpy as np
from matplotlib.figure import Figure

from tests.support import golden
from tests.support.evaluation.common import curves_of, fabricate_curves, group_of, references
from tests.support.evaluation.report import hostile_page as hostile_page
from tests.support.evaluation.report import hostile_samples, render
from tests.support.evaluation.verdicts import COMPARED
from tokengym.evaluation.report.curves import Curve, make_panels
from tokengym.evaluation.report.figures import draw_against_kl, save_figure
from tokengym.evaluation.report.sentences import best_of_n
from tokengym.evaluation.report.summary import summarize
from tokengym.evaluation.report.tables import Sample, side_by_side


class Tags(HTMLParser):
    """Collects a page's elements and attributes."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def test_hostile_text_stays_text(hostile_page):
    tags = Tags(hostile_page).found
    assert sum(tag == "script" for tag, _ in tags) == 1
    assert not any(tag in ("img", "base", "iframe", "object", "form") for tag, _ in tags)
    assert not any(name.startswith("on") for _, attributes in tags for name in attributes)
    assert "{{ 7 * 7 }}" in hostile_page  # a template's marks are text too
    assert not {"\x00", "\u202e", "\x1b"} & {*hostile_page}
    hostile_page.encode("utf-8")  # no lone surrogate


def test_only_the_pages_own_script_may_run(make_curves):
    page = render(make_curves())
    policy = next(
        attributes["content"] or ""
        for tag, attributes in Tags(page).found
        if attributes.get("http-equiv") == "Content-Security-Policy"
    )
    assert "default-src 'none'" in policy
    script = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)[0]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy


def test_nothing_is_fetched(make_curves):
    page = render(make_curves(), hostile_samples(["sparse", "abc"]))
    for tag, attributes in Tags(page).found:
        for name in ("src", "href", "data", "srcset"):
            address = attributes.get(name) or "data:,"
            is_place = tag == "a" and address.startswith("#")  # on this page
            assert address == "data:," or is_place, (tag, attributes)
    assert "url(" not in page
    assert "@import" not in page


def test_one_reward_is_no_baseline(make_curves):
    """It is drawn in the colour and line of any reward, with no column of differences."""
    rewards = {"abc": {"summary": "The score spread.", "page": ""}}
    page = render(make_curves(("abc",), seeds=1), compared={"rewards": rewards})
    said = golden.words(page).replace("\n", " ")
    assert "1 reward · 1 run · 30 updates abc went from score \u22120.5" in said
    assert "What was run Reward abc : The score spread." in said
    assert {*re.findall(r'class="series (c\d)"', page)} == {"c1"}
    *_, head = re.findall(r"<thead>.*?</thead>", page, re.DOTALL)  # that of all figures
    assert "Score over the run" in head
    assert not any(part in head for part in ("Chance to beat", "nats of KL"))


def test_every_link_of_the_page_has_its_place(make_curves):
    tags = Tags(render(make_curves(("sparse", "abc")), compared=COMPARED)).found
    places = [attributes.get("id") for _, attributes in tags]
    links = [str(attributes["href"]) for tag, attributes in tags if tag == "a"]
    assert len(links) >= 5
    assert all(places.count(link.removeprefix("#")) == 1 for link in links)


def test_many_rewards_keep_their_sentences_for_the_terms(make_curves):
    names = tuple("abcde")
    rewards = {name: {"summary": f"It is {name}.", "page": ""} for name in names}
    page = render(make_curves(names, seeds=2), compared={"rewards": rewards})
    before, _, after = page.partition('<svg class="plot')
    assert "It is c." not in before
    assert after.count("It is c.") == 1


def test_a_big_comparison_stays_under_five_megabytes(make_curves):
    names = tuple(f"reward-{index}" for index in range(6))
    curves = make_curves(names, seeds=10, last=450)
    assert len(curves[0].steps) == 151
    page = render(curves)
    assert len(page.encode()) < 5_000_000


def test_samples_stand_side_by_side():
    samples = side_by_side(Sample.of(hostile_samples(["sparse", "abc"])), {"sparse": 0, "abc": 1})
    assert len(samples) == 4
    names = [response["name"] for response in samples[0]["responses"]]
    assert names == ["before training", "sparse", "abc"]
    before, sparse = samples[0]["responses"][:2]
    assert {token["tone"] for token in before["tokens"]} == {""}
    first, second = sparse["tokens"]
    assert (first["tone"], first["strength"]) == ("gain", "1.00")
    assert (second["tone"], second["strength"], second["space"]) == ("loss", "0.50", " ")


def test_samples_take_the_last_step_of_the_lowest_seed():
    row = {"credit": "a", "prompt": "p", "score": 0.0}
    rows = [
        {**row, "seed": 1, "step": 9, "response": "other seed"},
        {**row, "seed": 0, "step": 3, "response": "early"},
        {**row, "seed": 0, "step": 9, "response": "late"},
    ]
    responses = side_by_side(Sample.of(rows), {"a": 0})[0]["responses"]
    assert [token["text"] for token in responses[-1]["tokens"]] == ["late"]


def test_the_picture_is_drawn(make_curves, tmp_path):
    curves = make_curves(("sparse", "$x_{", "_hidden"))
    save_figure(tmp_path / "curves.png", summarize(curves), curves)
    save_figure(tmp_path / "again.png", summarize(curves), curves)
    data = (tmp_path / "curves.png").read_bytes()
    assert data.startswith(b"\x89PNG")
    assert data == (tmp_path / "again.png").read_bytes()


def test_a_path_over_kl_is_thin_where_an_update_leaps():
    steps, kl = np.arange(5.0), np.array([0.0, 0.5, 6.0, 6.5, 7.0])
    values = {"score": np.array([0.0, 1.0, 2.0, 3.0, 4.0]), "kl": kl}
    curves = [Curve(credit="a", seed=seed, steps=steps, values=values) for seed in range(2)]
    (panel,) = make_panels(curves)
    axis = Figure().subplots()
    draw_against_kl(axis, panel, {"a": {"color": "black"}})
    line, dots, leap = (np.asarray(drawn.get_xydata()) for drawn in axis.lines)
    assert dots.tolist() == [*map(list, zip(kl, values["score"], strict=True))]
    assert np.isnan(line[:, 0]).tolist() == [False, False, True, False, False, False]
    assert leap.tolist() == [[0.5, 1.0], [6.0, 2.0]]
    assert axis.lines[2].get_linestyle() == ":"


def test_a_flat_curve_is_drawn():
    curves = curves_of(np.ones((2, 1)))
    assert "nan" not in re.sub(r"<script>.*</script>", "", render(curves), flags=re.DOTALL)


def test_best_of_n_is_told_apart_where_the_kl_has_a_price():
    priced, unpriced = (
        group_of(fabricate_curves(), references=references(), kl_coef=price)
        for price in (0.1, None)
    )
    without = group_of(fabricate_curves())
    said = "take off the price of its KL"
    assert said in best_of_n([without, priced])[1]
    assert said not in best_of_n([unpriced, without])[1]
