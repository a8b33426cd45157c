package etcd

import (
	"context"
	"net"
	"time"

	"google.golang.org/grpc"
)

const (
	// gatherFor is how far apart two reads of a connection are at least. Under
	// a change every half millisecond most of what one cost was waking up for
	// it, in the kernel, the transport, the watch and the registry: read four at
	// a time it costs half (measured, nobody asking: 110 µs of CPU became 56).
	// Longer brings little more (4 ms: 48) and delays every change.
	gatherFor = 2 * time.Millisecond

	// window is how much the server may send ahead of what is taken. It is fixed
	// because gRPC, to find a better one, answers nearly every change with a
	// ping (a fifth of a change's cost). Over 20 ms it lets 200 MB/s through.
	window = 4 << 20
)

// transport is how connections are made and read.
func transport() []grpc.DialOption {
	return []grpc.DialOption{
		grpc.WithStaticStreamWindowSize(window), grpc.WithStaticConnWindowSize(window),
		grpc.WithContextDialer(dial),
	}
}

// dial connects to a member, directly: HTTPS_PROXY is not heeded.
func dial(ctx context.Context, addr string) (net.Conn, error) {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	return &gathering{Conn: conn}, nil
}

// gathering is a connection whose reads let data gather while they come quickly.
// After a pause the first are read at once, and so are those that more are known
// to lie behind, as in a listing.
type gathering struct {
	net.Conn

	// Owned by the transport's one reader.
	last time.Time // when the last read ended
	more bool      // it filled its buffer
}

// Read implements net.Conn. It notices up to gatherFor late that the connection
// is closed.
func (g *gathering) Read(p []byte) (int, error) {
	if wait := gatherFor - time.Since(g.last); wait > 0 && !g.more {
		time.Sleep(wait)
	}
	n, err := g.Conn.Read(p)
	g.last, g.more = time.Now(), n == len(p)
	return n, err
}
