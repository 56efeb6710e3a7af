"""Where the time of a PPO step goes: an IC stage of ExpCTR with DeepFM and an encoder with a cache on disk.

    OMP_NUM_THREADS=1 python benchmarks/step_shares.py                                  # expctr/simulated, 8 steps
    OMP_NUM_THREADS=1 python benchmarks/step_shares.py --config expctr/smoke --max_steps 4

Options are those of recipes/expctr.py. The stage starts from the untuned policy, DeepFM from its explanations, which
is as much work as after an LC stage. Named methods of PPOTrainer are timed from outside; where one is inside another,
its time is not the other's. Target: the reward takes less than 10 %.
"""

import tempfile
from pathlib import Path

from accelerate.optimizer import AcceleratedOptimizer
from measured import Shares, tell

from reward_models import FirstTokenScorer, resolve_reward
from rlrec.arguments import DataArguments, PolicyArguments, parse_arguments
from rlrec.encoders import TextEncoder
from rlrec.expctr import ExpCTRArguments
from rlrec.expctr.run import ExpCTRRun
from rlrec.ppo import PPOConfig, PPOTrainer

STEPS = 8
PARTS = {
    (PPOTrainer, "_generate"): "generation",
    (PPOTrainer, "_calculate_rewards"): "reward",
    (PPOTrainer, "_generate_and_score_completions"): "scoring",  # the reference's pass and the advantages
    (PPOTrainer, "training_step"): "update",
    (AcceleratedOptimizer, "step"): "update",
    (PPOTrainer, "_save_checkpoint"): "checkpoints",
    (PPOTrainer, "_inner_training_loop"): "the rest",
}


def main() -> None:
    arguments, data, policy, ppo = parse_arguments(
        (ExpCTRArguments, DataArguments, PolicyArguments, PPOConfig), default_config="expctr/simulated"
    )
    arguments.num_explanations, arguments.preflight = 1, 0
    ppo.max_steps, ppo.disable_tqdm = (ppo.max_steps if ppo.max_steps > 0 else STEPS), True
    shares = Shares()
    with tempfile.TemporaryDirectory() as ppo.output_dir:
        run = ExpCTRRun(arguments, data, policy, ppo, resolve_reward, FirstTokenScorer)
        if arguments.encoder == "policy":
            cached = {"batch_size": arguments.scoring_batch, "cache_dir": Path(ppo.output_dir) / "embeddings"}
            run.stage_encoder = lambda policy: TextEncoder(policy, run.policies.tokenizer, **cached)
        written, store = run.explain("icl"), run.untuned_explanations()
        recommender = run.fit_recommender(store, written)
        shares.watch(PARTS)
        stage = run.train("ic", ["ic"], arguments.ic_epochs, recommender=recommender, store=store)
        rollouts = sum("reward" in entry for entry in stage.log_history)
    total = shares.amounts.total()
    print(f"{ppo.max_steps} steps, {rollouts} rollouts of {ppo.generation_batch_size} completions, {total:.1f} s")
    for part in dict.fromkeys(PARTS.values()):
        share = shares.amounts[part] / total
        target = "target: below 10 %" if part == "reward" else ""
        tell(f"PPO step of the IC stage, share of {part}", f"{share:.1%}", target)


if __name__ == "__main__":
    main()
