"""One frozen LLM in memory while a SELLER row is trained: neither the text encoder nor another row keeps one."""

import functools

import pytest
from one_base import storages, tables_in_memory

from rlrec.arguments import DataArguments, PolicyArguments, parse_arguments
from rlrec.seller import SELLERArguments, SELLERConfig
from rlrec.seller import run as seller_run
from rlrec.seller.baselines import pepler, xrec

SETTINGS = ["--config", "seller/smoke", "--template_steps", "2", "--num_samples", "60", "--num_held_out", "20"]
SETTINGS += ["--sasrec_epochs", "1"]


class Counted(Exception):
    """Raised where training would begin."""


def test_each_row_is_trained_with_one_llm_in_memory(tmp_path, monkeypatch):
    seen = []

    def look(stage, trainer):
        seen.append((tables_in_memory(shape) - before, storages([trainer.model.llm.get_input_embeddings().weight])))
        raise Counted

    monkeypatch.setattr(seller_run, "finish_stage", look)
    kinds = (SELLERArguments, DataArguments, PolicyArguments, SELLERConfig)
    run = seller_run.SELLERRun(*parse_arguments(kinds, "seller/smoke", [*SETTINGS, "--output_dir", str(tmp_path)]))
    shape = run.policies.load_base().get_input_embeddings().weight.shape
    before = tables_in_memory(shape)  # what other tests hold
    run.pretrain_sasrec()
    assert len(tables_in_memory(shape) - before) == 1  # the encoder has read the items, with a base of its own
    run.write_ground_truth()
    options = {"interactions": run.training, "epochs": 1}
    run.generators["pepler"] = run._table_generator(
        lambda row: run.prompts.pepler(), functools.partial(pepler, training=run.samples["train"])
    )
    run.generators["xrec"] = run._table_generator(run.prompts.xrec, functools.partial(xrec, **options))
    for name in ("pepler", "xrec", "seller"):
        with pytest.raises(Counted):
            run._train(name)
    for in_memory, of_the_model in seen:
        assert in_memory == of_the_model
    assert len(seen) == 3
