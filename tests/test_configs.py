"""Every configuration that ships: recipes' YAML through the real parser, accelerate's through accelerate's own."""

from pathlib import Path

import pytest
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser

from rlrec.arguments import DataArguments, PolicyArguments, load_config, packaged_configs, parse_arguments
from rlrec.baselines import BaselineArguments
from rlrec.data import DATASETS
from rlrec.data.prepare import prepare
from rlrec.expctr import ExpCTRArguments
from rlrec.ppo import PPOConfig
from rlrec.recpie import RecPIEArguments
from rlrec.seller import SELLERArguments, SELLERConfig
from rlrec.trail import TRAILArguments, TRAILConfig

ROOT = Path(__file__).parents[1]
DATACLASSES = {
    "baselines": (BaselineArguments, ExpCTRArguments, DataArguments, PolicyArguments, PPOConfig),
    "expctr": (ExpCTRArguments, DataArguments, PolicyArguments, PPOConfig),
    "recpie": (RecPIEArguments, DataArguments, PolicyArguments, PPOConfig),
    "trail": (TRAILArguments, DataArguments, PolicyArguments, TRAILConfig),
    "seller": (SELLERArguments, DataArguments, PolicyArguments, SELLERConfig),
}
PAPER = {"expctr/ml-20m": 20_000, "expctr/amazon-books": 20_000, "expctr/book-crossing": 40_000}
RECPIE = ("recpie/google-local", "recpie/yelp", "recpie/tripadvisor", "recpie/amazon-movies")
TRAIL = ("trail/amazon-baby", "trail/amazon-beauty", "trail/douban-movies")
SELLER = ("seller/yelp", "seller/kuairec")
EMBEDDED = (
    *("expctr/simulated", "expctr/smoke", "expctr/ml-100k", "expctr/book-crossing-embedded", "baselines/smoke"),
    *("recpie/simulated", "recpie/smoke", "recpie/ml-100k", "recpie/amazon-gift-cards"),
    *("trail/simulated", "trail/smoke", "trail/ml-100k"),
    *("seller/simulated", "seller/smoke", "seller/ml-100k"),
)


def parsed(name):
    # --use_cpu: the configurations for GPUs ask for bf16, which transformers refuses without one
    return parse_arguments(DATACLASSES[name.split("/")[0]], name, ["--config", name, "--use_cpu", "true"])


def test_all_configurations_are_known_here():
    assert set(packaged_configs()) == {*PAPER, *RECPIE, *TRAIL, *SELLER, *EMBEDDED}


@pytest.mark.parametrize("name", packaged_configs())
def test_every_value_arrives(name):
    parts = parsed(name)
    for key, value in load_config(name).items():
        found = next(getattr(part, key) for part in parts if hasattr(part, key))
        assert (found or "none" if key == "report_to" else found) == value, key


@pytest.mark.parametrize("name", [name for name in packaged_configs() if name.startswith(("expctr/", "recpie/"))])
def test_checkpoints_fall_between_rollouts(name):
    ppo = parsed(name)[-1]
    assert ppo.save_strategy == "steps"
    assert ppo.save_steps % ppo.rollout_cycle == 0
    assert ppo.save_total_limit >= 1
    assert ppo.top_k == 0  # sampling and log-probabilities speak of one distribution
    assert ppo.ref_policy == "base"  # pi_init of equation 7, in stage 3 too


@pytest.mark.parametrize("name", packaged_configs())
def test_datasets_exist_and_folders_differ(name):
    *_, data, _, ppo = parsed(name)
    assert data.dataset in DATASETS
    assert ppo.output_dir == "runs/" + name.replace("/", "-")


@pytest.mark.parametrize("name", RECPIE)
def test_recpies_settings(name):
    """RecPIE, appendix C.1; section 5.1 for the zip codes."""
    recpie, data, policy, _ = parsed(name)
    assert policy.model_name_or_path == "meta-llama/Llama-3.1-8B-Instruct"
    assert recpie.encoder == "distilbert/distilbert-base-uncased"
    assert (recpie.recommender_epochs, recpie.recommender_batch, recpie.recommender_learning_rate) == (10, 256, 0.01)
    assert (recpie.variant, recpie.soft_prompt, recpie.objective) == ("contrastive", True, "rating")
    assert (recpie.reward_funcs, recpie.recpie_baseline) == (["recpie"], "none")
    assert (data.num_samples, data.threshold, data.label_rule) == (None, None, None)  # the recipe's: rating >= 4
    assert data.zip_codes == ("94035-94043" if name == "recpie/google-local" else None)


@pytest.mark.parametrize("name", PAPER)
def test_the_papers_settings(name):
    """ExpCTR, sections 5.1.1 and 5.1.4."""
    expctr, data, policy, ppo = parsed(name)
    assert policy.model_name_or_path == "meta-llama/Meta-Llama-3-8B-Instruct"
    assert expctr.encoder == "BAAI/bge-small-en-v1.5"
    assert (ppo.learning_rate, ppo.beta) == (1e-5, 0.05)
    assert (ppo.normalize_rewards, ppo.reward_clip) == (True, 1.0)
    assert (expctr.lc_epochs, expctr.ic_epochs) == (2, 2)
    assert (expctr.reward_funcs, expctr.ic_reward_funcs) == (["lc"], ["ic"])
    assert (expctr.lc_form, expctr.ic_shift, expctr.ic_accuracy) == ("absolute", "on", True)
    assert (data.num_samples, data.history_length, data.label_rule) == (PAPER[name], 10, "gt")
    assert data.threshold is None  # the dataset's own: 4, and 5 for Book-Crossing (tests/data)


