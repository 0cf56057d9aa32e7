# Functions for the other scripts here, which source this file: find a suitable Python, make virtual environments.

# Prints the Python to use: $PYTHON if it is set, else the newest one on the PATH that works.
# Candidates are run, not just looked up: version managers put commands on the PATH that only fail.
find_python() {
    local candidate version reason tried="" candidates=(python3.13 python3.12 python3.11 python3)
    [ -z "${PYTHON:-}" ] || candidates=("$PYTHON")
    for candidate in "${candidates[@]}"; do
        version=$("$candidate" -c 'import platform; print(platform.python_version())' 2>/dev/null) || version=""
        if [ -z "$version" ]; then
            reason="does not run"
        elif ! "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
            reason="is $version"
        elif ! "$candidate" -c 'import ensurepip, venv' 2>/dev/null; then
            reason="is $version without venv (Debian: apt-get install python${version%.*}-venv)"
        else
            printf '%s\n' "$candidate"
            return 0
        fi
        tried="$tried  $candidate $reason"$'\n'
    done
    printf 'error: pvdm_jax needs Python 3.11 or later. Tried:\n%sInstall one, or set PYTHON: PYTHON=/path/to/python3 bash %s\n' "$tried" "$0" >&2
    return 1
}

# make_environment FOLDER REQUIREMENT: makes a virtual environment in FOLDER with an editable install of REQUIREMENT,
# such as ".[test]". An existing environment is kept unless the requirements, the version or the Python have changed.
make_environment() {
    local folder=$1 requirement=$2 python stamp
    python=$(find_python)
    stamp="$requirement $("$python" -V) $(cat setup.py pvdm_jax/__init__.py | cksum)"
    if [ "$(cat "$folder/installed" 2>/dev/null)" = "$stamp" ]; then
        echo "== Using the virtual environment in $folder"
        return 0
    fi
    echo "== Making a virtual environment in $folder with $("$python" -V)"
    "$python" -m venv --clear "$folder"
    echo "== Installing $requirement into it (about a minute)"
    "$folder/bin/python" -m pip install -qq --disable-pip-version-check -e "$requirement"
    printf '%s\n' "$stamp" >"$folder/installed"
}
