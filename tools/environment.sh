#!/bin/sh
# Creates or updates a virtual environment with the newest Python that fits:
#   tools/environment.sh FOLDER REQUIREMENTS GIGABYTES [PYTHON]
# A working FOLDER keeps its Python, unless PYTHON is given and has another version. This file only
# chooses the Python; environment.py does the rest.
set -u
folder=$1
given=${4:-}
supported="3.13 3.12 3.11"
remedy="install Python 3.11, 3.12 or 3.13, or give its path: make PYTHON=..."

refuse() {
    printf 'error: %s\n' "$1" >&2
    exit 2
}

# "3.12", or nothing if it does not run: pyenv has commands for versions that are not there.
version_of() {
    version=$("$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null </dev/null)
    case $version in [0-9].[0-9] | [0-9].[0-9][0-9]) echo "$version" ;; esac
}

is_supported() {
    case " $supported " in *" ${1:-none} "*) true ;; *) false ;; esac
}

# Debian and Ubuntu have this part of Python in a package of its own.
has_venv() {
    "$1" -c 'import ensurepip, venv' 2>/dev/null </dev/null
}

refuse_without_venv() {
    refuse "$1 (Python $2) cannot create virtual environments; on Debian or Ubuntu: apt install python$2-venv"
}

# Complete, and where it was created: the scripts of an environment contain its path.
works() {
    [ ! -e "$folder/unfinished" ] &&
        grep -qsF "$(cd "$folder/bin" 2>/dev/null && pwd -P)/" "$folder/bin/pip" &&
        "$folder/bin/python" -c 'import pip' 2>/dev/null
}

# The newest that runs and can create environments.
search() {
    without_venv=
    for version in $supported; do
        for name in "python$version" python3 python; do
            [ "$(version_of "$name")" = "$version" ] || continue
            python=$name
            ! has_venv "$name" || return 0
            without_venv=${without_venv:-$name $version}
        done
    done
    # shellcheck disable=SC2086 # two words
    [ -z "$without_venv" ] || refuse_without_venv $without_venv
    for name in python3 python python3.14 python3.10; do
        found=$(version_of "$name")
        [ -z "$found" ] || refuse "$name is Python $found: $remedy"
    done
    refuse "no Python found: $remedy"
}

own=
if works; then own=$(version_of "$folder/bin/python"); fi
if [ -n "$given" ]; then
    version=$(version_of "$given")
    [ -n "$version" ] || refuse "PYTHON=$given does not run: $remedy"
    is_supported "$version" || refuse "PYTHON=$given is Python $version: $remedy"
    if [ "$version" = "$own" ]; then
        python=$folder/bin/python
    else
        python=$given
        has_venv "$python" || refuse_without_venv "$python" "$version"
    fi
elif is_supported "$own"; then
    python=$folder/bin/python
else
    search
fi
[ "$python" = "$folder/bin/python" ] && mode=update || mode=create
exec "$python" "$(dirname "$0")/environment.py" $mode "$folder" "$2" "$3"
