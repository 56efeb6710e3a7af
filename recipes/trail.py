"""TRAIL: a language model fine-tuned to predict tomorrow's popularity and to explain it.

    accelerate launch recipes/trail.py                                  # embedded default: CPU, no network
    accelerate launch recipes/trail.py --config trail/ml-100k --raw_dir path/to/ml-100k
    accelerate launch --config_file accelerate_configs/multi_gpu.yaml recipes/trail.py --config trail/amazon-baby ...

"Following the TRAIL: Predicting and Explaining Tomorrow's Hits with a Fine-Tuned LLM" (2026), section 4: time is cut
into windows of 30 days; for each item and window the model reads description and popularity history, and answers with
a score and an explanation. It is trained with

    L = L_sup + lambda L_con        cross entropy of the score + InfoNCE between explanations of similar samples

and ranks all items of a window in one list for all users. A run that was killed goes on where it was when the same
command is given again. docs/algorithms/trail.md explains every number it prints.
"""

from rlrec.arguments import DataArguments, PolicyArguments, one_sentence, parse_arguments
from rlrec.stopping import stops_in_order
from rlrec.trail import ABLATIONS, TRAILArguments, TRAILConfig


@stops_in_order()
@one_sentence()
def main() -> None:
    arguments, data_arguments, policy_arguments, config = parse_arguments(
        (TRAILArguments, DataArguments, PolicyArguments, TRAILConfig), default_config="trail/simulated"
    )
    from rlrec.trail.run import TRAILRun  # takes seconds, and a wrong setting need not wait for it

    with one_sentence(ValueError, OSError):
        run = TRAILRun(arguments, data_arguments, policy_arguments, config)
        run.add_baselines()
        # Explanations to train on: the untuned model's own
        datasets = run.write_explanations()

    # The model as it is, then fine-tuned: one ranked list per window
    run.add_row("llm", None)
    if arguments.few_shot:
        run.add_row("llm_few_shot", None, few_shot=arguments.few_shot)
    run.add_row("trail", run.train("trail", datasets))

    # Ablations (Table 3) and LoRA ranks (Figure 2c)
    for name in arguments.ablations:
        run.add_row(f"trail_{name}", run.train(f"trail_{name}", datasets, **ABLATIONS[name]))
    for rank in arguments.lora_ranks:
        run.add_row(f"trail_rank{rank}", run.train(f"trail_rank{rank}", datasets, rank=rank))
    run.finish()


if __name__ == "__main__":
    main()
