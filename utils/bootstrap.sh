#!/bin/sh
# Usage: bootstrap.sh PYTHON VENV
#
# Makes the virtual environment VENV for the interpreter PYTHON. What Debian and Ubuntu keep in packages of their own (venv, Python.h,
# the compiler) is installed by apt-get when this runs as root; anyone else is told the command, and the script ends with 1.
set -eu

python=$1
venv=$2

die() {
    echo "tcsplitter: $*" >&2
    exit 1
}

# Prints the Debian packages that hold what is missing.
missing_packages() {
    if command -v "$python" >/dev/null; then
        name=python$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
        "$python" -c 'import venv; from ensurepip import version' 2>/dev/null || echo "$name-venv"
        header=$("$python" -c 'import sysconfig; print(sysconfig.get_path("include"))')/Python.h
        [ -e "$header" ] || echo "$name-dev"
    else
        name=$(basename "$python")
        echo "$name $name-venv $name-dev"
    fi
    # shellcheck disable=SC2086 # CC may hold options, or another program in front
    set -- ${CC:-cc}
    command -v "$1" >/dev/null || echo "gcc libc6-dev"
}

packages=$(missing_packages | xargs)
if [ -n "$packages" ]; then
    command -v apt-get >/dev/null || die "please install what Debian calls: $packages"
    [ "$(id -u)" = 0 ] || die "packages are missing. Run this, then make again:
    sudo apt-get install $packages"
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq
    # shellcheck disable=SC2086 # a list of words
    apt-get install -y -qq --no-install-recommends $packages
    still=$(missing_packages | xargs)
    [ -z "$still" ] || die "$python still lacks what the packages $still hold. Is it Debian's own? Choose another with PYTHON=..."
fi

"$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' || die "$("$python" --version) is too old: Python 3.10 or later, please.
    PYTHON=python3.12 make ... chooses another one"

# An environment of another interpreter is of no use: its packages are for that one.
version='import sys; print(sys.version)'
if [ "$("$venv/bin/python" -c "$version" 2>/dev/null)" != "$("$python" -c "$version")" ]; then
    rm -rf "$venv"
fi
[ -x "$venv/bin/pip" ] || "$python" -m venv "$venv"
