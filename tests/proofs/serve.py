"""A server of its own process under load: everyone is answered, nobody disturbs others.

    python -m tests.proofs.serve [--quick]

Many requests at once: each is answered, or told when to come again. Clients that vanish
free their pages. Slow readers hold up nobody, and `/health` answers meanwhile. SIGTERM
under load: streams end whole, new requests get 503, the exit code is 0.
"""

import argparse
import asyncio
import collections
import contextlib
import json
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import flax.linen as nn
import httpx2
import jax
import jax.numpy as jnp
import numpy as np

from tests.train import folders

BODY = {"model": "toy", "prompt": "the cat", "max_tokens": 24, "temperature": 0}
PATH = "/v1/completions"


def random_params(module: nn.Module, *args: Any, std: float) -> Any:
    rng = np.random.default_rng(0)
    shapes = nn.unbox(jax.eval_shape(module.init, jax.random.key(0), *args))["params"]
    return jax.tree.map(
        lambda x: jnp.float32(std * rng.standard_normal(x.shape)), shapes
    )


@contextlib.contextmanager
def server(folder: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """(process, address) of a server of a toy."""
    flags = ["--port=0", "--rows=8", "--max_length=64", "--chunk=16", "--noforms"]
    flags += ["--name=toy", "--waiting=300"]
    log = (folder / "log").open("w")
    process = subprocess.Popen(
        [sys.executable, "-m", "experiments.serve", f"--run={folder}", *flags],
        stdout=subprocess.PIPE,
        stderr=log,
        text=True,
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        found = re.search(r"http://\S+", line)
        assert found, (line, (folder / "log").read_text()[-2000:])
        yield process, found[0]
    finally:
        process.kill()
        process.wait()


@contextlib.asynccontextmanager
async def client(url: str) -> AsyncIterator[httpx2.AsyncClient]:
    limits = httpx2.Limits(max_connections=None)
    async with httpx2.AsyncClient(
        base_url=url, trust_env=False, timeout=300, limits=limits
    ) as http:
        yield http


async def crowd(url: str, count: int) -> None:
    """All at once."""
    async with client(url) as http:
        answers = await asyncio.gather(
            *(http.post(PATH, json=BODY) for _ in range(count))
        )
    statuses = collections.Counter(a.status_code for a in answers)
    assert set(statuses) <= {200, 429} and statuses[200] >= 8, statuses
    texts = {a.json()["choices"][0]["text"] for a in answers if a.status_code == 200}
    assert len(texts) == 1
    assert all("retry-after" in a.headers for a in answers if a.status_code == 429)
    print(f"{count} at once: {dict(statuses)}, one text")


async def vanish(url: str, count: int) -> None:
    """Each reads one line and goes."""

    async def one() -> None:
        async with client(url) as http:
            with contextlib.suppress(httpx2.HTTPError):
                asked = BODY | {"stream": True, "max_tokens": 48}
                async with http.stream("POST", PATH, json=asked) as answer:
                    async for _ in answer.aiter_lines():
                        return

    await asyncio.gather(*(one() for _ in range(count)))
    async with client(url) as http:
        began = time.monotonic()
        while True:
            text = (await http.get("/metrics")).text
            if "llmjax_open_requests 0.0" in text and "llmjax_writing 0.0" in text:
                break
            assert time.monotonic() - began < 60, text
            await asyncio.sleep(0.02)
    assert "llmjax_free_pages 32.0" in text, text
    print(f"{count} vanished: no page is held, {time.monotonic() - began:.2f} s later")


async def slow_readers(url: str, count: int, others: int) -> None:
    """Sockets that are not read, beside requests one after the other."""
    writers = []
    host, port = re.sub("http://", "", url).split(":")
    for _ in range(count):
        _, writer = await asyncio.open_connection(host, int(port), limit=1)
        body = json.dumps(BODY | {"stream": True, "max_tokens": 40}).encode()
        head = f"POST {PATH} HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
        writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        await writer.drain()
        writers.append(writer)
    seconds, health = [], []
    async with client(url) as http:
        for _ in range(others):
            began = time.monotonic()
            (await http.get("/health")).raise_for_status()
            health.append(time.monotonic() - began)
            (await http.post(PATH, json=BODY)).raise_for_status()
            seconds.append(time.monotonic() - began)
    for writer in writers:
        writer.close()
    print(
        f"{count} that don't read: others take {statistics.median(seconds):.2f} s, at "
        f"most {max(seconds):.2f}; /health at most {1000 * max(health):.0f} ms"
    )


async def drain(process: subprocess.Popen[str], url: str, count: int) -> None:
    """SIGTERM while streams are written."""
    accepted, all_accepted = 0, asyncio.Event()

    async def one(http: httpx2.AsyncClient) -> str:
        nonlocal accepted
        asked = BODY | {"stream": True, "max_tokens": 48, "n": 3}
        async with http.stream("POST", PATH, json=asked) as answer:
            accepted += answer.status_code == 200
            if accepted == count:
                all_accepted.set()
            return (await answer.aread()).decode()

    async with client(url) as http:
        await http.get("/health")  # a connection that stays
        streams = [asyncio.ensure_future(one(http)) for _ in range(count)]
        await all_accepted.wait()
        process.send_signal(signal.SIGTERM)
        status: int | str = 200
        try:
            while (await http.get("/health")).status_code == 200:
                pass  # until the signal has come
            status = (await http.post(PATH, json=BODY)).status_code
        except httpx2.TransportError:
            status = "no connection"  # all was written before
        texts = await asyncio.gather(*streams)
    ended = [t.count('"finish_reason":"length"') + t.count(':"stop"') for t in texts]
    whole = sum(n == 3 and "[DONE]" in t for n, t in zip(ended, texts, strict=True))
    code = await asyncio.to_thread(process.wait, 60)
    print(f"SIGTERM: {whole} of {count} streams end whole, new ones {status}, {code=}")
    assert whole == count and status != 200 and code == 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    quick = parser.parse_args().quick
    with tempfile.TemporaryDirectory() as name:
        folders.llama(Path(name), random_params)
        with server(Path(name)) as (process, url):
            asyncio.run(crowd(url, 60 if quick else 1000))
            asyncio.run(vanish(url, 20 if quick else 200))
            asyncio.run(slow_readers(url, 10 if quick else 50, 5 if quick else 20))
            asyncio.run(drain(process, url, 20 if quick else 100))


if __name__ == "__main__":
    main()
