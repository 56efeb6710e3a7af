"""The explanation store and its recorder: newest wins, counts, ranks' parts, checkpoints and kills."""

from pathlib import Path
from types import SimpleNamespace

import polars as pl
import pytest
import torch

from rlrec.explanations import ExplanationRecorder, ExplanationStore


def row(user, item, text, round=0, step=0, **more):
    return {"user_id": user, "item_id": item, "text": text, "round": round, "step": step, **more}


def samples(*pairs):
    return pl.DataFrame(list(pairs), schema=["user_id", "item_id"], orient="row")


def arguments(output_dir, rank=0, world=1, weights=None):
    return SimpleNamespace(output_dir=str(output_dir), process_index=rank, world_size=world, reward_weights=weights)


def state(step):
    return SimpleNamespace(global_step=step)


class LengthEncoder:
    dimension = 2

    def encode(self, texts):
        return torch.tensor([[float(len(text)), 1.0] for text in texts])


def test_the_newest_explanation_of_a_pair_wins():
    store = ExplanationStore()
    store.update([row("u", "i", "second", step=2), row("u", "i", "first", step=1), row("u", "j", "other")])
    assert store.texts_for(samples(("u", "i"), ("u", "j"), ("v", "i"))) == ["second", "other", None]
    store.update([row("u", "i", "same step, later call", step=2)])
    assert store.texts_for(samples(("u", "i"))) == ["same step, later call"]
    store.update([row("u", "i", "next round", round=1, step=0), row("u", "i", "old round", round=0, step=9)])
    assert store.texts_for(samples(("u", "i"))) == ["next round"]
    assert (len(store), store.generated) == (2, 6)


def test_sides_are_kept_apart():
    store = ExplanationStore()
    store.update([row("u", "i", "good", side="positive"), row("u", "i", "bad", side="negative")])
    assert store.texts_for(samples(("u", "i")), "positive") == ["good"]
    assert store.texts_for(samples(("u", "i"))) == [None]
    embeddings = store.embeddings_for(samples(("v", "i"), ("u", "i")), LengthEncoder(), ["positive", "negative"])
    assert embeddings.tolist() == [[[0, 0], [0, 0]], [[4, 1], [3, 1]]]


def test_save_and_load_keep_everything_and_replace_atomically(tmp_path):
    store = ExplanationStore()
    nasty = 'quotes " “ ” \n NUL \x00 bidi \u202e </s> <|eot_id|>'
    store.update([row("u", "i", nasty, step=3, reward=0.25), row("u", "i", nasty, step=4), row("v", "j", "")])
    path = tmp_path / "folder" / "explanations.parquet"
    store.save(path)
    loaded = ExplanationStore.load(path)
    assert loaded.to_frame().equals(store.to_frame())
    assert loaded.to_frame().row(0) == ("u", "i", "explanation", nasty, 0, 4, None, 2)
    store.save(path)
    assert {entry.name for entry in path.parent.iterdir()} == {".explanations.parquet.sha256", "explanations.parquet"}
    assert ExplanationStore().to_frame().shape == (0, 8)


def test_another_parquet_file_is_refused(tmp_path):
    pl.DataFrame({"a": [1]}).write_parquet(tmp_path / "other.parquet")
    with pytest.raises(ValueError, match=r"other.parquet is no explanation store: its columns are \['a'\]"):
        ExplanationStore.load(tmp_path / "other.parquet")


def test_merge_is_the_same_in_either_order_and_adds_counts():
    ours, theirs = ExplanationStore(), ExplanationStore()
    ours.update([row("u", "i", "older", step=1), row("a", "b", "ours")])
    theirs.update([row("u", "i", "newer", step=2), row("u", "i", "newest", step=5)])
    one, other = ExplanationStore(), ExplanationStore()
    one.merge(ours)
    one.merge(theirs)
    other.merge(theirs)
    other.merge(ours)
    assert one.to_frame().equals(other.to_frame())
    assert one.texts_for(samples(("u", "i"), ("a", "b"))) == ["newest", "ours"]
    assert one.generated == 4


