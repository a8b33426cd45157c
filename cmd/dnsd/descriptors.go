package main

import (
	"cmp"
	"log/slog"
	"syscall"
)

// Every part of dnsd that opens file descriptors has a bound, and together they
// stay within the process's limit: a part that has exhausted its own takes none
// from the others.
const (
	// ownDescriptors are those that no client causes: standard streams, the
	// poller, watched files, connections to the registry's source (one to each
	// of a handful of members), the state file while it is saved, resolv.conf
	// while it is read; and TCP connections of strangers, which are refused and closed.
	ownDescriptors = 64
	// adminDescriptors are for --metrics-listen: its listener and connections.
	adminDescriptors = 1 + adminConnections
	// mostTCP bounds the TCP clients, of some 10 KiB each. TCP carries only
	// what does not fit into UDP.
	mostTCP = 1024
	// mostLanes bounds the sockets that only send.
	mostLanes = 256
	// mostOpenFiles is more than dnsd can use.
	mostOpenFiles = 1 << 20
	// mostSockets is the most UDP sockets that the resolver gives an address without
	// --sockets.
	mostSockets = 8
)

// descriptors says how many each part may hold.
type descriptors struct {
	limit      int // of the process
	tcp        int // clients
	lanes      int // sockets that only send
	forwarding int // all that forwarding opens
}

// descriptors divides a limit. What is left for TCP clients and lanes after the
// fixed parts and the sockets that listen shrinks with a small limit, and
// forwarding has the rest: more than half.
func (c *config) descriptors(limit int) descriptors {
	const beside = 2 // sockets of an address: the side socket and TCP's
	listening := len(c.Listen) * (cmp.Or(c.Sockets, mostSockets) + beside)
	rest := max(limit-ownDescriptors-adminDescriptors-listening, 0)
	d := descriptors{limit: limit, tcp: max(min(mostTCP, rest/4), 1), lanes: max(min(mostLanes, rest/8), 1)}
	d.forwarding = max(rest-d.tcp-d.lanes, 1)
	return d
}

// openFiles returns the limit of file descriptors. Go has raised it to what the
// process may have.
func openFiles() int {
	var l syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &l); err != nil {
		return mostOpenFiles
	}
	return int(min(uint64(l.Cur), mostOpenFiles))
}

// logBounds says how many may wait and be connected at once, and why that is less
// than was asked for.
func logBounds(log *slog.Logger, d descriptors, places, asked int) {
	if places < asked {
		log.Warn("fewer questions may wait for upstreams than --max-inflight says: the process may open too few files; raise that limit (LimitNOFILE, ulimit -n)",
			"max_inflight", places, "asked", asked, "open_files", d.limit, "tcp_connections", d.tcp)
		return
	}
	log.Info("bounds of what waits at once", "max_inflight", places, "open_files", d.limit, "tcp_connections", d.tcp)
}
