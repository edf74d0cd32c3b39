"""Makes tests/factories.py and tests/fakes.py importable from every test folder."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))


def pytest_addoption(parser):
    parser.addoption(
        "--all-prompts",
        action="store_true",
        help="hold every combination of stages and scheduler against all reference answers",
    )
