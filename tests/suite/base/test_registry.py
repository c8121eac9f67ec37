"""The registry behind every name: words, near matches, packages and files of one's own."""

from importlib.metadata import EntryPoint

import pytest

from tokengym.agents.learner import LEARNERS
from tokengym.agents.ppo.advantages import ADVANTAGES
from tokengym.base import plugins
from tokengym.base.errors import PromptError, UntrustedCodeError
from tokengym.base.registry import Registry, Spec, texts_in_options
from tokengym.base.saved_code import check_saved, code_paths, texts_in
from tokengym.envs import SettingsError
from tokengym.envs.tasks import TASKS
from tokengym.evaluation.measure.measures import MEASURES
from tokengym.rewards.credits.words import REWARDS
from tokengym.rewards.scorers.base import SCORERS

ALL = (TASKS, REWARDS, SCORERS, LEARNERS, ADVANTAGES, MEASURES)


class Square:
    """Keeps what it was made with."""

    def __init__(self, **options: object) -> None:
        self.options = options

    @classmethod
    def sized(cls, size: int = 1) -> "Square":
        """Return one of a size."""
        return cls(size=size)


def unit(scale: float = 1.0) -> float:
    """Stands for a function that is itself what is looked for."""
    return scale


def named(id: str, size: int = 1) -> tuple[str, int]:
    """Return its options, of which the first may be a value alone."""
    return id, size


@pytest.fixture
def shapes() -> Registry[type]:
    registry: Registry[type] = Registry("shape", error=PromptError, from_files=True)
    registry.register("square", Square)
    registry.register("circle", list)
    return registry


@pytest.mark.parametrize("registry", ALL, ids=lambda registry: registry.kind)
def test_every_registry_names_near_matches_and_refuses_a_taken_name(registry):
    name = registry.names()[-1]
    registry.import_plugins()  # names of packages that were not imported are not taken
    with pytest.raises(ValueError, match=rf"{registry.kind} '{name}x'.*'{name}'"):
        registry.find(f"{name}x")
    with pytest.raises(ValueError, match=f"'{name}' is registered already"):
        registry.register(name, object())
    assert registry.find(name) is registry[name]


@pytest.mark.parametrize("name", ["", "a:b", "a b"])
def test_a_name_can_be_written_before_options(shapes, name):
    with pytest.raises(PromptError, match=r"name.*':', '=', ','"):
        shapes.register(name, dict)


def test_an_option_that_a_word_has_twice_is_refused(shapes):
    with pytest.raises(PromptError, match="'square:side=1,side=2' has side twice; leave one out"):
        shapes.parse("square:side=1,side=2")


def test_a_word_is_taken_apart_once(shapes):
    word = shapes.parse("square: a=1, b=0.5,c=true,d=x")
    assert word == Spec(
        "square: a=1, b=0.5,c=true,d=x", "square", {"a": 1, "b": 0.5} | dict(c=True, d="x")
    )
    assert shapes.parse(word) is word
    assert shapes.make(word).options == {"a": 1, "b": 0.5, "c": True, "d": "x"}
    assert shapes.parse("dir/a.py:B:c=1").without_options == "dir/a.py:B"
    with pytest.raises(PromptError, match=r"'square:a'.*'a'"):
        shapes.parse("square:a")
    games: Registry[type] = Registry("game", bare="id")
    games.register("square", named)  # type: ignore[arg-type]
    assert games.make("square:Wordle-v0,size=3") == ("Wordle-v0", 3)


