package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"dnsd/cmd/dnsd/orders"
	"dnsd/resolver"

	"golang.org/x/sys/unix"
)

// A hand-over: this process starts the program again, from the file that is there
// now, with its own sockets. The new process loads the last known state and lists the
// registry while this one answers. When it reads the sockets too, it says so, and this
// one ends as on SIGTERM. Meanwhile both take packets and connections from the same
// queues of the kernel, each of which goes to one of the two.

const (
	// handoverPatience is how long a new process may take until it serves: many times
	// what the listing of a million machines takes.
	handoverPatience = 2 * time.Minute
	// longestDrain bounds how long a process that has handed over waits for upstreams:
	// no watchdog beats meanwhile.
	longestDrain = 10 * time.Second
	// killAfter is how long a new process that has failed may take to end.
	killAfter = 2 * time.Second
)

// errHandedOver is why a dnsd ends that has handed over.
var errHandedOver = errors.New("a new process serves")

// successor is a new process.
type successor struct {
	cmd  *exec.Cmd
	said *os.File // from it: readyText, or why it ends
	gone *os.File // to it; never written, and open for as long as this process lives
}

// handOvers hands over on SIGUSR2 until ctx ends or one has succeeded, when it calls
// over. A hand-over under way at the end of ctx is abandoned. One to this process is
// waited for before.
func (d *daemon) handOvers(ctx context.Context, over func()) {
	type result struct {
		next *successor
		err  error
	}
	select {
	case <-d.alone:
	case <-ctx.Done():
		return
	}
	var underWay chan result // nil: none is
	for {
		select {
		case <-ctx.Done():
			if underWay != nil {
				if r := <-underWay; r.err == nil {
					r.next.kill()
				}
			}
			return
		case <-orders.HandOver:
			if underWay != nil {
				d.log.Warn("SIGUSR2 is refused: a hand-over is under way")
				continue
			}
			if why := d.mustStay(); why != "" {
				d.log.Warn("SIGUSR2 is refused: " + why)
				why = "a hand-over is refused: " + why
				d.handingOver.Store(&why)
				d.notify(d.status())
				continue
			}
			done := make(chan result, 1)
			underWay = done
			go func() {
				next, err := d.handOver(ctx)
				done <- result{next, err}
			}()
		case r := <-underWay:
			underWay = nil
			if r.err != nil {
				d.log.Error("the hand-over has failed: this process goes on as before", "err", r.err)
				why := "the hand-over has failed: " + r.err.Error()
				d.handingOver.Store(&why)
				d.notify("READY=1", d.status())
				continue
			}
			pid := r.next.cmd.Process.Pid
			d.log.Info("a new process serves: this one ends", "pid", pid)
			d.notify("MAINPID="+strconv.Itoa(pid), "READY=1", "WATCHDOG=1")
			d.next = r.next
			over()
			return
		}
	}
}

// mustStay says why this process cannot hand over at present, empty where it can.
func (d *daemon) mustStay() string {
	if os.Getpid() == 1 {
		return "this is the first process of a container, which would end with it"
	}
	// The new process lists what is there. Only a last known state shows it that this
	// takes away as much as before.
	if hold := d.reg.Status().Hold; hold != "" && !d.follower.Kept() {
		return hold + "; a new process could not hold it back, since there is no last known state (--state-dir)"
	}
	return ""
}

// handOver starts a new process and waits until it serves. If it does not, it has
// ended when handOver returns.
func (d *daemon) handOver(ctx context.Context) (*successor, error) {
	why := "a new process starts"
	d.handingOver.Store(&why)
	d.notify("RELOADING=1", monotonic(), d.status())
	next, err := d.startSuccessor()
	if err != nil {
		return nil, fmt.Errorf("starting a new process: %w", err)
	}
	d.log.Info("a hand-over begins", "program", next.cmd.Path, "pid", next.cmd.Process.Pid)
	if err := next.await(ctx, handoverPatience); err != nil {
		return nil, fmt.Errorf("%s: %w", next.cmd.Path, err)
	}
	return next, nil
}

