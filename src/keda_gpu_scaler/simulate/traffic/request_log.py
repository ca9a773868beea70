# SPDX-License-Identifier: Apache-2.0
"""Reads logs of requests: CSV and JSON lines with an arrival, and the tokens of prompt and answer.

Two published formats are read as they are: Azure's LLM inference traces (CSV: TIMESTAMP, ContextTokens,
GeneratedTokens; github.com/Azure/AzurePublicDataset), and Mooncake's traces (JSON lines: timestamp in milliseconds,
input_length, output_length; github.com/kvcache-ai/Mooncake).
"""

import csv
import gzip
import json
import math
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from keda_gpu_scaler.core.quoting import quoted
from keda_gpu_scaler.simulate.engine_model import SimulationError
from keda_gpu_scaler.simulate.requests import RequestTraffic
from keda_gpu_scaler.simulate.traffic.assembly import MAX_REQUESTS, RequestRow, assemble
from keda_gpu_scaler.simulate.traffic.lengths import Lengths
from keda_gpu_scaler.simulate.traffic.rates import RateRow, traffic_of_rates

ARRIVAL_KEYS = ("arrival", "timestamp", "arrived_at", "time")
PROMPT_KEYS = ("prompt_tokens", "contexttokens", "input_length", "input_tokens", "num_prefill_tokens")
ANSWER_KEYS = ("answer_tokens", "generatedtokens", "output_length", "output_tokens", "completion_tokens")
RATE_KEYS = ("requests", "requests_per_minute")
MINUTE_KEYS = ("minute", *ARRIVAL_KEYS)
_MILLISECONDS_SINCE_1970 = 1e11
_LARGEST_TOKENS = 100_000_000


