"""The bundled tasks, one file per task; importing the package registers them."""

from importlib import import_module
from pkgutil import iter_modules

from tokengym.envs.tasks.task import (
    LABORATORY,
    TASKS,
    Task,
    TaskOptions,
    find_task,
    register_ids,
    register_task,
    registered_tasks,
)

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")
