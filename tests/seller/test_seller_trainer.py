"""SELLERTrainer on a language model of two layers: what is trained, saved and resumed; ranks agree with one."""

import json
from pathlib import Path

import numpy as np
import pytest
import tiny_seller as tiny
import torch
from safetensors.torch import load_file
from two_ranks import on_two_ranks

from rlrec.policies.injection import PLACEHOLDER, InjectedLLM
from rlrec.policies.sequence_adapter import SequenceAdapter
from rlrec.seller.trainer import encode_rows, write_texts


def logged(run, name):
    return [entry[name] for entry in run.state.log_history if name in entry]


# -- batches ----------------------------------------------------------------------------------------------------------
def test_only_the_explanation_and_its_end_are_labels():
    tokenizer = tiny.tokenizer()
    row = encode_rows(tiny.samples()[:2], tokenizer, 99, 64, tiny.features(), "train")[1]
    words = tokenizer.decode([token for token in row["input_ids"] if token != 99])
    assert words == "<s> they saw because warm comedy for all </s>"
    assert row["input_ids"].count(99) == 2
    labelled = [token for token in row["labels"] if token != -100]
    assert tokenizer.decode(labelled) == "warm comedy for all </s>"
    assert row["labels"][: -len(labelled)] == [-100] * (len(row["input_ids"]) - len(labelled))


def test_the_loss_is_that_of_the_explanations_tokens(tmp_path):
    run = tiny.trainer(tmp_path, llm=tiny.model(dropout=0.0))
    batch = next(iter(run.get_train_dataloader()))
    assert batch["attention_mask"][:, 0].all()  # padded on the right
    assert not batch["attention_mask"].all()
    loss = run.compute_loss(run.model, dict(batch)).item()
    logits, labels = run.model(**{**batch, "labels": None}).logits, batch["labels"]
    losses = []
    for i in range(len(labels)):
        for place in range(1, labels.shape[1]):
            if labels[i, place] != -100:
                losses.append(-logits[i, place - 1].log_softmax(-1)[labels[i, place]].item())
    assert loss == pytest.approx(np.mean(losses), rel=1e-5)


def test_features_are_gathered_by_index(tmp_path):
    given, data = tiny.features(), tiny.samples()[::-1]
    for source in (given, lambda rows: {name: values[rows] for name, values in given.items()}):
        batch = tiny.trainer(tmp_path, data=data, given=source).data_collator(
            [{"input_ids": [1], "labels": [-100], "index": index} for index in (7, 3)]
        )
        assert batch["features"].keys() == given.keys()
        for name, values in given.items():
            assert torch.equal(batch["features"][name], values[[7, 3]])


# -- training ---------------------------------------------------------------------------------------------------------
def test_training_teaches_the_reason_and_leaves_the_llm(tmp_path):
    model = tiny.model()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    run = tiny.trainer(tmp_path, llm=model, eval_dataset=tiny.samples(8), max_steps=120)
    first = run.evaluate()["eval_loss"]
    run.train()
    assert run.evaluate()["eval_loss"] < 0.5 * first
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]) == name.startswith("llm."), name
    written = tiny.texts(model)
    assert sum(text == row["completion"] for text, row in zip(written, tiny.samples())) >= 20


def test_the_optimizer_is_adam_on_what_is_trained(tmp_path):
    run = tiny.trainer(tmp_path, learning_rate=1e-4)
    optimizer = run.create_optimizer()
    assert type(optimizer) is torch.optim.Adam
    assert not any(group.get("decoupled_weight_decay") for group in optimizer.param_groups)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [1e-6, 0]
    assert {group["lr"] for group in optimizer.param_groups} == {1e-4}
    held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    trained = {*run.model.adapter.parameters(), *run.model.widths.parameters()}
    assert held == {id(parameter) for parameter in trained}


