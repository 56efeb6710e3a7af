"""Imports point one way (docs: recipes -> reward_models -> rlrec), read from the source of every module."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MODULES = sorted(path for package in ("rlrec", "reward_models", "recipes") for path in (ROOT / package).rglob("*.py"))
# Parts of rlrec, and which of its siblings each may import; parts not named here stand above all of them.
SIBLINGS = {
    **{part: {"files"} for part in ("asking", "checkpoints", "data", "encoders", "policies", "explanations")},
    "files": set(),
    "ppo": {"files", "checkpoints"},
    "evaluation": {"asking"},
    "recommenders": {"files", "data"},
    "alternating": {"files", "checkpoints", "stopping", "recommenders", "ppo", "explanations"},
}


def imported_names(source: str, module: str) -> set[str]:
    """Dotted names that a module imports anywhere; of `from a import b` both a and a.b."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = module.split(".")[: -node.level] if node.level else []
            base = ".".join([*base, *([node.module] if node.module else [])])
            names |= {base} | {f"{base}.{alias.name}" for alias in node.names}
    return names


def violations(source: str, module: str) -> set[str]:
    """The imports of `module` that point the wrong way."""
    parts, wrong = module.split("."), set()
    for name in imported_names(source, module):
        package, *inner = name.split(".")
        if package == "recipes" or (package == "reward_models" and parts[0] == "rlrec"):
            wrong.add(name)
        elif package == "rlrec" and parts[0] == "rlrec" and inner and len(parts) > 1 and parts[1] in SIBLINGS:
            siblings = {path.stem for path in (ROOT / "rlrec").iterdir()} - {parts[1]}
            if inner[0] in siblings - SIBLINGS[parts[1]]:
                wrong.add(name)
    return wrong


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_one_way(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    module = ".".join(parts)  # of a package its __init__, whose relative imports count from the package too
    assert violations(path.read_text(encoding="utf-8"), module) == set()


@pytest.mark.parametrize(
    ("module", "source", "wrong"),
    [
        ("rlrec.data.splits", "from rlrec.ppo import PPOConfig", {"rlrec.ppo", "rlrec.ppo.PPOConfig"}),
        ("rlrec.data.splits", "from rlrec import ppo", {"rlrec.ppo"}),
        (
            "rlrec.data.splits",
            "from ..ppo.config import PPOConfig",
            {"rlrec.ppo.config", "rlrec.ppo.config.PPOConfig"},
        ),
        ("rlrec.data.splits", "import rlrec\nfrom rlrec.data.raw import x\nfrom .raw import y", set()),
        ("rlrec.ppo.trainer", "def f():\n    import rlrec.policies.tiny", {"rlrec.policies.tiny"}),
        ("rlrec.recommenders.base", "import rlrec.data.schema", set()),
        ("rlrec.recommenders.base", "import rlrec.encoders", {"rlrec.encoders"}),
        ("rlrec.alternating", "from rlrec.ppo import x\nimport rlrec.explanations", set()),
        ("rlrec.alternating", "import rlrec.policies", {"rlrec.policies"}),
        ("rlrec.expctr.run", "import rlrec.policies, reward_models.alignment", {"reward_models.alignment"}),
        ("reward_models.alignment", "import rlrec.encoders, recipes.expctr", {"recipes.expctr"}),
        ("recipes.expctr", "import rlrec, reward_models", set()),
    ],
)
def test_the_rules_themselves(module, source, wrong):
    assert violations(source, module) == wrong


def test_every_module_is_looked_at():
    names = {str(path.relative_to(ROOT)) for path in MODULES}
    assert {"rlrec/ppo/trainer.py", "reward_models/alignment.py", "recipes/expctr.py"} <= names


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_executable_is_loaded(path):
    """Weights are safetensors and settings JSON or safe YAML: no pickles, no tar archives, no code from a model's
    repository, nor a question whether it may run."""
    source = path.read_text(encoding="utf-8")
    names = imported_names(source, "x")
    assert not names & {"pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal", "tarfile"}
    for call in (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)):
        called = ast.unparse(call.func)
        assert called not in ("torch.load", "torch.save", "yaml.load", "eval", "exec", "shutil.unpack_archive")
        trusted = {ast.unparse(keyword.value) for keyword in call.keywords if keyword.arg == "trust_remote_code"}
        assert trusted <= {"False"}
        if called.startswith("Auto") and called.endswith(".from_pretrained"):
            spread = any(keyword.arg is None for keyword in call.keywords)  # **options
            assert trusted or (spread and '"trust_remote_code": False' in source), f"line {call.lineno}"
