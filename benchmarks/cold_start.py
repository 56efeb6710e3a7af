"""How long `recipes/expctr.py --help` takes, beside importing TRL's configuration alone; target: a second more.

    python benchmarks/cold_start.py --repeats 5

The two take turns, each in a process of its own; one run of each goes before, so that both find their files cached.
"""

import argparse
import subprocess
import sys

from measured import ROOT, ratios, spread, tell, timed_command

IMPORT = "from trl import GRPOConfig"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    commands = [[sys.executable, str(ROOT / "recipes" / "expctr.py"), "--help"], [sys.executable, "-c", IMPORT]]
    runs = [[timed_command(c, stdout=subprocess.DEVNULL) for c in commands] for _ in range(arguments.repeats + 1)][1:]
    for key, unit in (("seconds", "s"), ("cpu_seconds", "s of processor time")):
        ours, theirs = ([run[side][key] for run in runs] for side in (0, 1))
        more = spread([mine - other for mine, other in zip(ours, theirs)])
        beside = f"{spread(theirs, 1)} (`{IMPORT}`); {more} more"
        tell(f"`recipes/expctr.py --help`, {unit}", spread(ours, 1), beside, ratios(ours, theirs))


if __name__ == "__main__":
    main()
