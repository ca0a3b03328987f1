#!/bin/sh
# Prints the path of the newest Python that can run this project and exits 0; else says what it found and
# exits 1.
#
#   launch/find_python.sh            look on PATH, in pyenv's versions folder, in /usr/local/bin and /usr/bin
#   launch/find_python.sh PYTHON     judge this one alone
#
# A name on the PATH proves nothing: it may be a version manager's stub that fails, or a Python without venv.
# So every candidate is run.
set -eu

newest_first="3.14 3.13 3.12 3.11"

# Runs on any Python since 2.7. Prints "VERSION|why it cannot be used, or nothing|full path of the
# interpreter".
probe='
import sys
why, version = "", "%d.%d" % sys.version_info[:2]
if sys.version_info < (3, 11):
    why = "is too old"
elif sys.implementation.name != "cpython":
    why = "is %s, and the libraries are built for CPython" % sys.implementation.name
elif sys.maxsize < 2**32:
    why = "is a 32-bit build, and the libraries need 64 bits"
elif "t" in getattr(sys, "abiflags", ""):
    why = "is a free-threaded build, not tested yet"
else:
    missing = []
    for name in ("venv", "ensurepip", "ssl", "ctypes"):
        try:
            __import__(name)
        except ImportError:
            missing.append(name)
    if missing in (["ensurepip"], ["venv", "ensurepip"]):
        why = "runs but has no venv: apt-get install python%s-venv" % version
    elif missing:
        why = "runs but was built without " + ", ".join(missing)
    elif sys.version_info >= (3, 15):
        why = "is newer than 3.14, the newest one tested"
sys.stdout.write("%s|%s|%s\n" % (version, why, sys.executable))
'

ask() { # PYTHON: the probe's line; nothing where it does not run
    "$1" -I -c "$probe" 2>/dev/null </dev/null || "$1" -c "$probe" 2>/dev/null </dev/null || true
}

places() { # every folder to look in, by its real path, one a line, each once
    {
        printf '%s\n' "${PATH:-}" | tr ':' '\n'
        for versions in "${PYENV_ROOT:-${HOME:-}/.pyenv}/versions" "${HOME:-}/.pyenv/versions"; do
            for folder in "$versions"/*/bin; do echo "$folder"; done
        done
        echo /usr/local/bin
        echo /usr/bin
    } | while IFS= read -r folder; do
        if [ -n "$folder" ] && [ -d "$folder" ]; then (cd "$folder" && pwd -P); fi
    done | awk '!seen[$0]++'
}

candidates() { # NAME...: every executable of these names in those folders, one a line
    places | while IFS= read -r folder; do
        for name in "$@"; do
            if [ -f "$folder/$name" ] && [ -x "$folder/$name" ]; then echo "$folder/$name"; fi
        done
    done
}

first_suitable() { # VERSION: the interpreter behind the first candidate of it that runs and lacks nothing
    candidates "python$1" python3 python | while IFS= read -r candidate; do
        found=$(ask "$candidate")
        if [ "${found%"|"*}" = "$1|" ]; then
            echo "${found##*|}"
            break
        fi
    done
}

describe() { # every candidate and why it is not suitable, one a line
    candidates python3 python python3.8 python3.9 python3.10 python3.11 python3.12 python3.13 \
        python3.14 python3.15 python3.16 |
        while IFS= read -r candidate; do
            found=$(ask "$candidate")
            version=${found%%|*} why=${found#*|}
            if [ -n "$found" ]; then
                echo "  $candidate ($version) ${why%%|*}"
            else
                echo "  $candidate does not run (a version manager's stub?)"
            fi
        done
}

if [ $# -gt 0 ]; then
    found=$(ask "$1")
    version=${found%%|*} rest=${found#*|}
    why=${rest%%|*}
    case "$found" in
    "")
        echo "error: PYTHON=$1 does not run; wanted a Python 3.11 to 3.14" >&2
        exit 1
        ;;
    *"|is newer than"*)
        echo "warning: $1 is Python $version, which $why; going on, as it was asked for by name" >&2
        ;;
    *"||"*) ;;
    *)
        echo "error: PYTHON=$1 is Python $version, which $why; wanted a Python 3.11 to 3.14" >&2
        exit 1
        ;;
    esac
    echo "${rest#*|}"
    exit 0
fi

for version in $newest_first; do
    python=$(first_suitable "$version")
    if [ -n "$python" ]; then
        echo "$python"
        exit 0
    fi
done

{
    echo "error: no suitable Python: wanted 3.11 to 3.14 with venv." \
        "Found on PATH, in ~/.pyenv/versions, /usr/local/bin and /usr/bin:"
    found=$(describe)
    echo "${found:-  none at all}"
    echo "On Debian 12 and later or Ubuntu 23.04 and later: apt-get install python3 python3-venv"
    echo "One that lies elsewhere can be named: make quickstart PYTHON=/path/to/python3.12"
} >&2
exit 1
