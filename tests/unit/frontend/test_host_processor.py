"""What the system tells of a processor."""

import platform
from pathlib import Path

import pytest

from tdpipe.frontend import host_processor
from tdpipe.frontend.host_processor import cpu_name, cpu_vectors

TOLD = """processor\t: 0
model name\t: Some Server : 2nd
flags\t\t: fpu {flags} sse2

processor\t: 1
model name\t: another
flags\t\t: avx512_vnni
"""


def tell(text: str | None, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = folder / "cpuinfo"
    if text is not None:
        path.write_text(text)
    monkeypatch.setattr(host_processor, "CPU_INFO", path)


@pytest.mark.parametrize(
    ("flags", "best"),
    [
        ("avx avx2 avx512f avx512_vnni", "avx512_vnni"),
        ("avx avx2 avx512f", "avx512f"),
        ("avx avx2 avx_vnni", "avx2"),
        ("avx", platform.machine()),
    ],
)
def test_the_first_processor_is_told(
    flags: str, best: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tell(TOLD.format(flags=flags), tmp_path, monkeypatch)
    assert (cpu_name(), cpu_vectors()) == ("Some Server : 2nd", best)


def test_systems_that_keep_no_such_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tell(None, tmp_path, monkeypatch)
    assert cpu_name()
    assert cpu_vectors() == platform.machine()
