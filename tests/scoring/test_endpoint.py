"""A judge is a plug: an endpoint or a function; what it says is read, or counted as not read."""

import json
import math
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from scoring.judge_server import Server, serving
from support import Family

from vlmmerge import config
from vlmmerge.errors import ConfigError, EngineError
from vlmmerge.scoring import Bootstrap, TaskScore, check_judges
from vlmmerge.scoring.judge import Judge
from vlmmerge.scoring.rater import Rater, read_verdict
from vlmmerge.search.records import _score_row
from vlmmerge.tasks import Task, build_tasks
from vlmmerge.verbs.compare import compare, read
from vlmmerge.verbs.evaluate import Rescoring, evaluate

ANSWERS = ["cat", "{references} [[10]]", "鳥居", "dog"]
REFERENCES = [["a cat", "cat"], ["x"], ["鳥居"], ["cat"]]
QUESTIONS = ["What is it?", "{answer}?", "何ですか", "What?"]
PROMPT = "Q {question} R {references} A <{answer}> {low} {high}"


def verdict(prompt: str) -> str:
    """Rates by the answer's first letter; of a dog it says nothing."""
    answer = re.search(r"<(.*)>", prompt)
    assert answer
    return {"c": "Good. Rating: [[9]]", "{": '{"score": 2.5}', "鳥": "評価:7/10"}.get(
        answer[1][0], "I cannot say."
    )


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    with serving(verdict) as server:
        monkeypatch.setattr(config, "trusted", [*config.trusted, server.origin])
        yield server


def rater(server: Server, **changes: Any) -> Rater:
    options = {"url": server.url, "model": "m", "prompt": PROMPT, "pause": 0, **changes}
    return Rater.of(options, "tasks.t.judge")


def rate(judge: Rater, rows: slice = slice(None)) -> dict[str, Any]:
    return judge.compute(ANSWERS[rows], REFERENCES[rows], QUESTIONS[rows])


def test_an_endpoint_is_asked_and_its_verdicts_are_read(server: Server) -> None:
    found = rate(rater(server))
    assert found["per_example"][:3] == [9.0, 2.5, 7.0]
    assert math.isnan(found["per_example"][3])
    assert found["judge"] == pytest.approx(18.5 / 3)  # and not / 4
    assert found["unread"] == 0.25
    assert found["words"][3] == "I cannot say."
    assert sorted(server.prompts)[0] == "Q What is it? R a cat / cat A <cat> 1 10"
    assert "Q {answer}? R x A <{references} [[10]]> 1 10" in server.prompts
    request = server.requests[0]
    assert request["path"] == "/v1/chat/completions"
    assert (request["model"], request["temperature"], request["seed"]) == ("m", 0, 0)
    assert "Authorization" not in server.headers[0]


