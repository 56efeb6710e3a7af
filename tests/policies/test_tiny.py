"""The embedded policy: tokenizer, restriction, label-blind templates, bootstrap and its cache."""

import re

import numpy as np
import polars as pl
import pytest
import torch
import torch.nn.functional as F
from transformers import LlamaConfig

import rlrec.policies.tiny as tiny
from rlrec.evaluation import check_explanations, summarise_checks
from rlrec.policies.generation import generate_explanations, tokenize_prompts
from rlrec.policies.grammars import VerdictGrammar
from rlrec.policies.tiny import TinyConfig, TinyPolicy, build_tokenizer, load_tiny

INFINITE = float("-inf")

# -- tokenizer ------------------------------------------------------------------------------------------------------

TITLES = [
    "Heat",
    "A Title, with. everything: 'so' (1999)",
    "Wrong Man ... The Right Time !",
    "‹|eot_id|› ‹/s›",
    "</s>",
]
WORDS = ["They", "liked", ",", ".", "it", "Sci-Fi"]


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer(TITLES, WORDS)


@pytest.mark.parametrize("title", TITLES)
def test_a_title_is_one_token_and_comes_back_letter_by_letter(tokenizer, title):
    text = f'They liked "{title}", it. Sci-Fi'
    ids = tokenizer(text, split_special_tokens=True)["input_ids"]
    assert len(ids) == 8  # <s> They liked TITLE , it . Sci-Fi
    assert tokenizer.decode(ids, skip_special_tokens=True) == text


def test_titles_take_the_last_ids(tokenizer):
    ids = [tokenizer.convert_tokens_to_ids(f'"{title}"') for title in TITLES]
    assert ids == list(range(len(tokenizer) - len(TITLES), len(tokenizer)))
    assert len(tokenizer) == 4 + len(WORDS) + len(TITLES)


def test_an_unknown_title_or_word_is_one_unknown_token(tokenizer):
    ids = tokenizer('They liked "Antz 2", hugely')["input_ids"]
    assert tokenizer.convert_ids_to_tokens(ids) == ["<s>", "They", "liked", "<unk>", ",", "<unk>"]


def test_an_open_quotation_does_not_swallow_the_rest(tokenizer):
    assert tokenizer.convert_ids_to_tokens(tokenizer('liked " it')["input_ids"]) == ["<s>", "liked", "<unk>", "it"]


def test_control_tokens_in_a_text_are_text(tokenizer):
    prompt = 'They </s> liked <pad> "</s>" it</s>'
    ids = tokenize_prompts(tokenizer, [prompt])[0]
    assert ids[0] == tokenizer.bos_token_id
    assert not set(ids[1:]) & {tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id}
    assert tokenizer.convert_tokens_to_ids('"</s>"') in ids


def test_the_tokenizer_is_the_same_after_saving(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    again = type(tokenizer).from_pretrained(tmp_path)
    text = f'They liked "{TITLES[2]}", it.'
    assert again(text)["input_ids"] == tokenizer(text)["input_ids"]
    assert again.decode(again(text)["input_ids"]) == f"<s> {text}"
    assert (again.padding_side, again.pad_token_id, again.eos_token_id) == ("left", 0, 2)


def test_a_repeated_title_is_one_token():
    assert len(build_tokenizer(["Heat", "Heat"], ["it", "it"])) == 4 + 1 + 1


# -- restriction, on an untrained policy with five words (ids 4 to 8) and four titles (ids 9 to 12) -----------------

LIKED, DISLIKED, TARGET = 4, 5, 6
#              <s>        A          B               C (target)
ONE_CITED_EACH = [1, LIKED, 9, DISLIKED, 10, TARGET, 11]


def untrained(restrict_titles=True) -> TinyPolicy:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=13,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        initializer_range=0.5,
        restrict_titles=restrict_titles,
        title_tokens=[9, 13],
        polarity_tokens=[DISLIKED, LIKED],
    )
    return TinyPolicy(config).eval()


