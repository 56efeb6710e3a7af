"""The judge against a small local server: healthy, down, slow, talking nonsense, failing midway, resumed."""

import json
import math
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import polars as pl
import pytest
from local_endpoint import Server
from tiny_checkpoints import save_gpt2

from rlrec import judge as command
from rlrec.asking import Endpoint, LocalModel, NoAnswer
from rlrec.evaluation.judge import (
    DIMENSIONS,
    KEY_VARIABLE,
    judge,
    judge_prompt,
    parse_marks,
)

MARKS = {"trend_accuracy": 1, "metadata_faithfulness": 0.5, "predictive_consistency": 0.25, "reasoning_coherence": 0}


def marks(**changes):
    return json.dumps(MARKS | changes)


def explanations(count=3):
    return pl.DataFrame(
        {
            "description": [f"Film {n} {{with braces}}" for n in range(count)],
            "history": pl.Series([[n, 5, 7] for n in range(count)], dtype=pl.List(pl.Int32)),
            "window_start": [1_412_121_600] * count,  # 2014-10-01
            "popularity": [9] * count,
            "score": [8.5] * count,
            "explanation": [f"It rose to 7, number {n}." for n in range(count)],
        }
    )


def run(frame, url, cache=None, **arguments):
    defaults = {"attempts": 2, "backoff": 0.01, "workers": 2, "progress": False}
    timeout = arguments.pop("timeout", 5)
    return judge(
        frame, Endpoint(url, "m", timeout=timeout, key_variable=KEY_VARIABLE), cache, **(defaults | arguments)
    )


def test_the_prompt_has_every_field():
    row = explanations().with_columns(score=pl.lit(None, pl.Float64)).row(1, named=True)
    prompt = judge_prompt(row)
    assert "<ItemDescription>Film 1 {with braces}</ItemDescription>" in prompt
    assert "<PopularityHistory>2014-07: 1, 2014-08: 5, 2014-09: 7</PopularityHistory>" in prompt
    assert "<InferenceTimestamp>2014-10-01</InferenceTimestamp>" in prompt
    assert "<GroundTruthScore>9</GroundTruthScore>\n<PredictedScore>missing</PredictedScore>" in prompt
    assert "<Explanation>It rose to 7, number 1.</Explanation>" in prompt
    assert "No historical popularity trend." in judge_prompt(row | {"history": []})
    with pytest.raises(NoAnswer, match="nonsense"):
        parse_marks(prompt)  # a model that repeats its prompt gives no marks


def test_marks_are_found_and_read():
    nested = {name: {"score": str(value), "comment": "{hm}"} for name, value in MARKS.items()}
    for answer in (marks(), f"```json\n{marks(comment='a')}\n```", "{oh} " + json.dumps(nested)):
        assert parse_marks(answer) == MARKS
    assert parse_marks('{"Trend Accuracy": 1, "metadata-faithfulness": 0.5, "3. predictive_consistency": 0.25, '
                       '"REASONING_COHERENCE": 0.0}') == MARKS  # fmt: skip


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("", "nonsense"),
        ("I would say 0.9.", "nonsense"),
        ("[1, 1, 1, 1]", "nonsense"),
        ("{" * 5000, "nonsense"),
        (json.dumps(dict.fromkeys(DIMENSIONS[:3], 1)), "nonsense"),
        (marks(trend_accuracy=None), "nonsense"),
        (marks(trend_accuracy=True), "nonsense"),
        (marks(trend_accuracy="good"), "nonsense"),
        (marks(trend_accuracy=1.1), "out of range"),
        (marks(trend_accuracy=-1), "out of range"),
        (marks(trend_accuracy=8), "out of range"),
        (marks(trend_accuracy=math.nan), "out of range"),
    ],
)
def test_what_is_no_mark(answer, reason):
    with pytest.raises(NoAnswer, match=reason):
        parse_marks(answer)


