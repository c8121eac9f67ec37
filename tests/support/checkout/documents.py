"""The commands that a page prints."""

import re
import shlex
from pathlib import Path


def commands_of(page: Path) -> list[list[str]]:
    """Return the tokengym commands of a page's shell blocks, without what the shell fills in.

    A block that says no language is one too.
    """
    found = []
    for language, block in re.findall(r"```(\w*)\n(.*?)```", page.read_text(), re.DOTALL):
        if language not in ("bash", "sh", "console", ""):
            continue
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(re.sub(r"^\s*(\$|time) ", "", line), comments=True)
            if words[:1] == ["tokengym"] and not any("$" in word for word in words):
                found.append(words[1:])
    return found
