"""TRAILTrainer on a language model of two layers: what is trained, what is saved, and that ranks agree with one."""

import json

import numpy as np
import pytest
import tiny_trail as tiny
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoTokenizer, LlamaForCausalLM
from two_ranks import on_two_ranks

from rlrec.trail.contrastive import load_projection_head
from rlrec.trail.markers import add_markers, marker_ids, paper_lora, train_markers
from rlrec.trail.sequences import encode, score_span


def logged(run, name):
    return [entry[name] for entry in run.state.log_history if name in entry]


def batch(run):
    return next(iter(run.get_train_dataloader()))


def gradients(run):
    """Of one batch, in evaluation mode: without dropout."""
    run.model.eval()
    run.model.zero_grad()
    loss = run.compute_loss(run.model, batch(run))
    loss.backward()
    return loss.item(), {name: p.grad.clone() for name, p in run.model.named_parameters() if p.grad is not None}


# -- sequences --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("end", "expected"), [(True, '12.5"'), (False, "12.5")])
def test_only_the_score_is_a_label(end, expected):
    tokenizer = tiny.tokenizer()
    add_markers(tiny.language_model(), tokenizer)
    row = {"prompt": 'as in "predict_popularity_score": "7": ', "completion": tiny.answer("12.5", "up")}
    encoded = encode(row, tokenizer, supervise_score_end=end)
    labels = [token for token in encoded["labels"] if token != -100]
    assert tokenizer.decode(labels) == expected
    assert tokenizer.decode(encoded["input_ids"]) == row["prompt"] + row["completion"]
    assert len(encoded["labels"]) == len(encoded["input_ids"])
    assert all(label in (-100, token) for label, token in zip(encoded["labels"], encoded["input_ids"]))


def test_a_share_of_the_explanation_can_be_labelled_too():
    tokenizer = tiny.tokenizer()
    add_markers(tiny.language_model(), tokenizer)
    row = {"prompt": "p", "completion": tiny.answer("12", "up and up and up and down and down")}
    scored = [label != -100 for label in encode(row, tokenizer)["labels"]]
    whole = encode(row, tokenizer, explanation_share=1.0)
    answer = len(tokenizer(row["completion"], add_special_tokens=False)["input_ids"])
    assert whole["labels"][-answer:] == whole["input_ids"][-answer:]
    assert set(whole["labels"][:-answer]) == {-100}
    half = encode(row, tokenizer, explanation_share=0.5)
    labelled = [label != -100 for label in half["labels"]]
    assert sum(scored) < sum(labelled) < answer
    assert all(label for label, score in zip(labelled, scored) if score)
    assert half == encode(row, tokenizer, explanation_share=0.5)  # drawn once
    for share in (0.5, 1.0):
        text_alone = encode(row, tokenizer, explanation_share=share, supervise=False)["labels"]
        assert not any(label != -100 for label, score in zip(text_alone, scored) if score)
        assert any(label != -100 for label in text_alone)


def test_the_compact_style_has_its_score_in_front():
    assert score_span("12 <exp_start> [Trend]: peaked at 7 <exp_end>") == (0, 2)
    assert score_span("peaked at 12 <exp_start>") is None


def test_a_number_without_quotes_and_a_message():
    tokenizer = tiny.tokenizer()
    tokenizer.chat_template = (
        "{% for m in messages %}[{{ m.content }}]{% endfor %}{% if add_generation_prompt %}>{% endif %}"
    )
    add_markers(tiny.language_model(), tokenizer)
    answer = tiny.answer("12", "up").replace('"12"', "12")
    row = {"prompt": [{"role": "user", "content": "q"}], "completion": [{"role": "assistant", "content": answer}]}
    encoded = encode(row, tokenizer)
    assert tokenizer.decode([token for token in encoded["labels"] if token != -100]) == "12,"
    assert tokenizer.decode(encoded["input_ids"]) == "[q]>" + answer


