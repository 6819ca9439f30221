"""Real images that cannot be shipped; tests that need them are skipped without. CONTRIBUTING.md says what they are."""

import os
from pathlib import Path

REAL_DATA = Path(os.environ.get("MMPL_TEST_DATA") or "no folder was named")
