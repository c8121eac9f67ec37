"""``tokengym demo``: a first comparison, from nothing to a report."""

import shlex
from pathlib import Path

RULES = ("sparse", "uniform", "abc-signed")
"""The task's default rewards, of which the second is a control."""
SETTINGS = (
    f"--env MovieReview --rewards {' '.join(RULES)} --seeds 5 --updates 24 "
    "--learning-rate 6e-4 --n-warmup-updates 6 --eval-every 1 --eval-episodes 64 "
    "--reference-samples 16"
)
"""Options of the comparison: the task's default rewards at its default price, at a rate that warms
up, and measured after each update, so that scores at equal KL are known. It takes about eight
minutes of one core, four on two."""
TRAINED = """\
What is trained   a language model of 0.3 million weights, to continue film reviews positively.
                  A reward model, which was trained on such reviews, scores each finished text.
What is compared  three rules that divide the same score among a text's tokens, with 5 seeds each:
{rules}
How long          about 4 minutes on 2 cores; Ctrl-C keeps what is finished. It runs

  tokengym compare {settings}
"""
NEXT = """\
What came out     is above, and in {report}: look at the learning curves first.
What to try next
  tokengym compare --env QuestionAnswer --seeds 2        another task, with the rewards made for it
  tokengym train --reward abc-signed --out runs/one      one training, and an agent that is saved
  tokengym evaluate runs/one/agent                       what it writes
  tokengym envs                                          all environments
README.md continues with an environment, an agent and a reward of your own.
"""


def demo(out: Path = Path("runs/demo"), no_browser: bool = False) -> int:
    """Compare two rewards and a control in four minutes on two CPU cores, and open the report.

    Nothing is downloaded. Ctrl-C keeps finished runs, and the same command resumes.

    For example:
      tokengym demo
      tokengym demo --out runs/first --no-browser

    Args:
        out: Folder of the results.
        no_browser: Only print where the report is; otherwise it opens, if there is a display.
    """
    from tokengym.base.registry import Spec
    from tokengym.evaluation.report.compared import about_reward
    from tokengym.scripts.commands.compare import compare
    from tokengym.scripts.commands.options import call
    from tokengym.scripts.commands.show import open_page, say, terminal

    console = terminal()
    settings = f"{SETTINGS} --out {shlex.quote(str(out))}"
    said = {rule: about_reward(Spec(rule, rule))["summary"] for rule in RULES}
    width = max(map(len, RULES))
    rules = "\n".join(f"{'':20}{rule:{width}}  {text}" for rule, text in said.items())
    say(console, TRAINED.format(settings=settings, rules=rules))
    status = call(compare, "tokengym compare", shlex.split(settings))
    say(console, NEXT.format(report=out / "report.html"))
    if not no_browser:
        open_page(console, (out / "report.html").resolve().as_uri())
    return status
