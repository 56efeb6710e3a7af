"""The command line and configuration files of the recipes."""

from dataclasses import dataclass, field

import pytest

from rlrec.arguments import (
    DataArguments,
    PolicyArguments,
    load_config,
    one_sentence,
    packaged_configs,
    parse_arguments,
)
from rlrec.expctr import ExpCTRArguments
from rlrec.ppo import PPOConfig
from rlrec.ppo.rewards import RewardFailure, RewardGuard


@dataclass
class Colours:
    """Arguments of a small program."""

    hue: str = field(default="red", metadata={"help": "A colour."})
    depth: float = field(default=1.0)
    names: list[str] = field(default_factory=lambda: ["a"])
    bright: bool = field(default=True)


@pytest.fixture
def write(tmp_path):
    def write(text: str) -> str:
        path = tmp_path / "settings.yaml"
        path.write_text(text, encoding="utf-8")
        return str(path)

    return write


def parse(*arguments):
    return parse_arguments([Colours], "expctr/smoke", list(arguments))[0]


def test_command_line_beats_file_beats_default(write):
    path = write("hue: blue\ndepth: 2e-3\nnames: [x, y]\n")
    assert parse("--config", path) == Colours("blue", 0.002, ["x", "y"], True)
    assert parse("--config", path, "--hue", "green", "--names", "z") == Colours("green", 0.002, ["z"], True)
    assert parse("--depth", "3", f"--config={path}", "--no_bright") == Colours("blue", 3.0, ["x", "y"], False)
    assert parse("--config", path, "--bright", "false").bright is False
    assert parse("--hue=pink", "--config", path).hue == "pink"


def test_processes_wait_for_a_day_unless_told_otherwise(write):
    def timeout(text, *arguments):
        settings = write(f"output_dir: out\nreport_to: none\n{text}")
        return parse_arguments([PPOConfig], "expctr/smoke", ["--config", settings, *arguments])[0].ddp_timeout

    assert timeout("") == 24 * 3600
    assert timeout("ddp_timeout: 60") == 60
    assert timeout("ddp_timeout: 60", "--ddp_timeout", "90") == 90


def test_processes_that_do_not_know_of_each_other(monkeypatch, capsys, write):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(SystemExit) as stopped:
        parse("--config", write("hue: blue"))
    assert stopped.value.code == 2
    assert "2 processes were started, and work together as 1: add --use_cpu true" in capsys.readouterr().err


def test_the_default_configuration_is_a_packaged_one():
    parts = parse_arguments((ExpCTRArguments, DataArguments, PolicyArguments, PPOConfig), "expctr/smoke", [])
    assert (parts[1].num_users, parts[3].output_dir) == (160, "runs/expctr-smoke")


def test_arguments_come_from_the_program_by_default(monkeypatch, write):
    monkeypatch.setattr("sys.argv", ["program", "--config", write("hue: blue")])
    assert parse_arguments([Colours], "expctr/smoke")[0].hue == "blue"


@pytest.mark.parametrize(
    ("text", "arguments", "message"),
    [
        ("huge: blue", [], "Unknown key 'huge' in the configuration {path}; did you mean 'hue'?"),
        ("xyzzy: 1", [], "Unknown key 'xyzzy' in the configuration {path}."),
        ("hue: blue", ["--dept", "2"], "Unknown key 'dept' in the command line; did you mean 'depth'?"),
        ("hue: blue", ["--brigth", "2"], "Unknown key 'brigth' in the command line; did you mean 'bright'?"),
        ("hue: blue", ["--config"], "--config needs a name or a path behind it."),
        ("hue: blue", ["--depth", "deep"], "argument --depth: invalid float value: 'deep'"),
        ("depth: deep", [], "argument --depth: invalid float value: 'deep'"),
        ("bright: perhaps", [], "argument --bright"),
        ("- hue\n- blue\n", [], "{path} must hold 'key: value' lines."),
        ("", [], "{path} must hold 'key: value' lines."),
        ("hue: [blue", [], "{path} is no valid YAML (while parsing a flow sequence"),
    ],
)
def test_mistakes_end_with_one_sentence(write, capsys, text, arguments, message):
    path = write(text)
    given = arguments if "--config" in arguments else ["--config", path, *arguments]
    with pytest.raises(SystemExit) as exit_:
        parse(*given)
    output = capsys.readouterr().err
    assert exit_.value.code == 2
    assert message.format(path=path) in output
    assert output.startswith("error: ")
    assert output.count("\n") == 1