def test_the_prompt_is_cut_at_its_start_and_the_answer_stays():
    tokenizer = tiny.tokenizer()
    add_markers(tiny.language_model(), tokenizer)
    row = {"prompt": "<s>0123456789", "completion": tiny.answer("12", "up")}
    whole = encode(row, tokenizer)
    length = len(whole["input_ids"])
    cut = encode(row, tokenizer, max_length=length - 4)
    assert (whole["cut"], cut["cut"]) == (False, True)
    assert tokenizer.decode(cut["input_ids"]) == "<s>456789" + row["completion"]
    assert cut["labels"] == whole["labels"][4:]
    assert encode(row, tokenizer, max_length=length - 10)["problem"] == ""
    assert encode(row, tokenizer, max_length=length - 11)["problem"] == "answer longer than max_length"


def test_unusable_rows_are_dropped_and_counted(tmp_path):
    data = tiny.dataset(12)
    completions = data["completion"][:]
    completions[1] = completions[1].replace('"13"', '"many"')
    completions[2] = completions[2].replace("<exp_end>", "")
    completions[3] = completions[3].replace("<exp_start>", "")
    completions[4] = tiny.answer("1", " ")
    completions[5] = tiny.answer("1", "x" * 300)
    prompts = ["p" * 200, *data["prompt"][1:]]
    data = data.remove_columns(["completion", "prompt"]).add_column("completion", completions)
    run = tiny.trainer(tmp_path, data=data.add_column("prompt", prompts), max_length=250)
    assert run.prepared["train"] == {
        "rows": 7,
        "cut": 1,
        "no score": 1,
        "no explanation between the markers": 3,
        "answer longer than max_length": 1,
    }
    assert run.train_dataset["sample_index"][:] == [0, 6, 7, 8, 9, 10, 11]
    assert max(map(len, run.train_dataset["input_ids"])) == 250
    alone = tiny.trainer(tmp_path, data=data.add_column("prompt", prompts), max_length=250, lambda_con=0)
    assert alone.prepared["train"]["rows"] == 10  # a score is enough where nothing is contrasted


# -- training ---------------------------------------------------------------------------------------------------------
def test_training_lowers_both_losses(tmp_path):
    run = tiny.trainer(tmp_path, max_steps=40, eval_dataset=tiny.dataset(8), per_device_eval_batch_size=8)
    before = run.evaluate()
    run.train()
    after = run.evaluate()
    for name in ("eval_loss_sup", "eval_loss_con"):
        assert after[name] < 0.7 * before[name], name
    assert after["eval_con_accuracy"] == 1
    assert after["eval_loss"] == pytest.approx(after["eval_loss_sup"] + after["eval_loss_con"], rel=1e-4)
    for loss, supervised, contrastive in zip(*(logged(run, name) for name in ("loss", "loss_sup", "loss_con"))):
        assert loss == pytest.approx(supervised + contrastive, abs=2e-4)
    assert len(logged(run, "con_accuracy")) == 40


def test_accumulated_losses_are_logged_as_means(tmp_path):
    run = tiny.trainer(tmp_path, gradient_accumulation_steps=2, lambda_con=0.5, max_steps=2)
    run.train()
    for loss, supervised, contrastive in zip(*(logged(run, name) for name in ("loss", "loss_sup", "loss_con"))):
        assert loss == pytest.approx(supervised + 0.5 * contrastive, abs=2e-4)


def test_without_the_contrastive_term_nothing_depends_on_explanations(tmp_path):
    data = tiny.dataset(8).remove_columns(["history", "change_rate", "item_index"])
    other = [tiny.answer(score, "no") for score in tiny.SCORES * 2]
    run = tiny.trainer(tmp_path, data=data, lambda_con=0, item_embeddings=None, lora=None)
    other = data.remove_columns("completion").add_column("completion", other)
    other = tiny.trainer(tmp_path, data=other, lambda_con=0, item_embeddings=None, lora=None)
    (loss, grads), (other_loss, other_grads) = gradients(run), gradients(other)
    assert loss == pytest.approx(other_loss, rel=1e-6)
    assert not any("projection_head" in name for name in grads)
    for name, gradient in grads.items():
        torch.testing.assert_close(gradient, other_grads[name])
    run.train()
    assert logged(run, "loss_sup")
    assert not logged(run, "loss_con")


