"""PyTorch's own launcher, in a process that dies with the run that started it. `python -m tollway.forge.train.launch PID ...`

Started by `distributed.fit`. The workers die with the launcher in turn (`worker.main`), so that a run that was killed and is
started again finds nobody at its work.
"""

import sys

from tollway.kit import lifeline


def main() -> None:
    lifeline.die_with(int(sys.argv[1]))
    from torch.distributed import run

    run.main(sys.argv[2:])


if __name__ == "__main__":
    main()