def test_a_healthy_endpoint(monkeypatch):
    monkeypatch.setenv(KEY_VARIABLE, "secret")
    with Server(lambda number, body: marks()) as server:
        judged, summary = run(explanations(), server.url)
    assert judged.select(DIMENSIONS).rows() == [tuple(MARKS.values())] * 3
    assert judged["judge_problem"].to_list() == [None] * 3
    assert summary == {"judge": "m", "rows": 3, "judged": 3, "missing": 0, "problems": {}} | MARKS
    assert set(server.paths) == {"/v1/chat/completions"}
    assert {headers["Authorization"] for headers in server.headers} == {"Bearer secret"}
    assert {(body["model"], body["temperature"]) for body in server.bodies} == {("m", 0.0)}
    asked = {body["messages"][0]["content"] for body in server.bodies}
    assert asked == {judge_prompt(row) for row in explanations().iter_rows(named=True)}


def test_an_endpoint_that_is_down():
    server = Server(None)
    server.server.server_close()
    judged, summary = run(explanations(), server.url)
    assert summary["problems"] == {"no connection": 3}
    assert summary["trend_accuracy"] is None
    assert judged["trend_accuracy"].to_list() == [None] * 3


def test_the_rest_is_not_asked_when_nobody_answers():
    with Server(lambda number, body: (401, "no")) as server:
        _, summary = run(explanations(12), server.url, workers=1, give_up_after=3)
    assert summary["problems"].keys() == {"HTTP 401", "gave up"}  # 401 is not asked again
    assert summary["missing"] == 12
    assert len(server.bodies) == summary["problems"]["HTTP 401"] < 12


def test_a_slow_endpoint():
    release = threading.Event()
    with Server(lambda number, body: release.wait(5) and marks()) as server:
        start = time.perf_counter()
        _, summary = run(explanations(1), server.url, timeout=0.1)
        assert time.perf_counter() - start < 2
        release.set()
    assert summary["problems"] == {"timeout": 1}
    assert len(server.bodies) == 2


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        ("Very good indeed!", "nonsense"),
        (marks(reasoning_coherence=7), "out of range"),
        ((200, "<html>"), "nonsense"),
        ((200, '{"choices": []}'), "nonsense"),
        ((200, '{"choices": [{"message": {"content": null}}]}'), "nonsense"),
        ((500, "oh"), "HTTP 500"),
        ((429, "slower"), "HTTP 429"),
        (None, "connection lost"),
    ],
)
def test_what_goes_wrong_is_retried_then_missing(reply, reason):
    with Server(lambda number, body: reply) as server:
        judged, summary = run(explanations(1), server.url, attempts=3)
    assert summary["problems"] == {reason: 1}
    assert judged["reasoning_coherence"].to_list() == [None]
    assert [body["temperature"] for body in server.bodies] == [0, 0.7, 0.7]


def test_a_retry_can_help_and_waits_as_long_as_it_is_told():
    replies = [(429, "", {"Retry-After": "1"}), "hm", marks()]
    with Server(lambda number, body: replies[number]) as server:
        start = time.perf_counter()
        _, summary = run(explanations(1), server.url, attempts=3)
    assert summary["judged"] == 1
    assert time.perf_counter() - start >= 1


