#!/usr/bin/env bash
# Usage: tcs-server.sh [ARGUMENTS]
#
# The end beside the service. It listens on 127.0.0.1:6091 and forwards to a service on 127.0.0.1:6003; the first of tcs-server.sh and
# tcs-client.sh makes the key of both. Its settings are environment variables; what is not set is left to tcsplitter, as `tcsplitter
# server --help` shows it. ARGUMENTS go to tcsplitter server too, and overrule them. An example, for clients on other machines:
#
#     TCS_HOST=0.0.0.0 TCS_FORWARD=127.0.0.1:22 tcs-server.sh --verbose
#
# TCS_HOST      where to listen for client ends: host, IPv6 in brackets; 127.0.0.1
# TCS_PORT      and port; 6091
# TCS_LFLING    both in one, HOST:PORT
# TCS_LLASSO    where to listen for lassoes, TCS_LSYNC for sync, TCS_LFLINGR for what is sent again; HOST:PORT, the same as flings
# TCS_FORWARD   the service, HOST:PORT; 127.0.0.1:6003
# TCS_PROTOCOL  what is tunnelled: tcp or udp
# TCS_KEY_FILE  the key; ~/.config/tcsplitter/key, or none if TCSPLITTER_KEY holds one
# TCS_FRAGS     bytes that a payload carries, SIZE:MTU or auto
# TCS_TICK      ms between two reads of a local socket
# TCS_TOCK      ms that a payload waits for more, or auto
# TCS_BUFFER    T or T:N, beat in ms of forwarding to the service, and payloads a beat
# TCS_AFTER     ms at the start of a stream that know no beat
# TCS_RETRIES   R:SKIP, whether lost payloads are sent again, and attempts before one is skipped
# TCS_DUP       which connections carry what: fling, lasso, both or none; whatever the client asks for
# TCS_FEC       D:P, parity payloads P that go with every D; or auto, as much as the line needs
# TCS_HEDGE     whether payloads that are late are sent again: on or off
set -eu

# shellcheck source=utils/tcs-common.sh
. "$(dirname "$(readlink -f "$0")")/tcs-common.sh"

TCS_LFLING=${TCS_LFLING:-${TCS_HOST:-127.0.0.1}:${TCS_PORT:-6091}}
TCS_FORWARD=${TCS_FORWARD:-127.0.0.1:6003}

find_program
find_key
option --lFling TCS_LFLING
option --lLasso TCS_LLASSO
option --lSync TCS_LSYNC
option --lFlingR TCS_LFLINGR
option --forward TCS_FORWARD
shared_options
run server "$@"
