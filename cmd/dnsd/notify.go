package main

import (
	"context"
	"errors"
	"net"
	"os"
	"slices"
	"strings"
	"time"

	systemd "github.com/coreos/go-systemd/v22/daemon"
	"golang.org/x/sys/unix"
)

const (
	// syncPatience is how long the start of units that need dnsd waits for the first
	// listing. Where the source is down, the names that dnsd forwards are there.
	syncPatience = 10 * time.Second
	// statusEvery is how often systemd is told the status, where it does not ask for
	// more by WatchdogSec=.
	statusEvery = 30 * time.Second
	// beatsPerWatchdog leaves a beat that comes late, or one round that lasts, the
	// time of another one.
	beatsPerWatchdog = 3
	// leastBeat is more than the second in which an idle apply loop turns.
	leastBeat = 2 * time.Second
	// mostDescriptors is SCM_MAX_FD of Linux: what one message can carry.
	mostDescriptors = 253
)

// notify tells systemd, or whoever else listens at $NOTIFY_SOCKET, what sd_notify(3)
// lists. Without such a socket it does nothing.
func (d *daemon) notify(assignments ...string) {
	if _, err := systemd.SdNotify(false, strings.Join(assignments, "\n")); err != nil {
		d.log.Warn("systemd cannot be told how dnsd is", "err", err)
	}
}

// monotonic is the time as RELOADING=1 needs it.
func monotonic() string { return strings.TrimSpace(systemd.SdNotifyMonotonicUsec()) }

// supervise tells systemd how dnsd is until ctx ends, from when this process is the
// only one: before, systemd listens to the one that hands over.
func (d *daemon) supervise(ctx context.Context) {
	select {
	case <-d.alone:
	case <-ctx.Done():
		return
	}
	every, err := systemd.SdWatchdogEnabled(false)
	if err != nil {
		d.log.Warn("there is no watchdog", "err", err)
	}
	if every == 0 {
		every = beatsPerWatchdog * statusEvery
	}
	every = max(every/beatsPerWatchdog, leastBeat)
	d.storeSockets()
	synced, stop := context.WithTimeout(ctx, syncPatience)
	defer stop()
	await(synced, func() bool { return d.reg.Status().Synced() })
	if ctx.Err() != nil {
		return
	}
	d.notify("READY=1", "WATCHDOG=1", d.status())
	tick := time.NewTicker(every)
	defer tick.Stop()
	d.turned() // the loops are asked to turn
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if d.turned() {
			d.notify("WATCHDOG=1", d.status())
		} else {
			d.log.Error("a loop that answers questions or applies changes stands still")
		}
	}
}

func (d *daemon) status() string {
	reason, _ := d.ready()
	return "STATUS=" + strings.ReplaceAll(reason, "\n", " ")
}

// turned reports whether each loop that answers questions or applies changes has
// turned since the last call. The loops turn because of this call, too.
func (d *daemon) turned() bool {
	answering, applying := d.resolver.Turned(), d.follower.Turned()
	return answering && applying
}

// storeSockets has systemd keep the sockets for when this process is gone, where the
// unit says FileDescriptorStoreMax=. Their queues then take questions until the next
// process reads them.
func (d *daemon) storeSockets() {
	path := os.Getenv("NOTIFY_SOCKET")
	if path == "" {
		return
	}
	files, err := duplicate(d.sockets())
	if err == nil {
		defer closeAll(files)
		err = store(path, files)
	}
	if err != nil {
		d.log.Warn("systemd cannot be given the sockets: questions are lost while dnsd restarts", "err", err)
	}
}

// store replaces what is in the store by files, each by its name.
func store(path string, files []*os.File) error {
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		return err
	}
	defer conn.Close()
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	var errs []error
	send := func(text string, fds []int) {
		var rights []byte
		if len(fds) > 0 {
			rights = unix.UnixRights(fds...)
		}
		var err error
		werr := raw.Write(func(fd uintptr) bool {
			err = unix.Sendmsg(int(fd), []byte(text), rights, nil, unix.MSG_NOSIGNAL)
			return err != unix.EAGAIN
		})
		errs = append(errs, werr, err)
	}
	byName := map[string][]int{}
	for _, f := range files {
		byName[f.Name()] = append(byName[f.Name()], int(f.Fd()))
	}
	for name, fds := range byName {
		send("FDSTOREREMOVE=1\nFDNAME="+name, nil)
		for some := range slices.Chunk(fds, mostDescriptors) {
			// A socket that has an error to report is one to keep.
			send("FDSTORE=1\nFDPOLL=0\nFDNAME="+name, some)
		}
	}
	return errors.Join(errs...)
}