def test_the_key_does_not_follow_a_redirect(monkeypatch):
    monkeypatch.setenv(KEY_VARIABLE, "secret")
    seen = []

    class Other(BaseHTTPRequestHandler):
        def do_GET(self):
            seen.append(dict(self.headers))
            self.send_error(404)

        def log_message(self, *arguments):
            pass

    other = ThreadingHTTPServer(("127.0.0.1", 0), Other)
    threading.Thread(target=other.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    with Server(lambda number, body: (302, "", {"Location": f"http://127.0.0.1:{other.server_port}/"})) as server:
        _, summary = run(explanations(1), server.url)
    other.shutdown()
    other.server_close()
    assert summary["missing"] == 1
    assert seen
    assert "Authorization" not in seen[0]


def test_failing_midway_and_resumed(tmp_path, monkeypatch):
    monkeypatch.setenv(KEY_VARIABLE, "secret")
    cache = tmp_path / "answers" / "judge.jsonl"
    frame = explanations(6)
    with Server(lambda number, body: marks() if number < 2 else (503, "")) as server:
        _, first = run(frame, server.url, cache, attempts=1, workers=1)
    assert (first["judged"], first["problems"]) == (2, {"HTTP 503": 4})
    with cache.open("a") as file:  # killed in the middle of a line
        file.write('{"key": "abc", "mar')
    with Server(lambda number, body: marks(trend_accuracy=0)) as server:
        judged, second = run(frame, server.url, cache)
        assert len(server.bodies) == 4
        again, third = run(frame, server.url, cache)
        assert len(server.bodies) == 4
    assert second["judged"] == 6
    assert judged["trend_accuracy"].to_list() == [1, 1, 0, 0, 0, 0]
    assert second["trend_accuracy"] == pytest.approx(1 / 3)
    assert again.equals(judged)
    assert third == second
    assert len(cache.read_text().splitlines()) == 6
    assert "secret" not in cache.read_text()
    with Server(lambda number, body: marks()) as server:  # another judge has its own answers
        judge(frame, Endpoint(server.url, "other"), cache, workers=1, progress=False)
        assert len(server.bodies) == 6


def test_a_spoilt_cache_is_named(tmp_path):
    cache = tmp_path / "judge.jsonl"
    cache.write_text('{"key": "a", "marks": {"trend_accuracy": 1}}\n')
    with pytest.raises(ValueError, match=r"judge.jsonl, line 1 is no answer"):
        judge(explanations(1), lambda prompt, attempt: marks(), cache, name="f", progress=False)


def test_rows_without_explanation_are_missing_and_equal_rows_asked_once():
    frame = pl.concat([explanations(1), explanations(1), explanations(1).with_columns(explanation=pl.lit(" "))])
    asked = []

    def ask(prompt, attempt):
        asked.append(prompt)
        return marks()

    judged, summary = judge(frame, ask, name="f", progress=False)
    assert len(asked) == 1
    assert summary["problems"] == {"no explanation": 1}
    assert judged["trend_accuracy"].to_list() == [1, 1, None]


def test_errors_of_the_code_itself_are_raised():
    def ask(prompt, attempt):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        judge(explanations(3), ask, name="f", progress=False)
    with pytest.raises(ValueError, match="no column score"):
        judge(explanations().drop("score"), ask, name="f")
    with pytest.raises(ValueError, match="attempts is 0"):
        judge(explanations(), ask, name="f", attempts=0)
    for url in ("localhost:8000/v1", "file:///etc/passwd", "http://"):
        with pytest.raises(ValueError, match="give an address"):
            Endpoint(url, "m")


def test_a_local_model(tmp_path):
    folder = save_gpt2(tmp_path / "gpt2")
    ask = LocalModel(folder, max_new_tokens=4)
    assert isinstance(ask("the pool is nice", 0), str)
    assert ask("the pool is nice", 0) == ask("the pool is nice", 0)
    _, summary = judge(explanations(1), ask, workers=1, attempts=1, progress=False)
    assert summary["problems"].keys() <= {"nonsense", "prompt too long"}
    assert summary["missing"] == 1
    with pytest.raises(FileNotFoundError, match="no folder"):
        LocalModel(tmp_path / "none")


def test_the_command(tmp_path, capsys):
    explanations(4).write_parquet(tmp_path / "explanations.parquet")
    with Server(lambda number, body: marks() if number else "hm") as server:
        arguments = [str(tmp_path), "--endpoint", server.url, "--model", "m", "--attempts", "1", "--workers", "1"]
        command.main(arguments)
        assert "3 of 4 rows judged; missing (nonsense: 1)" in capsys.readouterr().out
        command.main(arguments)
        assert len(server.bodies) == 5
    summary = json.loads((tmp_path / "judge.json").read_text())
    assert (summary["judged"], summary["metadata_faithfulness"]) == (4, 0.5)
    assert pl.read_parquet(tmp_path / "judged.parquet")["judge_problem"].null_count() == 4
    with pytest.raises(SystemExit):
        command.main([str(tmp_path), "--endpoint", server.url])
    assert "give --endpoint with --model" in capsys.readouterr().err