def test_a_file_in_an_option_is_not_the_file_of_the_word():
    word = Registry[type]("agent", from_files=True).parse("ppo:advantage=mine.py:Mean,gamma=1")
    assert (word.name, word.file) == ("ppo", None)
    assert word.options == {"advantage": "mine.py:Mean", "gamma": 1}
    for text in (
        "ppo:advantage=mine.py:Mean,gamma=1",
        "a.py:B:c=1,advantage=mine.py:Mean",
        "ppo:weight=teacher:rule=mine.py:Mean",
    ):
        assert "mine.py" in code_paths([text])
        with pytest.raises(UntrustedCodeError, match=r"mine\.py:Mean"):
            check_saved({"agents": [text]}, "run.json", named="a.py:B")
        check_saved({"agents": [text]}, "run.json", named=text)
    assert code_paths("runs/rate=0.1/mine.py:Mean") == ["runs/rate=0.1/mine.py"]


def test_a_name_without_options_is_no_word_with_options(shapes):
    assert shapes.find("square") is Square
    assert not shapes.knows("square:a=1")
    with pytest.raises(PromptError, match=r"'square:a=1'.*'square'"):
        shapes.find("square:a=1")
    assert shapes.find(shapes.parse("square:a=1")) is Square


def test_objects_of_files_are_themselves_unless_called(tmp_path):
    def adopt(name: str, made: object) -> object:
        if made is None:
            raise SettingsError(f"{name} is nothing")
        return made

    things: Registry[object] = Registry("thing", adopt=adopt, from_files=True)
    (tmp_path / "a.py").write_text(
        "def one(n=1): return n\nNone_ = None\nclass Two: pass\nInt = int\n"
    )
    place = tmp_path / "a.py"
    assert callable(things.make(f"{place}:one"))
    assert things.make(f"{place}:one:n=3") == 3
    assert type(things.make(f"{place}:Two")).__name__ == "Two"
    assert things.load(f"{place}:None_") is None
    with pytest.raises(SettingsError, match=r"a\.py:None_"):
        things.make(f"{place}:None_")
    with pytest.raises(SettingsError, match=r"'one'.*'m'"):
        things.make(f"{place}:one:m=3")
    with pytest.raises(SettingsError, match=r"a\.py:Int cannot be made: .*no signature"):
        things.make(f"{place}:Int")
    with pytest.raises(SettingsError, match=r"package.*thing 'one'"):
        things.load("one")
    with pytest.raises(SettingsError, match=rf"unknown task '{place}:one'"):
        TASKS.find(f"{place}:one")  # registries run no files unless they say so


def test_names_are_imported_when_they_are_asked_for():
    asked: list[str | None] = []

    def import_names(name: str | None) -> None:
        asked.append(name)
        if name in (None, "late"):
            late.setdefault("late", things.register("late", 1))

    late: dict[str, int] = {}
    things: Registry[int] = Registry("thing", import_names=import_names)
    assert not things.knows("early")
    assert not late
    assert things.find("late") == 1
    assert things.names() == ["late"]
    assert asked == ["early", "late", None]


def test_an_object_of_a_package_is_an_entry_that_only_classes_and_options_call(monkeypatch):
    objects = {"square": "Square", "sized": "Square.sized", "unit": "unit"}
    points = [
        EntryPoint(name, f"{__name__}:{address}", "tokengym.gold")
        for name, address in objects.items()
    ]
    monkeypatch.setattr(plugins, "entry_points", lambda group: points)
    things: Registry[object] = Registry("thing", group="gold")
    assert things.names() == sorted(objects)
    assert not things
    for _ in range(2):  # found, and found again
        assert things.make("unit") is unit is things["unit"]
        assert things.make("unit:scale=2") == 2
        assert things.make("square:a=1").options == {"a": 1}
        assert things.make("square").options == {}
        assert things.make("sized").options == {"size": 1}
    things.register("registered", unit)
    assert things.make("registered") == 1.0


def test_texts_in_options_are_found_once_each_at_any_depth():
    """A stored word is taken apart before anybody trusts its folder."""
    words = ["f.py:A:x=" * left + "g.py:B" for left in range(2_000, -1, -1)]
    assert texts_in_options(words[0]) == words[1:]
    assert [*texts_in(words[0])] == words
