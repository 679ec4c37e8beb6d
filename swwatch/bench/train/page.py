"""The training benchmark as a page of Markdown."""

from collections.abc import Sequence

from swwatch.bench import page
from swwatch.bench.page import Column, known, size, table

ARRANGED = {"one": "1 sample", "padded": "padded batch", "packed": "pack"}
GROWTH = "More bytes a token: growth of the peak since the next shorter length; a constant means linear memory."


def report(result: dict) -> str:
    """Where, what, the tables and what speaks against them.

    Args:
        result: as swwatch.bench.train.measure gives it.
    """
    rows, sweep = result["rows"], result["sweep"]
    parts = [head(result), page.judged(result["verdict"])]
    if rows:
        parts.append(table(rows, columns(rows, cpu=not result["begin"]["gpus"])))
    if result["settings"]["data"]:
        parts.append(loading(rows))
    if sweep:
        parts.append(sweep_table(sweep))
    missing = [row for row in rows + sweep if "not_measured" in row]
    parts.append("\n".join(f"- {row_name(row)}: not measured: {row['not_measured']}" for row in missing))
    parts.append("\n".join(f"**Warning**: {warning}" for warning in result["warnings"]))
    return "\n\n".join(filter(None, parts))


def head(result: dict) -> str:
    """Where it was measured, model and samples, one line each."""
    settings = result["settings"]
    measured = next((row for row in result["rows"] + result["sweep"] if "parameters" in row), None)
    model = settings["model"] or f"shape {settings['shape']}, random weights"
    if measured:
        model += f": {measured['parameters']:,} parameters, {measured['trained']:,} of them trained"
    lines = {"model": f"{model}; variant {settings['variant']}, {settings['precision']}"}
    if measured and result["rows"]:
        mean = measured["tokens"] / measured["samples"]
        lines["samples"] = (
            f"{measured['samples']} a step, {measured['tokens']:,} tokens (mean {mean:,.0f}, longest "
            f"{measured['longest']:,}), {measured['label_tokens']:,} of them with a label"
        )
    return page.head(result, lines)


def columns(rows: Sequence[dict], cpu: bool) -> list[Column]:
    """Of the table with one line for every row.

    Args:
        cpu: add CPU time, which other programs on the machine hardly change.
    """
    found = [
        ("row", lambda row: row["row"]),
        ("forwards", lambda row: f"{row['forwards']} x {ARRANGED[row['rows']]}"),
        ("samples/s", lambda row: _number(row["samples_per_s"])),
        ("tokens/s", lambda row: _number(row["tokens_per_s"])),
        ("label tokens/s", lambda row: _number(row["label_tokens_per_s"])),
        ("step s", lambda row: f"{row['step_s']:.3f}"),
        ("spread", lambda row: f"{row['spread']:.0%}"),
        ("peak memory", lambda row: size(row["memory"]["peak"])),
        ("x eager", lambda row: known(row.get("times_baseline"), ".2f")),
    ]
    if cpu:
        found.append(("CPU s", lambda row: f"{row['cpu_step_s']:.3f}"))
        found.append(("x eager in CPU time", lambda row: known(row.get("times_baseline_cpu"), ".2f")))
    if any("mfu" in row for row in rows):  # on a GPU whose peak is known
        found.append(("LLM MFU", lambda row: f"{row['llm_mfu']:.1%}"))
        found.append(("MFU", lambda row: f"{row['mfu']:.1%}"))
    return found


def sweep_table(rows: Sequence[dict]) -> str:
    """How time and memory grow with length: one sample at a time."""
    found = (
        ("row", lambda row: row["row"]),
        ("tokens", lambda row: f"{row['length']:,}"),
        ("step s", lambda row: f"{row['step_s']:.3f}"),
        ("peak memory", lambda row: size(row["memory"]["peak"])),
        ("more bytes a token", lambda row: _growth(row, rows)),
        ("x eager", lambda row: known(row.get("times_baseline"), ".2f")),
    )
    return f"{table(rows, found, named=2)}\n\n{GROWTH}"


def _growth(row: dict, rows: Sequence[dict]) -> str:
    shorter = [
        other
        for other in rows
        if other["row"] == row["row"] and other["length"] < row["length"] and "not_measured" not in other
    ]
    if not shorter or row["memory"]["peak"] is None:
        return ""
    before = max(shorter, key=lambda other: other["length"])
    return f"{(row['memory']['peak'] - before['memory']['peak']) / (row['length'] - before['length']):,.0f}"


def loading(rows: Sequence[dict]) -> str:
    """How fast one process decodes and encodes clips, beside how fast the fastest row learns from them."""
    done = [row for row in rows if "samples_per_s" in row]
    if not done:
        return ""
    build_s, fastest = min(row["build_s"] for row in done), max(row["samples_per_s"] for row in done)
    return (
        f"Decoding and encoding a clip took {build_s * 1000:.0f} ms in one process, outside the figures above: the "
        f"fastest row ({fastest:.1f} samples/s) needs {fastest * build_s:.1f} such processes to keep up with it."
    )


def row_name(row: dict) -> str:
    return row["row"] if row["length"] is None else f"{row['row']} at {row['length']:,} tokens"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.2f}"