def test_without_supervision_scores_are_not_trained(tmp_path):
    both = tiny.trainer(tmp_path, lora=None)
    without = tiny.trainer(tmp_path, lora=None, supervise=False)
    (loss, grads), (other_loss, other_grads) = gradients(both), gradients(without)
    assert grads["lm_head.weight"].any()
    assert not other_grads["lm_head.weight"].any()  # reads no explanation
    assert other_grads["projection_head.second.weight"].any()
    torch.testing.assert_close(grads["projection_head.second.weight"], other_grads["projection_head.second.weight"])
    assert loss - other_loss == pytest.approx(both._metrics["eval"]["loss_sup"][0], rel=1e-5)


def test_only_explanations_reach_the_contrastive_term(tmp_path):
    """The head's input, seen by a hook, is the mean of the last layer's states between the markers."""
    run = tiny.trainer(tmp_path, lora=None, supervise=False)
    seen, model = [], run._causal_lm().eval()
    model.model.register_forward_hook(
        lambda m, a, output: output.last_hidden_state.retain_grad() or seen.append(output)
    )
    model.projection_head.register_forward_hook(lambda m, given, o: seen.append(given[0]))
    inputs = batch(run)
    ids = inputs["input_ids"].tolist()
    run.compute_loss(run.model, inputs).backward()
    start, end = run.markers
    for row, states, embedding in zip(ids, seen[0].last_hidden_state, seen[1]):
        torch.testing.assert_close(embedding, states[row.index(start) + 1 : row.index(end)].mean(dim=0))
    moved = seen[0].last_hidden_state.grad.abs().sum(dim=2) > 0
    assert moved.any()
    for row, positions in zip(ids, moved):
        where = positions.nonzero().flatten().tolist()
        assert all(row.index(start) < position < row.index(end) for position in where)


# -- markers ----------------------------------------------------------------------------------------------------------
def test_markers_start_as_the_mean_of_their_pieces():
    model, tokenizer = tiny.language_model(), tiny.tokenizer()
    pieces = tokenizer("<exp_end>")["input_ids"]
    before = model.get_output_embeddings().weight.detach().clone()
    add_markers(model, tokenizer)
    start, end = marker_ids(tokenizer)
    assert tokenizer("a<exp_start>b<exp_end>")["input_ids"][1::2] == [start, end]
    assert tokenizer.decode([start], skip_special_tokens=True) == "<exp_start>"
    assert model.config.vocab_size == 261
    torch.testing.assert_close(model.get_output_embeddings().weight[end], before[pieces].mean(dim=0))
    assert torch.equal(model.get_output_embeddings().weight[:259], before)
    after = model.get_input_embeddings().weight.detach().clone()
    add_markers(model, tokenizer)
    assert torch.equal(model.get_input_embeddings().weight, after)


def test_a_padded_embedding_is_not_resized():
    model, tokenizer = tiny.language_model(), tiny.tokenizer()
    model.resize_token_embeddings(300, mean_resizing=False)
    add_markers(model, tokenizer)
    assert model.get_input_embeddings().weight.size(0) == 300


def test_an_adapter_on_a_model_without_markers_is_refused(tmp_path):
    model = PeftModel(tiny.language_model(), tiny.LORA)
    with pytest.raises(ValueError, match=r"has no token <exp_start> and <exp_end>: call .*add_markers"):
        tiny.trainer(tmp_path, model=model, lora=None)


