#!/bin/sh
# Asks the nameserver of /etc/resolv.conf for NAME, as one client does, and
# prints the addresses, one a line:
#
#     run.sh dig|kdig|go|node|musl|glibc NAME
#
# or, for dig, kdig, go and node, the text of a TXT record:
#
#     run.sh dig|kdig|go|node NAME TXT
#
# Exits with 77 when the client is not installed. The musl client is compiled
# into $CLIENTS_DIR, the Go client is $CLIENTS_DIR/lookup where that is there.
set -eu

client=$1 name=$2 type=${3:-AAAA}
here=$(dirname "$0")
dir=${CLIENTS_DIR:-$(mktemp -d)}

need() {
	command -v "$1" >/dev/null || { echo "$1 is not installed" >&2; exit 77; }
}

case $client in
dig | kdig)
	need "$client"
	# A beside AAAA, as stub resolvers ask.
	"$client" +short "$name" A >/dev/null
	"$client" +short "$name" "$type" | tr -d '"'
	;;
go)
	if [ -x "$dir/lookup" ]; then
		exec "$dir/lookup" "$name" "$type"
	fi
	need go
	cd "$here" && exec go run ./lookup "$name" "$type"
	;;
node)
	need node
	exec node "$here/lookup.js" "$name" "$type"
	;;
musl)
	need musl-gcc
	[ -x "$dir/getaddrinfo" ] || musl-gcc -static -O1 -o "$dir/getaddrinfo" "$here/getaddrinfo.c"
	exec "$dir/getaddrinfo" "$name"
	;;
glibc)
	need getent
	getent ahosts "$name" | awk '$2 == "STREAM" { print $1 }'
	;;
*)
	echo "no client $client" >&2
	exit 2
	;;
esac
