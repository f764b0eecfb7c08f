"""Each mistake has an answer of its own, and each failure ends no more than it must."""

import signal
import threading

import pytest

from tests.serve import toy
from tests.serve.toy import ASK

pytestmark = pytest.mark.usefixtures("quick_compile")
WRONG = [
    ("completions", {"temperature": "hot"}, "temperature", "is 'hot'"),
    ("completions", {"temperature": 2.5}, "temperature", "less than or equal to 2"),
    ("completions", {"temperature": 1e-9}, "temperature", "must be 0 (greedy) or"),
    ("completions", {"top_p": 0}, "top_p", "greater than 0"),
    ("completions", {"min_p": 2}, "min_p", "less than or equal to 1"),
    ("completions", {"top_k": -2}, "top_k", "greater than or equal to 0"),
    ("completions", {"max_tokens": 0}, "max_tokens", "greater than or equal to 1"),
    ("completions", {"max_tokens": 64}, "max_tokens", "there is room for"),
    ("completions", {"prompt": "the cat " * 60}, "prompt", "shorten it to 63"),
    ("completions", {"prompt": []}, "prompt", "give at least one"),
    ("completions", {"prompt": [1, 10**6]}, "prompt", "outside the vocabulary"),
    ("completions", {"prompt": {"a": 1}}, "prompt", "should be a valid"),
    ("completions", {"prompt": None}, "prompt", "is missing"),
    ("completions", {"tempratur": 1}, "tempratur", "did you mean temperature?"),
    ("completions", {"best_of": 4}, "best_of", "is not honoured by this server"),
    ("completions", {"n": 0}, "n", "greater than or equal to 1"),
    ("completions", {"n": 100}, "n", "there are 68 places"),
    ("completions", {"stop": [""]}, "stop", "at least 1 character"),
    ("completions", {"logprobs": 21}, "logprobs", "less than or equal to 20"),
    ("completions", {"logit_bias": {"x": 1}}, "logit_bias", "an id of a token"),
    ("completions", {"logit_bias": {"1": 101}}, "logit_bias.1", "equal to 100"),
    ("completions", {"stream_options": {}}, "stream_options", "stream is not true"),
    (
        "completions",
        {"structured_outputs": {"regex": "(", "choice": ["a"]}},
        "structured_outputs",
        "exactly one of",
    ),
    (
        "completions",
        {"structured_outputs": {"regex": "(a"}},
        "structured_outputs.regex",
        "regex '(a'",
    ),
    (
        "completions",
        {"structured_outputs": {"json": {"type": "strin"}}},
        "structured_outputs.json",
        "strin",
    ),
    (
        "completions",
        {"response_format": {"type": "xml"}},
        "response_format.type",
        "xml",
    ),
    ("chat/completions", {"messages": []}, "messages", "at least 1 item"),
    (
        "chat/completions",
        {"messages": [{"role": "tool", "content": "a"}]},
        "messages.0.role",
        "'system', 'user' or 'assistant'",
    ),
    (
        "chat/completions",
        {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
        "messages.0.content",
        "",
    ),
    ("chat/completions", {"tools": [{"type": "function"}]}, "tools", "not honoured"),
    ("chat/completions", {"top_logprobs": 3}, "top_logprobs", "logprobs is not true"),
]


@pytest.mark.parametrize(("route", "body", "param", "message"), WRONG)
def test_a_wrong_body_is_refused_by_the_name_of_its_field(
    server, route, body, param, message
):
    start = {"prompt": "the"}
    if route.startswith("chat"):
        start = {"messages": [{"role": "user", "content": "the"}]}
    got = server.post(f"/v1/{route}", **start | body)
    error = got.json()["error"]
    assert got.status_code == 400, error
    assert message in error["message"], error
    assert error["type"] == "invalid_request_error"
    assert error["param"].startswith(param) and param in error["message"]


def test_what_is_no_body_at_all(server):
    for content, message in [
        (b'{"model": ', "is no JSON"),
        (b"[1]", "must be a JSON object"),
        (b'{"model": "toy", "prompt": "a", "top_p": NaN}', "top_p is nan"),
        (b"\xff\xfe", ""),
    ]:
        got = server.client.post(
            "/v1/completions",
            content=content,
            headers={"Content-Type": "application/json"},
        )
        assert got.status_code == 400 and message in got.json()["error"]["message"]
    got = server.client.get("/v1/completions")
    assert got.status_code == 405 and "error" in got.json()
    got = server.client.get("/nothing")
    assert got.status_code == 404 and "/nothing" in got.json()["error"]["message"]


def test_a_full_server_says_when_to_come_again_and_a_closing_one_ends_whole():
    hold = threading.Event()

    def make():
        engine = toy.make_engine()
        turn = engine.turn

        def slow():
            hold.wait(60)
            return turn()

        engine.turn = slow
        return engine

    with toy.running(make=make, waiting=1, keys=["secret"], max_bytes=5000) as server:
        post = server.client.post("/v1/completions", json={"model": "toy"} | ASK)
        assert post.status_code == 401 and post.json()["error"]["param"] is None
        server.client.headers["Authorization"] = "Bearer secret"
        assert server.post("/v1/completions", prompt="a" * 6000).status_code == 413
        chunks = server.client.post(
            "/v1/completions",
            content=iter([b"a" * 3000] * 2),  # no length is told
            headers={"Content-Type": "application/json"},
        )
        assert chunks.status_code == 413 and "5000 bytes" in chunks.text
        assert server.client.get("/health").status_code == 200
        found = []
        asking = threading.Thread(
            target=lambda: found.append(server.post("/v1/completions", **ASK, n=5))
        )
        asking.start()
        server.until(lambda: server.worker.open == 5)
        full = server.post("/v1/completions", **ASK)
        assert full.status_code == 429 and 1 <= int(full.headers["Retry-After"]) <= 60
        server.server.handle_exit(signal.SIGTERM, None)
        closing = server.post("/v1/completions", **ASK)
        assert closing.status_code == 503 and "is closing" in closing.text
        assert closing.headers["connection"] == "close"
        assert server.client.get("/health/ready").status_code == 503
        assert server.client.get("/health/live").status_code == 200
        hold.set()
        server.thread.join(60)
        asking.join(60)
        assert not server.thread.is_alive()
        assert found[0].status_code == 200 and len(found[0].json()["choices"]) == 5


def test_an_engine_that_fails_is_made_anew_and_one_that_cannot_be_is_told():
    made = []

    def make():
        engine = toy.make_engine()
        if len(made) == 2:
            raise MemoryError("no room")
        made.append(engine)
        turn = engine.turn

        def fails():
            engine.turn = turn
            raise RuntimeError("the device is gone")

        engine.turn = fails
        return engine

    with toy.running(make=make) as server:
        failed = server.post("/v1/completions", **ASK)
        assert failed.status_code == 500 and "failed in the engine" in failed.text
        server.until(lambda: server.worker.ready)
        streamed = server.post("/v1/completions", **ASK, stream=True).text
        assert "failed in the engine" in streamed and streamed.endswith("[DONE]\n\n")
        server.until(lambda: server.worker.dead)
        assert server.client.get("/health/live").status_code == 503
        gone = server.post("/v1/completions", **ASK)
        assert gone.status_code == 503 and "MemoryError: no room" in gone.text
