"""Conversations with `emogen serve` on the loopback address: many at once, clients that misbehave, a server that dies.

python evaluate/load.py
"""

from __future__ import annotations

import asyncio
import os
import signal
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from random import Random

import click
import numpy as np
from load_client import Heard, line
from load_rude import CONTROLS, leave, misbehave, talk_nonsense
from load_server import Server, Tally, converse, counts, deaths, free_port
from load_talks import Answered, Talk, Turn, alone, talks

from emogen.checkpoint.finding import shipped_folder
from emogen.checkpoint.model import load
from emogen.cli import run
from emogen.errors import SettingsError
from emogen.evaluate.report import command_of, write_result
from emogen.evaluate.resampling import RESAMPLES, percentile_interval
from emogen.evaluate.score import Score, signature
from emogen.recognition.recognizer import load_recognizer

RESULT = Path("evaluate/results/load.json")
_LOADS = (1, 8, 64)
_HOSTILE = 12
_TURNS, _REPLIES = 3, 24


@click.command()
@click.option(
    "--checkpoint", type=click.Path(path_type=Path), default=shipped_folder("default"), show_default="the small model"
)
@click.option("--loads", default=",".join(map(str, _LOADS)), show_default=True, help="How many sessions at once.")
@click.option("--turns", type=click.IntRange(min=1), default=4, show_default=True, help="Of each conversation.")
@click.option(
    "--rounds",
    type=click.IntRange(min=1),
    default=15,
    show_default=True,
    help="Of each control, for the time to the first token.",
)
@click.option("--kills", type=click.IntRange(min=0), default=3, show_default=True, help="How often the server is killed.")
@click.option("--seed", type=click.IntRange(min=0), default=1, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=RESULT, show_default=True)
@click.pass_context
def main(
    context: click.Context, checkpoint: Path, loads: str, turns: int, rounds: int, kills: int, seed: int, out: Path
) -> None:
    """Measure equality, first token, throughput, misbehaving clients, and killed servers."""
    parts = [part.strip() for part in loads.split(",")]
    if not all(part.isascii() and part.isdigit() and int(part) for part in parts):
        raise SettingsError(f"--loads {loads}: allowed are whole numbers of at least 1 with commas between, such as 1,8,64")
    sessions = [int(part) for part in parts]
    model, recognizer = load(checkpoint), load_recognizer()
    planned = talks(model, max(sessions), turns, seed)
    expected = [alone(model, recognizer, talk) for talk in planned]
    click.echo(f"{sum(map(len, expected))} replies are known", err=True)
    with tempfile.TemporaryDirectory(prefix="emogen-load-") as folder:
        server = Server(checkpoint, Path(folder), free_port())
        try:
            rows = asyncio.run(_measured(server, planned, expected, sessions, rounds, kills, seed))
        finally:
            server.kill()
    extra = {"load_average_before": round(os.getloadavg()[2], 2)}
    write_result(out, command_of("load", context), [checkpoint, shipped_folder("recognizer")], rows, extra)


async def _measured(
    server: Server,
    planned: Sequence[Talk],
    expected: Sequence[list[Answered]],
    sessions: Sequence[int],
    rounds: int,
    kills: int,
    seed: int,
) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    await server.start()
    for number in sessions:
        rows.append(await _equality(server, planned[:number], expected[:number], seed))
        _tell(rows[-1])
    for number in sessions:
        rows += await _first_token(server, number, rounds, seed)
        _tell(rows[-1])
    rows.append(await _crowd(server, planned, expected, seed))
    _tell(rows[-1])
    rows.append(await deaths(server, planned, expected, kills, seed))
    _tell(rows[-1])
    status = await server.stop(signal.SIGTERM)
    return [*rows, {"system": "stopped by SIGTERM", "seed": seed, "exit_status": status}]


async def _equality(
    server: Server, planned: Sequence[Talk], expected: Sequence[list[Answered]], seed: int
) -> dict[str, object]:
    """Return all conversations at once, each reply against the model's own."""
    tally, began = Tally(), time.perf_counter()
    await asyncio.gather(*(converse(server, talk, known, tally) for talk, known in zip(planned, expected, strict=True)))
    seconds = time.perf_counter() - began
    row = {"system": f"{len(planned)} sessions", "seed": seed, **counts(tally), "tokens_per_second": tally.tokens / seconds}
    return {**row, "seconds_to_first_token": statistics.median(tally.first)}


