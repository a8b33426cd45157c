//go:build !linux

package resolver

import "net"

// Elsewhere than on Linux one plain socket serves an address, and a wildcard
// listener answers from the address that the system chooses.
const maxSockets = 1

func prepareUDP(int, bool, bool) error { return nil }
func shareUDP(*net.UDPConn) error      { return nil }
func replyControl([]byte) []byte       { return nil }
