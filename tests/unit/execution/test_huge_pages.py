"""What a stage's environment says of its memory's pages."""

import pytest

from tdpipe.execution.huge_pages import with_huge_pages


@pytest.mark.parametrize(
    ("given", "added"),
    [
        ({}, {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}),
        (
            {"GLIBC_TUNABLES": "glibc.malloc.check=1"},
            {"GLIBC_TUNABLES": "glibc.malloc.check=1:glibc.malloc.hugetlb=1"},
        ),
        ({"GLIBC_TUNABLES": "glibc.malloc.hugetlb=0"}, {}),
    ],
)
def test_the_users_own_choice_stays(given, added):
    assert with_huge_pages(given) == added