def test_the_recorder_keeps_a_rollout_with_weighted_rewards(tmp_path):
    recorder = ExplanationRecorder(round=2)
    inputs = [{"user_id": "u", "item_id": "i"}, {"user_id": "v", "item_id": "i", "side": "positive"}]
    rewards = torch.tensor([[0.5, 1.0], [float("nan"), 2.0]])  # nan: that reward does not apply to the row
    recorder.on_rollout(arguments(tmp_path, weights=[1.0, 0.1]), state(7), None, inputs, ["a", "b"], rewards)
    assert recorder.store.to_frame().rows() == [
        ("u", "i", "explanation", "a", 2, 7, pytest.approx(0.6), 1),
        ("v", "i", "positive", "b", 2, 7, pytest.approx(0.2), 1),
    ]


def test_rows_without_ids_are_refused(tmp_path):
    with pytest.raises(ValueError, match="no column 'item_id'"):
        ExplanationRecorder().on_rollout(
            arguments(tmp_path), state(0), None, [{"user_id": "u"}], ["a"], torch.zeros(1, 1)
        )


def record(recorder, args, step, text, user="u"):
    recorder.on_rollout(args, state(step), None, [{"user_id": user, "item_id": "i"}], [text], torch.zeros(1, 1))


def checkpoint(recorder, args, step):
    folder = Path(args.output_dir) / f"checkpoint-{step}"
    folder.mkdir(exist_ok=True)
    recorder.on_checkpoint(args, state(step), None, folder=folder)


def test_a_resumed_run_has_exactly_the_store_of_its_checkpoint(tmp_path):
    args, recorder = arguments(tmp_path), ExplanationRecorder()
    record(recorder, args, 0, "kept")
    checkpoint(recorder, args, 2)
    saved = recorder.store.to_frame()
    record(recorder, args, 2, "lost by the kill")
    resumed = ExplanationRecorder()
    resumed.on_resume(args, folder=tmp_path / "checkpoint-2")
    assert resumed.store.to_frame().equals(saved)


def test_an_incomplete_store_is_refused(tmp_path):
    checkpoint(ExplanationRecorder(), arguments(tmp_path, rank=1, world=2), 2)
    with pytest.raises(FileNotFoundError, match=r"no complete explanation store, only \['explanations-rank1-of-2"):
        ExplanationRecorder().restore(tmp_path / "checkpoint-2", 0, 2)


def test_ranks_write_parts_that_merge_and_restore_with_any_number_of_ranks(tmp_path):
    recorders = [ExplanationRecorder() for _ in range(2)]
    for rank, recorder in enumerate(recorders):
        args = arguments(tmp_path, rank, 2)
        record(recorder, args, 0, f"by rank {rank}", user=f"user {rank}")
        record(recorder, args, rank, f"shared, by rank {rank}", user="shared")
        checkpoint(recorder, args, 2)
        recorder.on_train_end(args, state(2), None)
    merged = ExplanationStore.load_parts(tmp_path)
    pairs = samples(("user 0", "i"), ("user 1", "i"), ("shared", "i"))
    assert merged.texts_for(pairs) == ["by rank 0", "by rank 1", "shared, by rank 1"]
    assert merged.generated == 4
    same, fewer = ExplanationRecorder(), ExplanationRecorder()
    same.restore(tmp_path / "checkpoint-2", process_index=1, world_size=2)
    assert same.store.to_frame().equals(recorders[1].store.to_frame())
    fewer.restore(tmp_path / "checkpoint-2", process_index=0, world_size=1)
    assert fewer.store.to_frame().equals(merged.to_frame())
    more = [ExplanationRecorder() for _ in range(3)]
    for rank, recorder in enumerate(more):
        recorder.restore(tmp_path / "checkpoint-2", rank, 3)
    assert [recorder.store.generated for recorder in more] == [4, 0, 0]
    fewer.on_train_end(arguments(tmp_path), state(4), None)  # goes on with one rank: the old parts are gone
    assert ExplanationStore.load_parts(tmp_path).generated == 4
