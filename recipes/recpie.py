"""RecPIE: explanations and recommendations that train each other.

    accelerate launch recipes/recpie.py                                  # embedded default: CPU, no network
    accelerate launch recipes/recpie.py --config recpie/ml-100k --raw_dir path/to/ml-100k
    accelerate launch --config_file accelerate_configs/multi_gpu.yaml recipes/recpie.py --config recpie/yelp ...

RecPIE, Algorithm 1. Each sample has a positive and a negative explanation, why it would be a good recommendation and
why not. Until both losses have converged, or for `rounds` rounds:

    Explanation component: PPO on the explanations, with the recommender fixed; their reward is 1 / (1 + |y_hat - y|).
    Recommendation component: E epochs of the recommender on these explanations, with the policy fixed.

A run that was killed goes on where it was when the same command is given again. docs/algorithms/recpie.md explains
every number it prints.
"""

from rlrec.arguments import DataArguments, PolicyArguments, one_sentence, parse_arguments
from rlrec.ppo import PPOConfig
from rlrec.ppo.rewards import RewardFailure
from rlrec.recpie import RecPIEArguments
from rlrec.stopping import stops_in_order


def alternate(run, variant: str) -> None:
    """Algorithm 1 with the explanations of one variant, and its rows of the table."""
    explanations = run.begin(variant)
    run.fit_recommender(explanations)  # the reward of the first pass; the paper starts from an untrained one
    run.add_row("bootstrap", explanations)
    while not run.converged(explanations):
        run.train_policy(explanations)
        run.fit_recommender(explanations)
    run.add_row("", explanations)


@stops_in_order()
@one_sentence(RewardFailure)
def main() -> None:
    arguments, data_arguments, policy_arguments, ppo = parse_arguments(
        (RecPIEArguments, DataArguments, PolicyArguments, PPOConfig), default_config="recpie/simulated"
    )
    # These take seconds to import, and a wrong setting need not wait for them
    from reward_models import find_reward, resolve_reward
    from rlrec.recpie.run import RecPIERun

    with one_sentence(ValueError, OSError):
        for name in arguments.reward_funcs:
            find_reward(name)
        run = RecPIERun(arguments, data_arguments, policy_arguments, ppo, resolve_reward)
        run.add_rows_without_text()
    for variant in (arguments.variant, *arguments.more_variants):
        alternate(run, variant)
    run.add_robustness_rows()
    run.write_analyses()
    run.finish()


if __name__ == "__main__":
    main()
