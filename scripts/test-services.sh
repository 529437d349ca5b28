# Shared by start-test-services and stop-test-services (bash): where private test services lie, and how one speaks to a port.

DEADLINE_S=90

fail() {
    echo "$*" >&2
    exit 1
}

# Where the private services write. A server that root starts runs as another user, who may not reach a work tree below
# a home of mode 0700: then it lies below /var/tmp, with the tree's path in its name.
services_dir() {
    local dir="$PWD/target/test-services"
    mkdir -p "$dir"
    if [ "$(id -u)" -eq 0 ] && ! (cd / && runuser -u postgres -- test -x "$dir") 2>/dev/null; then
        dir="/var/tmp/careforall-test-services-$(printf %s "$PWD" | cksum | cut -d' ' -f1)"
        mkdir -p "$dir"
    fi
    echo "$dir"
}

# The newest directory with both server programs; nothing when there is none.
postgres_bin() {
    local dir
    for dir in $(ls -d /usr/lib/postgresql/*/bin /usr/pgsql-*/bin /opt/homebrew/opt/postgresql@*/bin \
        /usr/local/opt/postgresql@*/bin 2>/dev/null | sort -rV) ${PATH//:/ }; do
        if [ -x "$dir/postgres" ] && [ -x "$dir/initdb" ]; then echo "$dir" && return; fi
    done
}

# The host and port of a URL, with a space between.
host_and_port() { # URL USUAL_PORT
    local rest="${1#*://}"
    rest="${rest##*@}"
    rest="${rest%%[/?]*}"
    case "$rest" in
    *:*) echo "${rest%:*} ${rest##*:}" ;;
    *) echo "$rest $2" ;;
    esac
}

# Sends bytes to a port and prints the first few bytes of the answer; nothing when nobody answers.
say() { # "HOST PORT" BYTES HOW_MANY
    # shellcheck disable=SC2086  # host and port are two words
    timeout 3 bash -c 'exec 3<>"/dev/tcp/$0/$1" && printf "$2" >&3 && head -c "$3" <&3' $1 "$2" "$3" 2>/dev/null || true
}

free_port() { # PORT...
    local port
    for port in "$@"; do
        if ! (: <"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then echo "$port" && return; fi
    done
    return 1
}

wait_until_answers() { # NAME URL
    local end=$((SECONDS + DEADLINE_S))
    until "${1}_answers" "$2"; do
        [ "$SECONDS" -lt "$end" ] || return 1
        sleep 0.2
    done
}

print_export() { # NAME VALUE
    printf 'export %s=%q\n' "$1" "$2"
}
