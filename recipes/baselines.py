"""The rows beside the four systems: recommenders and LLM baselines, on the samples of a system's own run.

    python recipes/baselines.py --config expctr/ml-100k --raw_dir path/to/ml-100k --output_dir runs/baselines-ml-100k
    python recipes/baselines.py --config expctr/ml-100k --raw_dir path/to/ml-100k --rows fm din tallrec --seed 1 ...
    accelerate launch recipes/baselines.py --config recpie/simulated --rows tallrec

It takes the configuration of a system (expctr: clicks, Table 1; recpie: ratings, Table 2; trail: rankings, Table 2),
draws the same samples from the same data with the same seed, and for each row

    fits once at each point of one small grid, and chooses the point with the least loss on the validation split;
    fits again there with other seeds, and takes the mean of the test metrics

so that every row has the same budget. A row lies in a folder of its own as soon as it is finished, and stays as it is
when the same command is given again. docs/baselines.md says what each row is.
"""

import argparse
import difflib
import sys

from reward_models import FirstTokenScorer
from rlrec.arguments import DataArguments, PolicyArguments, load_config, one_sentence, parse_arguments
from rlrec.baselines import BaselineArguments, ClickBaselines, RankingBaselines, RatingBaselines
from rlrec.expctr import ExpCTRArguments
from rlrec.ppo import PPOConfig
from rlrec.recpie import RecPIEArguments
from rlrec.stopping import stops_in_order
from rlrec.trail import TRAILArguments, TRAILConfig

SYSTEMS = {  # the rows, and what the system's own recipe parses beside data and policy
    "expctr": (ClickBaselines, ExpCTRArguments, PPOConfig),
    "recpie": (RatingBaselines, RecPIEArguments, PPOConfig),
    "trail": (RankingBaselines, TRAILArguments, TRAILConfig),
}


@stops_in_order()
@one_sentence()
def main() -> None:
    with one_sentence(ValueError, OSError):
        system, is_own_config = chosen_system(sys.argv[1:])
    baselines, own_arguments, own_config = SYSTEMS[system]
    arguments, *settings, config = parse_arguments(
        (BaselineArguments, own_arguments, DataArguments, PolicyArguments, own_config),
        default_config=f"{system}/simulated",
    )
    if not is_own_config and not any(argument.startswith("--output_dir") for argument in sys.argv):
        config.output_dir += "-baselines"  # the configuration names the folder of the system's own run
    with one_sentence(ValueError, OSError):
        run = baselines(arguments, *settings, config, FirstTokenScorer)
    failed = []
    for row in run.unfinished:
        try:
            run.write_row(row)
        except (ValueError, OSError, ImportError) as error:  # the other rows do not need this one
            print(f"\nerror: {row}: {error}", file=sys.stderr)
            failed.append(row)
    run.finish()
    if failed:
        raise SystemExit(2)


def chosen_system(arguments: list[str]) -> tuple[str, bool]:
    """The system that the command line names or its configuration is for; whether the configuration names it.

    Raises:
        ValueError, OSError: there is no such system, or no such configuration.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--system")
    parser.add_argument("--config", default="expctr/simulated")
    given, _ = parser.parse_known_args(arguments)
    named = load_config(given.config).get("system")
    system = given.system or named or given.config.partition("/")[0]
    if system not in SYSTEMS:
        near = difflib.get_close_matches(system, SYSTEMS, 1)
        hint = f"did you mean {near[0]!r}?" if near else f"give --system, one of {', '.join(SYSTEMS)}."
        raise ValueError(f"There are no baselines for the system {system!r}; {hint}")
    return system, named is not None


if __name__ == "__main__":
    main()
