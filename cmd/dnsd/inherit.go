package main

import (
	"context"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/coreos/go-systemd/v22/activation"
)

// Names of what a process is started with, in $LISTEN_FDNAMES (sd_listen_fds(3)).
// Sockets for DNS have other names.
const (
	adminSocket = "admin"          // of --metrics-listen
	readyPipe   = "handover-ready" // what the new process says to the old one
	gonePipe    = "handover-gone"  // ends with the old process
)

// handoverEnv is set for a process to which another one hands over. That one cannot
// know its id before, as $LISTEN_PID demands.
const handoverEnv = "DNSD_HANDOVER"

// readyText is what the new process says when it serves. All else is an error.
const readyText = "ready\n"

// inheritance is what this process was started with.
type inheritance struct {
	sockets []*os.File   // by systemd, or by the dnsd before this one
	admin   net.Listener // set by takeAdmin
	old     *predecessor
}

// predecessor is the dnsd that hands over to this one.
type predecessor struct {
	ready *os.File
	gone  *os.File
}

// inherited returns what the process was started with. The first call takes it out
// of the environment.
var inherited = sync.OnceValue(func() inheritance {
	if os.Getenv(handoverEnv) != "" {
		os.Unsetenv(handoverEnv)
		os.Setenv("LISTEN_PID", strconv.Itoa(os.Getpid()))
	}
	var in inheritance
	var old predecessor
	var seen []uint64 // inode numbers, by which a socket is known that was given twice
	for _, f := range activation.Files(true) {
		var stat syscall.Stat_t
		switch f.Name() {
		case readyPipe:
			old.ready = f
		case gonePipe:
			old.gone = f
		default:
			if err := syscall.Fstat(int(f.Fd()), &stat); err != nil || slices.Contains(seen, stat.Ino) {
				f.Close()
				continue
			}
			seen = append(seen, stat.Ino)
			in.sockets = append(in.sockets, f)
		}
	}
	if old.ready != nil && old.gone != nil {
		in.old = &old
	}
	return in
})

// takeAdmin moves the socket of --metrics-listen from in.sockets to in.admin, if there
// is one of that address.
func (in *inheritance) takeAdmin(addr netip.AddrPort) {
	in.sockets = slices.DeleteFunc(in.sockets, func(f *os.File) bool {
		if f.Name() != adminSocket {
			return false
		}
		defer f.Close()
		l, err := net.FileListener(f)
		if err != nil {
			return true
		}
		bound, ok := l.Addr().(*net.TCPAddr)
		if !ok || in.admin != nil || bound.AddrPort().Addr().Unmap() != addr.Addr().Unmap() ||
			addr.Port() != 0 && addr.Port() != bound.AddrPort().Port() {
			l.Close()
			return true
		}
		in.admin = l
		return true
	})
}

// wait returns when the predecessor has ended, or ctx.
func (p *predecessor) wait(ctx context.Context) {
	stop := context.AfterFunc(ctx, func() { p.gone.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	io.Copy(io.Discard, p.gone)
}

// say tells the predecessor that this process serves, or why it does not. It may
// have ended.
func (p *predecessor) say(text string) {
	io.WriteString(p.ready, text)
	p.ready.Close()
}
