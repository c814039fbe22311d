#!/usr/bin/env bash
# Usage: tcs-client.sh [ARGUMENTS]
#
# The end beside the client program, which connects to 127.0.0.1:6000. It dials tcs-server.sh on 127.0.0.1:6091; the first of the two
# makes the key of both. Its settings are environment variables; what is not set is left to tcsplitter, as `tcsplitter client --help`
# shows it. ARGUMENTS go to tcsplitter client too, and overrule them. An example, with the server end on another machine:
#
#     TCS_HOST=server.example.org TCS_CONNS=8 tcs-client.sh --verbose
#
# TCS_HOST      where the server end listens: host, IPv6 in brackets; 127.0.0.1
# TCS_PORT      and port; 6091
# TCS_RFLING    both in one, HOST:PORT
# TCS_RLASSO    where it listens for lassoes; HOST:PORT, the same as flings
# TCS_RSYNC     where it listens for sync connections, TCS_RFLINGR for what is sent again; none without them
# TCS_LISTEN    where client programs connect, HOST:PORT; 127.0.0.1:6000
# TCS_PROTOCOL  what is tunnelled: tcp or udp
# TCS_KEY_FILE  the key; ~/.config/tcsplitter/key, or none if TCSPLITTER_KEY holds one
# TCS_FRAGS     bytes that a payload carries, SIZE:MTU or auto
# TCS_CONNS     flings kept open
# TCS_LASSOES   lassoes kept open
# TCS_BURST     connections to which a pool may grow
# TCS_TICK      ms between two reads of a local socket
# TCS_TOCK      ms that a payload waits for more, or auto
# TCS_BUFFER    T or T:N, beat in ms of forwarding to the client program, and payloads a beat
# TCS_AFTER     ms at the start of a stream that know no beat
# TCS_RETRIES   R:SKIP, whether lost payloads are sent again, and attempts before one is skipped
# TCS_DUP       which connections carry what: fling, lasso, both or none
# TCS_FEC       D:P, parity payloads P that go with every D; or auto, as much as the line needs
# TCS_HEDGE     whether payloads that are late are sent again: on or off
set -eu

# shellcheck source=utils/tcs-common.sh
. "$(dirname "$(readlink -f "$0")")/tcs-common.sh"

TCS_RFLING=${TCS_RFLING:-${TCS_HOST:-127.0.0.1}:${TCS_PORT:-6091}}
TCS_LISTEN=${TCS_LISTEN:-127.0.0.1:6000}

find_program
find_key
option --rFling TCS_RFLING
option --rLasso TCS_RLASSO
option --rSync TCS_RSYNC
option --rFlingR TCS_RFLINGR
option --listen TCS_LISTEN
option --conns TCS_CONNS
option --lassoes TCS_LASSOES
option --burst TCS_BURST
shared_options
run client "$@"
