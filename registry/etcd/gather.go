package etcd

import (
	"context"
	"net"
	"time"

	"google.golang.org/grpc"
)

const (
	// gatherFor is the least time between two reads of a connection. With a
	// change every half millisecond, most of the cost of one was waking up for
	// it, in the kernel, the transport, the watch and the registry. Read four at
	// a time it costs half (measured without questions: 110 µs of CPU became 56).
	// Longer gains little (4 ms: 48) and delays every change.
	gatherFor = 2 * time.Millisecond

	// window is how much the server may send ahead of what is read. It is fixed
	// because gRPC, to find a better one, answers nearly every change with a
	// ping (a fifth of a change's cost). At a round trip of 20 ms it allows 200 MB/s.
	window = 4 << 20
)

// transport returns the options of connections.
func transport() []grpc.DialOption {
	return []grpc.DialOption{
		grpc.WithStaticStreamWindowSize(window), grpc.WithStaticConnWindowSize(window),
		grpc.WithContextDialer(dial),
	}
}

// dial connects to a member directly, without regard to HTTPS_PROXY.
func dial(ctx context.Context, addr string) (net.Conn, error) {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	return &gathering{Conn: conn}, nil
}

// gathering is a connection that lets data gather between reads. The first data
// after a pause are read at once, as are more after a read that filled its buffer,
// as in a listing.
type gathering struct {
	net.Conn

	// Owned by the transport's one reader.
	last time.Time // when the last read ended
	more bool      // it filled its buffer: more is there
}

// Read implements net.Conn. It returns up to gatherFor after the connection was
// closed.
func (g *gathering) Read(p []byte) (int, error) {
	if !g.more {
		time.Sleep(gatherFor - time.Since(g.last))
	}
	n, err := g.Conn.Read(p)
	g.last, g.more = time.Now(), n == len(p)
	return n, err
}
