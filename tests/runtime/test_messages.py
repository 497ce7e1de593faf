"""Golden messages: the exact wording of one error of each family."""

from __future__ import annotations

from pathlib import Path

import pytest

from kullback.errors import InvalidValueError, RunError
from kullback.runtime.files import write_atomically
from kullback.runtime.outputs import Output, check_outputs


def test_a_file_that_cannot_be_written(tmp_path: Path) -> None:
    """Writing: the file, the system's reason, what happened to the existing file, the fix."""
    (tmp_path / "file").touch()
    path = tmp_path / "file" / "below"
    with pytest.raises(RunError) as error:
        write_atomically(path, b"")
    assert str(error.value) == (
        f"{path} cannot be written: File exists; an existing file is unchanged. Choose "
        "another place, then run the command again"
    )


def test_an_output_that_is_an_input(tmp_path: Path) -> None:
    """Output paths: the option, the file, the reason, the fix."""
    path = tmp_path / "text.txt"
    path.touch()
    with pytest.raises(InvalidValueError) as error:
        check_outputs(Output("--report", path, "report"), inputs=[path])
    assert str(error.value) == (
        f"--report is {path}, an input, which would be overwritten: name another file"
    )
