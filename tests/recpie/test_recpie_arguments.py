"""RecPIE's arguments: defaults of the paper, and one sentence for what they do not take."""

import pytest

from rlrec.recpie import RecPIEArguments


def test_the_defaults_are_the_papers():
    """Appendix C.1, equations 4 and 12, Algorithm 1."""
    given = RecPIEArguments()
    assert (given.recommender_epochs, given.recommender_batch, given.recommender_learning_rate) == (10, 256, 0.01)
    assert (given.recpie_baseline, given.objective, given.ppo_epochs) == ("none", "rating", 1.0)
    assert (given.variant, given.soft_prompt, given.training_fraction) == ("contrastive", True, 1.0)
    assert given.reward_funcs == ["recpie"]
    assert given.robustness == ["free"]
    assert given.folds == 5  # ours: out of fold


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"recpie_baseline": "zero"}, "recpie_baseline is 'zero', but must be one of none, without_explanation, s"),
        ({"objective": "stars"}, "objective is 'stars', but must be one of rating, binary."),
        ({"variant": "contrast"}, "variant is 'contrast', but must be one of contrastive, positive, general, aspects"),
        ({"more_variants": ["positive", "neutral"]}, "more_variants is 'neutral', but must be one of contrastive"),
        ({"robustness": ["fee"]}, "robustness is 'fee', but must be one of free, llm_embeddings, ncf."),
        ({"more_variants": ["contrastive"]}, "more_variants names 'contrastive', which is the variant itself"),
        ({"reward_funcs": ["recpie", "lc"]}, "reward_funcs names 'lc', which reads one explanation"),
        ({"ppo_epochs": 0.0}, "ppo_epochs is 0.0, but must be above 0."),
        ({"recommender_learning_rate": -0.1}, "recommender_learning_rate is -0.1, but must be above 0."),
        ({"rounds": 0}, "rounds is 0, but must be at least 1."),
        ({"recommender_fits": 0}, "recommender_fits is 0, but must be at least 1."),
        ({"num_explanations": 0}, "num_explanations is 0, but must be at least 1."),
        ({"generation_batch": -1}, "generation_batch is -1, but must be at least 1."),
        ({"folds": 1}, "folds is 1, but must be 0 .one in-sample model. or at least 2."),
        ({"folds": -1}, "folds is -1"),
        ({"id_dropout": 1.0}, "id_dropout is 1.0, training_fraction 1.0 and tolerance 0.0, but must lie in"),
        ({"training_fraction": 0.0}, "training_fraction 0.0 and"),
        ({"training_fraction": 1.5}, "training_fraction 1.5 and"),
        ({"tolerance": -0.1}, "tolerance -0.1, but must lie in"),
    ],
)
def test_what_is_refused(given, message):
    with pytest.raises(ValueError, match=message):
        RecPIEArguments(**given)


@pytest.mark.parametrize(
    "given", [{"folds": 0}, {"folds": 2}, {"id_dropout": 0.0}, {"training_fraction": 0.12}, {"tolerance": 0.01}]
)
def test_the_ends_of_the_ranges_are_taken(given):
    for name, value in given.items():
        assert getattr(RecPIEArguments(**given), name) == value
