"""Names that Ray keeps private and that this code base relies on; no other file imports them.

One module for each part of Ray, so that a process imports no more than it uses. Each name has the reason for its use
beside it, and a contract test in `tests/orchestrator/runtime/test_ray_private.py`. A version of Ray that was not tested
is checked for all of them when this package is imported (`supported.py`).
"""

from pathlib import Path

import ray

from orchestrator.runtime.ray_private.supported import require_supported

require_supported(ray.__version__, Path(ray.__file__).parent)
