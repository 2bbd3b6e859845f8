# Sourced by the other scripts: leaves the checkout's .venv installed and up to date.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

python=${PYTHON:-python3}
stamp=.venv/installed-from
wanted=$(cat pyproject.toml constraints.txt | cksum)

if [ ! -x .venv/bin/python ]; then
    "$python" -c 'import sys; sys.exit("Python 3.10 or later is needed") if sys.version_info < (3, 10) else None'
    "$python" -m venv .venv
fi
if [ "$(cat "$stamp" 2>/dev/null)" != "$wanted" ]; then
    echo "installing into .venv (once; some minutes)" >&2
    .venv/bin/python -m pip install --quiet --upgrade pip
    # torch first and pinned: left to a range, the resolver may pull several gigabytes of GPU libraries
    .venv/bin/python -m pip install --quiet "$(grep '^torch==' constraints.txt)"
    .venv/bin/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
    echo "$wanted" > "$stamp"
fi
