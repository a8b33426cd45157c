package main

import (
	"log/slog"
	"math"
	"syscall"
)

// Every part of dnsd that opens file descriptors has a bound, and together they
// stay within the process's limit: whoever exhausts one part leaves the others theirs.
const (
	// ownDescriptors are for what is there whoever asks: standard streams, the
	// poller, watched files, connections to the registry's source (one to each
	// of a handful of members), the state file while it is saved, resolv.conf
	// while it is read, and TCP connections of strangers, which are told so and closed.
	ownDescriptors = 64
	// adminDescriptors are for --metrics-listen: its listener and 64 connections.
	adminDescriptors = 65
	// mostTCP bounds the TCP clients, and some 10 KiB each. TCP carries only
	// what does not fit into UDP.
	mostTCP = 1024
	// mostLanes is how many sockets may be opened that only send.
	mostLanes = 256
	// mostOpenFiles stands in for no limit.
	mostOpenFiles = 1 << 20
)

// descriptors says how many each part may hold.
type descriptors struct {
	limit      int // of the process
	tcp        int // clients
	lanes      int // sockets that only send
	forwarding int // all that forwarding opens
}

// shareDescriptors divides limit descriptors, of which so many sockets listen. What
// is left for TCP clients and lanes after the fixed parts shrinks with a small
// limit, and forwarding has the rest: more than half.
func shareDescriptors(limit, listening int) descriptors {
	rest := max(limit-ownDescriptors-adminDescriptors-listening, 0)
	d := descriptors{limit: limit, tcp: max(min(mostTCP, rest/4), 1), lanes: max(min(mostLanes, rest/8), 1)}
	d.forwarding = max(rest-d.tcp-d.lanes, 1)
	return d
}

// openFiles returns the limit of file descriptors. Go has raised it to what the
// process may have.
func openFiles() int {
	var l syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &l); err != nil || uint64(l.Cur) > math.MaxInt32 {
		return mostOpenFiles
	}
	return int(l.Cur)
}

// mostSockets is the most UDP sockets that the resolver gives an address without
// --sockets.
const mostSockets = 8

// descriptors says what each part may hold.
func (c *config) descriptors(limit int) descriptors {
	sockets := c.Sockets
	if sockets == 0 {
		sockets = mostSockets
	}
	const beside = 2 // the side socket and TCP's; the others that only send are lanes
	return shareDescriptors(limit, len(c.Listen)*(sockets+beside))
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
