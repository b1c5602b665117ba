# shellcheck shell=sh
# For scripts that download Python packages: `. pip.sh`, then `python=$(python_with_pip "$work")`.

# Prints the name of a Python 3 that has pip: python3 itself, or a new virtual environment in the given folder.
python_with_pip() {
    if python3 -m pip --version >/dev/null 2>&1; then
        echo python3
    else
        python3 -m venv "$1/venv" >&2 && echo "$1/venv/bin/python3"
    fi
}
