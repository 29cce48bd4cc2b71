"""Which of the processes of a run this is; nothing here needs torch."""

import os


def process_rank() -> int:
    """This process's number, as ``accelerate launch`` puts it into the environment: 0 for the one that writes files."""
    return int(os.environ.get("RANK", "0"))
