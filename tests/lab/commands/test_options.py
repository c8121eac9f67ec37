"""Options of the laboratory's learners, commands and tasks."""

import pytest

from tests.suite.scripts import test_options as suite
from tests.support.suite import of_laboratory
from tokengym.scripts.cli import find_command, main
from tokengym.scripts.commands.options import options_of


@pytest.mark.parametrize("agent", of_laboratory("agents"))
def test_a_setting_of_a_learner_is_an_option_where_its_declaration_says_so(
    agent: str, capsys: pytest.CaptureFixture[str]
):
    suite.test_a_setting_of_a_learner_is_an_option_where_its_declaration_says_so(agent, capsys)


@pytest.mark.parametrize("bundle", ["smollm2-reviews", "smollm2-answers"])
@pytest.mark.parametrize("agent", of_laboratory("agents"))
def test_a_bundles_defaults_suit_every_learner(agent: str, bundle: str):
    suite.test_a_bundles_defaults_suit_every_learner(agent, bundle)


@pytest.mark.parametrize("name", ["collect", "replay", "constitution"])
def test_every_option_of_the_environment_is_one_of_the_command(name: str):
    suite.test_every_option_of_the_environment_is_one_of_the_command(name)


@pytest.mark.parametrize("name", of_laboratory("commands"))
def test_help_shows_what_people_use_and_help_all_the_rest(
    name: str, capsys: pytest.CaptureFixture[str]
):
    suite.test_help_shows_what_people_use_and_help_all_the_rest(name, capsys)


def test_help_shows_the_defaults_of_the_oracle(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        main(["compare", "--env", "Oracle", "--help"])
    text = " ".join(capsys.readouterr().out.replace("\u2502", " ").split())
    assert "remaining progress, 1 to 0. (default: 0.001)" in text
    _, _, length = text.partition("--max-new-tokens INT Longest response, tokens.")
    assert length.partition(")")[0].endswith("(default: 6")
    (found,) = (
        option.default
        for option in options_of(find_command("train"), ["--env", "Oracle"])
        if option.flag == "gae-lambda"
    )
    assert found is None  # what the credit rule declares