async def _first_token(server: Server, sessions: int, rounds: int, seed: int) -> list[dict[str, object]]:
    """Return seconds to the first text of replies with and without guidance, in rounds that take turns.

    The first pair warms up.
    """
    found: dict[str, list[float]] = {control: [] for control in CONTROLS}
    rates: dict[str, list[float]] = {control: [] for control in CONTROLS}
    for number in range(rounds + 1):
        for control in CONTROLS[:: 1 if number % 2 else -1]:
            firsts, rate = await _round(server, sessions, control, seed * 1000 + number)
            if number:
                found[control].append(statistics.median(firsts))
                rates[control].append(rate)
    ratios = np.array(found["guidance:2"]) / np.array(found["none"])
    how = {"sessions": sessions, "rounds": rounds, "value": "median of rounds' medians"}
    rows: list[dict[str, object]] = []
    for control in CONTROLS:
        row = {"system": f"{sessions} sessions, control {control}", "seed": seed, "sessions": sessions, "control": control}
        first = _median(np.array(found[control]), signature("seconds_to_first_token", how), seed)
        rows.append({**row, "seconds_to_first_token": first, "tokens_per_second": statistics.median(rates[control])})
    ratio = _median(ratios, signature("first_token_ratio", how), seed)
    return [*rows, {"system": f"{sessions} sessions, guided to unguided", "seed": seed, "sessions": sessions, "ratio": ratio}]


async def _round(server: Server, sessions: int, control: str, seed: int) -> tuple[list[float], float]:
    """Return seconds to the first text of each of some turns of all sessions, and tokens a second."""
    turns = max(_TURNS, _REPLIES // sessions)
    began, heard = time.perf_counter(), list[Heard]()

    async def ask(number: int) -> None:
        async with line(server.port) as target:
            for turn in range(turns):
                said = Turn("I lost my job this morning.", "sadness", 1.0, control, 0.85, seed * 10_000 + number * turns + turn)
                heard.append(await target.ask(said.body([])))

    await asyncio.gather(*map(ask, range(sessions)))
    seconds = time.perf_counter() - began
    return [each.first for each in heard if each.first], sum(each.tokens for each in heard) / seconds


def _median(values: np.ndarray, how: str, seed: int) -> Score:
    """Return the median with its 95% percentile bootstrap interval."""
    random = np.random.default_rng(seed)
    draws = np.median(random.choice(values, (RESAMPLES, len(values))), axis=1)
    return Score(float(np.median(values)), *percentile_interval(draws), f"{how}|bs:{RESAMPLES}|seed:{seed}")


async def _crowd(server: Server, planned: Sequence[Talk], expected: Sequence[list[Answered]], seed: int) -> dict[str, object]:
    """Return all conversations, among clients that leave in mid-stream and clients that send nonsense."""
    tally, answers, before = Tally(), Counter[str](), server.megabytes
    over = asyncio.Event()
    rude = [
        asyncio.create_task(misbehave(server, kind, answers, over, Random(f"{seed} {number}")))
        for number in range(_HOSTILE)
        for kind in (leave, talk_nonsense)
    ]
    await asyncio.gather(*(converse(server, talk, known, tally) for talk, known in zip(planned, expected, strict=True)))
    over.set()
    await asyncio.gather(*rude)
    began = time.perf_counter()
    await server.rest()
    idle = time.perf_counter() - began
    row = {"system": f"{len(planned)} sessions among {len(rude)} clients that misbehave", "seed": seed, **counts(tally)}
    grown = round(server.megabytes - before, 1)
    return {**row, "answers_to_the_others": dict(sorted(answers.items())), "megabytes_grown": grown, "seconds_until_idle": idle}


def _tell(row: dict[str, object]) -> None:
    click.echo(row, err=True)


if __name__ == "__main__":
    run(main, "load.py")
