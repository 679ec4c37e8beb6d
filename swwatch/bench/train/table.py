"""The benchmark as a page of Markdown that reads well in a terminal too."""

from collections.abc import Sequence

COLUMNS = ("row", "forwards", "samples/s", "tokens/s", "label tokens/s", "step s", "spread", "peak memory", "x eager")
UTILISATION = ("LLM MFU", "MFU")  # on a GPU whose peak is known
CPU_TIME = ("CPU s", "x eager in CPU time")  # without a GPU
ARRANGED = {"one": "1 sample", "padded": "padded batch", "packed": "pack"}


def report(result: dict) -> str:
    """Where, what, the tables and what speaks against them.

    Args:
        result: as swwatch.bench.train.command writes it to JSON.
    """
    parts = [head(result)]
    if result["rows"]:
        parts.append(table(result["rows"], cpu=not result["begin"]["gpus"]))
    if any("build_s" in row for row in result["rows"]) and result["settings"]["data"]:
        parts.append(loading(result["rows"]))
    if result["sweep"]:
        parts.append(sweep_table(result["sweep"]))
    missing = [row for row in result["rows"] + result["sweep"] if "not_measured" in row]
    if missing:
        parts.append("\n".join(f"- {_name(row)}: not measured: {row['not_measured']}" for row in missing))
    if result["warnings"]:
        parts.append("\n".join(f"**Warning**: {warning}" for warning in result["warnings"]))
    return "\n\n".join(parts)


def head(result: dict) -> str:
    """Command, commit, hardware, load, model and samples, one line each."""
    settings, begin, end = result["settings"], result["begin"], result["end"]
    measured = next((row for row in result["rows"] + result["sweep"] if "parameters" in row), None)
    model = settings["model"] or f"shape {settings['shape']}, random weights"
    if measured:
        model += f": {measured['parameters']:,} parameters, {measured['trained']:,} of them trained"
    hardware = ", ".join(begin["gpus"]) or f"{begin['cpu']}, {begin['cores']} cores"
    if measured and not begin["gpus"]:
        hardware += f", {measured['threads']} threads used"
    lines = {
        "command": f"`{result['command']}`",
        "commit": f"{begin['commit']}, torch {begin['torch']}, transformers {begin['transformers']}",
        "hardware": hardware,
        "time, load": f"{begin['time']}, load average {begin['load'][0]} before, {end['load'][0]} after",
        "clocks": "; ".join(begin.get("clocks") or ["not known"]),
        "model": f"{model}; variant {settings['variant']}, {settings['precision']}",
    }
    if measured and result["rows"]:
        mean = measured["tokens"] / measured["samples"]
        lines["samples"] = (
            f"{measured['samples']} a step, {measured['tokens']:,} tokens (mean {mean:,.0f}, longest "
            f"{measured['longest']:,}), {measured['label_tokens']:,} of them with a label"
        )
    return "\n".join(f"- {key}: {text}" for key, text in lines.items())


def table(rows: Sequence[dict], cpu: bool) -> str:
    """One line for every row; what was not measured says so.

    Args:
        cpu: add CPU time, which other programs on the machine hardly change.
    """
    mfu = any("mfu" in row for row in rows)
    lines = [(*COLUMNS, *(CPU_TIME if cpu else ()), *(UTILISATION if mfu else ()))]
    for row in rows:
        if "not_measured" in row:
            lines.append((row["row"], "not measured", *[""] * (len(lines[0]) - 2)))
            continue
        cells = [
            row["row"],
            f"{row['forwards']} x {ARRANGED[row['rows']]}",
            _number(row["samples_per_s"]),
            _number(row["tokens_per_s"]),
            _number(row["label_tokens_per_s"]),
            f"{row['step_s']:.3f}",
            f"{row['spread']:.0%}",
            size((row["memory"] or {}).get("peak")),
            _times(row.get("times_baseline")),
        ]
        if cpu:
            cells += [f"{row['cpu_step_s']:.3f}", _times(row.get("times_baseline_cpu"))]
        if mfu:
            cells += [f"{row['llm_mfu']:.1%}", f"{row['mfu']:.1%}"]
        lines.append(tuple(cells))
    return markdown(lines)


def sweep_table(rows: Sequence[dict]) -> str:
    """How time and memory grow with length: one sample at a time."""
    lines = [("row", "tokens", "step s", "peak memory", "more bytes a token", "x eager")]
    for row in rows:
        if "not_measured" in row:
            lines.append((row["row"], f"{row['length']:,}", "not measured", "", "", ""))
            continue
        cells = [row["row"], f"{row['length']:,}", f"{row['step_s']:.3f}", size((row["memory"] or {}).get("peak"))]
        lines.append((*cells, _growth(row, rows), _times(row.get("times_baseline"))))
    note = "More bytes a token: growth of the peak since the next shorter length; a constant means linear memory."
    return f"{markdown(lines)}\n\n{note}"


def _growth(row: dict, rows: Sequence[dict]) -> str:
    shorter = [r for r in rows if r["row"] == row["row"] and r["length"] < row["length"] and r.get("memory")]
    if not shorter or not row["memory"] or row["memory"]["peak"] is None:
        return ""
    before = max(shorter, key=lambda r: r["length"])
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


def _name(row: dict) -> str:
    return row["row"] if row["length"] is None else f"{row['row']} at {row['length']:,} tokens"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.2f}"


def _times(ratio: float | None) -> str:
    return "n/a" if ratio is None else f"{ratio:.2f}"


def size(count: int | None) -> str:
    """Bytes as people write them; n/a where they are not known."""
    if count is None:
        return "n/a"
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.{0 if count >= 1e7 else 1}f} MB"


def markdown(lines: Sequence[tuple]) -> str:
    """Rows of cells, the heads first, as a table whose columns are aligned."""
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    shown = [[cell.ljust(width) for cell, width in zip(line, widths, strict=True)] for line in lines]
    shown.insert(1, ["-" * width for width in widths])
    return "\n".join("| " + " | ".join(cells) + " |" for cells in shown)
