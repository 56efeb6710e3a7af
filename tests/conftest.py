"""No network, one cache of embedded policies for the whole session, and one small embedded policy to share."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"  # before anything imports huggingface_hub

from dataclasses import dataclass

import polars as pl
import pytest


@pytest.fixture(scope="session", autouse=True)
def policy_cache(tmp_path_factory):
    """The folder that RLREC_CACHE_DIR names, for this process and those it starts."""
    before = os.environ.get("RLREC_CACHE_DIR")
    folder = tmp_path_factory.mktemp("cache")
    os.environ["RLREC_CACHE_DIR"] = str(folder)
    yield folder
    if before is None:
        del os.environ["RLREC_CACHE_DIR"]
    else:
        os.environ["RLREC_CACHE_DIR"] = before


@dataclass
class SmallWorld:
    """A simulated world of 16 films and its samples, and what the embedded policy is bootstrapped on."""

    samples: pl.DataFrame
    template: object
    catalogue: list
    train_rows: list
    test_rows: list


@pytest.fixture(scope="session")
def small_world():
    from rlrec.data.prompts import PromptTemplate, category_words
    from rlrec.data.simulated import simulate
    from rlrec.data.splits import expctr_samples

    prepared = simulate(num_users=96, num_items=16, interactions_per_user=8)
    samples = expctr_samples(prepared.interactions, prepared.items, threshold=3, num_samples=384, history_length=4)
    template = PromptTemplate("compact", "film")
    pairs = prepared.items.select("title", "categories").iter_rows()
    return SmallWorld(
        samples,
        template,
        [(title, categories, category_words(categories)) for title, categories in pairs],
        template.rows(samples.filter(pl.col("split") == "train")),
        template.rows(samples.filter(pl.col("split") != "train")),
    )


@pytest.fixture(scope="session")
def small_policies(small_world):
    """The embedded policy after a bootstrap of five seconds, as `Policies`: every load is a new model."""
    from peft import LoraConfig

    from rlrec.policies.grammars import VerdictGrammar
    from rlrec.policies.loading import embedded_policies
    from rlrec.policies.tiny import TinyConfig

    lora = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")
    config = TinyConfig(warmup_steps=10, template_steps=190, batch_size=24, learning_rate=8e-3)
    world, template = small_world, small_world.template
    return embedded_policies(
        world.train_rows, world.catalogue, template.generation, template.ctr, VerdictGrammar("film"), config, lora
    )
