"""The command line, called in this process."""

import sys

import pytest

from posttrain.cli import main as cli


@pytest.fixture
def posttrain(capsys, monkeypatch):
    """Run a command line; (exit code, stdout, stderr)."""

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["posttrain", *map(str, arguments)])
        capsys.readouterr()
        code = 0
        try:
            cli.main()
        except SystemExit as ended:
            code = ended.code or 0
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return call
