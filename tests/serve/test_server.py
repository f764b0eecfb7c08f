"""The server answers what its engine writes."""

import asyncio
import functools
import json
import logging
import re
import time

import httpx2
import jsonschema
import numpy as np
import openai
import pytest

from llmjax.infer.engine.penalties import Penalties
from llmjax.infer.engine.request import Event, Request, Token
from llmjax.infer.sampling import Sampling
from llmjax.serve.worker import Worker
from tests.serve import toy
from tests.serve.toy import ASK

pytestmark = pytest.mark.usefixtures("quick_compile")
HOT = {"temperature": 1.3, "top_k": 40, "top_p": 0.9, "seed": 7, "max_tokens": 12}


@pytest.fixture(scope="module")
def client(server):
    http = openai.DefaultHttpxClient(trust_env=False)
    url = f"{server.url}/v1"
    return openai.OpenAI(base_url=url, api_key="-", http_client=http, max_retries=0)


@functools.cache
def engine():
    return toy.make_engine()


def written(prompts, number=1, **fields):
    """What the engine alone writes: answers of each prompt."""
    ids = [p if isinstance(p, np.ndarray) else toy.served().encode(p) for p in prompts]
    stops = (toy.tokenizer().eos_id,)
    return engine().run(
        [
            Request(p, 12, Sampling(1.3, 40, 0.9), stops, seed=7, number=n, **fields)
            for p in ids
            for n in range(number)
        ]
    )


def events(text):
    lines = [line.removeprefix("data: ") for line in text.split("\n\n") if line]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


def test_a_completion_is_what_the_engine_writes(server):
    prompts = ["the cat", 'sat; {"name"']
    answers = written(prompts, 2, top=True)
    texts = [toy.tokenizer().stream(goes_on=True) for _ in answers]
    texts = [
        "".join(map(stream.add, answer.ids.tolist())) + stream.end()
        for stream, answer in zip(texts, answers, strict=True)
    ]
    body = {"prompt": prompts, "n": 2, "logprobs": 2, **HOT}
    got = server.post("/v1/completions", **body).json()
    assert [c["text"] for c in got["choices"]] == texts
    reasons = [a.finished for a in answers]
    assert [c["finish_reason"] for c in got["choices"]] == reasons
    for choice, answer in zip(got["choices"], answers, strict=True):
        told, tokens = choice["logprobs"], answer.tokens
        log_p = [t.log_p for t in tokens]
        np.testing.assert_allclose(told["token_logprobs"], log_p, atol=1e-4)
        assert told["text_offset"] == sorted(told["text_offset"])
        assert all(2 <= len(top) <= 3 for top in told["top_logprobs"])
    lengths = [len(toy.served().encode(p)) for p in prompts]
    drawn = sum(len(a.tokens) for a in answers)
    assert got["usage"]["prompt_tokens"] == sum(lengths)
    assert got["usage"]["completion_tokens"] == drawn
    streamed = server.post(
        "/v1/completions",
        **body,
        stream=True,
        stream_options={"include_usage": True},
    )
    assert streamed.headers["content-type"].startswith("text/event-stream")
    *pieces, last = events(streamed.text)
    joined = [""] * 4
    for piece in pieces:
        (choice,) = piece["choices"]
        joined[choice["index"]] += choice["text"]
    assert joined == texts and last["choices"] == []
    assert last["usage"]["total_tokens"] == sum(lengths) + drawn


def test_ids_are_prompts_too_and_penalties_weigh(server):
    ids = toy.served().encode("the cat")
    weighs = Penalties(1.2, 0.5, 0.25, ((5, -100.0),))
    (answer,) = written([ids], penalties=weighs)
    got = server.post(
        "/v1/completions",
        prompt=ids.tolist(),
        repetition_penalty=1.2,
        frequency_penalty=0.5,
        presence_penalty=0.25,
        logit_bias={"5": -100},
        **HOT,
    ).json()
    assert got["choices"][0]["text"] == toy.tokenizer().decode(answer.ids)
    assert (
        got["choices"][0]["text"]
        != server.post("/v1/completions", prompt=ids.tolist(), **HOT).json()["choices"][
            0
        ]["text"]
    )


