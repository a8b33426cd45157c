//go:build !linux

package udpbatch

import (
	"net/netip"
	"syscall"
)

const controlSize = 64

// batch is not to be had here: every Conn moves one packet a call.
type batch struct{}

func newBatch(*Conn) (*batch, error) { return nil, nil }

func (*batch) read() (int, error)      { return 0, nil }
func (*batch) send(int) error          { return nil }
func (*batch) from(int) netip.AddrPort { return netip.AddrPort{} }

func unsupported(error) bool { return false }

// Drops returns false: only Linux says.
func Drops(syscall.Conn) (uint32, bool) { return 0, false }