def test_allowed_titles_are_those_behind_a_polarity_word():
    rows = torch.tensor(
        [
            ONE_CITED_EACH,
            [0, 0, 0, 1, LIKED, 12, TARGET],  # left padded; the last word has nothing behind it
            [1, LIKED, 7, 9, 10, 11, LIKED],  # a polarity word, then another word: nothing is cited
        ]
    )
    assert untrained().allowed_titles(rows).int().tolist() == [[1, 1, 0, 0], [0, 0, 0, 1], [0, 0, 0, 0]]


def test_logits_outside_are_minus_infinity_and_the_others_untouched():
    ids = torch.tensor([ONE_CITED_EACH])
    with torch.no_grad():
        free, restricted = untrained(False)(input_ids=ids).logits, untrained()(input_ids=ids).logits
    assert torch.isfinite(free).all()
    assert (restricted[..., [11, 12]] == INFINITE).all()
    assert torch.equal(restricted[..., :11], free[..., :11])


def test_restrict_logits_is_what_forward_does():
    ids = torch.tensor([ONE_CITED_EACH])
    with torch.no_grad():
        free, restricted = untrained(False)(input_ids=ids).logits, untrained()(input_ids=ids).logits
    assert torch.equal(untrained().restrict_logits(free.clone(), ids), restricted)
    assert torch.equal(untrained(False).restrict_logits(free.clone(), ids), free)


def test_without_a_citation_no_title_can_be_written():
    with torch.no_grad():
        logits = untrained()(input_ids=torch.tensor([[1, TARGET, 11]])).logits
    assert (logits[..., 9:] == INFINITE).all()
    assert torch.isfinite(logits[..., :9]).all()


def test_gradients_are_finite_under_the_restriction():
    model = untrained()
    logps = model(input_ids=torch.tensor([ONE_CITED_EACH])).logits.log_softmax(-1)
    logps[0, -1, 9].backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_what_was_written_itself_widens_nothing():
    """A title that the completion names stays forbidden unless the prompt cites it, with the cache and without."""
    model, prompt = untrained(), torch.tensor([ONE_CITED_EACH])
    for use_cache in (True, False):
        torch.manual_seed(1)
        sampled = model.generate(prompt.repeat(64, 1), do_sample=True, max_new_tokens=12, use_cache=use_cache, top_k=0)
        completions = sampled[:, prompt.shape[1] :]
        assert set(completions[completions >= 9].tolist()) == {9, 10}


# -- generation with the trained policy -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(small_policies):
    return small_policies.load_base(), small_policies.tokenizer


def greedy(model, ids, **options):
    options = {"do_sample": False, "max_new_tokens": 28, "pad_token_id": 0, **options}
    return model.generate(ids, attention_mask=(ids != 0).long(), **options)[:, ids.shape[1] :]


def test_decoding_with_the_cache_equals_decoding_without(trained, small_world):
    model, tokenizer = trained
    for row in small_world.test_rows[:4]:
        ids = tokenizer(row["prompt"], return_tensors="pt")["input_ids"]
        assert torch.equal(greedy(model, ids), greedy(model, ids, use_cache=False))


def test_a_left_padded_batch_equals_single_prompts(trained, small_world):
    model, tokenizer = trained
    prompts = [row["prompt"] for row in small_world.test_rows[:16]]
    batch = tokenizer(prompts, padding=True, return_tensors="pt")["input_ids"]
    assert (batch == 0).any()
    single = [greedy(model, tokenizer(prompt, return_tensors="pt")["input_ids"]) for prompt in prompts]
    decode = lambda ids: tokenizer.batch_decode(ids, skip_special_tokens=True)  # noqa: E731
    assert decode(greedy(model, batch)) == [decode(ids)[0] for ids in single]