def test_the_official_client_chats(client):
    messages = [
        {"role": "system", "content": "say yes"},
        {"role": "user", "content": [{"type": "text", "text": "the cat <eos>"}]},
    ]
    sampled = {"temperature": 1.3, "top_p": 0.9, "seed": 7, "max_tokens": 12}
    ask = functools.partial(
        client.chat.completions.create,
        model="toy",
        messages=messages,
        extra_body={"top_k": 40},
        logprobs=True,
        top_logprobs=3,
        **sampled,
    )
    whole = ask()
    text = "<bos>system: say yes<eos><bos>user: the cat "
    encode, plain = toy.tokenizer().encode, toy.tokenizer().encode
    ids = [
        *encode(text, parse_specials=True).tolist(),
        *plain("<eos>").tolist(),
        *encode("<eos><bos>assistant:", parse_specials=True).tolist(),
    ]
    assert ids.count(toy.tokenizer().eos_id) == 2  # what a user spells is text
    (answer,) = written([np.array(ids, np.int32)], top=True)
    (choice,) = whole.choices
    assert choice.message.content == toy.tokenizer().decode(answer.ids)
    assert choice.finish_reason == answer.finished
    assert whole.usage.prompt_tokens == len(ids)
    for token, told in zip(answer.tokens, choice.logprobs.content, strict=True):
        assert abs(token.log_p - told.logprob) < 1e-4
        assert bytes(told.bytes) == toy.tokenizer().spelling(token.id)
        assert len(told.top_logprobs) == 3
    stream = ask(stream=True, stream_options={"include_usage": True})
    chunks = [*stream]
    deltas = [c.choices[0].delta for c in chunks if c.choices]
    assert deltas[0].role == "assistant"
    assert "".join(d.content or "" for d in deltas) == choice.message.content
    assert (
        chunks[-1].usage.prompt_tokens_details.cached_tokens
        == (len(ids) - 1) // 16 * 16
    )
    assert [m.id for m in client.models.list()] == ["toy"]
    assert client.models.retrieve("toy").id == "toy"
    with pytest.raises(openai.NotFoundError, match="ask for 'toy'"):
        ask(model="gpt-4")
    got = client.post("/../tokenize", body={"messages": messages[:1]}, cast_to=object)
    assert got["count"] == len(got["tokens"]) > 0


def test_stop_strings_lie_across_tokens(server):
    text = server.post("/v1/completions", prompt="the cat", **HOT).json()
    text = text["choices"][0]["text"]
    for stop in {text[3:6], text[-4:-1]}:
        body = {"prompt": "the cat", "stop": ["never said", stop], **HOT}
        (choice,) = server.post("/v1/completions", **body).json()["choices"]
        assert choice["text"] == text[: text.index(stop)]
        assert choice["finish_reason"] == "stop"
        streamed = server.post("/v1/completions", **body, stream=True).text
        pieces = [e["choices"][0] for e in events(streamed)]
        assert "".join(p["text"] for p in pieces) == choice["text"]
        assert pieces[-1]["finish_reason"] == "stop"
    server.until(lambda: server.worker.open == 0)


def test_texts_of_a_form(server):
    schema = {
        "type": "object",
        "properties": {"a": {"type": "integer", "maximum": 9}},
        "required": ["a"],
        "additionalProperties": False,
    }
    body = {"messages": [{"role": "user", "content": "a"}], "max_tokens": 40, "seed": 1}

    def text(**form):
        got = server.post("/v1/chat/completions", **body, **form).json()
        assert got["choices"][0]["finish_reason"] == "stop", got
        return got["choices"][0]["message"]["content"]

    asked = {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}
    jsonschema.validate(json.loads(text(response_format=asked)), schema)
    own = {"structured_outputs": {"choice": ["yes", "no"]}}
    assert text(**own) in ("yes", "no")
    assert re.fullmatch("[ab]{3}", text(structured_outputs={"regex": "[ab]{3}"}))
    lark = {"grammar": 'start: "x" | "y"'}
    assert text(structured_outputs=lark) in ("x", "y")


def test_nothing_is_told_after_a_stop_string():
    """Also of what was on its way already."""

    async def told():
        worker = Worker(toy.make_engine, 1, 1)
        call, numbers = worker.submit([Request([1], 1)] * 2), []
        for number in (0, 0, 1):
            call.tell(number, Event(0, (Token(1, 0.0),)))
        call.tell(1, Event(0, finished="length"))
        async for number, _ in call.events():
            numbers.append(number)
            if number == 0:
                call.cancel(0)
        assert worker.open == 0
        return numbers

    assert asyncio.run(told()) == [0, 1, 1]


