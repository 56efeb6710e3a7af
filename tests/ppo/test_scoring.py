"""Log-probabilities and entropies against torch's own, on every path that computes them."""

import pytest
import tiny_training as tiny
import torch

from rlrec.ppo import scoring
from rlrec.ppo.scoring import GenerationRecorder, TokenScores


@pytest.mark.parametrize("pieces", [1, 7, 2**16])
def test_token_scores_equal_log_softmax(monkeypatch, pieces):
    monkeypatch.setattr(scoring, "CACHED_LOGITS", pieces)
    logits = torch.randn(6, 5, generator=torch.Generator().manual_seed(0))
    logits[2, 1:] = -torch.inf  # one token left: log-probability 0, entropy 0
    logits[3, 0] = -torch.inf
    tokens, weights = torch.tensor([0, 4, 0, 2, 1, 3]), torch.tensor([1.0, -2.0, 3.0, 0.0, 1.0, 0.5])
    gradients = []
    for own in (True, False):
        given = logits.clone().requires_grad_()
        if own:
            log_probs, entropies = TokenScores.apply(given, tokens, 1 / 0.7, True)
        else:
            full = torch.log_softmax(given / 0.7, dim=-1)
            expected, expected_entropies = (
                full[range(6), tokens],
                torch.distributions.Categorical(logits=logits / 0.7).entropy(),
            )
            log_probs = expected
        (log_probs * weights).sum().backward()
        gradients.append(given.grad)
        if own:
            own_log_probs, own_entropies = log_probs, entropies
    torch.testing.assert_close(own_log_probs, expected)
    torch.testing.assert_close(own_entropies, expected_entropies)
    torch.testing.assert_close(gradients[0], gradients[1])


def test_token_scores_of_uniform_logits():
    log_probs, entropies = TokenScores.apply(torch.zeros(1, 8), torch.tensor([3]), 1.0, True)
    torch.testing.assert_close(log_probs, -torch.tensor([8.0]).log())
    torch.testing.assert_close(entropies, torch.tensor([8.0]).log())


def gradients_and_scores(trainer, plain_gradient=False):
    """Scores of fixed rows with padding on both sides, and the gradient of a sum of all of them."""
    trainer.model.train()
    torch.nn.init.normal_(trainer._causal_lm().value_head.weight, generator=torch.Generator().manual_seed(0))
    ids = torch.tensor([[0, 4, 5, 6, 7, 8], [9, 8, 7, 6, 1, 0]])
    mask = (ids != 0).long()
    logps, entropies, _ = trainer._get_per_token_logps_and_entropies(trainer.model, ids, mask, 3, compute_entropy=True)
    values = trainer._scored[1]
    (logps.sum() + (values * mask[:, -3:]).sum() + (entropies.sum() if plain_gradient else 0)).backward()
    gradients = {name: p.grad for name, p in trainer.model.named_parameters() if p.grad is not None}
    return logps, entropies, values * mask[:, -3:], gradients


@pytest.mark.parametrize("lora", [False, True])
def test_trls_tiled_head_gives_the_same(tmp_path, monkeypatch, lora):
    """The path GPUs take, and CPUs when there are very many logits."""
    results = []
    for few in (scoring.FEW_LOGITS, 0):
        monkeypatch.setattr(scoring, "FEW_LOGITS", few)
        results.append(gradients_and_scores(tiny.trainer(tmp_path, lora=lora)))
    for ours, trls in zip(results[0][:3], results[1][:3]):
        torch.testing.assert_close(ours, trls, rtol=1e-4, atol=1e-5)
    assert results[0][3].keys() == results[1][3].keys()
    for name, gradient in results[0][3].items():
        torch.testing.assert_close(gradient, results[1][3][name], rtol=1e-3, atol=1e-5)


def test_shortened_mlp_changes_no_score_and_no_gradient(tmp_path, monkeypatch):
    results = [gradients_and_scores(tiny.trainer(tmp_path))]
    lengths = []
    trainer = tiny.trainer(tmp_path)
    trainer._causal_lm().model.layers[-1].mlp.register_forward_pre_hook(
        lambda module, arguments: lengths.append(arguments[0].size(1))
    )
    monkeypatch.setattr(trainer._causal_lm().config, "output_router_logits", False, raising=False)  # as mixtures have
    results.append(gradients_and_scores(trainer))
    assert lengths == [6]
    for short, whole in zip(results[0][:3], results[1][:3]):
        torch.testing.assert_close(short, whole)
    for name, gradient in results[0][3].items():
        torch.testing.assert_close(gradient, results[1][3][name])


def test_entropy_bonus_has_a_gradient(tmp_path):
    *_, gradients = gradients_and_scores(tiny.trainer(tmp_path, entropy_coef=0.1), plain_gradient=True)
    *_, without = gradients_and_scores(tiny.trainer(tmp_path, entropy_coef=0.1))
    assert not torch.allclose(gradients["lm_head.weight"], without["lm_head.weight"])


def test_recorder_matches_tokens_with_the_logits_that_chose_them():
    recorder = GenerationRecorder(temperature=1.0)
    first = torch.log(torch.tensor([[[0.1, 0.9]], [[0.4, 0.6]]]))  # (B = 2, 1, V = 2)
    second = torch.log(torch.tensor([[[0.3, 0.7]], [[0.8, 0.2]]]))
    recorder.add(torch.tensor([[5, 6], [5, 7]]), first, torch.tensor([[1.0], [2.0]]))
    recorder.add(torch.tensor([[1], [0]]), second, torch.tensor([[3.0], [4.0]]))
    tokens, mask = torch.tensor([[1, 0, 0], [0, 1, 0]]), torch.tensor([[1, 1, 0], [1, 0, 0]])
    logps, values = recorder.result(tokens, mask)  # one column wider than what was sampled
    torch.testing.assert_close(logps.exp() * mask, torch.tensor([[0.9, 0.3, 0.0], [0.4, 0.0, 0.0]]))
    torch.testing.assert_close(values, torch.tensor([[1.0, 3.0, 0.0], [2.0, 0.0, 0.0]]))
