"""The bundled tasks, one file per task; importing the package registers them."""

from importlib import import_module
from pkgutil import iter_modules

import gymnasium

from tokengym.envs.tasks.task import (
    LABORATORY,
    TASKS,
    Task,
    TaskOptions,
    find_task,
    register_task,
    registered_tasks,
)

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")


def register_plugins() -> None:
    """Register the ids of tasks of installed packages, which are imported when one is made.

    Those of the laboratory are known without it too: making one says what to install.
    """
    for name in (*TASKS.plugins(), *LABORATORY):
        if (env_id := f"tokengym/{name}-v0") not in gymnasium.registry:
            gymnasium.register(
                env_id,
                entry_point="tokengym.registration:make_env",
                vector_entry_point="tokengym.registration:make_vector_env",
                kwargs={"task": name},
            )


register_plugins()
