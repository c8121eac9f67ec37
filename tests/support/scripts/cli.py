"""What a command says of a file that is not there."""

from typing import Any

from tokengym.scripts.cli import main


def check_missing_file(command: list[str], capsys: Any) -> None:
    assert main([*command, "a\x1b[2J\u202eb"]) == 2
    line = capsys.readouterr().err
    assert "a\u241b[2J\ufffdb" in line
    assert line.strip().isprintable()
