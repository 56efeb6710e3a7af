"""Random, Empty, PETER, PEPLER and XRec: what each may see, and that each learns."""

import polars as pl
import pytest
import torch
from transformers import LlamaForCausalLM

from rlrec.policies.injection import encode_prompts
from rlrec.policies.tiny import TinyConfig, build_tokenizer, small_llama
from rlrec.recommenders.fitting import in_background
from rlrec.recommenders.lightgcn import LightGCN, fit_lightgcn
from rlrec.seller.baselines import empty_explanations, pepler, random_explanations, xrec
from rlrec.seller.peter import BOS, EOS, PAD, PETER, peter_explanations
from rlrec.seller.prompts import SellerPrompts
from rlrec.seller.trainer import SELLERConfig, SELLERTrainer, write_texts

TEXTS = ["You turn to war.", "You return to comedy, gladly."]


def samples(users=12, items=6):
    """Everybody with every item; the explanation is the item's, one of two."""
    rows = [(f"u{u}", f"i{i}", TEXTS[i % 2]) for u in range(users) for i in range(items)]
    return pl.DataFrame(rows, schema=["user_id", "item_id", "text"], orient="row")


def unknown():
    return pl.DataFrame({"user_id": ["u0", "new"], "item_id": ["new", "i1"]})


def test_random_and_empty():
    drawn = random_explanations(["a", "b", "c"], 300, seed=1)
    assert drawn == random_explanations(["a", "b", "c"], 300, seed=1)
    assert {text: drawn.count(text) > 70 for text in "abc"} == {"a": True, "b": True, "c": True}
    assert empty_explanations(2) == ["", ""]


def test_peters_mask():
    """Words see the words before them; the item sees the user and no word; the user sees the item."""
    torch.manual_seed(0)
    model = PETER(num_users=3, num_items=3, vocab_size=9, max_length=5).eval()
    one, two, words = torch.tensor([1]), torch.tensor([2]), torch.tensor([[BOS, 5, 6, 7]])
    logits, context = model(one, one, words)
    changed, same_context = model(one, one, torch.tensor([[BOS, 5, 8, 8]]))
    assert torch.allclose(logits[:, :2], changed[:, :2], atol=1e-5)
    assert not torch.allclose(logits[:, 2:], changed[:, 2:], atol=1e-3)
    assert torch.allclose(context, same_context, atol=1e-5)
    assert not torch.allclose(context, model(two, one, words)[1], atol=1e-3)
    assert model.unseen[:3, :3].tolist() == [[False, False, True], [False, False, True], [False, False, False]]


def test_peters_losses_by_hand():
    """All logits zero: every word costs log V, from the words before it and from the item's position."""
    model = PETER(num_users=2, num_items=2, vocab_size=8, max_length=5).eval()
    torch.nn.init.zeros_(model.head.weight)
    torch.nn.init.zeros_(model.head.bias)
    words, one = torch.tensor([[BOS, 5, 6, EOS, PAD]]), torch.tensor([1])
    with torch.no_grad():
        assert float(model.loss(one, one, words, context_weight=0.5)) == pytest.approx(1.5 * 2.0794415)  # log 8
        model.head.bias[5] = 50.0  # the first word is certain; the second and </s> cost 50 each
        assert float(model.loss(one, one, words, context_weight=0.0)) == pytest.approx(100 / 3, rel=1e-3)
        # </s> is no word of the context
        assert float(model.loss(one, one, words, context_weight=1.0)) == pytest.approx(100 / 3 + 50 / 2, rel=1e-3)


def test_peter_learns_whose_item_it_is():
    data = samples()
    train, rest = data[:-6], data[-6:]
    written = peter_explanations(
        train, train["text"].to_list(), rest, epochs=30, batch_size=16, learning_rate=5e-3, progress=False
    )
    assert written == rest["text"].to_list()
    texts = peter_explanations(train, train["text"].to_list(), unknown(), epochs=1, progress=False)
    assert len(texts) == 2
    beside = in_background(peter_explanations, train, train["text"].to_list(), unknown(), epochs=1, progress=False)
    assert beside() == texts  # as --fit_workers does it


def test_lightgcn_by_hand():
    """u1 has i1 and i2, u2 has i2: degrees 2 and 1, 1 and 2; one layer, averaged with the table."""
    model = LightGCN(torch.tensor([1, 1, 2, 1]), torch.tensor([1, 2, 2, 1]), 3, 3, dim=1, layers=1)
    with torch.no_grad():
        model.table.copy_(torch.tensor([[9.0], [1.0], [2.0], [9.0], [4.0], [8.0]]))
        users, items = model()
    root = 2**-0.5
    assert users[:, 0].tolist() == pytest.approx([0, (1 + 4 * root + 8 / 2) / 2, (2 + 8 * root) / 2])
    assert items[:, 0].tolist() == pytest.approx([0, (4 + 1 * root) / 2, (8 + 1 / 2 + 2 * root) / 2])


def test_lightgcn_learns_who_likes_what():
    users, items = torch.cartesian_prod(torch.arange(1, 21), torch.arange(1, 11)).T
    alike = users % 2 == items % 2
    user_vectors, item_vectors = fit_lightgcn(users[alike], items[alike], 21, 11, dim=8, epochs=60, batch_size=32)
    scores = user_vectors[1:] @ item_vectors[1:].T
    own = alike.view(20, 10)
    assert scores[own].min() > scores[~own].max()