// startSuccessor starts the program anew: the file that this process was started
// from, by name, with the same arguments and environment.
func (d *daemon) startSuccessor() (_ *successor, err error) {
	path, err := exec.LookPath(os.Args[0])
	if err != nil {
		return nil, err
	}
	said, ready, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer ready.Close()
	alive, gone, err := os.Pipe()
	if err != nil {
		said.Close()
		return nil, err
	}
	defer alive.Close()
	next := &successor{cmd: exec.Command(path, os.Args[1:]...), said: said, gone: gone}
	defer func() {
		if err != nil {
			next.close()
		}
	}()
	files, err := duplicate(append(d.sockets(), resolver.NamedSocket{Name: readyPipe, Conn: ready}, resolver.NamedSocket{Name: gonePipe, Conn: alive}))
	if err != nil {
		return nil, err
	}
	defer closeAll(files)
	next.cmd.Args[0] = os.Args[0]
	next.cmd.Stdin, next.cmd.Stdout, next.cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	next.cmd.ExtraFiles = files
	next.cmd.Env = successorEnvironment(os.Environ(), files)
	return next, next.cmd.Start()
}

// successorEnvironment is environ for a process that is started with files. What
// systemd says to one process, named by its id, is left out.
func successorEnvironment(environ []string, files []*os.File) []string {
	environ = slices.DeleteFunc(environ, func(pair string) bool {
		name, _, _ := strings.Cut(pair, "=")
		return slices.Contains([]string{"LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "WATCHDOG_PID"}, name)
	})
	var names []string
	for _, f := range files {
		names = append(names, f.Name())
	}
	return append(environ, handoverEnv+"=1", "LISTEN_FDS="+strconv.Itoa(len(files)), "LISTEN_FDNAMES="+strings.Join(names, ":"))
}

// await waits until the process serves. The error says why it does not; it has ended
// then.
func (s *successor) await(ctx context.Context, patience time.Duration) error {
	defer s.said.Close()
	s.said.SetReadDeadline(time.Now().Add(patience))
	stop := context.AfterFunc(ctx, func() { s.said.SetReadDeadline(time.Unix(1, 0)) })
	text, err := io.ReadAll(io.LimitReader(s.said, 4096))
	if stop(); err == nil && string(text) == readyText && ctx.Err() == nil {
		return nil
	}
	ended := s.kill()
	switch {
	case ctx.Err() != nil:
		return errors.New("this process ends")
	case errors.Is(err, os.ErrDeadlineExceeded):
		return fmt.Errorf("it does not serve within %s", patience)
	}
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	return fmt.Errorf("%s: %s", ended, cmp.Or(lines[len(lines)-1], "what it has said stands in the log before this"))
}

// kill ends the process and says how it has ended.
func (s *successor) kill() *os.ProcessState {
	s.cmd.Process.Signal(syscall.SIGTERM)
	hard := time.AfterFunc(killAfter, func() { s.cmd.Process.Kill() })
	defer hard.Stop()
	s.cmd.Wait() // the state says what its error does
	s.close()
	return s.cmd.ProcessState
}

func (s *successor) close() {
	s.said.Close()
	s.gone.Close()
}

// sockets returns all sockets that another process can take over.
func (d *daemon) sockets() []resolver.NamedSocket {
	all := d.resolver.Sockets()
	if d.admin != nil {
		if l, ok := d.admin.listener.(syscall.Conn); ok {
			all = append(all, resolver.NamedSocket{Name: adminSocket, Conn: l})
		}
	}
	return all
}

// duplicate returns files of the same sockets. A File method would set them to
// blocking mode when they are given to a process, and so the originals as well.
func duplicate(sockets []resolver.NamedSocket) (files []*os.File, err error) {
	for _, s := range sockets {
		raw, err := s.SyscallConn()
		if err == nil {
			cerr := raw.Control(func(fd uintptr) {
				var copied int
				if copied, err = unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 0); err == nil {
					files = append(files, os.NewFile(uintptr(copied), s.Name))
				}
			})
			err = errors.Join(err, cerr)
		}
		if err != nil {
			closeAll(files)
			return nil, fmt.Errorf("duplicating a socket: %w", err)
		}
	}
	return files, nil
}

func closeAll(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}
