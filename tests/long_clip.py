"""Long clips that cost nothing to make, and what it takes in memory to read one.

python tests/long_clip.py MODEL WINDOW HOP CLIP…   of each clip in turn, in one process: the peak of resident memory
                                                   so far in MB, CPU seconds, seconds of the clip, windows, changes
"""

from __future__ import annotations

import resource
import sys
import time
from fractions import Fraction
from pathlib import Path

import av


def looped(source: Path, path: Path, seconds: float) -> Path:
    """A clip over and over, its packets copied and not encoded again."""
    with av.open(str(path), "w") as out, av.open(str(source)) as given:
        copies = [out.add_stream_from_template(stream) for stream in given.streams]
        length = Fraction(given.duration, av.time_base)
        last = [-(2**62)] * len(copies)
        for turn in range(max(1, round(seconds / length))):
            given.seek(0)
            for packet in given.demux():
                shift = round(turn * length / packet.time_base)
                if packet.dts is None or packet.dts + shift <= last[packet.stream_index]:
                    continue  # the run-in of the sound
                last[packet.stream_index] = packet.dts + shift
                packet.pts, packet.dts, packet.stream = (
                    packet.pts + shift,
                    packet.dts + shift,
                    copies[packet.stream_index],
                )
                out.mux(packet)
    return path


def main() -> None:
    name, window, hop, *clips = sys.argv[1:]
    from omni.timeline.timeline import read_timeline

    if name == "tiny":
        from omni.tiny import tiny

        model, processor = tiny()
    else:
        from omni.loading import load

        model, processor = load(name)
    for clip in clips:
        started = time.process_time()
        found = read_timeline(model, processor, clip, window=float(window), hop=float(hop))
        spent = time.process_time() - started
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(f"{peak:.1f} {spent:.1f} {found.duration_s:.1f} {len(found.windows)} {len(found.changes)}")


if __name__ == "__main__":
    main()