def test_checkpointed_layers_train_alike(tmp_path):
    runs = [
        tiny.trainer(tmp_path, llm=tiny.model(dropout=0.0), gradient_checkpointing=wanted, max_steps=3)
        for wanted in (False, True)
    ]
    for run in runs:
        run.train()
    plain, checkpointed = (run.model.trained_state() for run in runs)
    for name, value in plain.items():
        torch.testing.assert_close(checkpointed[name], value, atol=1e-4, rtol=1e-4)
    assert runs[1].model.llm.is_gradient_checkpointing


# -- checkpoints ------------------------------------------------------------------------------------------------------
def test_resumed_run_is_bitwise_equal(tmp_path):
    settings = {"save_strategy": "steps", "save_steps": 2, "max_steps": 6}  # with dropout
    whole = tiny.trainer(tmp_path / "whole", **settings)
    whole.train()
    files = {path.name for path in (tmp_path / "whole" / "checkpoint-2").iterdir()}
    assert {"adapter.json", "adapter.safetensors", "optimizer.pt"} <= files
    assert not files & {"model.safetensors", "training_args.bin"}
    resumed = tiny.trainer(tmp_path / "resumed", **settings)
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-2"))
    expected, actual = whole.model.trained_state(), resumed.model.trained_state()
    assert any(name.startswith("widths.") for name in expected)
    for name, value in expected.items():
        assert torch.equal(value, actual[name]), name
    assert logged(whole, "loss") == logged(resumed, "loss")
    other = tiny.trainer(tmp_path / "other", llm=tiny.model(heads=4), **settings)
    with pytest.raises(ValueError, match=r"adapter.json was saved with settings .*'num_heads': 2"):
        other.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-2"))


def test_saved_model_writes_the_same_texts(tmp_path):
    run = tiny.trainer(tmp_path)
    run.train()
    run.save_model(str(tmp_path / "saved"))
    fresh = tiny.model()
    untrained = tiny.texts(fresh)
    again = InjectedLLM.load(tmp_path / "saved", fresh.llm, fresh.adapter)
    assert tiny.texts(again) == tiny.texts(run.model) != untrained


def test_gathered_weights_are_saved(tmp_path):
    """ZeRO-3 leaves empty tensors in the model; the state dict that is gathered from all ranks has the weights."""
    run = tiny.trainer(tmp_path)
    run.train()
    gathered = {name: value.clone() for name, value in run.model.state_dict().items()}
    for parameter in run.model.parameters():
        parameter.data = torch.empty(0)
    run._save(str(tmp_path / "saved"), gathered)
    fresh = tiny.model()
    again = InjectedLLM.load(tmp_path / "saved", fresh.llm, fresh.adapter).trained_state()
    for name, value in again.items():
        assert torch.equal(value, gathered[name]), name


def test_the_best_checkpoint_is_loaded(tmp_path):
    run = tiny.trainer(
        tmp_path,
        eval_dataset=tiny.samples(8),
        eval_strategy="steps",
        eval_steps=1,
        save_strategy="steps",
        save_steps=1,
        load_best_model_at_end=True,
        metric_for_best_model="eval_loss",
        greater_is_better=True,  # the worst one
    )
    run.train()
    best = load_file(Path(run.state.best_model_checkpoint) / "adapter.safetensors")
    for name, value in run.model.trained_state().items():
        assert torch.equal(value, best[name]), name
    assert not run.state.best_model_checkpoint.endswith("checkpoint-4")


# -- texts ------------------------------------------------------------------------------------------------------------
def test_texts_do_not_depend_on_the_batches():
    model = tiny.model()
    whole = tiny.texts(model)
    assert tiny.texts(model, batch_size=5) == whole
    assert len(set(whole)) > 1
    assert model.training
    given = tiny.features()
    prompts = [row["prompt"] for row in tiny.samples()]
    made = write_texts(
        model, tiny.tokenizer(), prompts, lambda rows: {n: v[rows] for n, v in given.items()}, max_new_tokens=6
    )
    assert made == whole
    assert write_texts(model, tiny.tokenizer(), [], {}) == []


