"""Training runs and comparisons of them: settings, folders, results.

- `settings`: what a run can be told, and how it is checked.
- `defaults`: a setting where nobody gave it, and how much is measured.
- `decide`: what was given becomes specs of runs, and sentences of what was chosen.
- `spec`: one run as plain data; `comparison`: what runs have in common, and whether they may stand
  together.
- `compare`: does what is missing of a comparison; `folder` says what that is, `executors` where it
  is done, and `display` how far it is.
- `run`: one run and its folder; `training`: its loop; `record`: what it measured and keeps.
- `results`: what runs in folders come to, `elsewhere` curves that were made elsewhere; `files`: the
  table, summary and report of both.
- `trusted`: what a folder says that may be somebody else's.
- `keywords`: settings as type checkers read them, written by docs.makers.

Its names serve tools and studies; each is imported when it is first used.
"""

from typing import TYPE_CHECKING

from tokengym.base.plugins import lazily

if TYPE_CHECKING:
    from tokengym.agents.loading import load_agent as load_agent
    from tokengym.base.text import fixed as fixed
    from tokengym.evaluation.measure.environments import task_name as task_name
    from tokengym.evaluation.runs.comparison import Comparison as Comparison
    from tokengym.evaluation.runs.comparison import differences as differences
    from tokengym.evaluation.runs.defaults import training_settings as training_settings
    from tokengym.evaluation.runs.executors import processes as processes
    from tokengym.evaluation.runs.folder import stored_comparison as stored_comparison
    from tokengym.evaluation.runs.record import RunRecord as RunRecord
    from tokengym.evaluation.runs.record import versions as versions
    from tokengym.evaluation.runs.run import Run as Run
    from tokengym.evaluation.runs.settings import EvaluationSettings as EvaluationSettings
    from tokengym.evaluation.runs.settings import ModelSettings as ModelSettings
    from tokengym.evaluation.runs.settings import RunSettings as RunSettings
    from tokengym.evaluation.runs.settings import TaskSettings as TaskSettings
    from tokengym.evaluation.runs.settings import TrainingSettings as TrainingSettings
    from tokengym.evaluation.runs.spec import RunSpec as RunSpec
    from tokengym.evaluation.runs.spec import flat as flat
    from tokengym.evaluation.runs.spec import slug as slug
    from tokengym.evaluation.runs.trusted import check_files as check_files
    from tokengym.evaluation.runs.trusted import known_task as known_task
    from tokengym.evaluation.runs.trusted import stored_settings as stored_settings
    from tokengym.evaluation.runs.trusted import trusted_spec as trusted_spec

__getattr__, __dir__, __all__ = lazily(__name__)
