package main

import (
	"cmp"
	"context"
	"errors"
	"net"
	"os"
	"slices"
	"strings"
	"time"

	"dnsd/resolver"

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
	// mostBeats bounds how often systemd is told anything.
	mostBeats = 100 * time.Millisecond
	// mustTurn is for how long a loop may not have turned at least, before that counts
	// as standing still: more than the second in which an idle apply loop turns.
	mustTurn = 2 * time.Second
	// tellPatience is for how long a message waits for a reader of $NOTIFY_SOCKET that
	// is behind.
	tellPatience = time.Second
	// mostDescriptors is SCM_MAX_FD of Linux: what one message can carry.
	mostDescriptors = 253
)

// notify tells systemd, or whoever else listens at $NOTIFY_SOCKET, what sd_notify(3)
// lists. Without such a socket it does nothing. Failures in a row are logged once.
func (d *daemon) notify(assignments ...string) {
	path := os.Getenv("NOTIFY_SOCKET")
	if path == "" {
		return
	}
	err := tell(path, strings.Join(assignments, "\n"))
	if failed := err != nil; d.unheard.Swap(failed) != failed && failed {
		d.log.Warn("systemd cannot be told how dnsd is", "err", err)
	}
}

// tell sends one message, with descriptors, to a socket as sd_notify(3) describes it.
func tell(path, text string, fds ...int) error {
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.SetWriteDeadline(time.Now().Add(tellPatience)); err != nil {
		return err
	}
	var rights []byte
	if len(fds) > 0 {
		rights = unix.UnixRights(fds...)
	}
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	werr := raw.Write(func(fd uintptr) bool {
		err = unix.Sendmsg(int(fd), []byte(text), rights, nil, unix.MSG_NOSIGNAL)
		return err != unix.EAGAIN
	})
	return cmp.Or(werr, err) // after a deadline, err is only EAGAIN
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
	every = max(every/beatsPerWatchdog, mostBeats)
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
	turned, still := time.Now(), false
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		now := time.Now()
		if d.turned() {
			turned = now
		}
		was := still
		if still = now.Sub(turned) > max(every/2, mustTurn); !still {
			d.notify("WATCHDOG=1", d.status())
		} else if !was {
			d.log.Error("a loop that answers questions or applies changes stands still")
		}
	}
}

func (d *daemon) status() string {
	reason, _ := d.ready()
	if why := d.handingOver.Load(); why != nil {
		reason = *why + "; " + reason
	}
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
	byName := map[string][]int{"dns": nil, resolver.SideSocket: nil, adminSocket: nil} // what there may be from before
	for _, f := range files {
		byName[f.Name()] = append(byName[f.Name()], int(f.Fd()))
	}
	var errs []error
	for name, fds := range byName {
		errs = append(errs, tell(path, "FDSTOREREMOVE=1\nFDNAME="+name))
		for some := range slices.Chunk(fds, mostDescriptors) {
			// A socket that has an error to report is one to keep.
			errs = append(errs, tell(path, "FDSTORE=1\nFDPOLL=0\nFDNAME="+name, some...))
		}
	}
	return errors.Join(errs...)
}