def test_given_token_indices_stay():
    model, tokenizer = tiny.language_model(), tiny.tokenizer()
    add_markers(model, tokenizer)
    lora = paper_lora(16)
    lora.trainable_token_indices = [7]
    indices = train_markers(lora, model, tokenizer).trainable_token_indices
    assert indices == {"embed_tokens": [7, 259, 260], "lm_head": [259, 260]}
    assert lora.trainable_token_indices == [7]
    assert (lora.r, lora.lora_alpha) == (16, 32)


# -- checkpoints ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("tied", [False, True])
def test_adapter_and_head_reload_to_equal_outputs(tmp_path, tied):
    run = tiny.trainer(tmp_path, model=tiny.language_model(tied))
    start = tiny.trainable(run.model)
    run.train()
    for name, parameter in tiny.trainable(run.model).items():
        if "norm" not in name and "lora_A" not in name:
            assert not torch.equal(parameter, start[name]), name
    run.save_model(tmp_path / "saved")
    weights = load_file(tmp_path / "saved" / "adapter_model.safetensors")
    assert sum("trainable_tokens_delta" in name for name in weights) == (1 if tied else 2)
    assert not any("projection_head" in name for name in weights)

    base, tokenizer = tiny.language_model(tied), AutoTokenizer.from_pretrained(tmp_path / "saved")
    add_markers(base, tokenizer)
    model = PeftModel.from_pretrained(base, tmp_path / "saved", is_trainable=True)
    again = tiny.trainer(tmp_path, model=model, lora=None, processing_class=tokenizer)
    load_projection_head(again._causal_lm(), tmp_path / "saved")
    inputs = {name: batch(run)[name] for name in ("input_ids", "attention_mask", "labels")}
    with torch.no_grad():
        expected, actual = (each.model.eval()(**inputs, fused_lm_head=True) for each in (run, again))
    assert torch.equal(expected.explanations, actual.explanations)
    assert torch.equal(expected.log_probs, actual.log_probs)


def test_fully_fine_tuned_model_is_saved_without_the_head(tmp_path):
    run = tiny.trainer(tmp_path, lora=None)
    run.train()
    run.save_model(tmp_path / "saved")
    _, report = LlamaForCausalLM.from_pretrained(tmp_path / "saved", output_loading_info=True)
    assert not any(report.values())
    head = load_file(tmp_path / "saved" / "projection_head.safetensors")
    assert torch.equal(head["second.weight"], run._causal_lm().projection_head.second.weight)