def test_the_key_and_further_settings_come_along(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_KEY", "hidden")
    request = {"temperature": None, "max_tokens": 7, "top_p": 0.5}
    rate(rater(server, api_key_env="MY_KEY", request=request), slice(1))
    assert server.headers[0]["Authorization"] == "Bearer hidden"
    sent = server.requests[0]
    assert "temperature" not in sent
    assert (sent["max_tokens"], sent["top_p"]) == (7, 0.5)


def test_the_own_prompt_asks_for_what_is_read(server: Server) -> None:
    server.verdict = lambda prompt: prompt.rpartition("\n")[2]
    options = {"url": server.url, "model": "m", "scale": [0, 5]}
    found = rate(Rater.of(options, "t"), slice(1))
    assert found["per_example"] == [5.0]
    assert "from 0 (wrong) to 5" in server.prompts[0]


def test_a_row_and_answer_are_asked_once(server: Server) -> None:
    judge = rater(server, concurrency=1)
    first = rate(judge)
    assert str(rate(judge)) == str(first)
    assert len(server.requests) == 4
    assert judge.compute(["cow"], REFERENCES[:1], QUESTIONS[:1])["judge"] == 9
    assert judge.compute(["cat", "cat"], REFERENCES[:1] * 2, QUESTIONS[:1] * 2)["judge"] == 9
    assert len(server.requests) == 5


def test_a_judge_of_whom_nothing_can_be_read_is_an_error(server: Server) -> None:
    with pytest.raises(EngineError, match=r"none of 1 verdicts could be read.*'I cannot say\.'"):
        rate(rater(server), slice(3, 4))
    server.verdict = lambda _: None
    with pytest.raises(EngineError, match="none of 2 verdicts"):
        rate(rater(server), slice(2))


def test_what_lies_outside_of_the_scale_is_no_verdict(server: Server) -> None:
    found = rate(rater(server, scale=[1, 8]), slice(3))
    assert math.isnan(found["per_example"][0])
    assert found["unread"] == pytest.approx(2 / 3)  # 7/10 is of another scale too


def test_a_busy_or_faulty_endpoint_is_asked_again(server: Server) -> None:
    server.failures = [(503, b"loading"), (429, b"too many")]
    assert rate(rater(server, concurrency=1), slice(1))["judge"] == 9
    assert len(server.requests) == 3
    server.failures = [(500, b"")] * 9
    with pytest.raises(EngineError, match=r"tasks.t.judge: http.*no answer \(500.*asked 3 times"):
        rate(rater(server, retries=2), slice(1))
    assert len(server.requests) == 6


@pytest.mark.parametrize(
    ("failure", "message"),
    [
        ((401, b'{"error": "no\nsuch key"}'), '401 Unauthorized: {"error": "no such key"}'),
        ((302, b""), "302 Found"),
        ((200, b"<html>hello</html>"), "not answer as an OpenAI-compatible endpoint: <html>hello"),
        ((200, b'{"choices": []}'), "not answer as"),
        ((200, b"[1]"), "not answer as"),
    ],
)
def test_other_faults_are_one_line_at_once(
    server: Server, failure: tuple[int, bytes], message: str
) -> None:
    server.failures = [failure]
    with pytest.raises(EngineError) as caught:
        rate(rater(server), slice(1))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(server.requests) == 1


def test_nobody_there_is_one_line(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(verdict) as gone:
        monkeypatch.setattr(config, "trusted", [gone.origin])
    with pytest.raises(EngineError, match=r"refused.*asked 2 times"):
        rate(rater(gone, retries=1), slice(1))


def test_only_what_the_command_line_names_is_asked(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(config, "trusted", ["vlmmerge.", "http://127.0.0.1:1", "127.0.0.1"])
    with pytest.raises(ConfigError, match=rf"trust=\[{server.origin}\]"):
        rater(server)
    with pytest.raises(ConfigError, match=r"trust=\[my_judges\.\]"):
        Rater.of({"callable": "my_judges.rate"}, "t")
    monkeypatch.setattr(config, "trusted", ["http://judge.example"])
    for url in ("http://judge.example.evil/v1", "https://judge.example", "http://judge.example:81"):
        with pytest.raises(ConfigError, match="trust="):
            Rater.of({"url": url, "model": "m"}, "t")
    Rater.of({"url": "http://judge.example:80/v1", "model": "m"}, "t")


@pytest.fixture
def judges(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    module = ModuleType("my_judges")
    monkeypatch.setitem(sys.modules, "my_judges", module)
    monkeypatch.setattr(config, "trusted", ["my_judges."])
    return module


def test_a_function_is_a_judge(judges: ModuleType) -> None:
    said: dict[str, Any] = {"cat": 4, "鳥居": "Score: 3.5", "dog": None}

    def opinion(question: str, answer: str, references: list[str]) -> object:
        assert question in QUESTIONS
        assert references in REFERENCES
        return said.get(answer, math.nan)

    judges.__dict__["rate"] = opinion
    found = rate(Rater.of({"callable": "my_judges.rate", "scale": [0, 5]}, "t"))
    assert str(found["per_example"]) == "[4.0, nan, 3.5, nan]"
    assert found["unread"] == 0.5


def test_a_function_that_fails_is_one_line(judges: ModuleType) -> None:
    def opinion(**_: object) -> object:
        raise ZeroDivisionError("too\nfew")

    judges.__dict__.update(rate=opinion, five=5)
    with pytest.raises(EngineError, match=r"t: the judge failed \(ZeroDivisionError: too few\)"):
        rate(Rater.of({"callable": "my_judges.rate"}, "t"))
    with pytest.raises(ConfigError, match="cannot be called"):
        Rater.of({"callable": "my_judges.five"}, "t")
    with pytest.raises(ConfigError, match="cannot be imported"):
        Rater.of({"callable": "my_judges.none"}, "t")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scale": [10, 1]}, "scale"),
        ({"scale": 10}, "scale"),
        ({"concurrency": 0}, "concurrency"),
        ({"prompt": "{question}"}, r"shows no {answer}"),
        ({"prompt": "{answer} {gold}"}, r"knows no {gold}"),
        ({"prompt": 5}, "is no text"),
        ({"model": None}, "needs a url and a model"),
        ({"url": "file:///etc/passwd"}, "not an http address"),
        ({"api_key_env": "NOT_THERE_AT_ALL"}, "NOT_THERE_AT_ALL"),
        ({"timeout": 0}, "seconds"),
        ({"retries": -1}, "retries"),
        ({"request": 1}, "no mapping"),
        ({"temprature": 1}, "temprature"),
    ],
)
def test_settings_that_cannot_work_are_refused(
    server: Server, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        rater(server, **options)
    assert not server.requests


@pytest.mark.parametrize(
    ("words", "score"),
    [
        ("Rating: [[7]]", 7),
        ("First [[3]], then better: [[ 8.5 ]]", 8.5),
        ("[[7/10]]", 7),
        ('```json\n{"score": 6, "why": "2 errors"}\n```', 6),
        ("{'rating': '4'}", 4),
        ("It names 2 of 3. **Score:** 9/10", 9),
        ("Score: 5\nRating = 6", 6),
        ("評価:8", 8),
        ("採点は【7】ではなく、点数は 6", 6),
        (" 7. ", 7),
        ("10", 10),
        ("7/10", 7),
        ("7/100", None),
        ("Score: 70/100", None),
        ("Score: 7-8", None),
        ("I would say 7", None),
        ("Score: high", None),
        ("", None),
        ("[[seven]]", None),
        ("Score: 1.2.3", None),
        ("9" * 50, None),
    ],
)
def test_verdicts_as_judges_write_them(words: str, score: float | None) -> None:
    assert read_verdict(words, 10) == score


def judged_task(server: Server, folder: Path, metric: str = "judge", **changes: Any) -> Task:
    rows = [
        {"question": question, "answers": targets}
        for question, targets in zip(QUESTIONS, REFERENCES, strict=True)
    ]
    (folder / "holdout.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    described = {
        "dataset": {"path": str(folder)},
        "columns": {"references": "answers"},
        "prompt": "{question}",
        "metric": metric,
        "metric_options": {
            "judge": {"url": server.url, "model": "m", "prompt": PROMPT, "concurrency": 1}
        },
        **changes,
    }
    task = build_tasks({"t": described})["t"]
    assert isinstance(task, Task)
    return task


def test_a_task_is_judged_and_what_was_not_read_stands_beside_it(
    server: Server, tmp_path: Path, family: Family
) -> None:
    task = judged_task(server, tmp_path, metrics=("exact_match",))
    check_judges([task])
    assert not server.requests
    said = iter(["[[4]]", "?", "[[8]]", "[[6]]"])
    server.verdict = lambda _: next(said)
    result = evaluate(family.donor, {"t": task}, output=tmp_path / "out")["t"]
    assert result["mean"] == result["metrics"]["judge"] == 6.0
    assert result["metrics"]["judge_unread"] == 0.25
    assert (result["n"], result["metric"]) == (3, "judge")
    assert 4 <= result["low"] < 6 < result["high"] <= 8
    assert result["stderr"] == pytest.approx(math.sqrt(4 / 3))
    assert json.loads((tmp_path / "out" / "results.json").read_text())["t"] == result
    lines = (tmp_path / "out" / "samples.jsonl").read_text(encoding="utf-8").splitlines()
    samples = [json.loads(line) for line in lines]
    assert [sample["score"] for sample in samples] == [4.0, None, 8.0, 6.0]
    assert [sample["judge"] for sample in samples] == ["[[4]]", "?", "[[8]]", "[[6]]"]
    assert "NaN" not in "".join(lines)
    asked = [prompt.partition(" R ")[0] for prompt in server.prompts]
    assert asked == [f"Q {sample['prompt']}" for sample in samples]

    # Saved answers are judged again without a model, and two runs meet where both have scores.
    said = iter(["?", "[[5]]", "[[9]]", "[[6]]"])
    again = Rescoring(tmp_path / "out", {"t": task}, "holdout")
    (tmp_path / "again").mkdir()
    assert again.run(tmp_path / "again")["t"]["mean"] == pytest.approx(20 / 3)
    found = compare(read(tmp_path / "out"), read(tmp_path / "again"), 0)["t"]
    assert (found["diff"], found["n"]) == (0.5, 2)


def test_a_judge_beside_another_metric(server: Server, tmp_path: Path) -> None:
    task = judged_task(server, tmp_path, "exact_match", metrics=("judge",))
    check_judges([task])
    verdict = Judge(task, REFERENCES).score(ANSWERS, REFERENCES, questions=QUESTIONS)
    assert verdict.per_example == (1.0, 0.0, 1.0, 0.0)
    assert verdict.metrics["judge"] == pytest.approx(18.5 / 3)
    assert verdict.metrics["judge_unread"] == 0.25
    asked = len(server.requests)
    Judge(task, REFERENCES).score(ANSWERS, REFERENCES, further=False, questions=QUESTIONS)
    assert len(server.requests) == asked


def test_a_task_whose_judge_cannot_be_asked_is_refused(server: Server, tmp_path: Path) -> None:
    task = judged_task(server, tmp_path, metric_options={"judge": {"url": server.url}})
    with pytest.raises(ConfigError, match=r"tasks\.t\.judge\.model"):
        check_judges([task])


def test_rows_without_a_score_are_left_out_of_resamples_and_journals() -> None:
    units = {"t": [f"u{i}" for i in range(40)]}
    scores = [float(i % 7) for i in range(40)]
    plain, holed = Bootstrap(units), [None if i % 4 == 0 else v for i, v in enumerate(scores)]
    means = plain.means("t", holed)
    rest = [value for value in holed if value is not None]
    assert means.mean() == pytest.approx(sum(rest) / len(rest), abs=0.05)
    assert 0.5 < means.std() / plain.means("t", scores).std() < 2
    assert Bootstrap({"t": ["a", "b"]}).means("t", [None, 3.0]).tolist() == [3.0] * 2000

    score = TaskScore("judge", (1.0, math.nan), ("a", "b"), 0.0, 0.0, 0.0, {"judge": 1.0})
    row = _score_row(score, keep_rows=True, keep_answers=True)
    assert row["per_example"] == [1.0, None]
    assert (row["mean"], row["n"]) == (1.0, 1)
    json.dumps(row, allow_nan=False)