@pytest.mark.parametrize("name", TRAIL)
def test_trails_settings(name):
    """TRAIL, appendix A."""
    trail, data, policy, config = parsed(name)
    assert policy.model_name_or_path == "deepseek-ai/DeepSeek-R1-Distill-Qwen-7B"
    assert trail.encoder == "sentence-transformers/all-mpnet-base-v2"
    assert (policy.lora_r, policy.lora_alpha, policy.lora_dropout) == (8, 16, 0.05)
    assert policy.lora_target_modules == "q_proj,v_proj,o_proj"
    assert (config.per_device_train_batch_size, config.gradient_accumulation_steps) == (8, 4)
    assert (config.learning_rate, config.weight_decay, config.max_grad_norm) == (2e-5, 0.05, 1.0)
    assert (config.lr_scheduler_type, config.warmup_steps, config.bf16) == ("cosine", 0.1, True)
    assert (config.save_steps, config.max_length, trail.patience) == (150, 4096, 3)
    assert (config.alpha, config.beta, config.gamma) == (0.4, 0.2, 0.4)
    assert (config.temperature, config.num_positives) == (0.1, 2)
    assert (trail.window_days, trail.score, data.k_core) == (30, "written", 0)  # a k-core would know the future


@pytest.mark.parametrize("name", SELLER)
def test_sellers_settings(name):
    """SELLER, sections 4.1 and A.1."""
    seller, data, policy, config = parsed(name)
    assert policy.model_name_or_path == "meta-llama/Llama-2-7b-hf"
    assert seller.encoder == "sentence-transformers/sentence-t5-base"
    assert (data.k_core, seller.sequence_length, seller.category_threshold) == (10, 50, 1e-5)
    assert (config.num_train_epochs, config.per_device_train_batch_size) == (5, 8)
    assert (config.learning_rate, config.weight_decay, config.adam) == (1e-4, 1e-6, True)
    assert (seller.eer_epochs, seller.eer_batch, seller.eer_rank) == (50, 256, None)
    assert (seller.eer_learning_rate, seller.eer_weight_decay) == (5e-4, 1e-5)
    assert (seller.positions, seller.num_held_out) == (0, 2500)
    assert seller.item_details == (name == "seller/yelp")  # Figure 3's fields


@pytest.mark.parametrize("name", EMBEDDED)
def test_embedded_configurations_need_no_network_and_no_gpu(name):
    *_, system, _, policy, ppo = parse_arguments(DATACLASSES[name.split("/")[0]], name, ["--config", name])
    assert (policy.model_name_or_path, ppo.bf16) == ("tiny", False)
    assert system.encoder in ("policy", "policy_words")


def test_the_default_world_is_large_enough_for_its_configuration():
    _, data, _, _ = parsed("expctr/simulated")
    world = prepare("simulated", num_users=data.num_users, num_items=data.num_items, seed=0)
    targets = sum(max(0, count - data.min_history) for count in world.interactions.group_by("user_id").len()["len"])
    assert targets >= data.num_samples


ACCELERATE = {  # processes, machines, what it launches
    "cpu": (1, 1, {"use_cpu": True}),
    "single_gpu": (1, 1, {"use_cpu": False}),
    "multi_gpu": (8, 1, {"multi_gpu": True}),
    "deepspeed_zero2": (8, 1, {"use_deepspeed": True, "zero_stage": 2}),
    "deepspeed_zero3": (8, 1, {"use_deepspeed": True, "zero_stage": 3, "zero3_init_flag": False}),
    "fsdp2": (8, 1, {"use_fsdp": True, "fsdp_version": 2}),
    "multi_node": (16, 2, {"use_deepspeed": True, "zero_stage": 3, "main_process_port": 29500}),
}


def test_all_accelerate_configurations_are_known_here():
    assert {path.stem for path in (ROOT / "accelerate_configs").glob("*.yaml")} == set(ACCELERATE)


@pytest.mark.parametrize("name", ACCELERATE)
def test_accelerate_takes_its_configuration(name):
    path, (processes, machines, launched) = ROOT / "accelerate_configs" / f"{name}.yaml", ACCELERATE[name]
    config = load_config_from_file(str(path))  # refuses unknown keys
    written = yaml.safe_load(path.read_text())
    assert (config.num_processes, config.num_machines) == (processes, machines)
    assert config.mixed_precision == written["mixed_precision"] == ("no" if name == "cpu" else "bf16")
    arguments = launch_command_parser().parse_args(["--config_file", str(path), "recipes/expctr.py", "--seed", "1"])
    arguments, _, _ = _validate_launch_command(arguments)
    expected = {"multi_gpu": False, "use_deepspeed": False, "use_fsdp": False, **launched}
    assert {key: getattr(arguments, key) for key in expected} == expected
    assert (arguments.num_processes, arguments.num_machines) == (processes, machines)
    assert arguments.training_script_args == ["--seed", "1"]
