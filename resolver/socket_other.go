//go:build !linux

package resolver

import (
	"errors"
	"net"
	"net/netip"
	"syscall"
	"time"
)

// Elsewhere than on Linux one plain socket serves an address, a wildcard
// listener answers from the address that the system chooses, and there are neither
// lanes nor side sockets.
const maxSockets = 1

func growQueue(syscall.Conn, int) (int, int, error) { return 0, 0, nil }
func prepareUDP(int, bool, bool) error              { return nil }
func prepareSide(int, bool) error                   { return errors.ErrUnsupported }
func reusePort(int) error                           { return errors.ErrUnsupported }
func shareUDP(*net.UDPConn) error                   { return nil }
func steer(*net.UDPConn, int, []netip.Prefix) error { return errors.ErrUnsupported }
func stamp(syscall.Conn, bool) error                { return nil }

func replyControl([]byte) []byte                { return nil }
func receivedAt([]byte) (at time.Time, ok bool) { return at, false }
