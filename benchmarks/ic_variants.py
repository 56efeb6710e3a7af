"""What does the IC stage unlearn of LC, and in which form? Trains stage 3 in several ways from one finished LC stage.

    accelerate launch recipes/expctr.py --config expctr/ml-100k --raw_dir DIR --output_dir RUN   # leaves RUN/stages/lc
    python benchmarks/ic_variants.py --config expctr/ml-100k --raw_dir DIR --output_dir RUN

All variants take as many optimizer steps as the configuration's stage 3. Prints a table of AUCs: ExpCTR-LLM and
ExpCTR-Aug, one explanation and the mean of four; docs/algorithms/expctr.md discusses it.
"""

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np

from reward_models import FirstTokenScorer, resolve_reward
from rlrec.alternating import PolicyStage
from rlrec.arguments import DataArguments, PolicyArguments, parse_arguments
from rlrec.expctr import ExpCTRArguments
from rlrec.expctr.run import ExpCTRRun
from rlrec.ppo import PPOConfig
from rlrec.tables import markdown_table

# name -> (reward, learning rate, shift, baseline, generations per prompt)
VARIANTS = {
    "more LC": ("lc", None, "on", "none", 1),
    "more LC, lr / 5": ("lc", 0.2, "on", "none", 1),
    "IC as printed": ("ic", None, "on", "none", 1),
    "IC, no shift": ("ic", None, "off", "none", 1),
    "IC, no shift, minus row without text": ("ic", None, "off", "without_explanation", 1),
    "IC, no shift, minus row's stored text": ("ic", None, "off", "stored", 1),
    "IC as printed, lr / 5": ("ic", 0.2, "on", "none", 1),
    "IC, no shift, lr / 5": ("ic", 0.2, "off", "none", 1),
    "IC, no shift, minus row's stored text, lr / 5": ("ic", 0.2, "off", "stored", 1),
    "IC, no shift, 4 a prompt, lr / 5": ("ic", 0.2, "off", "none", 4),
}


def main() -> None:
    arguments, data, policy, ppo = parse_arguments(
        (ExpCTRArguments, DataArguments, PolicyArguments, PPOConfig), default_config="expctr/ml-100k"
    )
    run = ExpCTRRun(arguments, data, policy, ppo, resolve_reward, FirstTokenScorer)
    lc = PolicyStage(Path(ppo.output_dir) / "stages" / "lc")
    after_lc = run.explain("lc", lc.adapter)
    recommender = run.fit_recommender(lc.explanations(), after_lc)
    header = ["stage 3", "LLM", "LLM, mean of 4", "Aug", "Aug, mean of 4", "reward sd", "KL"]
    body = [["none (after LC)", *scores(run, lc.explanations(), after_lc), "", ""]]
    print(body[-1], flush=True)
    for name, (reward, factor, shift, baseline, generations) in VARIANTS.items():
        run.arguments = replace(arguments, ic_shift=shift, ic_baseline=baseline)
        run.ppo = copy.copy(ppo)
        run.ppo.num_generations = generations
        run.ppo.baseline = "group" if generations > 1 else "critic"
        context = {"recommender": recommender, "store": lc.explanations()} if reward == "ic" else {}
        stage = run.train(
            "variant-" + "".join(c if c.isalnum() else "_" for c in name),
            [reward],
            arguments.ic_epochs / generations,
            lc.adapter,
            1,
            ppo.learning_rate * (factor or 1),
            **context,
        )
        store = lc.explanations()
        store.merge(stage.explanations())
        logged = [entry for entry in stage.log_history if "reward_std" in entry]
        numbers = [np.mean([entry[key] for entry in logged]) for key in ("reward_std", "objective/kl")]
        written = run.explain(stage.folder.name, stage.adapter)
        body.append([name, *scores(run, store, written), *(f"{number:.3f}" for number in numbers)])
        print(body[-1], flush=True)
    print(markdown_table(header, body))


def scores(run: ExpCTRRun, store, written) -> list[str]:
    """AUC of ExpCTR-LLM and ExpCTR-Aug, with one and with the mean of several explanations."""
    run.rows = {}
    run.add_llm_rows(llm=written)
    run.add_ctr_rows(aug=(store, written))
    many = f"mean{run.arguments.num_explanations}"
    return [f"{run.rows[row]['auc']:.3f}" for row in ("llm", f"llm_{many}", "aug", f"aug_{many}")]


if __name__ == "__main__":
    main()
