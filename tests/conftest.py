"""Makes tests/factories.py and tests/fakes.py importable from every test folder."""

import sys
from pathlib import Path

from hypothesis import settings

sys.path.insert(0, str(Path(__file__).parent))

# A machine may slow down for seconds at a time; how long an example takes says nothing.
settings.register_profile("tdpipe", deadline=None)
settings.load_profile("tdpipe")


def pytest_addoption(parser):
    parser.addoption(
        "--all-prompts",
        action="store_true",
        help="hold every combination of stages and scheduler against all reference answers",
    )