def test_yaml_cannot_make_objects(write, capsys):
    with pytest.raises(SystemExit):
        parse("--config", write("hue: !!python/object/apply:os.getcwd []"))
    assert "is no valid YAML (could not determine a constructor" in capsys.readouterr().err


def test_configurations_by_name():
    assert "expctr/smoke" in packaged_configs()
    assert load_config("expctr/smoke")["num_users"] == 160
    with pytest.raises(ValueError, match=r"There is no configuration 'expctr/smok'; did you mean 'expctr/smoke'\?"):
        load_config("expctr/smok")
    with pytest.raises(ValueError, match=r"There is no configuration 'qqqq'; there are .*expctr/amazon-books,"):
        load_config("qqqq")
    with pytest.raises(ValueError, match=r"There is no configuration '/no/such\.yaml'"):
        load_config("/no/such.yaml")


def test_help(write, capsys):
    with pytest.raises(SystemExit) as exit_:
        parse("--config", write("hue: blue"), "--help")
    output = capsys.readouterr().out
    assert exit_.value.code == 0
    assert "expctr/ml-100k" in output.replace("\n", "")
    assert "A colour." in output


@pytest.mark.parametrize(
    ("dataclass_type", "values", "message"),
    [
        (ExpCTRArguments, {"lc_form": "cubic"}, "lc_form is 'cubic', but must be one of absolute, brier"),
        (ExpCTRArguments, {"ic_shift": "up"}, "ic_shift is 'up', but must be one of on, off, signed"),
        (ExpCTRArguments, {"ic_baseline": "x"}, "ic_baseline is 'x', but must be one of none, without_explanation"),
        (ExpCTRArguments, {"ic_folds": 1}, "ic_folds is 1, but must be 0 .* or at least 2"),
        (ExpCTRArguments, {"ic_accuracy": False, "ic_shift": "off"}, "leaves no term of equation 13"),
        (ExpCTRArguments, {"lc_temperature": 0.0}, "lc_temperature is 0.0, but must be above 0"),
        (ExpCTRArguments, {"ic_epochs": -1.0}, "ic_epochs is -1.0, but must be above 0"),
        (ExpCTRArguments, {"num_explanations": 0}, "num_explanations is 0, but must be at least 1"),
        (ExpCTRArguments, {"reward_funcs": ["ic"]}, "'ic', which needs the CTR model of stage 2"),
        (DataArguments, {"label_rule": "above"}, "label_rule is 'above', but must be 'gt' or 'ge'"),
        (DataArguments, {"num_samples": 0}, "num_samples is 0, but must be at least 1"),
        (DataArguments, {"history_length": 0}, "history_length is 0"),
        (PolicyArguments, {"prompt_style": "long"}, "prompt_style is 'long', but must be 'paper' or 'compact'"),
        (PolicyArguments, {"dtype": "int8"}, "dtype is 'int8', but must be float32"),
    ],
)
def test_values_out_of_range(dataclass_type, values, message):
    with pytest.raises(ValueError, match=message):
        dataclass_type(**values)


def test_one_sentence_ends_the_program(capsys):
    with pytest.raises(SystemExit) as exit_, one_sentence(ValueError):
        raise ValueError("The file x has no rows; give another.")
    assert exit_.value.code == 2
    assert capsys.readouterr().err == "\nerror: The file x has no rows; give another.\n"


def test_one_sentence_lets_other_errors_through():
    with pytest.raises(KeyError), one_sentence(ValueError):
        raise KeyError("a bug")


def test_a_rewards_own_mistake_is_told_with_its_line(capsys):
    def broken(completions, **columns):
        return columns["no_such_column"]

    guard = RewardGuard()
    guard.wrap(broken, "broken")(completions=["a"])
    with pytest.raises(SystemExit), one_sentence(RewardFailure):
        raise RewardFailure(guard.failure) from guard.cause
    line = broken.__code__.co_firstlineno + 1
    expected = f"\nerror: Reward function 'broken' raised KeyError: 'no_such_column' ({__file__}, line {line})\n"
    assert capsys.readouterr().err == expected
