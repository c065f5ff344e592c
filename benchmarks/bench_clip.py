"""How much does reading a clip cost beside the ffmpeg command doing the same work?

    python benchmarks/bench_clip.py [--seconds 10] [--runs 5] [--json]

One generated clip (720p, 30 fps, H.264 with B-frames and a keyframe every 250 pictures, stereo AAC at 48 kHz)
is read in three ways, in turn, `runs` times each. Reported are medians of CPU seconds (user + system, threads
and children included), which are steadier than wall time on a shared machine:

    process     python -c "read_clip(clip)" as a whole process, interpreter and imports included
    in-process  read_clip(clip) in this process, imports done
    ffmpeg      the ffmpeg command as a whole process: every picture decoded, none scaled or converted, and
                the sound to mono 16 kHz

The bar: process <= 1.2 x ffmpeg. `read_clip` leaves out pictures that nobody asked for, ffmpeg does not; with
as many frames asked for as the clip has (`--frames 300`) it cannot, and converts each to RGB on top.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
BAR = 1.2
READ = "import sys; from omni.clip import read_clip; read_clip(sys.argv[1], frames=int(sys.argv[2]))"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=int, default=10, help="length of the clip (%(default)s)")
    parser.add_argument("--frames", type=int, default=8, help="frames to read (%(default)s)")
    parser.add_argument("--runs", type=int, default=5, help="alternating runs of each way (%(default)s)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        clip = Path(folder) / "clip.mp4"
        make_clip(clip, args.seconds)
        report = measure(clip, args.frames, args.runs)
    report |= {"seconds": args.seconds, "frames": args.frames, "runs": args.runs, "cpus": os.cpu_count()}
    print(json.dumps(report) if args.json else table(report))


def make_clip(path: Path, seconds: int, size: tuple[int, int] = (1280, 720), fps: int = 30) -> None:
    """A textured picture that drifts, with fresh noise on top, as a hand-held camera gives it."""
    import av

    width, height = size
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 255, (height // 16 + 20, width // 16 + 20, 3), np.uint8)
    scene = coarse.repeat(16, 0).repeat(16, 1)
    with av.open(str(path), "w") as container:
        options = {"crf": "23", "g": "250", "preset": "fast"}
        picture = container.add_stream("libx264", rate=fps, options=options)
        picture.width, picture.height, picture.pix_fmt = width, height, "yuv420p"
        sound = container.add_stream("aac", rate=48_000, layout="stereo")
        for i in range(seconds * fps):
            pixels = scene[i // 2 % 200 :][:height, i % 300 :][:, :width].astype(np.int16)
            pixels += rng.integers(-6, 7, (height, width, 1), np.int16)
            frame = av.VideoFrame.from_ndarray(np.clip(pixels, 0, 255).astype(np.uint8), format="rgb24")
            container.mux(picture.encode(frame))
        container.mux(picture.encode(None))
        wave = 0.1 * rng.standard_normal((2, seconds * 48_000)).astype(np.float32)
        frame = av.AudioFrame.from_ndarray(wave, format="fltp", layout="stereo")
        frame.sample_rate, frame.pts, frame.time_base = 48_000, 0, Fraction(1, 48_000)
        container.mux(sound.encode(frame))
        container.mux(sound.encode(None))


def measure(clip: Path, frames: int, runs: int) -> dict[str, float | None]:
    sys.path.insert(0, str(ROOT))
    from omni.clip import read_clip

    python = [sys.executable, "-c", READ, str(clip), str(frames)]
    ffmpeg = ["ffmpeg", "-v", "error", "-i", str(clip)]
    ffmpeg += ["-map", "0:v", "-f", "null", "-", "-map", "0:a", "-ac", "1", "-ar", "16000", "-f", "null", "-"]
    ways: dict[str, Callable[[], object]] = {
        "process": lambda: subprocess.run(python, check=True, cwd=ROOT),
        "in_process": lambda: read_clip(clip, frames=frames),
    }
    if shutil.which("ffmpeg"):
        ways["ffmpeg"] = lambda: subprocess.run(ffmpeg, check=True, stdin=subprocess.DEVNULL)
    spent: dict[str, list[float]] = {way: [] for way in ways}
    for run in range(runs + 1):
        for way, work in ways.items():
            cost = cpu_seconds(work)
            if run:  # the first round only warms the file cache
                spent[way].append(cost)
    report: dict[str, float | None] = {way: round(statistics.median(spent[way]), 4) for way in ways}
    for way in ("process", "in_process"):
        report[f"{way}_to_ffmpeg"] = _ratio(report[way], report.setdefault("ffmpeg", None))
    return report


def _ratio(cost: float | None, base: float | None) -> float | None:
    return round(cost / base, 3) if cost and base else None


def cpu_seconds(work: Callable[[], object]) -> float:
    """User and system seconds of this process and of the children that `work` waits for."""

    def now() -> float:
        usages = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
        return sum(usage.ru_utime + usage.ru_stime for usage in usages)

    before = now()
    work()
    return now() - before


def table(report: dict[str, float | None]) -> str:
    head = "{seconds} s of 720p, {frames} frames, CPU seconds, median of {runs}:".format(**report)
    lines = [head]
    for way in ("process", "in_process", "ffmpeg"):
        cost, ratio = report[way], report.get(f"{way}_to_ffmpeg")
        beside = f"   {ratio:.2f} x ffmpeg" if ratio else ""
        lines.append(f"  {way:<11}{cost:.3f}{beside}" if cost else f"  {way:<11}not installed")
    ratio = report["process_to_ffmpeg"]
    if ratio is None:
        return "\n".join([*lines, "ffmpeg is missing, so nothing was compared: apt-get install ffmpeg"])
    return "\n".join([*lines, f"bar: process <= {BAR} x ffmpeg: {'met' if ratio <= BAR else 'MISSED'}"])


if __name__ == "__main__":
    main()
