# shellcheck shell=bash
# What tcs-server.sh and tcs-client.sh share; they source it.

arguments=()

# option FLAG VARIABLE: pass FLAG with the variable's value, if it has one.
option() {
    if [ -n "${!2-}" ]; then
        arguments+=("$1" "${!2}")
    fi
}

# Those that both ends have.
shared_options() {
    option --protocol TCS_PROTOCOL
    option --frags TCS_FRAGS
    option --tick TCS_TICK
    option --tock TCS_TOCK
    option --buffer TCS_BUFFER
    option --after TCS_AFTER
    option --retries TCS_RETRIES
    option --dup TCS_DUP
    option --fec TCS_FEC
    option --hedge TCS_HEDGE
}

say() {
    printf '%s: %s\n' "${0##*/}" "$*" >&2
}

die() {
    say "$*"
    exit 2
}

# Sets `program`.
find_program() {
    local checkout
    checkout=$(cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/.." && pwd)
    program=$(command -v tcsplitter || command -v "$checkout/.venv/bin/tcsplitter") ||
        die "tcsplitter is neither on PATH nor in $checkout/.venv; run this, then try again: make -C '$checkout' venv"
}

# Adds the key's file, and makes it if there is none. With a key in TCSPLITTER_KEY and no TCS_KEY_FILE, no file is needed.
find_key() {
    if [ -z "${TCS_KEY_FILE-}" ] && [ -n "${TCSPLITTER_KEY-}" ]; then
        return
    fi
    TCS_KEY_FILE=${TCS_KEY_FILE:-${XDG_CONFIG_HOME:-${HOME:?give TCS_KEY_FILE, or HOME}/.config}/tcsplitter/key}
    if [ ! -e "$TCS_KEY_FILE" ]; then
        make_key
    fi
    option --key-file TCS_KEY_FILE
}

# Whoever starts at the same time makes a key too: a link appears at once and whole, and only the first one does.
make_key() (
    umask 077
    mkdir -p "$(dirname "$TCS_KEY_FILE")"
    fresh=$(mktemp -p "$(dirname "$TCS_KEY_FILE")")
    trap 'rm -f "$fresh"' EXIT
    "$program" keygen >"$fresh"
    if ln "$fresh" "$TCS_KEY_FILE" 2>/dev/null; then
        say "made a new key, $TCS_KEY_FILE. Both ends need the same one. If the other is on another machine, copy it there:"
        say "    ssh OTHER 'umask 077; mkdir -p .config/tcsplitter; cat >.config/tcsplitter/key' <'$TCS_KEY_FILE'"
    elif [ ! -e "$TCS_KEY_FILE" ]; then
        die "cannot make $TCS_KEY_FILE; name another place with TCS_KEY_FILE"
    fi
)

# run ROLE ARGUMENTS: become that end. ARGUMENTS come last, so they overrule the variables.
run() {
    local role=$1
    shift
    exec "$program" "$role" "${arguments[@]}" "$@"
}
