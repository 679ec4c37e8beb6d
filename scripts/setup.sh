# Sourced by the other scripts. Sets ROOT and PYTHON; makes ROOT/.venv from the lock unless it is already up to date.
# SWWATCH_PYTHON=/path/to/python uses that interpreter as it is and installs nothing.
ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"

setup() {
    if [ -n "${SWWATCH_PYTHON:-}" ]; then
        PYTHON="$SWWATCH_PYTHON"
        return
    fi
    PYTHON="$ROOT/.venv/bin/python"
    local stamp="$ROOT/.venv/.installed" want python
    want="$(cat "$ROOT/requirements.lock" "$ROOT/pyproject.toml" | sha256sum)"
    if [ -x "$PYTHON" ] && [ "$(cat "$stamp" 2>/dev/null)" = "$want" ]; then
        return
    fi
    for python in python3 python3.13 python3.12 python3.11; do
        if "$python" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            break
        fi
        python=""
    done
    if [ -z "$python" ]; then
        echo "error: Python 3.11 or newer with venv is needed (Debian, Ubuntu: apt install python3 python3-venv)" >&2
        exit 2
    fi
    echo "setting up .venv with $("$python" --version) (once; some minutes, about 6 GB)"
    "$python" -m venv "$ROOT/.venv" || exit 1
    local install=("$PYTHON" -m pip install --disable-pip-version-check --quiet)
    "${install[@]}" --no-compile -r "$ROOT/requirements.lock" || exit 1
    "${install[@]}" --no-deps --editable "$ROOT" || exit 1
    # on all cores, where pip takes one; some packages carry templates that are no Python, which does not matter
    "$PYTHON" -m compileall -q -j 0 "$ROOT/.venv/lib" >/dev/null 2>&1 || true
    echo "$want" >"$stamp"
}

# The interpreter for commands that must work in an installed environment: .venv where it exists, else python3.
find_python() {
    PYTHON="${SWWATCH_PYTHON:-$ROOT/.venv/bin/python}"
    [ -x "$PYTHON" ] || PYTHON=python3
}