@pytest.fixture
def llm():
    """A small Llama that has learned to write what a word of its prompt says."""
    words = ["You", "turn", "return", "to", "war", "comedy", "gladly", "explain", "film", ",", "."]
    tokenizer = build_tokenizer([], words)
    torch.manual_seed(0)
    model = small_llama(LlamaForCausalLM, tokenizer, TinyConfig(hidden_size=32))
    told = [(f"{first} {second}", text) for text, word in zip(TEXTS, ("war", "comedy"))
            for first, second in ((word, "film"), ("explain", word))]  # fmt: skip
    rows = tokenizer([f"{prompt} {text} </s>" for prompt, text in told], padding=True, return_tensors="pt")
    labels = rows["input_ids"].masked_fill(rows["attention_mask"] == 0, -100)
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    for _ in range(60):
        loss = model(**{name: rows[name] for name in ("input_ids", "attention_mask")}, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval(), tokenizer


def train_and_write(model, tokenizer, prompts, features, texts, tests, steps=80):
    """Eq. 12 on all rows at once, then greedy texts for `tests`, (prompts, features)."""
    encoded = encode_prompts(tokenizer, prompts, model.placeholder_id)
    answers = tokenizer([f"{text} </s>" for text in texts], add_special_tokens=False)["input_ids"]
    longest = max(len(p) + len(a) for p, a in zip(encoded, answers))
    ids, labels = torch.zeros(len(texts), longest, dtype=torch.long), torch.full((len(texts), longest), -100)
    for i, (p, a) in enumerate(zip(encoded, answers)):
        ids[i, : len(p) + len(a)] = torch.tensor(p + a)
        labels[i, len(p) : len(p) + len(a)] = torch.tensor(a)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.01)
    losses = []
    for _ in range(steps):
        loss = model(input_ids=ids, features=features, attention_mask=(ids != 0).long(), labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    model.eval()
    prompts, features = tests
    ids = torch.tensor(encode_prompts(tokenizer, prompts, model.placeholder_id))
    mask = torch.ones_like(ids)
    written = model.generate(input_ids=ids, attention_mask=mask, features=features, max_new_tokens=12, do_sample=False)
    return losses, tokenizer.batch_decode(written, skip_special_tokens=True)


def test_pepler_learns_and_leaves_the_llm(llm):
    model, tokenizer = llm
    data = samples(users=4)
    before = {name: weights.clone() for name, weights in model.state_dict().items()}
    model, (features, new) = pepler(model, data, [data, unknown()])
    assert not model.inject
    assert features["user"].tolist()[:7] == [1] * 6 + [2]
    assert new["user"].tolist() == [1, 0]
    assert new["item"].tolist() == [0, 2]
    prompt = SellerPrompts("compact", "film").pepler()
    losses, texts = train_and_write(
        model, tokenizer, [prompt] * len(data), features, data["text"].to_list(), ([prompt] * 2, new)
    )
    assert losses[-1] < 0.5 * losses[0]
    assert len(texts) == 2
    assert all(torch.equal(weights, before[name]) for name, weights in model.llm.state_dict().items())


def test_peplers_llm_can_be_tuned(llm):
    model, tokenizer = llm
    data = samples(users=4)
    model, (features,) = pepler(model, data, [data], tune_llm=True)
    prompt = SellerPrompts("compact", "film").pepler()
    last = {name: values[-6:] for name, values in features.items()}
    _, texts = train_and_write(
        model, tokenizer, [prompt] * len(data), features, data["text"].to_list(), ([prompt] * 6, last)
    )
    assert texts == data["text"].to_list()[-6:]


def test_xrec_learns_from_collaborative_vectors_and_profiles(llm):
    model, tokenizer = llm
    data = samples()
    seen = data.filter(pl.col("user_id").str.slice(1).cast(int) % 2 == pl.col("item_id").str.slice(1).cast(int) % 2)
    model, (features, new) = xrec(model, seen, [seen, unknown()], dim=8, epochs=20)
    assert model.inject
    assert features["user"].shape == (len(seen), 8)
    assert float(torch.cat([features["user"], features["item"]]).square().mean()) == pytest.approx(1, rel=0.2)
    assert new["user"][1].tolist() == new["item"][0].tolist() == [0.0] * 8
    assert {name.split(".")[0] for name, weights in model.named_parameters() if weights.requires_grad} == {"adapter"}
    row = {"title": "Heat", "categories": ["war"], "description": "", "history_titles": [], "history_categories": []}
    prompt = SellerPrompts("compact", "film").xrec(row)
    losses, texts = train_and_write(
        model, tokenizer, [prompt] * len(seen), features, seen["text"].to_list(), ([prompt] * 2, new)
    )
    assert losses[-1] < 0.5 * losses[0]
    assert len(texts) == 2


def test_sellers_trainer_and_writer_take_them(llm, tmp_path):
    model, tokenizer = llm
    data = samples(users=4)
    prompts = SellerPrompts("compact", "film")
    model, (features, new) = pepler(model, data, [data, unknown()])
    rows = [{"prompt": prompts.pepler(), "completion": text, "index": i} for i, text in enumerate(data["text"])]
    config = SELLERConfig(str(tmp_path), max_steps=2, report_to="none", disable_tqdm=True, use_cpu=True)
    before = model.adapter.users.weight.clone()
    SELLERTrainer(model, config, rows, features, processing_class=tokenizer).train()
    assert not torch.equal(model.adapter.users.weight, before)
    texts = write_texts(model, tokenizer, [prompts.pepler()] * 2, new, max_new_tokens=8, progress=None)
    assert [type(text) for text in texts] == [str, str]
