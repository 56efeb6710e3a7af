"""SELLER: explanations that know the sequence, and what they are worth to a recommender.

    accelerate launch recipes/seller.py                                  # embedded default: CPU, no network
    accelerate launch recipes/seller.py --config seller/ml-100k --raw_dir path/to/ml-100k
    accelerate launch --config_file accelerate_configs/multi_gpu.yaml recipes/seller.py --config seller/yelp ...

"Sequence-aware Large Language Models for Explainable Recommendation" (Zhang et al.): a frozen LLM explains why a user
chose an item. Of the user's sequence it reads two vectors, one of behaviour and one of meaning, and the categories:

    L_exp = - sum_t log P(y_t | y_<t, e_rec, e_sem)          the generator; adapters alone are trained (eqs. 4 to 12)
    W'_l  = W_l + f_l(e_explain)                             the recommender that an explanation helps (eqs. 13 to 15)

The generator sees the target, the recommender does not: how well it finds the target with the explanation's help is
the explanation's utility, measured for all rows by one recommender. A run that was killed goes on where it was when
the same command is given again. docs/algorithms/seller.md explains every number it prints.
"""

from rlrec.arguments import DataArguments, PolicyArguments, one_sentence, parse_arguments
from rlrec.seller import SELLERArguments, SELLERConfig
from rlrec.stopping import stops_in_order


@stops_in_order()
@one_sentence()
def main() -> None:
    arguments, data_arguments, policy_arguments, config = parse_arguments(
        (SELLERArguments, DataArguments, PolicyArguments, SELLERConfig), default_config="seller/simulated"
    )
    from rlrec.seller.run import SELLERRun  # takes seconds, and a wrong setting need not wait for it

    with one_sentence(ValueError, OSError, ImportError):
        run = SELLERRun(arguments, data_arguments, policy_arguments, config)
        # Behaviour states (eq. 4) and semantic states (eq. 5), both frozen
        run.pretrain_sasrec()
        # What to learn: a sentence on the categories and one on the intent
        run.write_ground_truth()

        # Explanations of the test samples: Table 2's rows, then Figure 2's
        run.add_baselines()
        run.add_row("seller")
        for name in arguments.ablations:
            run.add_ablation(name)

    # Their utility under one recommender (Tables 2 and 4), and what they cost (Table 5)
    run.measure_utility()
    run.measure_time()
    run.finish()


if __name__ == "__main__":
    main()
