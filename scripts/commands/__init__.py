"""The commands of ``tokengym``, one module each; they load what they need when they are called.

Its names serve commands of other packages: options from settings, and what is printed.
"""

from typing import TYPE_CHECKING

from tokengym.base.plugins import lazily

if TYPE_CHECKING:
    from tokengym.scripts.commands.options import takes_settings as takes_settings
    from tokengym.scripts.commands.options import task_settings as task_settings
    from tokengym.scripts.commands.show import fitting_tables as fitting_tables
    from tokengym.scripts.commands.show import say as say
    from tokengym.scripts.commands.show import terminal as terminal

__getattr__, __dir__, __all__ = lazily(__name__)