def test_sampled_texts_depend_on_their_seed_alone():
    model = tiny.model()
    sampled = tiny.texts(model, temperature=1.0, seed=3)
    torch.manual_seed(99)
    state = torch.get_rng_state()
    assert tiny.texts(model, temperature=1.0, seed=3) == sampled
    assert torch.equal(torch.get_rng_state(), state)
    assert tiny.texts(model, temperature=1.0, seed=4) != sampled


# -- two ranks --------------------------------------------------------------------------------------------------------
def test_two_ranks_equal_one_with_the_whole_batch(tmp_path):
    on_two_ranks(tiny.__file__, tmp_path)
    one, gradients = tiny.train_and_keep(tmp_path / "one", batch_size=8)
    one.evaluate()
    for rank in range(2):
        theirs = load_file(tmp_path / f"gradients{rank}.safetensors")
        assert theirs.keys() == gradients.keys() == one.model.trained_state().keys()
        for name, gradient in gradients.items():
            torch.testing.assert_close(theirs[name], gradient, msg=lambda m, name=name: f"{name}: {m}")
    first, second, saved = (
        load_file(tmp_path / name)
        for name in ("parameters0.safetensors", "parameters1.safetensors", "saved/adapter.safetensors")
    )
    for name, parameter in one.model.trained_state().items():
        assert torch.equal(first[name], second[name]), name
        assert torch.equal(first[name], saved[name]), name
        torch.testing.assert_close(first[name], parameter)
    history = json.loads((tmp_path / "state.json").read_text())["log_history"]
    for name in ("loss", "eval_loss"):
        np.testing.assert_allclose([entry[name] for entry in history if name in entry], logged(one, name), rtol=1e-3)
    texts = [json.loads((tmp_path / f"texts{rank}.json").read_text()) for rank in range(2)]
    assert texts[0] == texts[1] == tiny.texts(one.model)


# -- bad input --------------------------------------------------------------------------------------------------------
def test_bad_input_is_refused(tmp_path):
    data = tiny.samples(8)
    with pytest.raises(ValueError, match="The train data have no column completion; "):
        tiny.trainer(tmp_path, data=[{"prompt": "they", "index": 0}])
    with pytest.raises(ValueError, match="The eval data have no row"):
        tiny.trainer(tmp_path, eval_dataset=[])
    with pytest.raises(ValueError, match="Row 3 of the train data has index 3, but the features have rows 0 to 2"):
        tiny.trainer(tmp_path, data=data, given=tiny.features(3))
    with pytest.raises(
        ValueError, match=r"Row 1 .* 6 tokens of prompt and 5 of explanation, more than max_length \(9\)"
    ):
        tiny.trainer(tmp_path, data=data, max_length=9)
    without = InjectedLLM(tiny.model().llm, SequenceAdapter(32, None, None))
    with pytest.raises(ValueError, match="The adapter has no parameter to train"):
        tiny.trainer(tmp_path, llm=without)
    tokenizer = tiny.tokenizer()
    tokenizer.pad_token = None
    with pytest.raises(ValueError, match="The tokenizer needs a pad token"):
        tiny.trainer(tmp_path, processing_class=tokenizer)
    with pytest.raises(ValueError, match="optim is 'sgd', but adam=True"):
        tiny.config(tmp_path, optim="sgd")
    with pytest.raises(ValueError, match="There are 1 prompts, but behaviour has 24 rows"):
        write_texts(tiny.model(), tiny.tokenizer(), ["they"], tiny.features())
    with pytest.raises(ValueError, match=r"Row 0 of the batch has 1 placeholders .* for 2 vectors"):
        write_texts(tiny.model(), tiny.tokenizer(), [f"they {PLACEHOLDER}"], tiny.features(1))
