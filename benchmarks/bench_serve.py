"""How much a server gains by answering many clients together: 16 against one, over HTTP.

    python benchmarks/bench_serve.py                     # starts `omni serve`, one client, then 16
    python benchmarks/bench_serve.py --json              # … and prints one object last, with `ratio` and `errors`
    python benchmarks/bench_serve.py --seconds 600 --broken 0.05 --only many    # the load test: ten minutes, bad media

    ratio = answers a second of 16 clients / answers a second of one

Every client asks as soon as it has its answer. Clips are those of examples/clips, sent as data: URLs; with --fresh each
has a random tail, so that the server never saw it and each answer pays for the towers. An error is a status of 500 or
more, a broken connection, or a good clip that was not answered; 429 is waited for, as its Retry-After says. Memory is
that of the server's process, read from /proc where there is one.
"""

import argparse
import base64
import json
import os
import random
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median, quantiles

import httpx

CLIPS = sorted((Path(__file__).parent.parent / "examples/clips").glob("*.mp4"))
QUESTION = "Which emotion does the person express?"
SAMPLE_SECONDS = 5.0


@dataclass
class Load:
    """What a number of clients met."""

    clients: int
    seconds: float = 0.0
    answers: int = 0
    refused: int = 0  # broken clips, as they should be
    errors: int = 0
    statuses: Counter = field(default_factory=Counter)
    latencies: list[float] = field(default_factory=list)
    memory: list[tuple[float, int]] = field(default_factory=list)  # seconds, bytes

    @property
    def rate(self) -> float:
        """Answers a second."""
        return self.answers / self.seconds


def content(rng: random.Random, fresh: bool, broken: float) -> tuple[str, bool]:
    """A clip as a data: URL, and whether it is a good one."""
    clip = rng.choice(CLIPS).read_bytes()
    good = rng.random() >= broken
    if not good:
        clip = rng.randbytes(2000) if rng.random() < 0.5 else clip[: len(clip) // 20]
    elif fresh:  # a `free` box at the end changes the content and nothing else
        clip += (16).to_bytes(4, "big") + b"free" + rng.randbytes(8)
    return f"data:video/mp4;base64,{base64.b64encode(clip).decode()}", good


def client(url: str, model: str, until: float, seed: int, options: argparse.Namespace, load: Load, lock) -> None:
    """One client: ask until the time is over."""
    rng = random.Random(seed)
    with httpx.Client(base_url=url, timeout=300) as http:
        while time.monotonic() < until:
            clip, good = content(rng, options.fresh, options.broken)
            part = {"type": "video_url", "video_url": {"url": clip}}
            messages = [{"role": "user", "content": [part, {"type": "text", "text": QUESTION}]}]
            started = time.monotonic()
            try:
                reply = http.post("/v1/chat/completions", json={"model": model, "messages": messages})
                status, wait = reply.status_code, float(reply.headers.get("retry-after", 0))
            except httpx.HTTPError:
                status, wait = 0, 0.1
            with lock:
                load.statuses[status] += 1
                load.answers += status == 200
                load.refused += status == 400 and not good
                load.errors += status not in (200, 429) and (good or status != 400)
                if status == 200:
                    load.latencies.append(time.monotonic() - started)
            if status in (0, 429):
                time.sleep(wait)


def run(url: str, model: str, clients: int, options: argparse.Namespace, pid: int | None) -> Load:
    """Let so many clients ask for so many seconds; counted until the last one has its answer."""
    load, lock, started = Load(clients), threading.Lock(), time.monotonic()
    until = started + options.seconds
    arguments = [(url, model, until, seed, options, load, lock) for seed in range(clients)]
    threads = [threading.Thread(target=client, args=given) for given in arguments]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        load.memory.append((time.monotonic() - started, memory(pid)))
        threads[0].join(SAMPLE_SECONDS)
        time.sleep(0.0 if threads[0].is_alive() else 0.2)
    load.seconds = time.monotonic() - started
    return load


def memory(pid: int | None) -> int:
    """Resident bytes of a process; 0 where that cannot be read."""
    path = Path(f"/proc/{pid}/statm")
    return int(path.read_text().split()[1]) * os.sysconf("SC_PAGESIZE") if path.exists() else 0


def growth(load: Load) -> float:
    """Memory at the end by that at minute two (or a fifth of the time, if that is sooner)."""
    known = [(at, size) for at, size in load.memory if size]
    if not known:
        return float("nan")
    begin = min(120.0, load.seconds / 5)
    return known[-1][1] / next(size for at, size in known if at >= begin or at == known[-1][0])


def row(load: Load) -> dict:
    """A load as JSON."""
    facts = {name: value for name, value in asdict(load).items() if name not in ("latencies", "memory")}
    times = sorted(load.latencies) or [float("nan")]
    p95 = quantiles(times, n=20)[-1] if len(times) > 1 else times[0]
    return facts | {
        "seconds": round(load.seconds, 2),
        "rate": round(load.rate, 4),
        "p50_s": round(median(times), 3),
        "p95_s": round(p95, 3),
        "memory_growth": round(growth(load), 3),
        "memory_mb": load.memory[-1][1] // 2**20,
        "statuses": {str(status): number for status, number in sorted(load.statuses.items())},
    }


def started(model: str) -> tuple[subprocess.Popen, str]:
    """A server of its own, and its address."""
    command = [sys.executable, "-c", "import sys; from omni.cli import main; sys.exit(main())"]
    root = Path(__file__).parent.parent
    process = subprocess.Popen(
        [*command, "serve", "--port", "0", "--model", model], cwd=root, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    line = next((line for line in process.stderr if "answers about clips" in line), "")
    if not line:
        raise SystemExit("bench_serve: the server did not start. Try omni serve.")
    return process, line.split()[0].removesuffix("/v1")


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="default")
    parser.add_argument("--url", help="of a running server, such as http://127.0.0.1:8000; default: start one")
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=60, help="of each part")
    parser.add_argument("--only", choices=("one", "many"), help="leave the other part out")
    parser.add_argument("--broken", type=float, default=0.0, help="share of broken clips")
    parser.add_argument("--fresh", action="store_true", help="no clip twice")
    parser.add_argument("--json", action="store_true", help="print one object last")
    options = parser.parse_args()
    process, url = (None, options.url) if options.url else started(options.model)
    try:
        with httpx.Client(base_url=url, timeout=60) as http:
            model = http.get("/v1/models").json()["data"][0]["id"]
        pid = process.pid if process else None
        warm = argparse.Namespace(**vars(options) | {"seconds": 1.0, "broken": 0.0})
        run(url, model, 2, warm, pid)
        parts = {"one": 1, "many": options.clients}
        loads = {
            name: run(url, model, count, options, pid) for name, count in parts.items() if options.only in (None, name)
        }
    finally:
        if process:
            process.terminate()
            process.wait(60)
    found = {name: row(load) for name, load in loads.items()}
    ratio = round(loads["many"].rate / loads["one"].rate, 3) if len(loads) == 2 else None
    found |= {"ratio": ratio, "errors": sum(load.errors for load in loads.values())}
    for name, load in loads.items():
        facts = row(load)
        print(
            f"{name}: {load.clients} clients, {load.answers} answers, {facts['rate']} a second, p50 {facts['p50_s']} s"
        )
    print(f"ratio {ratio}, errors {found['errors']}")
    if options.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
