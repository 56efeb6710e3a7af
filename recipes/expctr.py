"""ExpCTR: explanations trained by PPO so that they make clicks predictable.

    accelerate launch recipes/expctr.py                                  # embedded default: CPU, no network
    accelerate launch recipes/expctr.py --config expctr/ml-100k --raw_dir path/to/ml-100k
    accelerate launch --config_file accelerate_configs/multi_gpu.yaml recipes/expctr.py --config expctr/ml-20m ...

Yu et al., "Explainable CTR Prediction via LLM Reasoning" (WSDM 2025), section 4.3.2:

    Stage 1: PPO with the LC reward; every explanation is kept (the newest per pair wins).
    Stage 2: train the CTR model on ids and the kept explanations.
    Stage 3: PPO with the IC reward.          Stages 2 and 3 repeat `rounds` times; then evaluate.

A run that was killed goes on where it was when the same command is given again. docs/algorithms/expctr.md explains
every number it prints.
"""

from rlrec.arguments import DataArguments, PolicyArguments, one_sentence, parse_arguments
from rlrec.expctr import ExpCTRArguments
from rlrec.ppo import PPOConfig
from rlrec.ppo.rewards import RewardFailure
from rlrec.stopping import stops_in_order


@stops_in_order()
@one_sentence(RewardFailure)
def main() -> None:
    arguments, data_arguments, policy_arguments, ppo = parse_arguments(
        (ExpCTRArguments, DataArguments, PolicyArguments, PPOConfig), default_config="expctr/simulated"
    )
    # These take seconds to import, and a wrong setting need not wait for them
    from reward_models import FirstTokenScorer, find_reward, resolve_reward
    from rlrec.evaluation import shuffle_labels
    from rlrec.expctr.run import ExpCTRRun

    with one_sentence(ValueError, OSError):
        for name in (*arguments.reward_funcs, *arguments.ic_reward_funcs):
            find_reward(name)
        run = ExpCTRRun(arguments, data_arguments, policy_arguments, ppo, resolve_reward, FirstTokenScorer)
        icl = run.explain("icl")  # the policy as it is, pi_init

    # Stage 1: PPO with the LC reward
    lc = stage = run.train("lc", arguments.reward_funcs, arguments.lc_epochs)
    written = after_lc = run.explain("lc", lc.adapter)
    store = lc.explanations()
    for round in range(1, arguments.rounds + 1):
        # Stage 2: the CTR model on ids and the kept explanations
        recommender = run.fit_recommender(store, written)
        # Stage 3: PPO with the IC reward
        name = "ic" if round == 1 else f"ic_{round}"
        stage = run.train(
            name,
            arguments.ic_reward_funcs,
            arguments.ic_epochs,
            stage.adapter,
            round,
            arguments.ic_learning_rate,
            recommender=recommender,
            store=store,
        )
        store.merge(stage.explanations())
        written = run.explain(name, stage.adapter)

    # Evaluation: the frozen LLM's scores (ExpCTR-LLM) and the CTR model's (ExpCTR-Aug), beside rows without text
    run.add_heuristics()
    run.add_llm_rows(icl=icl, expctr_llm_after_lc=after_lc, expctr_llm=written)
    run.add_unrestricted_rows(stage.adapter)
    run.add_ctr_rows(
        expctr_aug_untuned=(run.untuned_explanations(), icl),
        expctr_aug_after_lc=(lc.explanations(), after_lc),
        expctr_aug=(store, written),
    )
    if arguments.more_lc:  # what IC is worth: as many steps of more LC, all else equal
        epochs = arguments.ic_epochs * arguments.rounds
        more = run.train("more_lc", arguments.reward_funcs, epochs, lc.adapter, 1, arguments.ic_learning_rate)
        more_store, more_written = lc.explanations(), run.explain("more_lc", more.adapter)
        more_store.merge(more.explanations())
        run.add_llm_rows(expctr_llm_more_lc=more_written)
        run.add_ctr_rows(expctr_aug_more_lc=(more_store, more_written))
    if arguments.shuffled_labels:  # what leaks: with permuted labels nothing may be learned
        shuffled = run.train(
            "shuffled_labels",
            arguments.reward_funcs,
            arguments.lc_epochs,
            samples=shuffle_labels(run.samples, ppo.seed),
        )
        run.add_control("shuffled_labels", run.explain("shuffled_labels", shuffled.adapter))
    run.add_control("shuffled_explanations", written, shuffled=True)
    run.finish()


if __name__ == "__main__":
    main()
