"""What all stages import, once, in the server that forks them. Nothing here touches a GPU; what is missing shows in the stages."""

import contextlib
import os

with contextlib.suppress(Exception):
    import torch  # noqa: F401
with contextlib.suppress(Exception):
    import turns  # noqa: F401

    if os.environ.get("SESSION_REHEARSES"):  # the kernels are compiled once for all stages
        from engines import rehearsal_device

        rehearsal_device()