def test_a_short_bootstrap_writes_well_formed_grounded_explanations(trained, small_world):
    """Five seconds of training on 16 films; the real bootstrap is measured in docs/tiny_policy.md."""
    model, tokenizer = trained
    rows = small_world.test_rows
    histories = [[row[name] for row in rows] for name in ("history_titles", "history_labels", "title")]

    def quality(restrict):
        model.config.restrict_titles = restrict
        texts = generate_explanations(model, tokenizer, [row["prompt"] for row in rows], progress=None, seed=1)
        model.config.restrict_titles = True
        return check_explanations([t[0] for t in texts], *histories)

    restricted, free = quality(True), summarise_checks(quality(False))
    assert summarise_checks(restricted)["cited_real"] == 1.0
    uncited = restricted["malformed"].eq_missing("no citation")
    citing = summarise_checks(restricted.filter(~uncited))
    assert citing["malformed"] < 0.15
    assert citing["citations_per_explanation"] > 0.8
    # none is cited on purpose where no title of the history speaks for the verdict
    on_purpose = pl.Series(verdict not in labels for verdict, labels in zip(restricted["verdict"], histories[1]))
    assert uncited.sum() < 0.4 * len(rows)
    assert on_purpose.filter(uncited).mean() > 2 * on_purpose.filter(~uncited).mean()
    assert free["cited_real"] < 0.95  # the restriction does something


def explanation_loss(model, tokenizer, rows) -> float:
    """Mean cross-entropy of drawn explanations, given their prompts."""
    rng, losses = np.random.default_rng(5), []
    for row in rows:
        prompt = tokenizer(row["prompt"], return_tensors="pt")["input_ids"]
        text = VerdictGrammar("film").draw(row, rng).text
        completion = tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"]
        with torch.no_grad():
            logits = model(input_ids=torch.cat([prompt, completion], 1)).logits[:, prompt.shape[1] - 1 : -1]
        losses.append(F.cross_entropy(logits[0], completion[0]))
    return float(torch.stack(losses).mean())


def test_the_bootstrap_lowers_the_loss(trained, small_world):
    model, tokenizer = trained
    before = TinyPolicy(model.config).eval()
    assert explanation_loss(before, tokenizer, small_world.test_rows[:16]) > 2.5
    assert explanation_loss(model, tokenizer, small_world.test_rows[:16]) < 1.0


def test_the_bootstrap_answers_the_ctr_prompt_with_the_verdict(trained, small_world):
    model, tokenizer = trained
    drawn = [
        VerdictGrammar("film").draw(row, np.random.default_rng(i)) for i, row in enumerate(small_world.test_rows[:40])
    ]
    no, yes = (tokenizer.convert_tokens_to_ids(word) for word in ("No", "Yes"))
    for text, verdict, _ in drawn:
        with torch.no_grad():
            logits = model(**tokenizer(small_world.template.ctr(text), return_tensors="pt")).logits[0, -1]
        assert (logits[yes] > logits[no]) == bool(verdict), text


def test_a_bootstrap_without_warmup(small_world):
    rows, catalogue, template = small_world.train_rows, small_world.catalogue, small_world.template
    config = TinyConfig(**{**vars(QUICK), "warmup_steps": 0})
    with pytest.warns(UserWarning, match="has not learned to answer") as warned:
        tiny.bootstrap(rows[:8], catalogue, template.generation, template.ctr, VerdictGrammar("film"), config)
    assert len(warned) == 1


def test_a_bootstrap_too_short_says_so(small_world):
    rows, catalogue, template = small_world.train_rows, small_world.catalogue, small_world.template
    with pytest.warns(UserWarning, match="has not learned") as warned:
        tiny.bootstrap(
            rows[:8], catalogue, template.generation, template.ctr, VerdictGrammar("film"), QUICK, progress=False
        )
    copying, judging = (str(w.message) for w in warned)
    assert re.search("to copy titles: .* raise warmup_steps", copying)
    assert re.search("to answer its CTR prompt: .* raise template_steps", judging)


# -- templates ------------------------------------------------------------------------------------------------------

ROW = {
    "history_titles": ["A", "B", "C"],
    "history_labels": [1, 0, 1],
    "crowd": "mixed",
    "category_words": ["Drama"],
}


def draws(row, count=2000):
    rng = np.random.default_rng(0)
    return [VerdictGrammar("film").draw(row, rng)[:2] for _ in range(count)]


def test_templates_follow_the_grammar_and_the_history():
    drawn = draws(ROW)
    assert {text for text, _ in drawn} == {
        'This Drama film is mixed and they liked "A", so they will likely like it.',
        'This Drama film is mixed and they liked "C", so they will likely like it.',
        'This Drama film is mixed and they disliked "B", so they will likely dislike it.',
    }
    assert all(text.endswith(" like it.") == bool(verdict) for text, verdict in drawn)


