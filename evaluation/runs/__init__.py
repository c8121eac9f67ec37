"""Training runs and comparisons of them: settings, folders, results.

- `settings`: what a run can be told, and how it is checked.
- `defaults`: a setting where nobody gave it, and how much is measured.
- `decide`: what was given becomes specs of runs, and sentences of what was chosen.
- `spec`: one run as plain data; `comparison`: what runs have in common, and whether they may stand
  together.
- `compare`: does what is missing of a comparison; `folder` says what that is, `executors` where it
  is done, and `display` how far it is.
- `run`: one run and its folder; `training`: its loop; `record`: what it measured and keeps.
- `results`: tables, summary and report, of folders or of curves made elsewhere.
- `keywords`: settings as type checkers read them, written by docs.makers.

Its names serve tools and studies; each is imported when it is first used.
"""

from typing import TYPE_CHECKING

from tokengym.base.plugins import lazily

if TYPE_CHECKING:
    from tokengym.agents.loading import load_agent
    from tokengym.base.text import fixed
    from tokengym.evaluation.measure.environments import task_name
    from tokengym.evaluation.runs.comparison import Comparison, differences
    from tokengym.evaluation.runs.defaults import training_settings
    from tokengym.evaluation.runs.executors import processes
    from tokengym.evaluation.runs.folder import (
        check_files,
        known_task,
        stored_comparison,
        stored_settings,
        trusted_spec,
    )
    from tokengym.evaluation.runs.record import RunRecord, versions
    from tokengym.evaluation.runs.run import Run
    from tokengym.evaluation.runs.settings import (
        EvaluationSettings,
        ModelSettings,
        TaskSettings,
        TrainingSettings,
    )
    from tokengym.evaluation.runs.spec import RunSpec, flat, slug

__getattr__, __dir__, __all__ = lazily(__name__)