def test_fifty_at_once_are_all_answered(server):
    """Of all kinds; each is what it is alone."""
    alone = [
        server.post("/v1/completions", **ASK | {"seed": 1}).json(),
        server.post("/v1/completions", **ASK | {"prompt": "sat", "n": 2}).json(),
    ]

    async def all_of_them():
        async with httpx2.AsyncClient(
            base_url=server.url, trust_env=False, timeout=120
        ) as http:

            def post(i):
                body = {"model": "toy", **ASK}
                kind = i % 5
                if kind == 0:
                    body["seed"] = 1
                elif kind == 1:
                    body |= {"prompt": "sat", "n": 2}
                elif kind == 2:
                    body |= {"stream": True}
                elif kind == 3:
                    body |= {"temperature": "hot"}
                else:
                    body |= {"structured_outputs": {"choice": ["yes", "no"]}}
                return http.post("/v1/completions", json=body)

            return await asyncio.gather(*map(post, range(50)))

    answers = asyncio.run(all_of_them())
    for i, answer in enumerate(answers):
        kind = i % 5
        assert answer.status_code == (400 if kind == 3 else 200), answer.text
        if kind < 2:
            texts = [c["text"] for c in answer.json()["choices"]]
            assert texts == [c["text"] for c in alone[kind]["choices"]]
        elif kind == 2:
            text = "".join(e["choices"][0]["text"] for e in events(answer.text))
            assert text == alone[0]["choices"][0]["text"]
        elif kind == 4:
            assert answer.json()["choices"][0]["text"] in ("yes", "no")
    assert server.worker.open == 0


def slow_engine():
    engine = toy.make_engine()
    turn = engine.turn

    def slow():
        time.sleep(0.03)
        return turn()

    engine.turn = slow
    return engine


def test_clients_that_vanish_free_their_pages():
    """Long before their texts would have ended."""
    body = {"model": "toy", "prompt": "the", "max_tokens": 60, "temperature": 0}
    body |= {"logit_bias": {str(toy.tokenizer().eos_id): -100}}

    async def vanish(url, stream):
        async with httpx2.AsyncClient(base_url=url, trust_env=False) as http:
            if not stream:
                with pytest.raises(httpx2.TimeoutException):
                    await http.post("/v1/completions", json=body, timeout=0.2)
                return
            path, asked = "/v1/completions", body | {"stream": True}
            async with http.stream("POST", path, json=asked, timeout=120) as answer:
                async for _ in answer.aiter_lines():
                    return

    async def all_of_them(url):
        await asyncio.gather(*(vanish(url, i % 2) for i in range(12)))

    with toy.running(make=slow_engine) as server:
        asyncio.run(all_of_them(server.url))
        server.until(lambda: server.worker.open == 0)
        server.until(lambda: not server.worker.engine.busy)
        assert server.worker.engine.free_pages == toy.ROOM.rows * toy.ROOM.most
        assert server.worker.engine.counts["drawn"] < 12 * 60 / 2


def test_the_page_asks_no_other_host(server):
    page = server.client.get("/")
    assert page.status_code == 200 and "<title>llmjax</title>" in page.text
    assert not re.search(r"https?:|src=|@import|innerHTML", page.text)
    assert "default-src 'none'" in page.headers["content-security-policy"]


def test_the_log_and_the_metrics_hold_no_text(server, caplog):
    with caplog.at_level(logging.INFO, "llmjax.serve.requests"):
        server.post("/v1/completions", **ASK)
        until = time.monotonic() + 20  # it is written behind the answer
        while not caplog.messages and time.monotonic() < until:
            time.sleep(0.01)
    line = json.loads(caplog.messages[-1])
    assert line["status"] == 200 and line["path"] == "/v1/completions"
    assert line["prompt_tokens"] > 0 and line["completion_tokens"] == 6
    assert line["finished"] == "length" and line["first_token_ms"] <= line["ms"]
    assert "cat" not in caplog.text
    text = server.client.get("/metrics").text
    counted = re.search(
        r'requests_total\{path="/v1/completions",status="200"\} (.*)', text
    )
    assert float(counted[1]) >= 1
    assert "llmjax_free_pages 16.0" in text and "llmjax_first_token_seconds_sum" in text