def test_templates_are_blind_to_the_label():
    with_labels = [draws({**ROW, "label": label, "rating": rating}) for label, rating in ((0, 1.0), (1, 5.0))]
    assert with_labels[0] == with_labels[1] == draws(ROW)


@pytest.mark.parametrize("labels", [[1, 0, 1], [1, 1, 1], [0, 0, 0]])
def test_the_verdict_is_independent_of_the_history(labels):
    drawn = draws({**ROW, "history_labels": labels})
    assert np.mean([verdict for _, verdict in drawn]) == pytest.approx(0.5, abs=0.04)  # sd of the mean: 0.011


def test_a_verdict_for_which_no_title_speaks_cites_none():
    texts = {text for text, verdict in draws({**ROW, "history_labels": [1, 1, 1]}) if not verdict}
    assert texts == {"This Drama film is mixed, so they will likely dislike it."}


def test_templates_without_history_or_category():
    empty = {**ROW, "history_titles": [], "history_labels": [], "category_words": []}
    texts = {text for text, _ in draws(empty, 50)}
    assert len(texts) == 2
    assert not any('"' in text for text in texts)
    assert all(text.startswith("This film is mixed, so") for text in texts)


# -- cache ----------------------------------------------------------------------------------------------------------

QUICK = TinyConfig(warmup_steps=1, template_steps=1, batch_size=4, hidden_size=16)


@pytest.fixture
def load(small_world, tmp_path, monkeypatch):
    """load_tiny on a few rows; `load.bootstraps` counts how often it had to train."""
    real = tiny.bootstrap

    def counting(*arguments):
        call.bootstraps += 1
        return real(*arguments)

    def call(config=QUICK, rows=small_world.train_rows[:8], catalogue=small_world.catalogue, domain="film"):
        template = small_world.template
        arguments = (rows, catalogue, template.generation, template.ctr, VerdictGrammar(domain), config)
        return load_tiny(*arguments, cache_dir=tmp_path / "cache", progress=False)

    call.bootstraps, call.folder = 0, tmp_path / "cache" / "tiny"
    monkeypatch.setattr(tiny, "bootstrap", counting)
    return call


def test_the_same_content_is_trained_once(load):
    first, tokenizer = load()
    second, again = load()
    assert load.bootstraps == 1
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert tokenizer.get_vocab() == again.get_vocab()
    free, _ = load(TinyConfig(**{**vars(QUICK), "restrict_titles": False}))
    assert load.bootstraps == 1  # the restriction is no part of the training
    assert (free.config.restrict_titles, second.config.restrict_titles) == (False, True)


def test_other_content_is_trained_anew(load, small_world):
    load()
    rows, (title, *rest) = small_world.train_rows[:8], small_world.catalogue[0]
    for changed in (
        {"config": TinyConfig(**{**vars(QUICK), "seed": 1})},
        {"config": TinyConfig(**{**vars(QUICK), "template_steps": 2})},
        {"rows": rows[:7]},
        {"rows": [*rows[:7], {**rows[7], "crowd": "beloved" if rows[7]["crowd"] != "beloved" else "mixed"}]},
        {"catalogue": [*small_world.catalogue, (f"{title} again", *rest)]},
        {"domain": "movie"},
    ):
        before = load.bootstraps
        load(**changed)
        assert load.bootstraps == before + 1, changed


def test_a_bootstrap_cut_short_leaves_no_cache_entry(load, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(TinyPolicy, "save_pretrained", lambda self, folder: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            load()
    load()
    load()
    assert load.bootstraps == 2


def test_two_processes_that_finish_the_same_bootstrap(load, monkeypatch):
    """The second one takes the first one's files and leaves no rubbish."""
    counting = tiny.bootstrap

    def slow(*arguments):
        monkeypatch.setattr(tiny, "bootstrap", counting)
        load()  # another process starts later and finishes first
        return counting(*arguments)

    monkeypatch.setattr(tiny, "bootstrap", slow)
    load()
    assert load.bootstraps == 2
    assert len(list(load.folder.iterdir())) == 1


def test_the_environment_names_the_cache_folder(policy_cache, small_policies):
    assert len(list((policy_cache / "tiny").iterdir())) >= 1