def test_resumed_run_is_bitwise_equal(tmp_path):
    settings = {"save_strategy": "steps", "save_steps": 2, "max_steps": 6, "lora": paper_lora(4)}  # with dropout
    whole = tiny.trainer(tmp_path / "whole", **settings)
    whole.train()
    resumed = tiny.trainer(tmp_path / "resumed", **settings)
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-2"))
    expected, actual = tiny.trainable(whole.model), tiny.trainable(resumed.model)
    assert any("projection_head" in name for name in expected)
    assert any("trainable_tokens_delta" in name for name in expected)
    for name, parameter in expected.items():
        assert torch.equal(parameter, actual[name]), name
    assert logged(whole, "loss_con") == logged(resumed, "loss_con")
    (tmp_path / "whole" / "checkpoint-2" / "projection_head.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="was not saved by TRAILTrainer"):
        resumed._load_from_checkpoint(str(tmp_path / "whole" / "checkpoint-2"))


def test_the_best_checkpoint_brings_its_head(tmp_path):
    run = tiny.trainer(
        tmp_path,
        eval_dataset=tiny.dataset(8),
        eval_strategy="steps",
        eval_steps=1,
        save_strategy="steps",
        save_steps=1,
        load_best_model_at_end=True,
        metric_for_best_model="eval_loss",
        greater_is_better=True,  # the worst one: the first
    )
    run.train()
    assert run.state.best_model_checkpoint.endswith("checkpoint-1")
    head = load_file(tmp_path / "checkpoint-1" / "projection_head.safetensors")
    assert torch.equal(head["second.weight"], run._causal_lm().projection_head.second.weight)


# -- two ranks --------------------------------------------------------------------------------------------------------
def test_two_ranks_equal_one_with_the_whole_batch(tmp_path):
    on_two_ranks(tiny.__file__, tmp_path)
    one, gradients = tiny.train_and_keep(tmp_path / "one", batch_size=8)
    one.evaluate()
    for rank in range(2):
        theirs = load_file(tmp_path / f"gradients{rank}.safetensors")
        assert theirs.keys() == gradients.keys()
        for name, gradient in gradients.items():
            torch.testing.assert_close(theirs[name], gradient, msg=lambda m, name=name: f"{name}: {m}")
    assert any("projection_head" in name and gradient.any() for name, gradient in gradients.items())
    first, second = (load_file(tmp_path / f"parameters{rank}.safetensors") for rank in range(2))
    for name, parameter in tiny.trainable(one.model).items():
        assert torch.equal(first[name], second[name]), name
        torch.testing.assert_close(first[name], parameter)
    history = json.loads((tmp_path / "state.json").read_text())["log_history"]
    names = ("loss", "loss_sup", "loss_con", "con_accuracy", "eval_loss", "eval_loss_sup", "eval_loss_con")
    for name in names:
        ours = np.array(logged(one, name))
        assert len(ours)
        np.testing.assert_allclose([entry[name] for entry in history if name in entry], ours, rtol=2e-3)


# -- bad input --------------------------------------------------------------------------------------------------------
def test_bad_input_is_refused(tmp_path):
    data = tiny.dataset(8)
    with pytest.raises(ValueError, match="The train data have no column history, change_rate"):
        tiny.trainer(tmp_path, data=data.remove_columns(["history", "change_rate"]))
    with pytest.raises(
        ValueError, match="Row 2 of the train data has item_index 2, but item_embeddings has rows 0 to 1"
    ):
        tiny.trainer(tmp_path, data=data, item_embeddings=tiny.ITEMS[:2])
    with pytest.raises(ValueError, match=r"item_embeddings .* is required"):
        tiny.trainer(tmp_path, data=data, item_embeddings=None)
    with pytest.raises(ValueError, match="batches of 3 over all ranks: with 2 positives, no sample has a negative"):
        tiny.trainer(tmp_path, data=data, per_device_train_batch_size=3)
    with pytest.raises(ValueError, match="No row of the train data can be used: rows 0, cut 0, no score 8"):
        tiny.trainer(tmp_path, data=data.remove_columns("completion").add_column("completion", ["{}"] * 8))
    with pytest.raises(TypeError, match="load it first"):
        tiny.trainer(tmp_path, data=data, model="a/name")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"supervise": False, "lambda_con": 0}, "leave nothing to train on"),
        ({"packing": True}, "packing and padding_free join samples"),
        ({"temperature": 0}, r"temperature \(0\) must be above 0"),
        ({"num_positives": 0}, r"num_positives \(0\) at least 1"),
    ],
)
def test_bad_settings_are_refused(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        tiny.config(tmp_path, **changes)


def test_split_weights_are_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")  # as `accelerate launch` does
    with pytest.raises(ValueError, match=r"^TRAIL trains .* which ZeRO-3 and FSDP split over processes: launch it"):
        tiny.config(tmp_path)
    monkeypatch.delenv("ACCELERATE_USE_FSDP")
    pytest.importorskip("deepspeed")
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    monkeypatch.setenv("ACCELERATE_DEEPSPEED_ZERO_STAGE", "2")
    tiny.config(tmp_path)
    monkeypatch.setenv("ACCELERATE_DEEPSPEED_ZERO_STAGE", "3")
    with pytest.raises(ValueError, match="which ZeRO-3 and FSDP split over processes"):
        tiny.config(tmp_path)