def read_request_log(path: Path, lengths: Lengths) -> RequestTraffic:
    """Read a file of requests, or of requests per minute.

    Args:
        path: CSV or JSON lines, also with gzip.
        lengths: for what the file does not say.

    Raises:
        SimulationError: the file cannot be read; the sentence names the row and the column.
    """
    try:
        with _opened(path) as lines:
            rows = [*_rows(lines, path)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise SimulationError(f"--traffic: cannot read {path}: {error}") from error
    if not rows:
        raise SimulationError(f"--traffic: {path} has no request: nothing can be simulated")
    first = rows[0]
    if _key(first, RATE_KEYS) is not None:
        return _rates(path, rows, lengths)
    return _requests(path, rows, lengths)


def _opened(path: Path) -> IO[str]:
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8-sig", newline="")
    return path.open(encoding="utf-8-sig", newline="")


def _rows(lines: IO[str], path: Path) -> Iterator[Mapping[str, Any]]:
    """Yield each row with lower-case keys."""
    first = lines.readline()
    if first.lstrip().startswith("{"):
        for number, line in enumerate([first, *lines], start=1):
            if line.strip():
                yield _json_row(line, path, number)
        return
    header = next(csv.reader([first]), [])
    yield from csv.DictReader(lines, fieldnames=[name.strip().lower() for name in header])


def _json_row(line: str, path: Path, number: int) -> Mapping[str, Any]:
    try:
        found = json.loads(line)
    except ValueError as error:
        raise SimulationError(f"--traffic: {path}, line {number}: not JSON: {error}") from error
    if not isinstance(found, dict):
        raise SimulationError(f"--traffic: {path}, line {number}: must be a JSON object")
    return {str(key).lower(): value for key, value in found.items()}


def _key(row: Mapping[str, Any], keys: tuple[str, ...]) -> str | None:
    return next((key for key in keys if key in row), None)


def _requests(path: Path, rows: list[Mapping[str, Any]], lengths: Lengths) -> RequestTraffic:
    first = rows[0]
    arrival = _key(first, ARRIVAL_KEYS)
    if arrival is None:
        raise SimulationError(
            f"--traffic: {path} has no column of arrivals: name one of {', '.join(ARRIVAL_KEYS)}; a file of rates has "
            f"{' or '.join(RATE_KEYS)}. Its columns are {quoted(', '.join(map(str, first)), 200)}"
        )
    prompt, answer = _key(first, PROMPT_KEYS), _key(first, ANSWER_KEYS)
    unit = 0.001 if "input_length" in first and "output_length" in first else 1.0
    assumptions = [] if unit == 1.0 else ["timestamps are in milliseconds, as in Mooncake's traces"]
    draw = lengths.drawing()
    if prompt is None and lengths.matter:
        assumptions.append(f"the file has no tokens of prompts: {lengths.describe_prompts()}")
    if answer is None and lengths.matter:
        assumptions.append(f"the file has no tokens of answers: {lengths.describe_answers()}")
    read: list[RequestRow] = []
    for number, row in enumerate(rows, start=1):
        if number > MAX_REQUESTS:
            raise SimulationError(f"--traffic: {path}: more than {MAX_REQUESTS} requests: take a shorter part of it")
        drawn_prompt, drawn_answer = draw() if prompt is None or answer is None else (0, 0)
        read.append(
            (
                unit * _seconds(row.get(arrival), path, number, arrival),
                drawn_prompt if prompt is None else _tokens(row.get(prompt), path, number, prompt),
                drawn_answer if answer is None else _tokens(row.get(answer), path, number, answer),
            )
        )
    return assemble(path.name, read, assumptions=assumptions)


def _rates(path: Path, rows: list[Mapping[str, Any]], lengths: Lengths) -> RequestTraffic:
    key, minute = _key(rows[0], RATE_KEYS) or "", _key(rows[0], MINUTE_KEYS)
    rates: list[RateRow] = []
    for number, row in enumerate(rows, start=1):
        count = _number(row.get(key), path, number, key)
        if minute is None:
            at_minute = float(number - 1)
        elif minute == "minute":
            at_minute = _number(row.get(minute), path, number, minute)
        else:
            at_minute = _seconds(row.get(minute), path, number, minute) / 60
        rates.append((at_minute, count))
    return traffic_of_rates(path.name, rates, lengths)


def _number(value: object, path: Path, number: int, key: str) -> float:
    if value is None or value == "":
        raise SimulationError(f"--traffic: {path}, request {number}: {key}: Required value: the row has none")
    try:
        found = float(str(value).strip())
    except ValueError:
        found = math.nan
    if not (math.isfinite(found) and found >= 0):
        raise SimulationError(
            f"--traffic: {path}, request {number}: {key}: Invalid value: {quoted(str(value), 80)}: must be a number of "
            "0 or more"
        )
    return found


def _tokens(value: object, path: Path, number: int, key: str) -> int:
    tokens = _number(value, path, number, key)
    if tokens > _LARGEST_TOKENS:
        raise SimulationError(
            f"--traffic: {path}, request {number}: {key}: Invalid value: {tokens:g}: must be at most {_LARGEST_TOKENS}"
        )
    return int(tokens)


def _seconds(value: object, path: Path, number: int, key: str) -> float:
    """Return an arrival in seconds: a number, or a date and time of ISO 8601, in UTC where it says no zone."""
    text = str(value).strip()
    try:
        seconds = float(text)
    except ValueError:
        seconds = _unix_seconds(text)
    if not math.isfinite(seconds):
        raise SimulationError(
            f"--traffic: {path}, request {number}: {key}: Invalid value: {quoted(text, 80)}: must be a number of "
            "seconds, or a date and time as 2023-11-16 18:15:46"
        )
    return seconds / 1000 if seconds > _MILLISECONDS_SINCE_1970 else seconds


def _unix_seconds(text: str) -> float:
    head, dot, rest = text.partition(".")
    digits = len(rest) - len(rest.lstrip("0123456789"))
    if dot and digits > 6:  # Azure writes seven decimals, and datetime reads six
        text = f"{head}.{rest[:6]}{rest[digits:]}"
    elif dot and 0 < digits < 6:
        text = f"{head}.{rest[:digits]:0<6}{rest[digits:]}"
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return math.nan
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
